"""An asyncio event loop without sockets or threads: timers and callbacks are all that a sandbox has."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from .reasons import NETWORK, PROCESSES, SIGNALS


class _NoSockets(selectors._BaseSelectorImpl):
    """A selector that only waits."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the event loop would wait forever: nothing is scheduled and nothing can arrive")
        if timeout > 0:
            time.sleep(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class GuestLoop(asyncio.SelectorEventLoop):
    """The stock loop makes a socket pair to wake itself up from other threads. There are none here."""

    def __init__(self, _selector: object = None) -> None:
        super().__init__(_NoSockets())

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None
        self._internal_fds = 0

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Without threads the work is done at once, and the future is done when it is returned."""
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        self._check_closed()  # type: ignore[attr-defined]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none. (The stock one waits in a thread.)"""

    def add_signal_handler(self, *_args: Any) -> NoReturn:  # type: ignore[override]
        """NotImplementedError, as on Windows: programs are prepared for it."""
        raise NotImplementedError(SIGNALS)

    remove_signal_handler = add_signal_handler  # type: ignore[assignment]

    def _add_reader(self, *_args: Any) -> NoReturn:
        raise PermissionError(NETWORK)

    _add_writer = _add_reader

    async def subprocess_exec(self, *_args: Any, **_options: Any) -> NoReturn:
        """PermissionError."""
        raise PermissionError(PROCESSES)

    subprocess_shell = subprocess_exec


def install() -> None:
    """Make ``asyncio.run`` and its relatives use this loop."""
    for place in (asyncio, asyncio.events):
        setattr(place, "new_event_loop", GuestLoop)  # noqa: B010
    for name in ("SelectorEventLoop", "EventLoop"):
        setattr(asyncio, name, GuestLoop)
