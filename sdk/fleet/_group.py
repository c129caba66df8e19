"""``spawn_map`` and the group of calls it makes.

A group's id says how many calls and items it has, and its calls are ``<id's stem>-<number>``: so it is found again from
any process without a list anywhere.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from fleet._call import Both
from fleet._function import Function
from fleet.protocol.errors import InvalidOption, ProtocolError
from fleet.protocol.ids import new_call_id

if TYPE_CHECKING:
    from fleet._classes import Classes
    from fleet._client import Client
    from fleet._register import Bound
    from fleet._ticket import Ticket

R_co = TypeVar("R_co", covariant=True)

PROBE_S = 0.05
CHUNKS_SINGLE_MAX = 1000
"""As long as nothing is known about durations, so many items travel alone; then chunks grow with what was sent."""
AHEAD = 32
_ID = re.compile(r"([0-9a-f]{32})-([0-9a-f]{1,8})-([0-9a-f]{1,10})\Z")


class _Results(Generic[R_co]):
    """``group.results``."""

    __slots__ = ("_group",)

    def __init__(self, group: CallGroup[R_co]) -> None:
        self._group = group

    def __call__(self, return_exceptions: bool = False) -> Iterator[R_co]:
        """Iterate all results in the order of the inputs, waiting for each."""
        from fleet._loop import Waiter

        for ticket in self._group._follow():
            waiter = Waiter()
            ticket.arm(waiter.set)
            waiter.wait()
            yield from cast("Iterator[R_co]", _values_of(ticket, return_exceptions))

    async def aio(self, return_exceptions: bool = False) -> AsyncIterator[R_co]:
        """The same for asyncio."""
        from fleet._call import _client_aio
        from fleet._loop import wait_aio

        await _client_aio()
        for ticket in self._group._follow():
            await wait_aio(ticket.arm)
            for value in _values_of(ticket, return_exceptions):
                yield cast(R_co, value)


def _values_of(ticket: Ticket, return_exceptions: bool) -> Iterator[Any]:
    """All results of a finished call of a group."""
    from fleet._map import values_of
    from fleet._results import Failure
    from fleet.protocol import frames
    from fleet.protocol.limits import CHUNK_ITEMS_MAX

    if ticket.error is not None:
        raise ticket.error
    assert ticket.final is not None, ticket.call
    found: dict[int, Any] = {}
    for record, part in ticket.parts.values():
        items = frames.unpack_items(part, CHUNK_ITEMS_MAX) if len(part) else []
        ranges = record.indices if record.indices is not None else [(0, len(items) - 1)]
        places = (place for first, last in ranges for place in range(first, last + 1))
        found.update(zip(places, items))
    error = ticket.final.error
    failure = Failure(error.to_error() if error is not None else ProtocolError(f"call {ticket.call} lacks items"))
    for place in range(ticket.final.items or max(found, default=0) + 1):
        yield from values_of([found.get(place, failure)], return_exceptions, ticket.classes)


class CallGroup(Generic[R_co]):
    """What ``spawn_map`` handed over. ``id`` finds it again from anywhere: ``fleet.CallGroup.from_id(id)``."""

    def __init__(self, id: str, classes: Sequence[Classes | None] = ()) -> None:
        found = _ID.match(id)
        if found is None:
            raise InvalidOption(f"{id!r} is no id of a group", hint="use the .id of what spawn_map returned")
        self.id = id
        self._stem = found[1]
        self.call_count = int(found[2], 16)
        self.item_count = int(found[3], 16)
        self._classes = classes

    @classmethod
    def from_id(cls, id: str) -> CallGroup[Any]:
        """The group with this id; InvalidOption if it is none."""
        return CallGroup(id)

    def __len__(self) -> int:
        return self.item_count

    def _follow(self) -> Iterator[Ticket]:
        """A ticket for every call in order, asked about some way ahead."""
        from fleet._client import current
        from fleet._ticket import Ticket

        client = current()
        ahead: deque[Ticket] = deque()
        for number in range(self.call_count):
            ticket = Ticket(_call_id(self._stem, number))
            ticket.classes = self._classes[number] if self._classes else None
            client.watch(ticket)
            ahead.append(ticket)
            if len(ahead) >= AHEAD:
                yield ahead.popleft()
        yield from ahead

    @property
    def results(self) -> _Results[R_co]:
        """``group.results(return_exceptions=False)``: an iterator over all results, in the order of the inputs."""
        return _Results(self)

    async def _status(self) -> dict[str, int]:
        from fleet._client import current
        from fleet.protocol.limits import SUBMIT_CALLS_MAX
        from fleet.protocol.messages import CallRequest, StatusReply
        from fleet.protocol.subjects import ApiVerb

        counts: Counter[str] = Counter()
        ended: set[str] = set()
        for start in range(0, self.call_count, SUBMIT_CALLS_MAX):
            stop = min(self.call_count, start + SUBMIT_CALLS_MAX)
            calls = [_call_id(self._stem, number) for number in range(start, stop)]
            reply, _ = await current().api.ask(ApiVerb.STATUS, CallRequest(calls=calls), StatusReply)
            for row in reply.calls:
                state = "unknown" if row.state is None else str(row.state)
                if row.items is None:
                    ended.add(state)
                    continue
                done = min(row.items_done, row.items) if state in ("queued", "running") else 0
                counts["succeeded"] += done
                counts[state] += row.items - done
        if ended:  # no telling how many items each had: all that is left, in one state where there is only one
            counts["/".join(sorted(ended))] += self.item_count - counts.total()
        return {state: count for state, count in counts.items() if count}

    status = Both(_status)
    """How many items are in each state, as ``{"queued": 90, "succeeded": 10}``."""

    async def _cancel(self) -> int:
        from fleet._client import current
        from fleet.protocol.limits import SUBMIT_CALLS_MAX

        count = 0
        for start in range(0, self.call_count, SUBMIT_CALLS_MAX):
            stop = min(self.call_count, start + SUBMIT_CALLS_MAX)
            count += len(await current().cancel([_call_id(self._stem, number) for number in range(start, stop)]))
        return count

    cancel = Both(_cancel)
    """End all of it that has no outcome yet; the number of calls (each one or more items) that this ended."""

    def __repr__(self) -> str:
        return f"<fleet.CallGroup {self.id}: {self.item_count} items>"


def _call_id(stem: str, number: int) -> str:
    return f"{stem}-{number:x}"


class _Spawner:
    """Packs inputs into chunks and hands them over, as many as there are."""

    def __init__(self, client: Client, function: Function[Any, Any], chunksize: int | None) -> None:
        from fleet._packed import Together
        from fleet._prepare import Packer
        from fleet._tuning import Tuner

        self._client = client
        self._packer = Packer(client, function)
        self._packer.begin()
        self._bound: Bound | None = None
        """The version that the open chunk is for."""
        self.classes: list[Classes | None] = []
        """Of each call that was handed over."""
        self._fixed = chunksize
        self._tuner = Tuner(chunksize)
        self._stem = new_call_id()
        self._tickets: list[Ticket] = []
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._refs = Together()
        self._probe_s = PROBE_S
        self.items = 0

    def rows(self, iterables: tuple[Any, ...]) -> Iterator[tuple[Any, ...]] | None:
        """The rows of arrays, where they are items of their own; chunks are then made of whole batches."""
        from fleet._tuning import Tuner

        found = self._packer.rows(iterables)
        if found is not None:
            self._tuner = Tuner(self._fixed, self._packer.batch_size)
        return found

    def add(self, args: tuple[Any, ...]) -> None:
        """One more item."""
        bound, data = self._packer(args, {})
        if bound is not self._bound:
            self.flush()
            self._bound = bound
        if not self._refs.take(data):
            self.flush()
            self._refs.take(data)
        self._open.append(data)
        self._open_bytes += len(data) + 4
        self.items += 1
        if len(self._open) >= self._size() or self._open_bytes >= self._tuner.bytes_max:
            self.flush()

    def _size(self) -> int:
        if self._fixed is not None or self._tuner.observed:
            return self._tuner.items
        return self._tuner.unit * (1 + len(self._tickets) // CHUNKS_SINGLE_MAX * 8)

    def flush(self) -> None:
        """Hand over what is packed."""
        from fleet._packed import Together, pack_items

        if not self._open:
            return
        assert self._bound is not None
        items, self._open, self._open_bytes = self._open, [], 0
        self._refs = Together()
        self.classes.append(self._bound.classes)
        call = _call_id(self._stem, len(self._tickets))
        payload = pack_items(items)
        ticket = self._client.ticket_of(self._bound, payload, items=len(items), group=self._stem, call=call)
        born_s = time.monotonic()
        ticket.arm(lambda: self._measure(ticket, len(items), len(payload), born_s))
        self._tickets.append(ticket)
        self._client.submit_spawned(ticket)
        if self._fixed is None and self._probe_s > 0:
            self._probe(ticket)

    def _measure(self, ticket: Ticket, items: int, size: int, born_s: float) -> None:
        from fleet._tuning import away_s

        metering = ticket.final.metering if ticket.final is not None else None
        if metering is not None:
            latency_s = away_s(time.monotonic() - born_s, metering)
            self._tuner.observe(items, size, metering.run_s, latency_s)

    def _probe(self, ticket: Ticket) -> None:
        """Wait for the first few chunks, PROBE_S in all: a quick function is packed densely from then on."""
        from fleet._loop import Waiter

        begun_s = time.monotonic()
        waiter, size = Waiter(), self._tuner.items
        ticket.arm(waiter.set)
        waiter.wait(self._probe_s)
        self._probe_s -= time.monotonic() - begun_s
        if self._tuner.observed > 1 and self._tuner.items < 2 * size:
            self._probe_s = 0.0  # it has settled

    def settle(self) -> str:
        """Wait until all is accepted; the group's id. Raises the first error of a submit."""
        from fleet.protocol.errors import FleetError

        self.flush()
        self._client.flush()
        for ticket in self._tickets:
            if isinstance(ticket.error, FleetError) and ticket.final is None:
                raise ticket.error
        return f"{self._stem}-{len(self._tickets):x}-{self.items:x}"

    def give_up(self) -> None:
        """Cancel what was handed over."""
        self._client.cancel_soon([ticket for ticket in self._tickets if not ticket.done])


def spawn_map(
    client: Client, function: Function[Any, Any], iterables: tuple[Any, ...], chunksize: int | None
) -> CallGroup[Any]:
    """Hand over every input; returns once all are accepted, or cancels what was and raises."""
    from fleet import _inputs

    inputs = _inputs.argument_tuples(_inputs.checked_iterables(iterables, False), False)
    spawner = _Spawner(client, function, _inputs.checked_chunksize(chunksize))
    try:
        for args in spawner.rows(iterables) or inputs:
            function.check_arguments(args, {})
            spawner.add(args)
        return CallGroup(spawner.settle(), spawner.classes)
    except BaseException:
        spawner.give_up()
        raise
