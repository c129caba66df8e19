"""Generator calls in the client's loop: their parts in order, and how far their callers are."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from fleet._ticket import Ticket
from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError
from fleet.protocol.limits import CHUNK_ITEMS_MAX, LIST_ROWS_MAX, STREAM_BEAT_S
from fleet.protocol.messages import ConsumeRequest, OutcomeRecord, StreamPosition, SubmitCall
from fleet.protocol.subjects import API, ApiVerb
from fleet.transport import Bus, Request


class StreamTicket(Ticket):
    """One generator call. Parts come in any order and leave in theirs; what has left is forgotten."""

    __slots__ = ("_batches", "_early", "_last", "_next", "_waker", "consumed", "received")

    def __init__(self, call: str, submit: SubmitCall | None = None, payload: bytes | None = None) -> None:
        super().__init__(call, submit, payload)
        self.consumed = 0
        """Items that the caller has taken; written by its thread."""
        self._early: dict[int, tuple[OutcomeRecord, bytes | memoryview]] = {}
        self._batches: deque[list[memoryview]] = deque()
        self._next = 0
        self.received = 0
        """Items that are here, or were."""
        self._last: bytes | memoryview = b""
        self._waker: Callable[[], None] | None = None

    def take(self, record: OutcomeRecord, part: bytes | memoryview) -> bool:
        """Note one outcome record; whether it was new."""
        if self.done or (self.final is not None if record.final else record.part < self._next):
            return False
        self.accept()
        if record.final:
            self.final, self._last = record, part
        else:
            self._early[record.part] = (record, part)
        while self._next in self._early:
            self._add(*self._early.pop(self._next))
            self._next += 1
        self._notify()
        return True

    def _add(self, record: OutcomeRecord, part: bytes | memoryview) -> None:
        try:
            items = frames.unpack_items(part, CHUNK_ITEMS_MAX)
        except ProtocolError as error:
            self.finish(error)
            return
        first, last = (record.indices or [(0, -1)])[0]
        if first != self.received or last + 1 - first != len(items):
            self.finish(ProtocolError(f"items {first} to {last} of a generator don't follow {self.received} others"))
            return
        self.received += len(items)
        self._batches.append(items)

    @property
    def next_part(self) -> int:
        """The first part not here yet."""
        return self._next

    @property
    def complete(self) -> bool:
        """Whether the final record and all parts before it are here."""
        return self.final is not None and self._next >= self.final.part

    @property
    def lacks(self) -> bool:
        """Whether a part went missing on the way."""
        return (bool(self._early) or self.final is not None) and not self.complete and self._next not in self.fetching

    def next_batch(self) -> list[memoryview] | None:
        """The items of the next part, None if it isn't here (yet)."""
        return self._batches.popleft() if self._batches else None

    def arm_next(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called once there is a next part, or the end; at once if there is. From any thread."""
        with self._lock:
            if not self._batches and not self.done:
                self._waker = wake
                return
        wake()

    def _notify(self) -> None:
        with self._lock:
            wake, self._waker = self._waker, None
        if wake is not None:
            wake()

    def finish(self, error: FleetError | None = None) -> None:
        """Done: wake whoever waits."""
        super().finish(error)
        self._notify()

    def final_bytes(self) -> bytes | memoryview:
        """The result bytes of the final record: what it raised, if it did."""
        return self._last


class Positions:
    """Tells the platform how far the callers of generators are: when they have taken much, and every STREAM_BEAT_S."""

    def __init__(self, bus: Bus, tenant: str) -> None:
        self._bus = bus
        self._subject = API.build(tenant=tenant, verb=ApiVerb.CONSUME)
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[StreamTicket, None] = {}
        self._due: dict[StreamTicket, None] = {}
        self._soon = self._beating = False

    def tell(self, ticket: StreamTicket) -> None:
        """Its caller took much more, or begins."""
        if ticket not in self._tickets:
            self._tickets[ticket] = None
            self._keep_beating()
            return
        self._due[ticket] = None
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._send_due)

    @property
    def open(self) -> list[Ticket]:
        """Generators that aren't over."""
        return [ticket for ticket in self._tickets if not ticket.done]

    def on_reconnect(self) -> None:
        """A new leader may not know where they are."""
        self._send(list(self._tickets))

    def _keep_beating(self) -> None:
        if not self._beating and self._tickets:
            self._beating = True
            self._loop.call_later(STREAM_BEAT_S, self._beat)

    def _beat(self) -> None:
        self._beating = False
        self._tickets = {ticket: None for ticket in self._tickets if not ticket.done}
        self._send([ticket for ticket in self._tickets if ticket.accepted])
        self._keep_beating()

    def _send_due(self) -> None:
        self._soon = False
        due, self._due = self._due, {}
        self._send(list(due))

    def _send(self, tickets: list[StreamTicket]) -> None:
        positions = [
            StreamPosition(call=ticket.call, items=ticket.consumed, received=ticket.received, part=ticket.next_part)
            for ticket in tickets
            if not ticket.done
        ]
        if self._bus.connected:
            for start in range(0, len(positions), LIST_ROWS_MAX):
                request = ConsumeRequest(positions=positions[start : start + LIST_ROWS_MAX])
                self._bus.ask(self._subject, frames.pack(request), _said)


def _said(_: Request | FleetUnavailable) -> None:
    """Said again soon, whatever the answer is."""
