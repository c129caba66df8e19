"""The frontdoor: every verb of ``fleet.api.<tenant>.<verb>``, and blobs for cars.

Several control-plane processes share the requests of developers (a queue group); each answers by itself. A request whose
reply subject isn't an inbox of the tenant in its subject is dropped and counted before anything is done for it. Whatever
headers it carries go nowhere.

Shutdown: ``stop`` ends accepting, lets what is in flight be answered for DRAIN_S, then ends it; cancelling ``run`` ends all
at once. A client that gets no answer asks again, with the same call ids.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import anyio
import anyio.abc
from anyio.abc import TaskStatus

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, ProtocolError, QueueFull, Refused
from fleet.protocol.limits import BLOB_TTL_S, KEPT_TTL_S, PROTOCOL, QUEUE_CALLS_MAX, TENANT_QUEUE_SHARE
from fleet.protocol.messages import (
    BlobGet,
    BlobGetReply,
    BlobPut,
    BlobPutReply,
    CallRequest,
    CallsRequest,
    CancelReply,
    CarsReply,
    CarsRequest,
    ConsumeRequest,
    DeadReply,
    DeadRequest,
    DeleteReply,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    ExplainReply,
    ExplainRequest,
    FunctionsReply,
    FunctionsRequest,
    HistoryReply,
    HistoryRequest,
    LogsReply,
    LogsRequest,
    Message,
    PlatformReply,
    PlatformRequest,
    PublishReply,
    PublishRequest,
    RegisterReply,
    RegisterRequest,
    Reply,
    ResultReply,
    ResultRequest,
    RollbackReply,
    RollbackRequest,
    Simulate,
    SimulateReply,
    StatusReply,
    TokenReply,
    TokenRequest,
    WireError,
)
from fleet.protocol.subjects import API, CAR, EVENT, PARTITION, ApiVerb, CarVerb, is_inbox_of
from fleet.transport import Bus, Payload, Request, Responder
from fnplatform.blobs import BlobStore
from fnplatform.disk import DiskRoom
from fnplatform.events.intake import Intake
from fnplatform.frontdoor.apps import Apps
from fnplatform.frontdoor.calls import Calls
from fnplatform.frontdoor.dead import DeadLetters
from fnplatform.frontdoor.errors import for_user
from fnplatform.frontdoor.events import EventDoor
from fnplatform.frontdoor.fleet_state import FleetState, PlatformFacts
from fnplatform.frontdoor.ports import DispatcherPort
from fnplatform.frontdoor.protocols import check_protocol
from fnplatform.frontdoor.records import Records
from fnplatform.frontdoor.share import REFRESH_S, QueueShare
from fnplatform.frontdoor.submit import Submitter
from fnplatform.frontdoor.tokens import Tokens
from fnplatform.group_commit import GroupCommit
from fnplatform.jetstream import JetStream
from fnplatform.logs import Logs
from fnplatform.registry import Registry

log = logging.getLogger("fleet.frontdoor")

QUEUE_GROUP = "frontdoor"
IN_FLIGHT_MAX = 2000
DRAIN_S = 2.0
DRAIN_STEP_S = 0.01
STORING = tuple(f".{verb}" for verb in (ApiVerb.REGISTER, ApiVerb.DEPLOY, ApiVerb.BLOB_PUT))

Parts = Sequence[memoryview]
Work = Callable[[str, Any, Parts], Awaitable[Reply | Payload]]


class Route(NamedTuple):
    """One verb: what it takes, what it answers (an error goes into the same model), what does it."""

    takes: type[Message]
    answers: type[Reply]
    work: Work


class Frontdoor:
    """Answers developers. ``responder`` is on the connection that may not write to any stream; ``js`` is on the other.

    ``queue`` publishes to INVOCATIONS.
    """

    def __init__(
        self,
        *,
        js: JetStream,
        queue: GroupCommit,
        intake: Intake,
        reply_bus: Bus,
        responder: Responder,
        registry: Registry,
        blobs: BlobStore,
        dispatcher: DispatcherPort,
        facts: PlatformFacts,
        queue_calls_max: int = QUEUE_CALLS_MAX,
        disk: DiskRoom | None = None,
    ) -> None:
        self._js = js
        self._bus = js.bus
        self._responder = responder
        self._blobs = blobs
        self._dispatcher = dispatcher
        self._disk = disk or DiskRoom(None)
        self._records = Records(js)
        self._share = QueueShare(int(queue_calls_max * TENANT_QUEUE_SHARE))
        self._group: anyio.abc.TaskGroup | None = None
        self._in_flight = 0
        self._stopping = anyio.Event()
        self._logs = Logs(js.bus, js, responder)
        self._calls = Calls(js=js, responder=responder, registry=registry, records=self._records, dispatcher=dispatcher)
        self._submitter = Submitter(
            queue=queue, responder=responder, registry=registry, blobs=blobs, records=self._records, dispatcher=dispatcher,
            share=self._share, disk=self._disk, spawn=self._spawn,
        )  # fmt: skip
        self._events = EventDoor(intake=intake, js=js, responder=responder, spawn=self._spawn)
        self._routes = self._make_routes(
            Apps(js, registry, self._calls, dispatcher),
            DeadLetters(js=js, registry=registry, blobs=blobs, dispatcher=dispatcher, intake=intake),
            FleetState(js=js, reply_bus=reply_bus, responder=responder, dispatcher=dispatcher, facts=facts),
        )

    def _make_routes(self, apps: Apps, dead: DeadLetters, fleet: FleetState) -> dict[str, Route]:
        calls = self._calls
        routes = {
            ApiVerb.CANCEL: Route(CallRequest, CancelReply, calls.cancel),
            ApiVerb.CONSUME: Route(ConsumeRequest, Reply, calls.consume),
            ApiVerb.STATUS: Route(CallRequest, StatusReply, calls.status),
            ApiVerb.RESULT: Route(ResultRequest, ResultReply, calls.result),
            ApiVerb.EXPLAIN: Route(ExplainRequest, ExplainReply, calls.explain),
            ApiVerb.CALLS: Route(CallsRequest, StatusReply, calls.calls),
            ApiVerb.REGISTER: Route(RegisterRequest, RegisterReply, apps.register),
            ApiVerb.DEPLOY: Route(DeployRequest, DeployReply, apps.deploy),
            ApiVerb.FUNCTIONS: Route(FunctionsRequest, FunctionsReply, apps.functions),
            ApiVerb.HISTORY: Route(HistoryRequest, HistoryReply, apps.history),
            ApiVerb.ROLLBACK: Route(RollbackRequest, RollbackReply, apps.rollback),
            ApiVerb.DELETE: Route(DeleteRequest, DeleteReply, apps.delete),
            ApiVerb.CARS: Route(CarsRequest, CarsReply, fleet.cars),
            ApiVerb.SIMULATE: Route(Simulate, SimulateReply, fleet.simulate),
            ApiVerb.PUBLISH: Route(PublishRequest, PublishReply, self._events.publish),
            ApiVerb.TOKEN: Route(TokenRequest, TokenReply, Tokens(self._js).handle),
            ApiVerb.DEAD: Route(DeadRequest, DeadReply, dead.handle),
            ApiVerb.LOGS: Route(LogsRequest, LogsReply, self._on_logs),
            ApiVerb.PLATFORM: Route(PlatformRequest, PlatformReply, fleet.platform),
            ApiVerb.BLOB_PUT: Route(BlobPut, BlobPutReply, self._blob_put),
            ApiVerb.BLOB_GET: Route(BlobGet, BlobGetReply, self._blob_get),
        }
        assert routes.keys() | {ApiVerb.SUBMIT} == set(ApiVerb), "every verb has a route"
        return {verb.value: route for verb, route in routes.items()}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``stop``; started when the broker knows what is listened to."""
        async with anyio.create_task_group() as group:
            self._group = group
            blob_get = CAR.wildcard(partition=PARTITION, verb=CarVerb.BLOB_GET.value)
            blob_put = CAR.wildcard(partition=PARTITION, verb=CarVerb.BLOB_PUT.value)
            listening = [
                await self._bus.listen(API.wildcard(), self._on_api, queue=QUEUE_GROUP),
                await self._bus.listen(EVENT.wildcard(), self._events.on_message, queue=QUEUE_GROUP),
                await self._bus.listen(blob_get, self._on_car_get),
                await self._bus.listen(blob_put, self._on_car_put),
            ]
            # An answer on the same connection proves that the broker has the subscriptions before it.
            await self._js.api("INFO")
            task_status.started()
            group.start_soon(self._count_shares)
            await self._stopping.wait()
            for subscription in listening:
                await subscription.close()
            with anyio.move_on_after(DRAIN_S):
                while self._in_flight or self._submitter.busy or self._events.busy:
                    await anyio.sleep(DRAIN_STEP_S)
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Accept nothing more, let what is in flight be answered for DRAIN_S; then ``run`` returns."""
        self._stopping.set()

    async def _count_shares(self) -> None:
        while True:
            await anyio.sleep(REFRESH_S)
            for tenant in self._share.tenants:
                before = self._share.since(tenant)
                try:
                    depth = await self._dispatcher.depth(tenant)
                except FleetError:
                    continue  # nobody leads: what was taken since the last count goes on counting
                self._share.counted(tenant, sum(depth.values()), before)

    # --- requests -----------------------------------------------------------------------------------------------

    def _spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        assert self._group is not None, "requests come only while it runs"
        self._group.start_soon(work, *args)

    def _on_api(self, request: Request) -> None:
        tokens = request.subject.split(".", 3)
        tenant, verb = tokens[2], tokens[3]
        if not is_inbox_of(request.reply, "dev", tenant):
            self._responder.respond(request, "dev", tenant, b"")  # counts it and sends nothing
            return
        if verb == ApiVerb.SUBMIT:
            self._submitter.handle(request, tenant)
            return
        route = self._routes.get(verb)
        if route is None:
            error = Refused(f"there is no verb {verb!r}: your client is newer than this control plane, or not ours")
            self._responder.respond(request, "dev", tenant, frames.pack(Reply(error=WireError.of(error))))
        elif self._in_flight >= IN_FLIGHT_MAX:
            busy = QueueFull("the control plane answers too many requests at once", hint="try again in a moment")
            self._responder.respond(request, "dev", tenant, frames.pack(route.answers(error=WireError.of(busy))))
        else:
            self._in_flight += 1
            self._spawn(self._answer, request, tenant, route)

    async def _answer(self, request: Request, tenant: str, route: Route) -> None:
        try:
            data = await self._work(request, tenant, route, stores=request.subject.endswith(STORING))
        finally:
            self._in_flight -= 1
        self._responder.respond(request, "dev", tenant, data)

    async def _work(self, request: Request, tenant: str, route: Route, *, stores: bool = False) -> Payload:
        """``stores``: what it asks for needs room on the disk that is not for outcomes."""
        try:
            if stores:
                self._disk.check()
            message, parts = frames.unpack(request.data, route.takes)
            check_protocol(getattr(message, "protocol", PROTOCOL))
            reply = await route.work(tenant, message, parts)
            return frames.pack(reply) if isinstance(reply, Reply) else reply
        except FleetError as error:
            return frames.pack(route.answers(error=WireError.of(for_user(error))))
        except Exception:
            # A bug of ours in answering one question must not take the platform of all others down.
            log.exception("a request on %s failed", request.subject)
            broken = FleetError("the control plane failed at this request", hint="its log says why")
            return frames.pack(route.answers(error=WireError.of(broken)))

    # --- verbs that belong nowhere else ---------------------------------------------------------------------------

    async def _on_logs(self, tenant: str, request: LogsRequest, parts: Parts) -> LogsReply:
        if request.follow is None:
            return LogsReply(entries=await self._logs.stored(tenant, request))
        if self._logs.prolong(tenant, request.follow):
            return LogsReply()
        started = anyio.Event()
        self._spawn(self._follow, tenant, request, started)
        await started.wait()
        try:
            entries = await self._logs.stored(tenant, request)
        except FleetError:
            self._logs.release(tenant, request.follow, [])
            raise
        self._logs.release(tenant, request.follow, entries)
        return LogsReply(entries=entries)

    async def _follow(self, tenant: str, request: LogsRequest, started: anyio.Event) -> None:
        try:
            await self._logs.follow(tenant, request, started=started.set)
        except FleetError as error:
            log.info("can't follow logs: %s", error)
            started.set()

    async def _blob_put(self, tenant: str, request: BlobPut, parts: Parts) -> BlobPutReply:
        if len(parts) != 1:
            raise ProtocolError("a blob is put one part at a time")
        ttl_s = KEPT_TTL_S if request.kept else BLOB_TTL_S
        have = await self._blobs.put(tenant, request.digest, request.size_bytes, request.part, parts[0], ttl_s=ttl_s)
        return BlobPutReply(have=have)

    async def _blob_get(self, tenant: str, request: BlobGet, parts: Parts) -> Payload:
        meta, data = await self._blobs.get(tenant, request.digest, request.part)
        return frames.pieces(BlobGetReply(parts=meta.parts, size_bytes=meta.size_bytes), [data])

    # --- cars -----------------------------------------------------------------------------------------------------

    def _on_car_get(self, request: Request) -> None:
        self._on_car(request, Route(BlobGet, BlobGetReply, self._blob_get))

    def _on_car_put(self, request: Request) -> None:
        self._on_car(request, Route(BlobPut, BlobPutReply, self._blob_put))

    def _on_car(self, request: Request, route: Route) -> None:
        car = request.subject.split(".", 3)[2]
        if not is_inbox_of(request.reply, "car", car):
            self._responder.respond(request, "car", car, b"")  # counts it and sends nothing
        elif self._dispatcher.leading and self._in_flight < IN_FLIGHT_MAX:
            self._in_flight += 1
            self._spawn(self._answer_car, request, car, route)

    async def _answer_car(self, request: Request, car: str, route: Route) -> None:
        """A car reads only blobs that a lease it holds names, and writes only under one."""
        try:
            data = await self._work_of_car(request, car, route)
        finally:
            self._in_flight -= 1
        self._responder.respond(request, "car", car, data)

    async def _work_of_car(self, request: Request, car: str, route: Route) -> Payload:
        try:
            message, _ = frames.unpack(request.data, route.takes)
            assert isinstance(message, BlobGet | BlobPut)
            named = message.digest if isinstance(message, BlobGet) else None
            tenant = None
            if message.lease is not None:
                tenant = self._dispatcher.lease_tenant(car, message.lease, named)
            if tenant is None:
                raise Refused("the car holds no valid lease that names this blob")
        except FleetError as error:
            return frames.pack(route.answers(error=WireError.of(error)))
        return await self._work(request, tenant, route)
