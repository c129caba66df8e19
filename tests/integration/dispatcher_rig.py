"""A real broker, the whole control plane, and cars that speak the real protocol but run nothing: results by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc

from fleet.protocol import frames, limits
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.ids import digest, new_call_id
from fleet.protocol.messages import (
    Beat,
    BeatReply,
    BlobPut,
    BlobPutReply,
    CarCancel,
    CarHello,
    CarReply,
    GrantReply,
    GrantRequest,
    Lease,
    LeaseGrant,
    Manifest,
    Message,
    Offer,
    OutcomeRecord,
    OutcomeReply,
    OutcomeReport,
    Program,
    RegisterReply,
    RegisterRequest,
    Release,
    Reply,
    RunOutcome,
    RunStatus,
    Standing,
    SubmitCall,
    SubmitReply,
    SubmitRequest,
)
from fleet.protocol.subjects import API, CAR, PARTITION, TO_CAR, ApiVerb, CarVerb, ToCarVerb
from fleet.transport import Bus, Request, Responder
from fnplatform.blobs import BlobStore
from fnplatform.broker import Broker
from fnplatform.disk import DiskRoom
from fnplatform.dispatcher.service import Dispatcher
from fnplatform.events.intake import Intake
from fnplatform.frontdoor.fleet_state import PlatformFacts
from fnplatform.frontdoor.service import Frontdoor
from fnplatform.group_commit import GroupCommit
from fnplatform.jetstream import JetStream
from fnplatform.provision import provision
from fnplatform.registry import Registry
from fnplatform.triggers.relay import JetStreamOutbox, RelayService
from fnplatform.triggers.service import TriggerService

TEST_S = 60.0

HERE = Standing(eligible=True)
AWAY = Standing(eligible=False, reasons=["not_parked"])


class FakeCar:
    """Takes grants into a stream of (grant, arguments); reports what the test says."""

    def __init__(self, bus: Bus, name: str, offer: Offer) -> None:
        self.bus = bus
        self.name = name
        self.offer = offer
        self.boot = new_call_id()
        self.leases: dict[int, Lease] = {}
        self.accepts = True
        self.cancelled: list[int] = []
        self.dropped: list[int] = []
        self.beating = True
        sender, self.granted = anyio.create_memory_object_stream[tuple[LeaseGrant, bytes, bytes]](10_000)
        self._sender = sender

    async def ask(self, verb: CarVerb, message: Message, answer: type[Reply], parts: tuple[bytes, ...] = ()) -> Reply:
        subject = CAR.build(car=self.name, partition=PARTITION, verb=verb.value)
        reply = await self.bus.request(subject, frames.pack(message, parts), timeout_s=limits.OUTCOME_RESEND_S)
        return frames.unpack(reply.data, answer)[0]

    async def start(self) -> None:
        await self.bus.listen(TO_CAR.build(car=self.name, verb=ToCarVerb.GRANT.value), self._on_grant)
        await self.bus.listen(TO_CAR.build(car=self.name, verb=ToCarVerb.CANCEL.value), self._on_cancel)

    async def hello(self) -> None:
        """Say hello until somebody answers."""
        while True:
            try:
                await self.ask(CarVerb.HELLO, CarHello(boot=self.boot, standing=HERE, offer=self.offer), CarReply)
                return
            except FleetUnavailable:
                await anyio.sleep(0.05)

    def _on_grant(self, request: Request) -> None:
        grant, parts = frames.unpack(request.data, GrantRequest)
        taken = []
        for lease_grant in grant.leases:
            payload = bytes(parts.pop(0))
            checkpoint = bytes(parts.pop(0)) if lease_grant.checkpoint else b""
            if self.accepts:
                taken.append(lease_grant.lease.counter)
                self.leases[lease_grant.lease.counter] = lease_grant.lease
                self._sender.send_nowait((lease_grant, payload, checkpoint))
        self.bus.publish(request.reply, frames.pack(GrantReply(accepted=taken)))

    def _on_cancel(self, request: Request) -> None:
        for counter in frames.unpack(request.data, CarCancel)[0].counters:
            self.leases.pop(counter, None)
            self.cancelled.append(counter)

    async def beat_on(self) -> None:
        """Beat, faster than a real car does."""
        while True:
            if self.beating:
                await self.beat()
            await anyio.sleep(0.2)

    async def beat(self) -> None:
        beat = Beat(boot=self.boot, leases=list(self.leases.values()), standing=HERE, offer=self.offer)
        try:
            reply = await self.ask(CarVerb.BEAT, beat, BeatReply)
        except FleetUnavailable:
            return
        assert isinstance(reply, BeatReply)
        for counter in reply.drop:
            self.leases.pop(counter, None)
            self.dropped.append(counter)
        if reply.hello:
            await self.hello()

    async def report(
        self, lease: Lease, result: bytes = b"\x00ok", status: RunStatus = RunStatus.OK, **more: object
    ) -> str:
        """Send an outcome until it is decided; the verdict."""
        run = RunOutcome(lease=lease, status=status, **{"run_s": 0.001, **more})
        while True:
            try:
                reply = await self.ask(CarVerb.OUTCOME, OutcomeReport(outcomes=[run]), OutcomeReply, (result,))
            except FleetUnavailable:
                continue
            assert isinstance(reply, OutcomeReply)
            if status is not RunStatus.PARTIAL:
                self.leases.pop(lease.counter, None)
            return reply.verdicts[0]

    async def leave(self) -> None:
        """Drive away with everything it holds."""
        leases = list(self.leases.values())
        self.leases.clear()
        self.beating = False
        await self.ask(CarVerb.RELEASE, Release(leases=leases, standing=AWAY), CarReply)


class Plane:
    """The control plane under test and a developer's connection."""

    def __init__(self, broker: Broker, group: anyio.abc.TaskGroup) -> None:
        self.broker = broker
        self.group = group
        self.buses: list[Bus] = []
        self.dev: Bus
        self.js: JetStream
        self.dispatcher: Dispatcher
        self.blobs: BlobStore
        self.registry: Registry
        self.reply: Bus
        self.responder: Responder
        self.outcomes: list[tuple[OutcomeRecord, bytes]] = []
        self.logs: list[bytes] = []
        self.version = ""
        self.manifest: Manifest
        self._pushed = anyio.Event()

    async def start(self) -> None:
        broker = self.broker
        for user in (broker.control, broker.reply):
            bus = await Bus.connect(broker.url, kind="control", name="rig", user=user.user, password=user.password)
            self.buses.append(bus)
        control, self.reply = self.buses
        self.dev = await Bus.connect(broker.url, kind="dev", name="default")
        self.buses.append(self.dev)
        await self.dev.listen(f"{self.dev.inbox}.out", self._on_push)
        await self.dev.listen(f"{self.dev.inbox}.log", lambda request: self.logs.append(request.data))
        self.js = JetStream(control)
        await provision(self.js)
        self.responder = Responder(self.reply)
        self.blobs = BlobStore(self.js)
        self.registry = Registry(self.js, self.blobs)
        self.dispatcher = self.new_dispatcher("first")
        facts = PlatformFacts(version="test", durability="test", started_s=0.0)
        frontdoor = Frontdoor(
            js=self.js, queue=GroupCommit(self.js, batching=False),
            intake=Intake(GroupCommit(self.js, batching=False), disk=DiskRoom(None)), reply_bus=self.reply,
            responder=self.responder, registry=self.registry, blobs=self.blobs, dispatcher=self.dispatcher, facts=facts,
        )  # fmt: skip
        await self.group.start(frontdoor.run)

    def new_dispatcher(self, name: str) -> Dispatcher:
        return Dispatcher(
            bus=self.js.bus, reply_bus=self.reply, js=self.js, responder=self.responder, manifests=self.registry,
            blobs=self.blobs, name=name,
            companions=[
                TriggerService(self.js, self.registry, self.blobs, PARTITION, 1000), RelayService(JetStreamOutbox(self.js))
            ],
        )  # fmt: skip

    def _on_push(self, request: Request) -> None:
        record, parts = frames.unpack(request.data, OutcomeRecord)
        self.outcomes.append((record, bytes(parts[0]) if parts else b""))
        self._pushed.set()
        self._pushed = anyio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for pushed outcomes until this holds."""
        while not holds():
            with anyio.move_on_after(0.05):
                await self._pushed.wait()

    async def ask(self, verb: ApiVerb, message: Message, answer: type[Reply], parts: tuple[bytes, ...] = ()) -> Reply:
        subject = API.build(tenant="default", verb=verb.value)
        reply = await self.dev.request(subject, frames.pack(message, parts))
        got = frames.unpack(reply.data, answer)[0]
        assert got.error is None, got.error
        return got

    async def register(self, **options: object) -> str:
        """A function; its version."""
        await self.ask(ApiVerb.BLOB_PUT, BlobPut(digest=digest(b"code"), size_bytes=4), BlobPutReply, (b"code",))
        program = Program(bundle=digest(b"code"), bundle_bytes=4, module="shop", qualname="f")
        memory = options.pop("memory_bytes", None)
        if memory is not None:
            program = program.model_copy(update={"memory_bytes": memory})
        made = self.manifest = Manifest(app="shop", function="f", display_name="f", program=program, **options)
        reply = await self.ask(ApiVerb.REGISTER, RegisterRequest(manifests=[made]), RegisterReply)
        assert isinstance(reply, RegisterReply)
        self.version = reply.versions[0]
        return self.version

    async def submit(self, *payloads: bytes, items: int | None = None) -> list[str]:
        """Calls of the registered function; their ids."""
        calls = [
            SubmitCall(
                call=new_call_id(), app="shop", function="f", version=self.version, digest=digest(payload),
                payload_bytes=len(payload), items=items,
            )
            for payload in payloads
        ]  # fmt: skip
        request = SubmitRequest(calls=calls, inbox=self.dev.inbox)
        reply = await self.ask(ApiVerb.SUBMIT, request, SubmitReply, tuple(payloads))
        assert isinstance(reply, SubmitReply)
        assert all(result.error is None for result in reply.results), reply.results
        return [call.call for call in calls]

    async def car(self, name: str, slots: int = 1, **offer: object) -> FakeCar:
        """A car that has said hello and beats."""
        bus = await Bus.connect(self.broker.url, kind="car", name=name)
        self.buses.append(bus)
        car = FakeCar(bus, name, Offer(slots=slots, **offer))
        await car.start()
        await car.hello()
        self.group.start_soon(car.beat_on)
        return car


@asynccontextmanager
async def plane(data_dir: Path, *, dispatcher: bool = True) -> AsyncIterator[Plane]:
    """Everything running; ended again."""
    broker = Broker(data_dir)
    await broker.start()
    made = None
    try:
        async with anyio.create_task_group() as group:
            made = Plane(broker, group)
            await made.start()
            if dispatcher:
                await group.start(made.dispatcher.run)
                while not made.dispatcher.leading:
                    await anyio.sleep(0.01)
            yield made
            group.cancel_scope.cancel()
    finally:
        for bus in made.buses if made else []:
            await bus.close()
        with anyio.CancelScope(shield=True):
            await broker.stop()


def with_plane(tmp_path: Path, test: Callable[[Plane], Awaitable[None]], *, dispatcher: bool = True) -> None:
    """Run one test against a fresh platform, within a time limit."""

    async def main() -> None:
        with anyio.fail_after(TEST_S):
            async with plane(tmp_path / "data", dispatcher=dispatcher) as made:
                await test(made)

    anyio.run(main)
