"""What the frontdoor needs of the dispatcher, owned by the frontdoor: the local one, or a way to ask the leader's."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from fleet.protocol.messages import (
    CallsRequest,
    CallStatus,
    CarInfo,
    ExplainReply,
    InvocationState,
    Lease,
    StreamPosition,
)


class Spawn(Protocol):
    """Start a task in the frontdoor's task group."""

    def __call__(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None: ...


class DispatcherPort(Protocol):
    """Everything here but ``submit_local`` may raise FleetUnavailable while nobody leads."""

    @property
    def leading(self) -> bool:
        """Whether this process leads the partition."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch it leads in, or last heard of."""
        ...

    def submit_local(self, state: InvocationState, seq: int, payload: bytes) -> None:
        """A call was queued under ``seq`` just now. Does nothing where it doesn't lead: the consumer brings it."""
        ...

    async def cancel(self, tenant: str, calls: Sequence[str]) -> list[str]:
        """End these calls: kill what runs, forget what waits."""
        ...

    async def consume(self, tenant: str, positions: Sequence[StreamPosition]) -> None:
        """The callers of these generators are there, and so far."""
        ...

    async def status(self, tenant: str, calls: Sequence[str]) -> list[CallStatus]:
        """One row for each, in order; ``state`` None where it neither waits nor runs."""
        ...

    async def calls(self, tenant: str, request: CallsRequest) -> list[CallStatus]:
        """Calls that wait or run, newest first."""
        ...

    async def explain(self, tenant: str, call: str) -> ExplainReply:
        """Why a call waits; ``state`` None where it neither waits nor runs."""
        ...

    async def reload(self, tenant: str, app: str) -> None:
        """The app was deployed, rolled back or deleted: who leads obeys it when this returns."""
        ...

    async def cars(self) -> list[CarInfo]:
        """Every car that is known."""
        ...

    async def depth(self, tenant: str) -> dict[str, int]:
        """Waiting calls by ``app.function``."""
        ...

    def lease_tenant(self, car: str, lease: Lease, digest: str | None) -> str | None:
        """Whose call the lease is for, if it is this car's, valid now and (``digest``) names that blob; else None."""
        ...
