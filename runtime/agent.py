"""The agent of one car: the shell around ``agent_state.AgentCore``. It holds no decision.

Everything between a message and what follows from it is synchronous: the bus calls a handler, the core says what to do,
it is done before the handler returns. So a grant is on its slot's pipe, and a kill is sent, without a task switch.
What takes time (starting a slot, fetching a blob) runs in tasks of one group and comes back as an event.

Errors:   the broker's absence is waited out, for ever. An exception in here is a bug: it ends ``run``, and the slots die.
Shutdown: ``stop()``: kill the slots, give leases back, wait for the answers to outcomes (at most STOP_S), close.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import anyio
import anyio.abc

from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError, Refused
from fleet.protocol.frames import unpack
from fleet.protocol.messages import CarCancel, CarCredit, GrantReply, GrantRequest, Simulate, SimulateReply, WireError
from fleet.protocol.subjects import TO_CAR, ToCarVerb
from fleet.transport import Bus, Request
from runtime import agent_types as t
from runtime.agent_blobs import BlobClient
from runtime.agent_config import AgentConfig
from runtime.agent_fetch import Fetcher
from runtime.agent_jobs import Job
from runtime.agent_link import ControlLink
from runtime.agent_processes import SlotProcesses, SlotStarter
from runtime.agent_state import AgentCore
from runtime.bundles import BundleCache
from runtime.compiled_cache import CompiledCache
from runtime.signals.model import Clock, Signals, SignalSource, SystemClock
from runtime.weights_cache import WeightsCache

log = logging.getLogger("fleet.car")

STOP_S = 3.0
CONNECT_AGAIN_S_MIN = 0.1
CONNECT_AGAIN_S_MAX = 2.0
TICK_S_MIN = 0.001


class Connect(Protocol):
    """Opens the bus with our hooks; FleetUnavailable when nobody answers."""

    async def __call__(self, *, on_reconnect: Callable[[], None], on_disconnect: Callable[[], None]) -> Bus: ...


class Agent:
    """See the module."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        connect: Connect,
        source: SignalSource,
        starter: SlotStarter,
        bundles: BundleCache,
        weights: WeightsCache | None = None,
        compiled: CompiledCache | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.core = AgentCore(config)
        self.config = config
        self._connect_bus = connect
        self._source = source
        self._clock: Clock = clock or SystemClock()
        self._link = ControlLink(config, self._clock, self.feed)
        self._blobs = BlobClient(lambda: self._link.bus, config.car)
        self._bundles = bundles
        self._fetcher = Fetcher(self._blobs, bundles, weights or WeightsCache(None))
        self._processes = SlotProcesses(self.core, self._link, starter, self.feed, self._start_soon, compiled)
        self.slots = self._processes.slots
        self._events: deque[t.Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = float("inf")
        self._group: anyio.abc.TaskGroup | None = None
        self._stop = anyio.Event()
        self._settled = anyio.Event()
        self._error: BaseException | None = None
        self._do: dict[type, Callable[[Any], None]] = {
            t.FetchJob: self._fetch_job, t.PutBlob: self._put_blob, **self._link.actions, **self._processes.actions,
        }  # fmt: skip

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until ``stop()`` (then in order) or until cancelled (then at once). Leaves no process behind."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                self._loop = asyncio.get_running_loop()
                group.start_soon(self._source.run, self._hear)
                group.start_soon(self._connect)
                await self._stop.wait()
                if self._error is None:
                    with anyio.move_on_after(STOP_S, shield=True):
                        self.feed(t.Stop())
                        await self._settled.wait()
                group.cancel_scope.cancel()
        finally:
            await self._end()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Begin to end, in order."""
        self._stop.set()

    async def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._handling = True  # nothing is decided any more
        slots = list(self.slots.values())
        for slot in slots:
            slot.kill()
        with anyio.move_on_after(STOP_S, shield=True):
            for slot in slots:
                await slot.reaped()
        await self._link.close()

    async def _connect(self) -> None:
        pause_s = CONNECT_AGAIN_S_MIN
        bus: Bus | None = None
        while bus is None:
            try:
                bus = await self._connect_bus(
                    on_reconnect=lambda: self.feed(t.Connected()), on_disconnect=lambda: self.feed(t.Disconnected())
                )
            except FleetUnavailable as error:
                log.warning("no broker yet: %s", error.message)
                await self._clock.wait(pause_s)
                pause_s = min(CONNECT_AGAIN_S_MAX, 2 * pause_s)
        self._link.bus = bus
        await bus.listen(TO_CAR.wildcard(car=self.config.car), self._on_message)
        log.info("connected to %s as %s", bus.url, self.config.car)
        self.feed(t.Connected())

    # --- events ------------------------------------------------------------------------------------------------------

    def feed(self, event: t.Event) -> None:
        """Let the core decide about an event and do what it says, before this returns (or after the present event)."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        clock = self._clock
        try:
            while self._events:
                for action in self.core.handle(self._events.popleft(), clock.monotonic_s(), clock.unix_s()):
                    self._do[type(action)](action)
        except BaseException as error:
            # Whoever called us (the bus, a timer) may swallow it: keep it for run(). _handling stays set on purpose.
            self._error = error
            self._stop.set()
            raise
        self._handling = False
        self._arm()
        if self.core.stopping and self.core.settled:
            self._settled.set()

    def _arm(self) -> None:
        """Have a Tick when the core wants one; a timer that is early is left as it is."""
        due_s = self.core.due_s
        if due_s >= self._timer_due_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_later(max(TICK_S_MIN, due_s - self._clock.monotonic_s()), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_due_s = None, float("inf")
        self.feed(t.Tick(self._processes.running(self._clock.monotonic_s() - time.monotonic())))

    def _hear(self, signals: Signals) -> None:
        before = self.core.state
        self.feed(t.SignalHeard(signals))
        after = self.core.state
        if (before.eligible, before.reasons) != (after.eligible, after.reasons):
            log.info("standing eligible=%s reasons=%s", after.eligible, ",".join(after.reasons) or "-")

    def _on_message(self, request: Request) -> None:
        verb = request.subject.rpartition(".")[2]
        try:
            if verb == ToCarVerb.GRANT:
                self._on_grant(request)
            elif verb in (ToCarVerb.CANCEL, ToCarVerb.DROP):
                self.feed(t.Dropped(tuple(unpack(request.data, CarCancel)[0].counters)))
            elif verb == ToCarVerb.CREDIT:
                self.feed(t.Credited(unpack(request.data, CarCredit)[0].consumed))
            elif verb == ToCarVerb.REFRESH:
                self.feed(t.Refresh())
            elif verb == ToCarVerb.SIMULATE:
                self._on_simulate(request)
            else:
                log.warning("a message of an unknown kind: %s", request.subject)
        except ProtocolError as error:
            log.warning("%s: %s", request.subject, error)

    def _on_grant(self, request: Request) -> None:
        try:
            message, parts = unpack(request.data, GrantRequest)
            wanted = sum(2 if grant.checkpoint else 1 for grant in message.leases)
            if wanted != len(parts):
                raise ProtocolError(f"a grant with {len(parts)} parts instead of {wanted}")
        except ProtocolError as error:
            self._link.publish(request.reply, GrantReply(reason=error.message))
            raise
        jobs = []
        at = 0
        for grant in message.leases:
            args = parts[at]
            saved = parts[at + 1] if grant.checkpoint else None
            at += 2 if grant.checkpoint else 1
            jobs.append(self._fetcher.job(grant, None if grant.blob and not len(args) else args, saved))
        self.feed(t.Granted(message.epoch, request.reply, tuple(jobs)))

    def _on_simulate(self, request: Request) -> None:
        try:
            if not self._source.simulated:
                raise Refused("the signals of this car are real: only its owner can drive it")
            self._source.simulate(unpack(request.data, Simulate)[0].action)
            self._link.publish(request.reply, SimulateReply(cars=[self.config.car]))
        except FleetError as error:
            self._link.publish(request.reply, SimulateReply(error=WireError.of(error)))

    def _start_soon(self, work: Callable[..., Any], *args: Any) -> None:
        assert self._group is not None, "not running"
        self._group.start_soon(work, *args)

    # --- blobs -------------------------------------------------------------------------------------------------------

    def _fetch_job(self, action: t.FetchJob) -> None:
        self._start_soon(self._fetch, action.job)

    async def _fetch(self, job: Job) -> None:
        try:
            fetched = await self._fetcher.fetch(job)
        except FleetError as error:
            log.warning("call %s: %s", job.lease.call, error)
            self.feed(t.FetchFailed(job, error.message))
            return
        self.feed(fetched)

    def _put_blob(self, action: t.PutBlob) -> None:
        self._start_soon(self._put, action)

    async def _put(self, action: t.PutBlob) -> None:
        digest = action.kept
        try:
            if digest is None:
                digest = await self._blobs.put(action.data, action.lease)
            else:
                await self._blobs.put_kept(digest, action.data, action.lease)
                self._bundles.add(digest, action.data)  # for another slot, when this one is gone or busy
        except FleetError as error:
            self.feed(t.BlobRefused(action.entry, error.message))
            return
        self.feed(t.BlobStored(action.entry, digest, len(action.data), action.kept is not None))
