"""The dispatcher as the frontdoor sees it: leads the partition or stands by, and answers questions either way.

Leadership: acquire the key, reset the consumer so that everything unsettled comes again, hear cars, and run one ``Term``
until the key is lost; then stand by and try again. Shutdown (cancel the scope of ``run``): the key is given back first, so
that a standby leads at once; running calls aren't touched, the next leader adopts them.
Errors: a question while nobody leads is a FleetUnavailable. An exception that leaves ``run`` is a bug of ours.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Protocol, TypeVar

import anyio
from anyio.abc import TaskStatus

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable
from fleet.protocol.limits import CAR_RECORD_TTL_S, REQUEST_S
from fleet.protocol.messages import (
    CallRequest,
    CallsRequest,
    CallStatus,
    CancelReply,
    CarInfo,
    CarsReply,
    CarsRequest,
    ConsumeRequest,
    ExplainReply,
    ExplainRequest,
    HistoryRequest,
    InvocationState,
    Lease,
    Manifest,
    Message,
    PlatformReply,
    PlatformRequest,
    Reply,
    StatusReply,
    StreamPosition,
    WireError,
)
from fleet.protocol.subjects import (
    BUCKET_CARS,
    BUCKET_PLATFORM,
    INTERNAL,
    INVOCATION,
    PARTITION,
    STREAM_INVOCATIONS,
    InternalVerb,
)
from fleet.transport import Bus, Request, Responder
from fnplatform.consumer import Consumption
from fnplatform.dispatcher import events, views
from fnplatform.dispatcher.leader import Leadership
from fnplatform.dispatcher.leftovers import tidy
from fnplatform.dispatcher.payloads import Blobs, Payloads
from fnplatform.dispatcher.stores import Publisher
from fnplatform.dispatcher.term import Term
from fnplatform.history import History
from fnplatform.jetstream import JetStream, JetStreamError, WrongSequence
from fnplatform.registry import code_of

log = logging.getLogger("fleet.dispatcher")

TICK_S = 0.02
CARS_WRITE_S = 1.0
LEASE_KEY = "lease-key"
LEASE_KEY_BYTES = 32
TENANT_HEADER = "Fleet-Tenant"
RETRY_S = 0.2
STOP_S = 1.0

R = TypeVar("R", bound=Reply)


class Manifests(Protocol):
    """Where manifests come from; NotDeployed if there is none."""

    async def lookup(self, tenant: str, app: str, function: str, version: str) -> Manifest: ...


class Companion(Protocol):
    """What leads together with the dispatcher: it runs beside its term, and ends with it."""

    async def lead(self, term: Term) -> None:
        """Work until cancelled."""
        ...

    async def reload(self, tenant: str, app: str) -> None:
        """The app was deployed, rolled back or deleted: obey it when this returns."""
        ...


class Dispatcher:
    """One process's part in one partition. ``bus`` has JetStream rights; ``reply_bus`` only speaks to principals."""

    def __init__(
        self, *, bus: Bus, reply_bus: Bus, js: JetStream, responder: Responder, manifests: Manifests, blobs: Blobs,
        name: str, partition: str = PARTITION, history: History | None = None, outcomes: Publisher | None = None,
        companions: Sequence[Companion] = (),
    ) -> None:  # fmt: skip
        """``outcomes`` publishes to OUTCOMES: a GroupCommit where every publish is synced, else ``js`` itself.

        ``companions`` lead with it.
        """
        self._bus = bus
        self._reply_bus = reply_bus
        self._js = js
        self._outcomes = outcomes or js
        self._companions = tuple(companions)
        self._responder = responder
        self._manifests = manifests
        self._partition = partition
        self._payloads = Payloads(js, blobs)
        # Its own revision tells a process's key from one of its former life under the same name.
        self._leadership = Leadership(js, partition, f"{name}.{os.getpid()}.{time.time_ns():x}")
        self._history = history or History.from_environment()
        self._term: Term | None = None
        self._written: dict[str, tuple[str, float]] = {}
        self.epoch = 0

    @property
    def leading(self) -> bool:
        """Whether this process leads the partition right now."""
        term = self._term
        return term is not None and not term.over and self._leadership.holds(time.monotonic())

    @property
    def term(self) -> Term | None:
        """The present term of leadership, for tests and the simulator."""
        return self._term if self.leading else None

    # --- leading ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Lead whenever nobody else does. Started at once, as a standby too; runs until cancelled."""
        task_status.started()
        try:
            while True:
                epoch = await self._leadership.acquire()
                try:
                    await self._lead(epoch)
                except* (FleetUnavailable, JetStreamError) as group:
                    log.warning("leading partition %s ended: %r", self._partition, group.exceptions)
                finally:
                    self._leave()
                await self._leadership.resign()
                await anyio.sleep(RETRY_S)
        finally:
            with anyio.move_on_after(STOP_S, shield=True):
                await self._leadership.resign()

    def _leave(self) -> None:
        if self._term is not None:
            self._term.over = True
        self._term = None

    async def _lead(self, epoch: int) -> None:
        key = await self._lease_key()
        log.info("leading partition %s in epoch %d", self._partition, epoch)
        self._history.write("lead", epoch=epoch)
        self._written.clear()
        async with anyio.create_task_group() as group:
            term = Term(
                epoch, key, reply_bus=self._reply_bus, responder=self._responder, js=self._js,
                payloads=self._payloads, lookup=self._manifests.lookup, partition=self._partition, group=group,
                holds=self._leadership.holds, history=self._history, outcomes=self._outcomes,
            )  # fmt: skip
            consumption = None
            answering = None
            try:
                group.start_soon(self._watch, term, group.cancel_scope)
                consumption = await self._consume(term)
                self._term = term
                self.epoch = epoch
                answering = await self._bus.listen(INTERNAL.wildcard(partition=self._partition), self._on_internal)
                await term.listen()
                group.start_soon(self._tick, term)
                group.start_soon(self._write_cars, term)
                group.start_soon(tidy, self._js, self._partition, term.core.board)
                for companion in self._companions:
                    group.start_soon(companion.lead, term)
                await consumption.run()
                log.warning("the consumer of partition %s was made anew by another leader", self._partition)
                group.cancel_scope.cancel()
            finally:
                term.over = True
                with anyio.move_on_after(STOP_S, shield=True):
                    await term.close()
                    if answering is not None:
                        await answering.close()
                    if consumption is not None:
                        await consumption.close()

    async def _watch(self, term: Term, scope: anyio.CancelScope) -> None:
        """Renew the key; the term ends with it."""
        await self._leadership.keep()
        term.over = True
        log.warning("no longer leading partition %s", self._partition)
        scope.cancel()

    async def _lease_key(self) -> bytes:
        """The key that leases are signed with: made once, the same for every leader."""
        try:
            key = os.urandom(LEASE_KEY_BYTES)
            await self._js.kv_create(BUCKET_PLATFORM, LEASE_KEY, key)
        except WrongSequence:
            found = await self._js.kv_get(BUCKET_PLATFORM, LEASE_KEY)
            assert found is not None, "the lease key is never deleted"
            key = found[0]
        return key

    async def _consume(self, term: Term) -> Consumption:
        name = f"dispatcher-{self._partition}"
        pattern = INVOCATION.wildcard(partition=self._partition)
        await self._js.reset_consumer(STREAM_INVOCATIONS, name, pattern)
        info = await self._js.stream_info(STREAM_INVOCATIONS)
        waiting = (await self._js.api(f"CONSUMER.INFO.{STREAM_INVOCATIONS}.{name}"))["num_pending"]
        term.backlog(int(info["state"]["last_seq"]), int(waiting))
        consumption = Consumption(self._bus, STREAM_INVOCATIONS, name, term.on_delivered)
        await consumption.start()
        return consumption

    async def _tick(self, term: Term) -> None:
        while not term.over:
            term.tell(events.Tick())
            await anyio.sleep(TICK_S)

    async def _write_cars(self, term: Term) -> None:
        """Last standing of each car, written when it changes and often enough not to expire."""
        while not term.over:
            await anyio.sleep(CARS_WRITE_S)
            now_s = time.monotonic()
            for car in list(term.core.board.cars.values()):
                short = f"{car.online} {car.boot} {car.standing.eligible} {car.standing.reasons} {car.offer.slots}"
                was, when_s = self._written.get(car.name, ("", 0.0))
                if was == short and (not car.online or now_s - when_s < CAR_RECORD_TTL_S / 2):
                    continue
                try:
                    data = views.car_info(car).model_dump_json(exclude_defaults=True).encode()
                    await self._js.kv_put(BUCKET_CARS, car.name, data)
                    self._written[car.name] = (short, now_s)
                except FleetError as error:
                    log.debug("standing of %s not written: %s", car.name, error.message)

    # --- what the frontdoor calls -------------------------------------------------------------------------------------

    def submit_local(self, state: InvocationState, seq: int, payload: bytes) -> None:
        """A call was queued under ``seq`` just now. Does nothing where it doesn't lead: the consumer brings it."""
        if self._term is not None and self.leading:
            self._term.submit(state, seq, payload)

    def lease_tenant(self, car: str, lease: Lease, digest: str | None) -> str | None:
        """Whose call the lease is for, if it is this car's, valid now and (``digest``) names that blob; else None."""
        term = self.term
        if term is None:
            return None
        state = term.state_held(car, lease)
        entry = term.core.board.by_seq.get(lease.seq)
        if state is None or entry is None:
            return None
        named = {state.digest, *code_of(entry.queue.manifest), *(ref.digest for ref in state.refs)}
        return state.tenant if digest is None or digest in named else None

    async def cancel(self, tenant: str, calls: Sequence[str]) -> list[str]:
        """The outcome ``cancelled`` of these calls is stored: kill what runs, forget what waits. Which it knew."""
        term = self.term
        if term is None:
            reply = await self._ask(InternalVerb.CANCEL, CallRequest(calls=list(calls)), CancelReply, tenant)
            return reply.cancelled
        known = [call for call in calls if (tenant, call) in term.core.board.entries]
        for call in known:
            term.tell(events.CancelWritten(tenant, call))
        return known

    async def consume(self, tenant: str, positions: Sequence[StreamPosition]) -> None:
        """The callers of these generators are there, and so far."""
        term = self.term
        if term is None:
            await self._ask(InternalVerb.CONSUME, ConsumeRequest(positions=list(positions)), Reply, tenant)
            return
        for position in positions:
            term.tell(events.Consumed(tenant, position.call, position.items, position.received, position.part))

    async def status(self, tenant: str, calls: Sequence[str]) -> list[CallStatus]:
        """One row for each, in order; ``state`` None where it neither waits nor runs."""
        term = self.term
        if term is None:
            return (await self._ask(InternalVerb.STATUS, CallRequest(calls=list(calls)), StatusReply, tenant)).calls
        return views.status(term.core.board, tenant, calls)

    async def calls(self, tenant: str, request: CallsRequest) -> list[CallStatus]:
        """Calls that wait or run, newest first."""
        term = self.term
        if term is None:
            return (await self._ask(InternalVerb.CALLS, request, StatusReply, tenant)).calls
        return views.calls(term.core.board, tenant, request)

    async def explain(self, tenant: str, call: str) -> ExplainReply:
        """Why a call waits; ``state`` None where it neither waits nor runs."""
        term = self.term
        if term is None:
            return await self._ask(InternalVerb.EXPLAIN, ExplainRequest(call=call), ExplainReply, tenant)
        return views.explain(term.core.board, tenant, call)

    async def cars(self) -> list[CarInfo]:
        """Every car that is known."""
        term = self.term
        if term is None:
            return (await self._ask(InternalVerb.CARS, CarsRequest(), CarsReply, "")).cars
        return views.cars(term.core.board)

    async def depth(self, tenant: str) -> dict[str, int]:
        """Waiting calls by ``app.function``."""
        term = self.term
        if term is None:
            reply = await self._ask(InternalVerb.DEPTH, PlatformRequest(), PlatformReply, tenant)
            self.epoch = reply.epoch
            return reply.depth
        return views.depth(term.core.board, tenant)

    async def reload(self, tenant: str, app: str) -> None:
        """The app was deployed, rolled back or deleted: who leads obeys it when this returns. FleetUnavailable if none does."""
        if self.term is None:
            await self._ask(InternalVerb.TRIGGERS, HistoryRequest(app=app), Reply, tenant)
            return
        for companion in self._companions:
            await companion.reload(tenant, app)

    # --- between control-plane processes --------------------------------------------------------------------------------

    async def _ask(self, verb: InternalVerb, message: Message, reply: type[R], tenant: str) -> R:
        """Ask the leader in another process."""
        subject = INTERNAL.build(partition=self._partition, verb=verb.value)
        headers = {TENANT_HEADER: tenant} if tenant else None
        try:
            got = await self._bus.request(subject, frames.pack(message), timeout_s=REQUEST_S, headers=headers)
        except FleetUnavailable as error:
            raise FleetUnavailable("no dispatcher leads right now", hint="one takes over within seconds") from error
        answer, _ = frames.unpack(got.data, reply)
        if answer.error is not None:
            raise answer.error.to_error()
        return answer

    def _on_internal(self, request: Request) -> None:
        term = self.term
        if term is not None and request.reply:
            term.spawn(self._answer_internal, request)

    async def _answer_internal(self, request: Request) -> None:
        try:
            reply = await self._reply_internal(request)
        except FleetError as error:
            reply = Reply(error=WireError.of(error))
        self._responder.respond_to_control(request, frames.pack(reply))

    async def _reply_internal(self, request: Request) -> Reply:
        tenant = request.header(TENANT_HEADER) or ""
        verb = request.subject.rpartition(".")[2]
        if verb == InternalVerb.CANCEL:
            wanted, _ = frames.unpack(request.data, CallRequest)
            return CancelReply(cancelled=await self.cancel(tenant, wanted.calls))
        if verb == InternalVerb.CONSUME:
            told, _ = frames.unpack(request.data, ConsumeRequest)
            await self.consume(tenant, told.positions)
            return Reply()
        if verb == InternalVerb.STATUS:
            wanted, _ = frames.unpack(request.data, CallRequest)
            return StatusReply(calls=await self.status(tenant, wanted.calls))
        if verb == InternalVerb.CALLS:
            listed, _ = frames.unpack(request.data, CallsRequest)
            return StatusReply(calls=await self.calls(tenant, listed))
        if verb == InternalVerb.EXPLAIN:
            asked, _ = frames.unpack(request.data, ExplainRequest)
            return await self.explain(tenant, asked.call)
        if verb == InternalVerb.TRIGGERS:
            changed, _ = frames.unpack(request.data, HistoryRequest)
            await self.reload(tenant, changed.app)
            return Reply()
        if verb == InternalVerb.CARS:
            return CarsReply(cars=await self.cars())
        return PlatformReply(depth=await self.depth(tenant), epoch=self.epoch, leader=True)
