"""``map``: inputs are read lazily, packed into chunks of measured size, bounded in flight; results come as they are.

Three threads share the work, and hand over whole chunks, never single items: the feeder reads and packs inputs, the
client's loop talks to the platform, the consumer unpacks results. Reading in a thread of its own lets results come out
while the input makes its reader wait; it runs in a copy of the caller's context.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from fleet import _packed
from fleet._classes import ANY_OWN, Classes
from fleet._client import Client
from fleet._function import Function
from fleet._loop import Waiter, wait_aio
from fleet._prepare import Packer
from fleet._register import Bound
from fleet._results import Failure, decode_item
from fleet._ticket import Ticket
from fleet._tuning import Tuner, away_s
from fleet.protocol import frames
from fleet.protocol.errors import FleetError, ProtocolError, QueueFull
from fleet.protocol.limits import MIB
from fleet.protocol.messages import OutcomeRecord

ITEMS_MAX = 32_768
"""Items in flight or not fetched by the consumer yet."""
BYTES_MAX = 64 * MIB
TICK_S = 0.01
QUEUE_FULL_RETRY_S = 0.25
QUEUE_FULL_S = 30.0


Ready = tuple[list[Any], Classes | None]
"""Results that are here, and what instances in them may be made of."""


class Chunk:
    """Some items in a row, on their way as one call."""

    __slots__ = ("count", "error", "full_since_s", "got", "results", "sent_s", "size", "start", "ticket")

    def __init__(self, start: int, count: int, ticket: Ticket) -> None:
        self.start = start
        self.count = count
        self.ticket = ticket
        self.size = len(ticket.payload or b"")
        self.sent_s = time.monotonic()
        self.results: list[bytes | memoryview | None] = [None] * count
        self.got = 0
        self.error: FleetError | None = None
        self.full_since_s = 0.0

    def fill(self, record: OutcomeRecord, part: bytes | memoryview) -> list[int]:
        """Put the results of one record into their places; the places. ProtocolError if they don't fit."""
        ranges = record.indices if record.indices is not None else [(0, self.count - 1)]
        places = [place for first, last in ranges for place in range(first, last + 1)]
        items = frames.unpack_items(part, self.count) if len(part) else []
        if len(items) != len(places) or (places and not 0 <= min(places) <= max(places) < self.count):
            raise ProtocolError(f"a result of {len(items)} items does not fit its chunk of {self.count}")
        new = []
        for place, item in zip(places, items, strict=True):
            if self.results[place] is None:
                self.results[place] = item
                new.append(place)
        self.got += len(new)
        return new


class MapRun:
    """One map from its first input to its last result."""

    def __init__(
        self,
        client: Client,
        packer: Packer,
        function: Function[Any, Any],
        inputs: Iterable[tuple[Any, ...]],
        chunksize: int | None,
        unit: int = 1,
    ) -> None:
        """``unit``: items that a car runs as one."""
        self._client = client
        self._packer = packer
        self._bound: Bound | None = None
        """The version that the open chunk is for: in the jax lane items may need several."""
        self._function = function
        self._inputs = inputs
        self._tuner = Tuner(chunksize, unit)
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._refs = _packed.Together()
        self._next_item = 0
        self._chunks: dict[int, Chunk] = {}
        self._in_flight = 0
        self._items_out = 0
        self._bytes_out = 0
        self._arrivals: deque[tuple[Chunk, OutcomeRecord | None, bytes | memoryview]] = deque()
        self._wake: Callable[[], None] | None = None
        self._fed = False
        self._stopped = False
        self.input_error: BaseException | None = None

    # --- feeding (its own thread)

    def start(self) -> None:
        """Begin to read inputs."""
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._feed,), name="fleet-map", daemon=True).start()

    def _feed(self) -> None:
        check, pack = self._function.check_arguments, self._packer
        no_keywords: dict[str, Any] = {}
        try:
            for args in self._inputs:
                if self._stopped:
                    return
                check(args, no_keywords)
                bound, data = pack(args, no_keywords)
                with self._lock:
                    if bound is not self._bound:
                        self._close_and_wait()
                        self._bound = bound
                    if not self._refs.take(data):
                        self._close_and_wait()
                        self._refs.take(data)
                    self._open.append(data)
                    self._open_bytes += len(data) + 4
                    if len(self._open) >= self._tuner.items or self._open_bytes >= self._tuner.bytes_max:
                        self._close_and_wait()
        except BaseException as error:  # raised to the consumer, after the results of what came before
            self.input_error = error
        finally:
            with self._lock:
                self._close_chunk()
                self._fed = True
                self._wake_consumer()

    def _close_and_wait(self) -> None:
        self._close_chunk()
        while not self._stopped and not self._has_room():
            self._room.wait()

    def _has_room(self) -> bool:
        return self._in_flight < self._tuner.chunks_max and self._items_out < ITEMS_MAX and self._bytes_out < BYTES_MAX

    def _close_chunk(self) -> None:
        if not self._open or self._stopped:
            return
        assert self._bound is not None, self._function
        items, self._open, self._open_bytes = self._open, [], 0
        self._refs = _packed.Together()
        ticket = self._client.ticket_of(self._bound, _packed.pack_items(items), items=len(items))
        chunk = Chunk(self._next_item, len(items), ticket)
        self._next_item += len(items)
        self._chunks[chunk.start] = chunk
        self._in_flight += 1
        self._items_out += chunk.count
        self._bytes_out += chunk.size
        self._submit(chunk)

    def _submit(self, chunk: Chunk) -> None:
        ticket = chunk.ticket
        ticket.on_part = lambda _, record, part: self._arrived(chunk, record, part)
        ticket.arm(lambda: self._ended(chunk))
        self._client.submit(ticket)

    # --- arrivals (the client's loop)

    def _arrived(self, chunk: Chunk, record: OutcomeRecord, part: bytes | memoryview) -> None:
        with self._lock:
            self._arrivals.append((chunk, record, part))
            self._wake_consumer()

    def _ended(self, chunk: Chunk) -> None:
        error = chunk.ticket.error
        if isinstance(error, QueueFull) and not self._stopped and self._may_retry(chunk):
            self._client.later(QUEUE_FULL_RETRY_S, lambda: self._again(chunk))
            return
        record = chunk.ticket.final
        with self._lock:
            self._in_flight -= 1
            self._bytes_out -= chunk.size
            chunk.error = error or (
                record.error.to_error() if record is not None and record.error is not None else None
            )
            if record is not None and record.metering is not None and error is None:
                latency_s = away_s(time.monotonic() - chunk.sent_s, record.metering)
                self._tuner.observe(chunk.count, chunk.size, record.metering.run_s, latency_s)
            self._arrivals.append((chunk, None, b""))
            self._room.notify()
            self._wake_consumer()

    def _may_retry(self, chunk: Chunk) -> bool:
        now_s = time.monotonic()
        chunk.full_since_s = chunk.full_since_s or now_s
        return now_s - chunk.full_since_s < QUEUE_FULL_S

    def _again(self, chunk: Chunk) -> None:
        if self._stopped:
            return
        before = chunk.ticket
        chunk.ticket = Ticket(before.call, before.submit, before.payload)
        chunk.ticket.renew = before.renew
        chunk.ticket.classes = before.classes
        chunk.sent_s = time.monotonic()
        self._submit(chunk)

    def _wake_consumer(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    # --- consuming

    def arm(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called when there is something to take."""
        with self._lock:
            if not self._arrivals and not (self._fed and not self._in_flight):
                self._wake = wake
                return
        wake()

    def tick(self) -> None:
        """The consumer has waited for TICK_S: don't let a slow input hold back what is packed already."""
        with self._lock:
            self._wake = None
            self._tuner.nothing_yet()
            if self._open and self._in_flight < self._tuner.chunks_max:
                self._close_chunk()
            self._room.notify()

    @property
    def finished(self) -> bool:
        """Whether all inputs were read and nothing is to come any more."""
        with self._lock:
            return self._fed and not self._open and not self._in_flight and not self._arrivals and not self._chunks

    def take_unordered(self) -> Iterator[Ready]:
        """Results that are here, in whatever order."""
        while self._arrivals:
            chunk, record, part = self._arrivals.popleft()
            if record is not None and record.error is None:
                places = chunk.fill(record, part)
                if places:
                    yield [chunk.results[place] for place in places], chunk.ticket.classes
                    self._release(len(places))
            elif record is None:
                missing = chunk.count - chunk.got
                if missing:
                    yield [Failure(_missing(chunk))] * missing, None
                    self._release(missing)
                del self._chunks[chunk.start]

    def take_ordered(self, at: int) -> Iterator[Ready]:
        """Results that are here from item ``at`` on, without gap."""
        while True:
            while self._arrivals:
                chunk, record, part = self._arrivals.popleft()
                if record is None:
                    chunk.error = chunk.error or _missing(chunk)
                elif record.error is None:
                    chunk.fill(record, part)
            found = self._head(at)
            if found is None:
                return
            chunk, ready = found
            yield ready, chunk.ticket.classes
            at += len(ready)
            self._release(len(ready))
            if at == chunk.start + chunk.count:
                del self._chunks[chunk.start]

    def _head(self, at: int) -> tuple[Chunk, list[Any]] | None:
        with self._lock:  # the feeder adds to them meanwhile
            chunk = next(iter(self._chunks.values()), None)
        if chunk is None:
            return None
        ready: list[Any] = []
        for place in range(at - chunk.start, chunk.count):
            result = chunk.results[place]
            if result is None:
                if chunk.error is None:
                    break
                ready.append(Failure(chunk.error))
            else:
                ready.append(result)
                chunk.results[place] = b""
        return (chunk, ready) if ready else None

    def _release(self, items: int) -> None:
        with self._lock:
            self._items_out -= items
            self._room.notify()

    def stop(self, interrupted: bool = False) -> None:
        """Leave early: cancel what is in flight."""
        with self._lock:
            self._stopped = True
            self._room.notify()
            tickets = [chunk.ticket for chunk in self._chunks.values() if not chunk.ticket.done]
        if interrupted:
            name = f"{self._function.app_name}.{self._function.name}"
            self._client.abandon(tickets, f"the map over {name} ({len(tickets)} calls in flight)")
        else:
            self._client.cancel_soon(tickets)


def _missing(chunk: Chunk) -> FleetError:
    return chunk.error or ProtocolError(
        f"the outcome of call {chunk.ticket.call} lacks {chunk.count - chunk.got} items"
    )


def values_of(ready: list[Any], return_exceptions: bool, classes: Classes | None) -> Iterator[Any]:
    """Decode results one by one; an error is raised, or given in place of the value."""
    known = classes or ANY_OWN
    for item in ready:
        value = item if type(item) is Failure else decode_item(item, known)
        if type(value) is Failure:
            if not return_exceptions:
                raise value.error
            yield value.error
        else:
            yield value


def run_map(run: MapRun, order_outputs: bool, return_exceptions: bool) -> Iterator[Any]:
    """The iterator that ``map`` returns."""
    run.start()
    at = 0
    complete = interrupted = False
    try:
        while True:
            for ready, classes in run.take_ordered(at) if order_outputs else run.take_unordered():
                at += len(ready)
                yield from values_of(ready, return_exceptions, classes)
            if run.finished:
                break
            waiter = Waiter()
            run.arm(waiter.set)
            if not waiter.wait(TICK_S):
                run.tick()
        complete = True
        if run.input_error is not None:
            raise run.input_error
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not complete:
            run.stop(interrupted)


async def run_map_aio(run: MapRun, order_outputs: bool, return_exceptions: bool) -> AsyncIterator[Any]:
    """The same for asyncio."""
    run.start()
    at = 0
    complete = False
    try:
        while True:
            for ready, classes in run.take_ordered(at) if order_outputs else run.take_unordered():
                at += len(ready)
                for value in values_of(ready, return_exceptions, classes):
                    yield value
            if run.finished:
                break
            if not await wait_aio(run.arm, TICK_S):
                run.tick()
        complete = True
        if run.input_error is not None:
            raise run.input_error
    finally:
        if not complete:
            run.stop()
