"""The control plane as one process: a broker or a connection to one, the dispatcher, the frontdoor.

Start:    broker (if it is ours), two connections, streams and buckets, dispatcher, frontdoor; ready when some process leads
          the partition: this one, or another, then this is a standby that answers developers all the same.
Shutdown: on SIGTERM, SIGINT or ``stop``, each step within its own limit: the gateway, if it is ours, ends; the frontdoor
          accepts nothing more and answers what is in flight (DRAIN_S); the dispatcher gives its key back, so that a standby
          leads at once (STOP_S); the connections send what is pending and close (CLOSE_S each); our broker ends last. Killed
          at any point instead, nothing accepted is lost. A second signal ends it without the drain.
Errors:   Refused or FleetUnavailable, in one sentence with a hint, if it can't start or if its own broker ended.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from fleet.protocol.errors import FleetError, FleetUnavailable, Refused
from fleet.protocol.limits import ADOPTION_S, LEADER_TTL_S, TENANT_QUEUE_SHARE
from fleet.protocol.subjects import PARTITION
from fleet.transport import Bus, Responder
from fnplatform.blobs import BlobStore
from fnplatform.broker import Broker, Credentials
from fnplatform.disk import DiskRoom
from fnplatform.dispatcher.service import Dispatcher
from fnplatform.events.intake import Intake
from fnplatform.frontdoor.fleet_state import PlatformFacts
from fnplatform.frontdoor.service import Frontdoor
from fnplatform.gateway.child import choose_port, kept, url_at
from fnplatform.group_commit import GroupCommit
from fnplatform.jetstream import JetStream
from fnplatform.provision import provision
from fnplatform.registry import Registry
from fnplatform.settings import ServeSettings
from fnplatform.triggers.clock_service import ClockService
from fnplatform.triggers.relay import JetStreamOutbox, RelayService
from fnplatform.triggers.service import TriggerService

log = logging.getLogger("fleet.serve")

TRY_S = 2.0
PAUSE_S = 0.1
READY_POLL_S = 0.02
READY_S_MAX = 3 * LEADER_TTL_S + ADOPTION_S
"""Ready after this long even if nobody leads yet: something is slow, and ``fleet status`` will say so."""


DURABILITY = {
    "always": "always: what is accepted survives a power cut",
    "default": "default: what is accepted survives a crash of any process, not a power cut",
    "unverified": "unverified: the broker's sync setting can't be asked",
}


@dataclass(frozen=True)
class Place:
    """A broker to serve on. ``own`` is set if this process started it."""

    url: str
    control: Credentials | None
    reply: Credentials | None
    durability: str
    syncs_always: bool
    own: Broker | None = None


async def serve(
    settings: ServeSettings,
    *,
    stop: anyio.Event | None = None,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run the control plane until ``stop`` is set; without one, until SIGTERM or SIGINT (main thread only)."""
    if stop is not None:
        await _serve(settings, stop, task_status.started)
        return
    own_stop = anyio.Event()
    is_ready = False
    failure: FleetError | None = None

    def on_ready(url: str) -> None:
        nonlocal is_ready
        is_ready = True
        print(f"control plane ready at {url}", file=sys.stderr, flush=True)
        task_status.started(url)

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as group:

            async def hear() -> None:
                async for _ in signals:
                    if own_stop.is_set() or not is_ready:
                        group.cancel_scope.cancel()
                    own_stop.set()

            group.start_soon(hear)
            try:
                await _serve(settings, own_stop, on_ready)
            except FleetError as error:
                failure = error
            group.cancel_scope.cancel()
    if failure is not None:
        # Raised outside the group, so that it arrives as itself and not in a group of one.
        raise failure


async def _serve(settings: ServeSettings, stop: anyio.Event, on_ready: Callable[[str], None]) -> None:
    async with _place(settings) as place, _connected(settings, place) as (control, reply):
        js = JetStream(control)
        created = await _provisioned(settings, js)
        if created and place.own is not None:
            await anyio.to_thread.run_sync(place.own.sync_to_disk)
        if place.durability.startswith("unverified"):
            print(f"durability of {place.url} is {place.durability}", file=sys.stderr, flush=True)
        try:
            await _run(settings, place, js, reply, stop, on_ready)
        except* FleetError as group:
            # Our own errors say what to do in one sentence; a group of one would hide it.
            raise _first(group) from None


async def _provisioned(settings: ServeSettings, js: JetStream) -> bool:
    """Provision, trying again for ``connect_s``: a broker that was restarted answers before its JetStream does."""
    until_s = time.monotonic() + settings.connect_s
    while True:
        try:
            return await provision(js, settings.queue_calls_max)
        except FleetUnavailable as error:
            if time.monotonic() >= until_s:
                raise Refused(
                    f"the broker at {js.bus.url} has no JetStream for this user: {error.message}",
                    hint="enable jetstream in its configuration, and allow $JS.API.> to this user",
                ) from error
        await anyio.sleep(PAUSE_S)


async def _run(
    settings: ServeSettings, place: Place, js: JetStream, reply: Bus, stop: anyio.Event, on_ready: Callable[[str], None]
) -> None:
    responder = Responder(reply)
    blobs = BlobStore(js)
    registry = Registry(js, blobs)
    disk = DiskRoom(settings.data_dir)
    triggers = TriggerService(
        js, registry, blobs, PARTITION, int(settings.queue_calls_max * TENANT_QUEUE_SHARE),
        clocks=ClockService(js, PARTITION), disk=disk,
    )  # fmt: skip
    dispatcher = Dispatcher(
        bus=js.bus, reply_bus=reply, js=js, responder=responder, manifests=registry, blobs=blobs, name=settings.name,
        companions=[triggers, RelayService(JetStreamOutbox(js))],
    )  # fmt: skip
    http_port = choose_port(settings.http) if settings.http is not None else 0
    http_url = url_at(settings.http, http_port) if settings.http is not None else settings.http_url
    facts = PlatformFacts(
        version=_own_version(), durability=place.durability, started_s=time.monotonic(), http_url=http_url
    )
    frontdoor = Frontdoor(
        js=js, queue=GroupCommit(js, batching=place.syncs_always),
        intake=Intake(GroupCommit(js, batching=place.syncs_always), disk=disk), reply_bus=reply, responder=responder,
        registry=registry, blobs=blobs, dispatcher=dispatcher, facts=facts, queue_calls_max=settings.queue_calls_max,
        disk=disk,
    )  # fmt: skip
    async with anyio.create_task_group() as services:
        if place.own is not None:
            services.start_soon(_watch, place.own)
        await services.start(dispatcher.run)
        async with anyio.create_task_group() as front:
            await front.start(frontdoor.run)
            await _until_somebody_leads(dispatcher)
            async with kept(settings.http, place.url, http_port):
                on_ready(place.url)
                await stop.wait()
            frontdoor.stop()
        services.cancel_scope.cancel()


async def _until_somebody_leads(dispatcher: Dispatcher) -> None:
    with anyio.move_on_after(READY_S_MAX):
        while True:
            try:
                await dispatcher.cars()
                return
            except FleetUnavailable:
                await anyio.sleep(READY_POLL_S)
    log.warning("nobody leads the partition after %.0f s", READY_S_MAX)


async def _watch(broker: Broker) -> None:
    while True:
        status = await broker.wait()
        if not broker.was_full:
            break
        log.warning("the disk of the broker was full and has room again: starting the broker again")
        await broker.start()
    raise FleetUnavailable(f"the broker ended with status {status}", hint=f"see {broker.data_dir / 'broker.log'}")


@asynccontextmanager
async def _place(settings: ServeSettings) -> AsyncIterator[Place]:
    """The broker to serve on: ours, started and ended here, or another one."""
    if settings.nats_url is not None:
        control, reply, sync = _known_of(settings)
        yield Place(settings.nats_url, control, reply, DURABILITY[sync], sync == "always")
        return
    assert settings.data_dir is not None, "checked by the settings"
    broker = Broker(settings.data_dir, host=settings.host, port=settings.port, sync=settings.sync)
    await broker.start()
    try:
        sync = broker.sync
        yield Place(broker.url, broker.control, broker.reply, DURABILITY[sync], sync == "always", broker)
    finally:
        with anyio.CancelScope(shield=True):
            await broker.stop()


def _known_of(settings: ServeSettings) -> tuple[Credentials | None, Credentials | None, str]:
    """The users of a broker that runs already, and its sync setting as far as it is known.

    ``data_dir`` given: that of a broker of ours, which holds both.
    """
    control, reply = settings.control, settings.reply
    sync = "unverified"
    if settings.data_dir is not None and control is None:
        path = settings.data_dir / "secrets.json"
        try:
            known = json.loads(path.read_text())
            control, reply = Credentials("control", known["control"]), Credentials("reply", known["reply"])
        except (OSError, ValueError, KeyError) as error:
            raise Refused(
                f"{path} doesn't hold the users of a broker of ours: {error}",
                hint="leave --data out when the NATS at --nats is your own",
            ) from error
        sync = "always" if _syncs_always(settings.data_dir) else "default"
    return control, reply or control, sync


def _syncs_always(data_dir: Path) -> bool:
    try:
        return "sync_interval: always" in (data_dir / "broker.conf").read_text()
    except OSError:
        return False


@asynccontextmanager
async def _connected(settings: ServeSettings, place: Place) -> AsyncIterator[tuple[Bus, Bus]]:
    """Two connections: one with JetStream rights, one that principals are answered on."""
    async with (
        _connection(settings, place.url, place.control, "j") as control,
        _connection(settings, place.url, place.reply, "r") as reply,
    ):
        yield control, reply


@asynccontextmanager
async def _connection(settings: ServeSettings, url: str, user: Credentials | None, mark: str) -> AsyncIterator[Bus]:
    bus = await _connect(settings, url, user, f"{settings.name[:60]}-{mark}")
    try:
        yield bus
    finally:
        await bus.close()


async def _connect(settings: ServeSettings, url: str, user: Credentials | None, name: str) -> Bus:
    """Connect, trying again for ``connect_s``: the broker may be starting. Wrong credentials are final."""
    until_s = time.monotonic() + settings.connect_s
    while True:
        try:
            return await Bus.connect(
                url, kind="control", name=name, connect_s=TRY_S,
                user=user.user if user else None, password=user.password if user else None,
            )  # fmt: skip
        except FleetUnavailable as error:
            if "credentials" in error.message:
                raise
            if time.monotonic() >= until_s:
                raise FleetUnavailable(
                    error.message, hint="is a NATS running there? Without --nats, fleet serve starts its own"
                ) from error
        await anyio.sleep(PAUSE_S)


def _first(group: BaseExceptionGroup[FleetError]) -> FleetError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, FleetError)
    return found


def _own_version() -> str:
    try:
        return version("fnplatform")
    except PackageNotFoundError:
        return "unknown"
