"""What a running function may ask about itself: ``fleet.current()``. Standard library only: runs in the wasm guest.

Inside a sandbox the guest installs a backend; anywhere else each call made here has one of its own, in memory.
"""

from __future__ import annotations

import contextvars
import pickle
from typing import Any, Protocol

from fleet.protocol.errors import PayloadTooLarge
from fleet.protocol.ids import new_call_id
from fleet.protocol.limits import CHECKPOINT_BYTES_MAX
from fleet.protocol.units import format_bytes

PICKLE_PROTOCOL = 5


class Backend(Protocol):
    """Who answers for ``Current``: the sandbox, or memory where a function runs locally."""

    @property
    def call_id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def deadline(self) -> float | None:
        """When this attempt is stopped, in seconds since 1970."""

    @property
    def car(self) -> str: ...
    def checkpoint(self, state: bytes) -> None:
        """Keep ``state``, replacing what was kept before."""

    def resume(self) -> bytes | None:
        """What was kept last, also by an earlier attempt."""

    def departing(self) -> bool:
        """Whether the owner is about to leave."""


class LocalBackend:
    """A call that runs right here: nothing interrupts it, its checkpoints are kept in memory."""

    def __init__(self) -> None:
        self.call_id = new_call_id()
        self.attempt = 1
        self.deadline: float | None = None
        self.car = "local"
        self._state: bytes | None = None

    def checkpoint(self, state: bytes) -> None:
        """Keep ``state``."""
        self._state = state

    def resume(self) -> bytes | None:
        """What was kept last."""
        return self._state

    def departing(self) -> bool:
        """Never."""
        return False


class Current:
    """The running call: who it is, how long it has, and its saved state."""

    __slots__ = ("_backend",)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def call_id(self) -> str:
        """Id of the call; ``<call>/<index>`` for an item of a map."""
        return self._backend.call_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, counting from 1. Owners who left don't count."""
        return self._backend.attempt

    @property
    def deadline(self) -> float | None:
        """When this attempt is stopped, in seconds since 1970; None: never."""
        return self._backend.deadline

    @property
    def car(self) -> str:
        """Pseudonym of the car; ``local`` where the function runs locally."""
        return self._backend.car

    @property
    def departing(self) -> bool:
        """True once the owner is about to leave: a good moment for a checkpoint."""
        return self._backend.departing()

    def checkpoint(self, state: Any) -> None:
        """Save ``state``, so that the call goes on from it on the next car. PayloadTooLarge over 4 MiB."""
        data = pickle.dumps(state, PICKLE_PROTOCOL)
        if len(data) > CHECKPOINT_BYTES_MAX:
            raise PayloadTooLarge(
                f"a checkpoint of {format_bytes(len(data))} is over the limit of {format_bytes(CHECKPOINT_BYTES_MAX)}",
                hint="save less: an index, a seed, a partial sum",
            )
        self._backend.checkpoint(data)

    def resume(self, default: Any = None) -> Any:
        """The state saved last by this call, on whatever car; ``default`` if there is none."""
        data = self._backend.resume()
        # Our own pickle, written by this very function in a sandbox like this one.
        return default if data is None else pickle.loads(data)


_installed: Backend | None = None
_local: contextvars.ContextVar[LocalBackend | None] = contextvars.ContextVar("fleet_local_call", default=None)


def install(backend: Backend | None) -> None:
    """Let ``backend`` answer for every call in this process from now on (the sandbox does); None: local again."""
    global _installed
    _installed = backend


def installed() -> Backend | None:
    """The backend of this process, None where functions run locally."""
    return _installed


def enter_local(backend: LocalBackend | None = None) -> contextvars.Token[LocalBackend | None]:
    """Begin a local call in this context, or go on with that of ``backend``; give the token to ``leave_local``."""
    return _local.set(backend)


def leave_local(token: contextvars.Token[LocalBackend | None]) -> None:
    """End a local call."""
    _local.reset(token)


def current() -> Current:
    """The call that is running here. Outside any call it is a local one of this context."""
    if _installed is not None:
        return Current(_installed)
    backend = _local.get()
    if backend is None:
        backend = LocalBackend()
        _local.set(backend)
    return Current(backend)
