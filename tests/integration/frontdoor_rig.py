"""A real broker, the real frontdoor, and a dispatcher twin that only remembers: what the frontdoor's tests run on."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import anyio

from fleet.protocol import frames
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.ids import new_call_id
from fleet.protocol.messages import (
    BlobPut,
    BlobPutReply,
    CallsRequest,
    CallStatus,
    CarInfo,
    ExplainReply,
    InvocationState,
    Lease,
    Manifest,
    Message,
    Program,
    RegisterReply,
    RegisterRequest,
    Reply,
    SubmitCall,
    SubmitReply,
    SubmitRequest,
    SubmitResult,
)
from fleet.protocol.subjects import API, ApiVerb
from fleet.transport import Bus, Responder
from fnplatform.blobs import BlobStore
from fnplatform.broker import Broker
from fnplatform.disk import DiskRoom
from fnplatform.events.intake import Intake
from fnplatform.frontdoor.service import Frontdoor, PlatformFacts
from fnplatform.group_commit import GroupCommit
from fnplatform.jetstream import JetStream
from fnplatform.provision import provision
from fnplatform.registry import Registry

TEST_S = 60.0

R = TypeVar("R", bound=Reply)
ANSWER_S = 10.0


@dataclass
class DispatcherTwin:
    """Keeps what it is told; ``alive`` False: nobody leads."""

    alive: bool = True
    submitted: list[tuple[InvocationState, int, bytes]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    leases: dict[tuple[str, int], tuple[str, str | None]] = field(default_factory=dict)
    """(car, counter) -> (tenant, the blob that the lease names)."""
    epoch: int = 1

    @property
    def leading(self) -> bool:
        return self.alive

    def _check(self) -> None:
        if not self.alive:
            raise FleetUnavailable("nobody leads")

    def submit_local(self, state: InvocationState, seq: int, payload: bytes) -> None:
        self.submitted.append((state, seq, payload))

    async def cancel(self, tenant: str, calls: Sequence[str]) -> list[str]:
        self._check()
        self.cancelled += calls
        return []

    async def status(self, tenant: str, calls: Sequence[str]) -> list[CallStatus]:
        self._check()
        return [CallStatus(call=call) for call in calls]

    async def calls(self, tenant: str, request: CallsRequest) -> list[CallStatus]:
        self._check()
        return []

    async def explain(self, tenant: str, call: str) -> ExplainReply:
        self._check()
        return ExplainReply()

    async def cars(self) -> list[CarInfo]:
        self._check()
        return []

    async def reload(self, tenant: str, app: str) -> None:
        pass

    async def depth(self, tenant: str) -> dict[str, int]:
        self._check()
        return {}

    def lease_tenant(self, car: str, lease: Lease, digest: str | None) -> str | None:
        tenant, named = self.leases.get((car, lease.counter), (None, None))
        return tenant if digest is None or digest == named else None


class Rig:
    """One running frontdoor and a developer's connection to it."""

    def __init__(
        self, broker: Broker, js: JetStream, dev: Bus, dispatcher: DispatcherTwin, responder: Responder
    ) -> None:
        self.broker = broker
        self.js = js
        self.dev = dev
        self.dispatcher = dispatcher
        self.responder = responder
        self.queue: GroupCommit
        self.intake: Intake
        self.frontdoor: Frontdoor
        self.registry: Registry
        self.blobs: BlobStore

    async def ask(
        self, verb: ApiVerb, message: Message, answer: type[R], parts: Sequence[bytes] = (), tenant: str = "default"
    ) -> tuple[R, list[memoryview]]:
        subject = API.build(tenant=tenant, verb=verb.value)
        reply = await self.dev.request(subject, frames.pack(message, parts), timeout_s=ANSWER_S)
        return frames.unpack(reply.data, answer)

    async def put_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        reply, _ = await self.ask(ApiVerb.BLOB_PUT, BlobPut(digest=digest, size_bytes=len(data)), BlobPutReply, [data])
        assert reply.error is None and reply.have, reply
        return digest

    async def manifest(
        self, app: str = "shop", function: str = "add", code: bytes = b"code", **more: object
    ) -> Manifest:
        bundle = await self.put_blob(code)
        program = Program(bundle=bundle, bundle_bytes=len(code), module=app, qualname=function)
        return Manifest(app=app, function=function, display_name=function, program=program, **more)

    async def register(self, manifest: Manifest) -> str:
        reply, _ = await self.ask(ApiVerb.REGISTER, RegisterRequest(manifests=[manifest]), RegisterReply)
        assert reply.error is None and not reply.missing, reply
        return reply.versions[0]

    def call(self, version: str | None, payload: bytes = b"args", **more: object) -> SubmitCall:
        fields = {
            "call": new_call_id(), "app": "shop", "function": "add", "version": version,
            "digest": hashlib.sha256(payload).hexdigest(), "payload_bytes": len(payload),
        }  # fmt: skip
        return SubmitCall(**{**fields, **more})

    async def submit(
        self, *calls: SubmitCall, payload: bytes = b"args", fresh: bool = False, inbox: str | None = None
    ) -> list[SubmitResult]:
        request = SubmitRequest(calls=list(calls), inbox=self.dev.inbox if inbox is None else inbox, fresh=fresh)
        parts = [b"" if call.blob else payload for call in calls]
        reply, _ = await self.ask(ApiVerb.SUBMIT, request, SubmitReply, parts)
        if reply.error is not None:
            raise reply.error.to_error()
        return reply.results


@asynccontextmanager
async def running(
    data_dir: Path, *, batching: bool = False, sync: Literal["always", "default"] = "default"
) -> AsyncIterator[Rig]:
    """Broker, frontdoor and one developer; all ended again."""
    broker = Broker(data_dir, sync=sync)
    await broker.start()
    buses: list[Bus] = []
    try:
        for user in (broker.control, broker.reply):
            buses.append(
                await Bus.connect(broker.url, kind="control", name="rig", user=user.user, password=user.password)
            )
        buses.append(await Bus.connect(broker.url, kind="dev", name="default"))
        control, reply, dev = buses
        js = JetStream(control)
        await provision(js)
        responder = Responder(reply)
        rig = Rig(broker, js, dev, DispatcherTwin(), responder)
        rig.queue = GroupCommit(js, batching=batching)
        rig.blobs = BlobStore(js)
        rig.registry = Registry(js, rig.blobs)
        rig.intake = Intake(GroupCommit(js, batching=batching), disk=DiskRoom(None))
        frontdoor = Frontdoor(
            js=js, queue=rig.queue, intake=rig.intake, reply_bus=reply, responder=responder, registry=rig.registry,
            blobs=rig.blobs, dispatcher=rig.dispatcher, facts=PlatformFacts(version="test", durability="test", started_s=0.0),
        )  # fmt: skip
        rig.frontdoor = frontdoor
        async with anyio.create_task_group() as group:
            await group.start(frontdoor.run)
            yield rig
            frontdoor.stop()
    finally:
        for bus in buses:
            await bus.close()
        with anyio.CancelScope(shield=True):
            await broker.stop()


def with_rig(tmp_path: Path, test: Callable[[Rig], Awaitable[None]], *, batching: bool = False) -> None:
    """Run one test against a fresh platform, within a time limit."""

    async def main() -> None:
        with anyio.fail_after(TEST_S):
            async with running(tmp_path / "data", batching=batching) as made:
                await test(made)

    anyio.run(main)
