"""A router with its hands: events come in by callbacks, one task stores what the router says, until something fails."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError
from fleet.protocol.frames import Bytes
from fleet.protocol.messages import InvocationState, StoredEvent, SubjectTrigger
from fnplatform.jetstream import StreamFull, WrongSequence
from fnplatform.triggers.commit import Committer, Streams
from fnplatform.triggers.invocations import (
    CHUNK_LAGGING_S,
    CHUNK_S,
    Arrived,
    NewInvocation,
    call_of,
    chunk_max,
    invocation_of,
)
from fnplatform.triggers.lanes import Lane
from fnplatform.triggers.matching import key_of, takers
from fnplatform.triggers.plans import Batch, Fetch, Rules, Start
from fnplatform.triggers.reader import OnEvent
from fnplatform.triggers.router import RETRY_S, Router
from fnplatform.triggers.state import Cursor
from fnplatform.triggers.table import Bound, Table

log = logging.getLogger("fleet.triggers")

PAGE = 256
REST_S_MIN = 0.001
"""Times are rounded: what is due a moment later is due then."""
CROWDED_S = 0.02
"""Events of a function that has enough waiting stay where they are, and then go in larger chunks."""
SHARE_S = 0.2
"""How many calls a tenant has in the queue is asked this often."""
HOUSEKEEPING_S = 10.0
FULL = 0.75
EMPTY_TO = 0.6
"""Beyond the one share of what EVENTS holds, handled events are removed down to the other."""


class Term(Protocol):
    """What routing needs of the term of leadership that it runs beside."""

    @property
    def epoch(self) -> int: ...
    @property
    def over(self) -> bool: ...
    def submit(self, state: InvocationState, seq: int, payload: bytes) -> None:
        """A call was queued under ``seq`` just now."""
        ...

    def run_s(self, tenant: str, app: str, function: str, version: str) -> float | None:
        """What one item of this version takes, if that was measured."""
        ...

    def crowded(self, tenant: str, app: str, function: str, version: str) -> bool:
        """Whether so many calls of this version wait for a car that one more wouldn't run any sooner for being queued."""
        ...

    def queued(self, tenant: str) -> int:
        """Calls of the tenant that aren't over."""
        ...

    def knows(self, tenant: str, call: str) -> bool:
        """Whether this call isn't over, or hasn't been for long."""
        ...


class Blobs(Protocol):
    """Where large arguments go."""

    async def put_whole(self, tenant: str, digest: str, data: bytes) -> None: ...


class EventSource(Protocol):
    """Where events come from, in order."""

    async def run(self, seq: int) -> None: ...
    def pull(self) -> None:
        """There may be room for more."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What a life works with."""

    term: Term
    committer: Committer
    streams: Streams
    blobs: Blobs
    table: Table
    source: Callable[[OnEvent, Callable[[], bool]], EventSource]
    now_s: Callable[[], float]
    unix_s: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    may: Callable[[str], bool]
    """Whether calls of a tenant may be stored right now."""
    refresh: Callable[[], Awaitable[None]]
    """Load the triggers anew."""


class Again(Exception):
    """A life is over: begin the next one at the stored cursor.

    ``lanes``: triggers for which nothing could be stored. ``stored``: calls that were, in this life.
    """

    def __init__(self, why: str, lanes: set[str], stored: int) -> None:
        super().__init__(why)
        self.lanes = lanes
        self.stored = stored


def arrived(seq: int, data: Bytes) -> Arrived | None:
    """An event as EVENTS holds it; None for what is none of ours."""
    try:
        stored, parts = frames.unpack(data, StoredEvent)
    except ProtocolError as error:
        log.error("event %d is none of ours: %s", seq, error.message)
        return None
    body = bytes(parts[0]) if parts else b""
    return Arrived(seq, stored.tenant, stored.head, body, stored.accepted_unix_s)


class Life:
    """Routes events until something fails. ``blocked``: when triggers may go on for which nothing could be stored."""

    def __init__(
        self, tools: Tools, lanes: dict[str, Lane], cursor: Cursor, end: int, blocked: Mapping[str, float]
    ) -> None:
        self._tools = tools
        rules = Rules(takers, key_of, self._chunk_max, self._pause_s)
        self.router = Router(cursor, lanes, rules, end, tools.now_s())
        for lane, until_s in blocked.items():
            self.router.block(lane, until_s)
        self._source = tools.source(self._on_event, lambda: self.router.room)
        self._wake = anyio.Event()
        self._failed: Again | None = None
        self._share: dict[str, tuple[float, bool]] = {}
        self.stored = 0
        """Calls."""

    async def run(self, seq: int) -> None:
        """Read and route from ``seq`` on. Always ends with an exception: Again."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._source.run, seq)
            group.start_soon(self._housekeeping)
            await self._pump()
            group.cancel_scope.cancel()
        assert self._failed is not None
        raise self._failed

    def replace(self, tenant: str, app: str, bounds: list[Bound]) -> None:
        """The triggers of an app changed."""
        self.router.replace(tenant, app, bounds)
        self._wake.set()

    # --- what the router asks ---------------------------------------------------------------------------------------

    def _chunk_max(self, bound: Bound, lags: bool) -> int:
        run_s = self._tools.term.run_s(bound.tenant, bound.app, bound.function, bound.version)
        return chunk_max(run_s, CHUNK_LAGGING_S if lags else CHUNK_S)

    def _pause_s(self, bound: Bound) -> float:
        if not self._may(bound.tenant):
            return RETRY_S
        assert isinstance(bound.trigger, SubjectTrigger), bound
        if bound.trigger.shaped or not self._tools.term.crowded(bound.tenant, bound.app, bound.function, bound.version):
            return 0.0
        return CROWDED_S

    def _may(self, tenant: str) -> bool:
        now_s = self._tools.now_s()
        found = self._share.get(tenant)
        if found is None or now_s >= found[0]:
            found = self._share[tenant] = (now_s + SHARE_S, self._tools.may(tenant))
        return found[1]

    # --- events in --------------------------------------------------------------------------------------------------

    def _on_event(self, seq: int, data: Bytes) -> None:
        now_s = self._tools.now_s()
        event = arrived(seq, data)
        if event is None:
            self.router.skip(seq, now_s)
        else:
            self.router.arrive(event, self._tools.table.matching(event.tenant, event.head.subject), now_s)
        self._lones()
        self._wake.set()

    def _lones(self) -> None:
        """At once, in the callback that the event came by: nothing waits for a task to be scheduled."""
        if self._tools.term.over or self._failed is not None:
            return
        for start in self.router.lones(self._tools.now_s()):
            self._lone(start)

    def _lone(self, start: Start) -> None:
        call = invocation_of(start.bound, start.events, self._tools.unix_s(), key=start.key)
        assert not call.state.blob, start
        if self._tools.term.knows(call.state.tenant, call.state.call):
            # A copy whose first one is in EVENTS no longer: the publish below would take the place of its call.
            self.router.lone_stored(start)
            self._wake.set()
            return

        def on_stored(stored: int | FleetError) -> None:
            if isinstance(stored, int):
                self.router.lone_stored(start)
                self.stored += 1
                self._tools.term.submit(call.state, stored, call.payload)
                self._lones()
                self._wake.set()
            else:
                self._fail(stored, {start.lane.name} if isinstance(stored, StreamFull) else set())

        self._tools.committer.publish_lone(call, on_stored)

    def _fail(self, error: FleetError, lanes: set[str]) -> None:
        """Nobody knows what is stored, or nothing of these triggers can be: a new life finds out."""
        if self._failed is None:
            self._failed = Again(error.message, lanes, self.stored)
        self._wake.set()

    # --- what is stored in one step -----------------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Look up, read on, store; then wait for more."""
        while self._failed is None:
            self._wake = anyio.Event()
            try:
                await self._step()
            except FleetError as error:
                self._fail(error, set())
            if self._failed is None and not self._wake.is_set():
                await self._rest()

    async def _rest(self) -> None:
        due_s = self.router.wake_s
        if due_s is None:
            await self._wake.wait()
            return
        with anyio.move_on_after(max(REST_S_MIN, due_s - self._tools.now_s())):
            await self._wake.wait()

    async def _step(self) -> None:
        router = self.router
        looked_up = router.unchecked()
        if looked_up:
            router.checked(looked_up, await self._tools.committer.known(looked_up))
        for fetch in router.fetches(self._tools.now_s()):
            await self._fetch(fetch)
        self._lones()
        batch = router.batch(self._tools.now_s(), self._tools.unix_s())
        if batch is not None and self._failed is None:
            await self._store(batch)
            self._wake.set()
        self._source.pull()

    async def _fetch(self, fetch: Fetch) -> None:
        """Read on for a trigger that lags."""
        self._wake.set()
        if fetch.missing is not None:
            self.router.restored(fetch, await self._read(fetch.missing))
            return
        messages = await self._tools.streams.events(fetch.lane.bound.tenant, fetch.seq, PAGE)
        page = [event for one in messages if (event := arrived(one.seq, one.data)) is not None]
        self.router.fetched(fetch, page, complete=not messages or messages[-1].seq > fetch.asked_at)

    async def _read(self, seqs: Sequence[int]) -> dict[int, Arrived]:
        """These events; what is missing is no longer kept."""
        found: dict[int, Arrived] = {}
        for seq in seqs:
            message = await self._tools.streams.event(seq)
            event = None if message is None else arrived(seq, message.data)
            if event is None:
                log.error("event %d is no longer kept, what was to start by it doesn't", seq)
            else:
                found[seq] = event
        return found

    async def _read_again(self, starts: Sequence[Start]) -> None:
        """Events that were held back for longer than they are kept at hand."""
        for start in starts:
            if start.wanted is not None:
                known = {event.seq: event for event in start.events}
                known.update(await self._read([seq for seq in start.wanted if seq not in known]))
                start.events = [known[seq] for seq in start.wanted if seq in known]

    async def _store(self, batch: Batch) -> None:
        tools = self._tools
        await self._read_again(batch.starts)
        await self._forget_started([start for start in batch.starts if start.lane.until is not None])
        try:
            calls = await self._calls(batch)
            try:
                seqs = await tools.committer.commit(calls, batch.cursor)
            except WrongSequence:
                await self._after_conflict(batch)
                calls = await self._calls(batch)
                seqs = await tools.committer.commit(calls, batch.cursor)
        except StreamFull as error:
            self._fail(error, {start.lane.name for start in batch.starts})
            return
        self.router.committed(batch, tools.committer.cursor)
        self.stored += len(calls)
        for call, seq in zip(calls, seqs, strict=True):
            tools.term.submit(call.state, seq, call.payload)

    async def _calls(self, batch: Batch) -> list[NewInvocation]:
        """Ready to be stored: large arguments are blobs already."""
        now_unix_s = self._tools.unix_s()
        calls = []
        for one in batch.starts:
            if not one.events:
                continue
            call = invocation_of(one.bound, one.events, now_unix_s, key=one.key, listed=one.listed)
            if call.state.blob:
                try:
                    await self._tools.blobs.put_whole(call.state.tenant, call.state.digest, call.payload)
                except FleetUnavailable:
                    raise
                except FleetError as error:  # its tenant has no room for it: nobody else's business
                    self._fail(error, {one.lane.name})
                    raise
            calls.append(call)
        return calls

    async def _after_conflict(self, batch: Batch) -> None:
        """Somebody wrote a cursor, or one of the calls is there: without those it goes again."""
        committer = self._tools.committer
        stamp = committer.cursor.stamp
        if (await committer.claim()).stamp != stamp + 1:
            raise FleetUnavailable("the cursor isn't what it was", hint="")
        await self._forget_started(batch.starts)

    async def _forget_started(self, starts: Sequence[Start]) -> None:
        """Take those events out that have started their function as a call of their own."""
        names = {
            (*start.bound.owner, call_of(start.bound, event.head)): (start, event)
            for start in starts
            for event in start.events
        }
        if not names:
            return
        known = await self._tools.committer.known(list(names))
        for name, (start, event) in names.items():
            if name[3] in known:
                log.warning("event %s has started %s.%s before", event.head.id, start.bound.app, start.bound.function)
                start.events.remove(event)

    # --- now and then -------------------------------------------------------------------------------------------------

    async def _housekeeping(self) -> None:
        """Remove what was handled where EVENTS gets full; notice deploys that nobody told us of."""
        while True:
            await self._tools.sleep(HOUSEKEEPING_S)
            try:
                await self._tools.refresh()
                await self._tools.streams.purge_events(self._handled(), FULL, EMPTY_TO)
            except FleetError as error:
                log.info("events are not tidied up right now: %s", error.message)

    def _handled(self) -> int:
        """Events up to this one are not needed any more."""
        cursor = self.router.durable
        needed = [lane.upto for lane in cursor.lagging.values()]
        needed += [lane.shaper.held[0] - 1 for lane in cursor.lagging.values() if lane.shaper and lane.shaper.held]
        return min([cursor.seq, *needed])
