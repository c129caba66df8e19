"""A real broker, one real agent, a leader twin that grants by hand, and slots in memory: what the agent's tests run on."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from fleet.protocol.frames import pack, unpack
from fleet.protocol.limits import BLOB_PART_BYTES
from fleet.protocol.messages import (
    Beat,
    BeatReply,
    BlobGet,
    BlobGetReply,
    BlobPut,
    BlobPutReply,
    CarCancel,
    CarHello,
    CarReply,
    CheckpointPut,
    GrantReply,
    GrantRequest,
    Lease,
    LeaseGrant,
    LogLines,
    Message,
    Offer,
    OutcomeReply,
    OutcomeReport,
    Program,
    Release,
    RunOutcome,
    Simulate,
    SimulateReply,
)
from fleet.protocol.subjects import CAR, TO_CAR, CarVerb, ToCarVerb
from fleet.transport import Bus, Request
from fnplatform.broker import Broker
from runtime import slot_events as ev
from runtime.agent import Agent
from runtime.agent_config import AgentConfig
from runtime.agent_processes import OnSlotEvent, SlotStarter
from runtime.bundles import BundleCache
from runtime.signals.manual import ManualSource
from runtime.slot_sender import Descriptor
from runtime.slot_wire import Bytes, Layers, Progress, SlotJob, SlotProgram
from runtime.standing import OwnerPolicy

M = TypeVar("M", bound=Message)
CAR_NAME = "car-1"
LIMIT_S = 20.0
BUNDLE = b"a bundle"
DIGEST = hashlib.sha256(BUNDLE).hexdigest()


class MemorySlot:
    """A slot without a process. What it does with a job is up to ``script``; without one it echoes the arguments."""

    def __init__(self, slot_id: str, on_event: OnSlotEvent, script: Callable[[MemorySlot, SlotJob], None]) -> None:
        self.id = slot_id
        self.program: SlotProgram | None = None
        self.loads: list[tuple[SlotProgram, bytes]] = []
        self.packages: list[bytes] = []
        self.jobs: list[SlotJob] = []
        self.departing = False
        self.killed_s: float | None = None
        self.started_s = 0.0
        self._on_event = on_event
        self._script = script
        self._gone = anyio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self.emit, ev.Ready(Layers(("landlock",), ("gpu",)), 0.01, 1))

    def emit(self, event: ev.SlotEvent) -> None:
        if not self._gone.is_set():
            self._on_event(self, event)

    def load(
        self, program: SlotProgram, bundle: Bytes, packages: Sequence[Bytes], weights: Mapping[str, Descriptor]
    ) -> int:
        self.program = program
        self.packages = [bytes(package) for package in packages]
        self.loads.append((program, bytes(bundle)))
        return 0

    def run(self, job: SlotJob) -> None:
        assert job.program == self.program
        self.started_s = time.monotonic()
        self.jobs.append(job)
        self._loop.call_soon(self._script, self, job)

    def set_departing(self, departing: bool) -> None:
        self.departing = departing

    def progress(self) -> Progress:
        return Progress(self.jobs[-1].job, None, self.started_s) if self.jobs else Progress()

    def kill(self) -> None:
        if self.killed_s is None:
            self.killed_s = time.monotonic()
            self._loop.call_soon(self._exit)

    def _exit(self) -> None:
        self.emit(ev.Exited(-9, True))
        self._gone.set()

    async def reaped(self) -> None:
        await self._gone.wait()


def echo(slot: MemorySlot, job: SlotJob) -> None:
    slot.emit(ev.Done(job.job, b"\x00" + bytes(job.args), run_s=0.001))


def hang(slot: MemorySlot, job: SlotJob) -> None:
    pass


@dataclass
class MemorySlots:
    script: Callable[[MemorySlot, SlotJob], None] = echo
    made: list[MemorySlot] = field(default_factory=list)

    async def prepare(self, lane: str) -> None:
        pass

    async def start(self, slot_id: str, lane: str, on_event: OnSlotEvent) -> MemorySlot:
        slot = MemorySlot(slot_id, on_event, lambda slot, job: self.script(slot, job))
        self.made.append(slot)
        return slot

    @property
    def alive(self) -> list[MemorySlot]:
        return [slot for slot in self.made if slot.killed_s is None]


class Leader:
    """Hears a car, answers it, and lets a test wait until something was heard."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[tuple[CarVerb, Message, list[bytes]]] = []
        self.answer: dict[CarVerb, bool] = dict.fromkeys(CarVerb, True)
        self.blobs = {DIGEST: BUNDLE}
        self.verdict = "committed"
        self._parts: dict[str, list[bytes]] = {}
        self._changed = anyio.Event()
        self._counter = 0

    async def listen(self) -> None:
        await self.bus.listen(CAR.wildcard(car=CAR_NAME), self._on_message)

    def _on_message(self, request: Request) -> None:
        values = CAR.parse(request.subject)
        assert values is not None, request.subject
        verb = CarVerb(values["verb"])
        models: dict[CarVerb, type[Message]] = {
            CarVerb.HELLO: CarHello, CarVerb.OFFER: Offer, CarVerb.BEAT: Beat, CarVerb.RELEASE: Release,
            CarVerb.OUTCOME: OutcomeReport, CarVerb.CHECKPOINT: CheckpointPut, CarVerb.LOG: LogLines,
            CarVerb.BLOB_GET: BlobGet, CarVerb.BLOB_PUT: BlobPut,
        }  # fmt: skip
        message, parts = unpack(request.data, models[verb])
        self.heard.append((verb, message, [bytes(part) for part in parts]))
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        if request.reply and self.answer[verb]:
            reply, body = self._reply(message, parts)
            self.bus.publish(request.reply, pack(reply, body))

    def _reply(self, message: Message, parts: list[memoryview]) -> tuple[Message, list[bytes]]:
        if isinstance(message, Beat):
            return BeatReply(epoch=1), []
        if isinstance(message, OutcomeReport):
            return OutcomeReply.model_validate({"verdicts": [self.verdict] * len(message.outcomes)}), []
        if isinstance(message, BlobGet):
            data = self.blobs[message.digest]
            count = max(1, -(-len(data) // BLOB_PART_BYTES))
            body = data[message.part * BLOB_PART_BYTES : (message.part + 1) * BLOB_PART_BYTES]
            return BlobGetReply(parts=count, size_bytes=len(data)), [body]
        if isinstance(message, BlobPut):
            known = self._parts.setdefault(message.digest, [])
            known.append(bytes(parts[0]))
            data = b"".join(known)
            if len(data) == message.size_bytes:
                assert hashlib.sha256(data).hexdigest() == message.digest
                self.blobs[message.digest] = data
            return BlobPutReply(have=len(data) == message.size_bytes), []
        return CarReply(epoch=1), []

    async def until(self, model: type[M], check: Callable[[M], bool] = lambda _: True, *, after: int = 0) -> M:
        """The first message of that kind, of those from number ``after`` on, that passes ``check``."""
        with anyio.fail_after(LIMIT_S):
            while True:
                changed = self._changed
                for _, message, _ in self.heard[after:]:
                    if isinstance(message, model) and check(message):
                        return message
                await changed.wait()

    async def outcome(self, lease: Lease) -> tuple[RunOutcome, bytes]:
        """The last outcome of a lease and its part."""

        def mine(report: OutcomeReport) -> bool:
            return any(one.lease == lease and one.status != "partial" for one in report.outcomes)

        await self.until(OutcomeReport, mine)
        for _, message, parts in self.heard:
            if isinstance(message, OutcomeReport):
                for one, part in zip(message.outcomes, parts, strict=True):
                    if one.lease == lease and one.status != "partial":
                        return one, part
        raise AssertionError("unreachable")

    def lease(self) -> Lease:
        self._counter += 1
        call = f"call-{self._counter}"
        return Lease(call=call, seq=self._counter, epoch=1, counter=self._counter, car=CAR_NAME, mac="m")

    async def grant(
        self, args: bytes = b"args", *, program: Program | None = None, saved: bytes | None = None, **more: object
    ) -> tuple[Lease, GrantReply]:
        program = program or Program(bundle=DIGEST, bundle_bytes=len(BUNDLE), module="m", qualname="f")
        fields = {
            "lease": self.lease(), "tenant": "default", "app": "app", "function": "f", "version": "0" * 16,
            "program": program, "checkpoint": saved is not None,
        }  # fmt: skip
        grant = LeaseGrant.model_validate({**fields, **more})
        parts = [args] if saved is None else [args, saved]
        subject = TO_CAR.build(car=CAR_NAME, verb=ToCarVerb.GRANT)
        reply = await self.bus.request(subject, pack(GrantRequest(leases=[grant], epoch=1), parts))
        return grant.lease, unpack(reply.data, GrantReply)[0]

    async def simulate(self, action: str) -> SimulateReply:
        subject = TO_CAR.build(car=CAR_NAME, verb=ToCarVerb.SIMULATE)
        reply = await self.bus.request(subject, pack(Simulate.model_validate({"action": action})))
        return unpack(reply.data, SimulateReply)[0]

    def tell(self, verb: ToCarVerb, counters: list[int]) -> None:
        self.bus.publish(TO_CAR.build(car=CAR_NAME, verb=verb), pack(CarCancel(counters=counters)))


@dataclass
class CarRig:
    broker: Broker
    leader: Leader
    agent: Agent
    slots: MemorySlots
    bundles: BundleCache

    async def offered(self, count: int) -> None:
        """Until the car's newest offer is of ``count`` slots."""
        with anyio.fail_after(LIMIT_S):
            while True:
                changed = self.leader._changed
                offers = [
                    message if isinstance(message, Offer) else message.offer
                    for _, message, _ in self.leader.heard
                    if isinstance(message, Offer | Beat | CarHello)
                ]
                if offers and offers[-1].slots == count:
                    return
                await changed.wait()


@asynccontextmanager
async def car_rig(
    data_dir: Path, *, slots: int = 1, starter: SlotStarter | None = None, come_back_s: float = 0.0
) -> AsyncIterator[CarRig]:
    """Everything up: the agent connected, known and offering. All of it ended again."""
    broker = Broker(data_dir / "broker")
    await broker.start()
    control = await Bus.connect(
        broker.url, kind="control", name="leader", user=broker.control.user, password=broker.control.password
    )
    memory = MemorySlots()
    leader = Leader(control)
    bundles = BundleCache(data_dir / "bundles")
    agent = Agent(
        AgentConfig(CAR_NAME, "boot", slots=slots, simulated=True, policy=OwnerPolicy(come_back_s=come_back_s)),
        connect=partial(Bus.connect, broker.url, kind="car", name=CAR_NAME), source=ManualSource(),
        starter=starter or memory, bundles=bundles,
    )  # fmt: skip
    rig = CarRig(broker, leader, agent, memory, bundles)
    try:
        await leader.listen()
        async with anyio.create_task_group() as group:
            group.start_soon(agent.run)
            await rig.offered(slots)
            yield rig
            agent.stop()
    finally:
        await control.close()
        with anyio.CancelScope(shield=True):
            await broker.stop()
