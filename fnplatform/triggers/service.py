"""The trigger service: while this process leads the partition, events become calls, and so do the ticks of clocks.

It runs beside the dispatcher's term and ends with it. Each life of a ``Router`` begins with a claim of the cursor and ends with
the first failure: an answer that got lost, a full queue, another leader. Nothing is kept of it; the next one begins at the
stored cursor. So there is one way to recover, and it is used whenever anything is doubtful.

Events are bounded: over three quarters full, those that were handled are removed, the oldest first. Copies of these are no
longer known as such.

Errors: none leave ``lead``, but our own bugs. While the broker doesn't answer it tries again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import anyio

from fleet.protocol.errors import FleetError, NotDeployed, QueueFull
from fnplatform.disk import DiskRoom
from fnplatform.jetstream import JetStream
from fnplatform.registry import live_version
from fnplatform.triggers.clock_service import ClockService
from fnplatform.triggers.commit import Committer, CursorMoved, JetStreams, Streams
from fnplatform.triggers.lanes import lanes_of
from fnplatform.triggers.life import Again, Blobs, EventSource, Life, Term, Tools
from fnplatform.triggers.reader import OnEvent, Reader
from fnplatform.triggers.state import Cursor
from fnplatform.triggers.table import Bound, Manifests, Table, bounds_of, load_app

log = logging.getLogger("fleet.triggers")

PAUSE_S = 0.2
BLOCK_S, BLOCK_S_MAX = 0.5, 8.0


class Blocks:
    """Triggers for which nothing could be stored, and when each may try again: later each time that it fails again."""

    def __init__(self) -> None:
        self.until_s: dict[str, float] = {}
        self._delay_s: dict[str, float] = {}

    def add(self, lanes: Iterable[str], now_s: float) -> None:
        """Nothing of these could be stored just now."""
        for lane, until_s in list(self.until_s.items()):
            if until_s + BLOCK_S_MAX < now_s:  # it had its chance, and took it
                del self.until_s[lane], self._delay_s[lane]
        for lane in lanes:
            delay_s = self._delay_s[lane] = min(2 * self._delay_s.get(lane, BLOCK_S / 2), BLOCK_S_MAX)
            self.until_s[lane] = now_s + delay_s


class TriggerService:
    """Routes events while its process leads, and runs the ``clocks`` of the same triggers.

    ``calls_max``: so many calls of one tenant may be in the queue.
    """

    def __init__(
        self,
        js: JetStream,
        manifests: Manifests,
        blobs: Blobs,
        partition: str,
        calls_max: int,
        *,
        clocks: ClockService | None = None,
        disk: DiskRoom | None = None,
        streams: Streams | None = None,
        source: Callable[[OnEvent, Callable[[], bool]], EventSource] | None = None,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._js = js
        self._manifests = manifests
        self._blobs = blobs
        self._partition = partition
        self._calls_max = calls_max
        self._clocks = clocks
        self._disk = disk or DiskRoom(None)
        self._streams = streams or JetStreams(js, partition)
        self._source = source or (lambda on_event, room: Reader(js, on_event, room))
        self._now_s = now_s
        self._unix_s = unix_s
        self._sleep = sleep
        self._table = Table()
        self._loading = anyio.Lock()
        self._life: Life | None = None

    @property
    def life(self) -> Life | None:
        """What routes right now, for tests."""
        return self._life

    async def lead(self, term: Term) -> None:
        """Route events, and run clocks, until cancelled."""
        async with anyio.create_task_group() as group:
            if self._clocks is not None:
                group.start_soon(self._run_clocks, self._clocks, term)
            await self._route_events(term)

    async def _run_clocks(self, clocks: ClockService, term: Term) -> None:
        while True:
            try:
                await self._load()
                break
            except FleetError as error:
                log.warning("clocks can't be run right now: %s", error.message)
                await self._sleep(PAUSE_S)
        await clocks.lead(term, self._table, lambda tenant: self._may(term, tenant))

    def _may(self, term: Term, tenant: str) -> bool:
        """Whether calls of a tenant may be stored right now: it hasn't too many, and the disk isn't full."""
        try:
            self._disk.check()
        except QueueFull:
            return False
        return term.queued(tenant) < self._calls_max

    async def _route_events(self, term: Term) -> None:
        committer = Committer(self._streams, self._partition, term.epoch)
        blocks = Blocks()
        while not term.over:
            try:
                cursor = await committer.claim()
                await self._load()
                await self._route(term, committer, cursor, blocks.until_s)
            except Again as again:
                blocks.add(again.lanes, self._now_s())
                log.info("routing begins again at the stored cursor: %s", again)
                if not again.stored:
                    await self._sleep(PAUSE_S)
            except CursorMoved as error:
                log.warning("%s: this process no longer does", error.message)
                await anyio.sleep_forever()
            except FleetError as error:
                log.warning("events can't be routed right now: %s", error.message)
                await self._sleep(PAUSE_S)

    async def reload(self, tenant: str, app: str) -> None:
        """The app was changed: its triggers are those of its record from now on, when this returns."""
        async with self._loading:
            await self._replace(tenant, app, await self._bounds(tenant, app))

    async def _replace(self, tenant: str, app: str, bounds: list[Bound]) -> None:
        if bounds == self._table.of_app(tenant, app):
            return
        self._table.replace(tenant, app, bounds)
        if self._life is not None:
            self._life.replace(tenant, app, bounds)
        if self._clocks is not None:
            await self._clocks.changed()

    async def _load(self) -> None:
        """All triggers, as deployed now."""
        async with self._loading:
            for tenant, app in {*await self._manifests.apps(), *self._table.apps()}:
                await self._replace(tenant, app, await self._bounds(tenant, app))

    async def _bounds(self, tenant: str, app: str) -> list[Bound]:
        while True:
            record = await self._manifests.record(tenant, app)
            try:
                return await load_app(self._manifests, tenant, record)
            except NotDeployed as error:
                if await self._manifests.record(tenant, app) == record:
                    log.error("triggers of %s don't work: %s", app, error.message)
                    return []

    async def _gone(self, cursor: Cursor) -> dict[str, Bound]:
        """Triggers that were changed and weren't done: what they were."""
        live = {bound.id for bound in self._table.all()}
        found: dict[str, Bound] = {}
        for name, state in cursor.lagging.items():
            if name in live:
                continue
            record = await self._manifests.record(state.tenant, state.app)
            if record is None or state.function not in live_version(record).functions:
                continue  # deleted: nothing more of it starts
            try:
                manifest = await self._manifests.lookup(state.tenant, state.app, state.function, state.version)
            except NotDeployed:
                log.warning("a trigger of %s.%s is gone, with what it had not done", state.app, state.function)
                continue
            bounds = bounds_of(state.tenant, state.version, manifest)
            if state.index < len(bounds):
                found[name] = bounds[state.index]
        return found

    async def _route(self, term: Term, committer: Committer, cursor: Cursor, blocked: Mapping[str, float]) -> None:
        end = await self._streams.events_end()
        gone = await self._gone(cursor)
        # No await from here on: a reload meanwhile would find neither life.
        lanes = lanes_of(cursor, self._table.all(), gone)
        tools = Tools(
            term, committer, self._streams, self._blobs, self._table, self._source, self._now_s, self._unix_s, self._sleep,
            lambda tenant: self._may(term, tenant), self._load,
        )  # fmt: skip
        self._life = Life(tools, lanes, cursor, end, blocked)
        try:
            await self._life.run(cursor.seq + 1)
        finally:
            self._life = None
