"""The whole control plane as one task: start, readiness, standby, orderly end, and what it says when it can't start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, InvalidOption, Refused
from fleet.protocol.ids import digest, new_call_id
from fleet.protocol.messages import (
    BlobPut,
    BlobPutReply,
    CallRequest,
    CallState,
    CancelReply,
    ExplainReply,
    ExplainRequest,
    Manifest,
    PlatformReply,
    PlatformRequest,
    Program,
    RegisterReply,
    RegisterRequest,
    StatusReply,
    SubmitCall,
    SubmitReply,
    SubmitRequest,
)
from fleet.protocol.subjects import API, BUCKET_PLATFORM, ApiVerb
from fleet.transport import Bus
from fnplatform.broker import Broker, free_port, nats_server_path
from fnplatform.gateway.child import HttpSettings, choose_port
from fnplatform.jetstream import JetStream
from fnplatform.provision import SCHEMA_KEY
from fnplatform.serve import serve
from fnplatform.settings import ServeSettings

LIMIT_S = 60.0
ASK_AGAIN_S = 1.0


def run_limited(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with anyio.fail_after(LIMIT_S):
            await main()

    anyio.run(limited)


@asynccontextmanager
async def serving(settings: ServeSettings) -> AsyncIterator[tuple[str, anyio.Event]]:
    """A running control plane: its URL, and the event that ends it."""
    stop = anyio.Event()
    async with anyio.create_task_group() as group:

        async def main(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            await serve(settings, stop=stop, task_status=task_status)

        url = await group.start(main)
        yield url, stop
        stop.set()


@asynccontextmanager
async def own_broker(tmp_path: Path) -> AsyncIterator[Broker]:
    broker = Broker(tmp_path / "data")
    await broker.start()
    try:
        yield broker
    finally:
        with anyio.CancelScope(shield=True):
            await broker.stop()


async def ask_platform(dev: Bus) -> PlatformReply:
    """Ask as a client does: again when a control plane that ends at this very moment took the question along."""
    subject = API.build(tenant="default", verb="platform")
    while True:
        try:
            got = await dev.request(subject, frames.pack(PlatformRequest()), timeout_s=ASK_AGAIN_S)
        except FleetUnavailable:
            continue
        return frames.unpack(got.data, PlatformReply)[0]


def test_it_starts_its_broker_is_ready_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        settings = ServeSettings(data_dir=tmp_path / "data", port=0, sync="default")
        async with serving(settings) as (url, _):
            dev = await Bus.connect(url, kind="dev", name="default")
            platform = await ask_platform(dev)
            assert platform.error is None and platform.leader and platform.epoch > 0
            assert platform.durability.startswith("default") and platform.broker_version
            await dev.close()
        with pytest.raises(FleetUnavailable):
            await Bus.connect(url, kind="dev", name="default", connect_s=0.5)

    run_limited(main)


async def waiting_call(dev: Bus) -> str:
    """Register a function and submit one call of it; nobody is there to run it."""
    code = b"code"
    put = BlobPut(digest=digest(code), size_bytes=len(code))
    got = await dev.request(API.build(tenant="default", verb="blob.put"), frames.pack(put, [code]))
    assert frames.unpack(got.data, BlobPutReply)[0].have
    program = Program(bundle=digest(code), bundle_bytes=len(code), module="shop", qualname="add")
    manifest = Manifest(app="shop", function="add", display_name="add", program=program)
    request = frames.pack(RegisterRequest(manifests=[manifest]))
    got = await dev.request(API.build(tenant="default", verb="register"), request)
    version = frames.unpack(got.data, RegisterReply)[0].versions[0]
    call = SubmitCall(
        call=new_call_id(), app="shop", function="add", version=version, digest=digest(b"args"), payload_bytes=4
    )
    submit = frames.pack(SubmitRequest(calls=[call], inbox=dev.inbox, fresh=True), [b"args"])
    got = await dev.request(API.build(tenant="default", verb="submit"), submit)
    reply = frames.unpack(got.data, SubmitReply)[0]
    assert reply.error is None and reply.results[0].error is None
    return call.call


async def state_of(dev: Bus, call: str) -> CallState | None:
    got = await dev.request(
        API.build(tenant="default", verb=ApiVerb.STATUS.value), frames.pack(CallRequest(calls=[call]))
    )
    return frames.unpack(got.data, StatusReply)[0].calls[0].state


def test_a_standby_takes_over_and_knows_every_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with own_broker(tmp_path) as broker:
            settings = [
                ServeSettings(nats_url=broker.url, data_dir=broker.data_dir, name=name) for name in ("one", "two")
            ]
            dev = await Bus.connect(broker.url, kind="dev", name="default")
            async with serving(settings[1]) as (_, stop_first), serving(settings[0]):
                before = await ask_platform(dev)
                call = await waiting_call(dev)
                assert await state_of(dev, call) == CallState.QUEUED
                stop_first.set()
                while (after := await ask_platform(dev)).epoch <= before.epoch or not after.waiting:
                    await anyio.sleep(0.02)
                got = await dev.request(
                    API.build(tenant="default", verb="explain"), frames.pack(ExplainRequest(call=call))
                )
                assert "car" in frames.unpack(got.data, ExplainReply)[0].sentence
                got = await dev.request(
                    API.build(tenant="default", verb="cancel"), frames.pack(CallRequest(calls=[call]))
                )
                assert frames.unpack(got.data, CancelReply)[0].cancelled == [call]
                assert await state_of(dev, call) == CallState.CANCELLED
                while (await ask_platform(dev)).waiting:
                    await anyio.sleep(0.02)
            await dev.close()

    run_limited(main)


def test_a_port_for_http_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"port {port} on 127.0.0.1 can't be used for HTTP") as refused:
            choose_port(HttpSettings(port=port))
        assert "--http-port" in refused.value.hint
        assert choose_port(HttpSettings(port=0)) not in (0, port)


async def failure_of(settings: ServeSettings) -> FleetError:
    with pytest.raises(FleetError) as caught:
        await serve(settings, stop=anyio.Event())
    assert isinstance(caught.value, FleetError)
    return caught.value


def test_what_keeps_it_from_starting_is_said_in_a_sentence(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(InvalidOption):
            ServeSettings()
        url = f"nats://127.0.0.1:{free_port()}"
        error = await failure_of(ServeSettings(nats_url=url, connect_s=0.2))
        assert isinstance(error, FleetUnavailable) and url in error.message
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "VERSION").write_text("fnplatform-data 0\n")
        assert isinstance(await failure_of(ServeSettings(data_dir=tmp_path / "old", port=0)), Refused)
        async with own_broker(tmp_path) as broker:
            error = await failure_of(ServeSettings(nats_url=broker.url, data_dir=tmp_path))
            assert isinstance(error, Refused) and "secrets.json" in error.message
            user = broker.control
            bus = await Bus.connect(broker.url, kind="control", name="t", user=user.user, password=user.password)
            js = JetStream(bus)
            await js.ensure_bucket(BUCKET_PLATFORM)
            await js.kv_put(BUCKET_PLATFORM, SCHEMA_KEY, b"0")
            error = await failure_of(ServeSettings(nats_url=broker.url, data_dir=broker.data_dir))
            assert isinstance(error, Refused) and "another version" in error.message
            await bus.close()
        port = free_port()
        plain = subprocess.Popen(
            [nats_server_path(), "-a", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            error = await failure_of(ServeSettings(nats_url=f"nats://127.0.0.1:{port}", connect_s=2.0))
            assert isinstance(error, Refused) and "max_payload" in error.hint
        finally:
            plain.terminate()
            plain.wait()

    run_limited(main)


def test_it_ends_in_order_before_its_broker_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"nats://127.0.0.1:{mute.getsockname()[1]}"
        serving = subprocess.Popen(
            [sys.executable, "-P", "-m", "fleet.cli.main", "serve", "--nats", url], stderr=subprocess.PIPE, text=True
        )
        mute.settimeout(LIMIT_S)
        mute.accept()[0].close()
        serving.send_signal(signal.SIGTERM)
        assert serving.communicate(timeout=LIMIT_S)[1] == ""
        assert serving.returncode == 0


def test_the_end_of_its_broker_ends_it(tmp_path: Path) -> None:
    async def main() -> None:
        settings = ServeSettings(data_dir=tmp_path / "data", port=0, sync="default")
        with pytest.raises(FleetUnavailable, match="broker ended"):
            await _serve_and_kill(settings)

    run_limited(main)


def server_of_ours() -> int:
    """The one nats-server that this process started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    servers = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "nats-server"]
    assert len(servers) == 1, servers
    return servers[0]


async def _serve_and_kill(settings: ServeSettings) -> None:
    failed: list[FleetError] = []
    async with anyio.create_task_group() as group:

        async def main(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            try:
                await serve(settings, stop=anyio.Event(), task_status=task_status)
            except FleetError as error:
                failed.append(error)

        await group.start(main)
        os.kill(server_of_ours(), signal.SIGKILL)
    raise failed[0]
