"""``fleet dev``: broker, control plane, HTTP gateway and cars as child processes of one supervisor.

Every child is started by its command line (the broker through ``Broker``), so that each can be killed and comes back by
itself, as in the field; see ``supervisor`` for that.

Start:    broker, then control plane and gateway; the guest image is made ready meanwhile; then the cars. ``READY_PREFIX``
          and the URL go to stdout once a first call would succeed.
Shutdown: SIGTERM or SIGINT, or the end of the pipe of whoever started us: gateway, cars, control plane, broker. A second
          signal kills at once. When we are killed ourselves, the children end by themselves.
State:    ``DATA/dev.json`` says what runs: url, http_url, ready, and by name ``pids`` and ``starts``.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import anyio
import anyio.abc

from fleet._api import Api
from fleet.protocol.errors import FleetError, FleetUnavailable, InvalidOption, Refused
from fleet.protocol.lanes import WASM
from fleet.protocol.messages import CarsReply, CarsRequest, PlatformReply, PlatformRequest
from fleet.protocol.subjects import ApiVerb
from fleet.transport import Bus
from fnplatform.broker import Broker
from fnplatform.gateway.bounds import PORT_DEFAULT
from fnplatform.gateway.child import HttpSettings, answers, choose_port, url_at
from fnplatform.gateway.child import command as gateway_command
from fnplatform.supervisor import Child, Running, Supervisor, spawn

READY_PREFIX = "fleet ready "
STATE_FILE = "dev.json"
LOCK_FILE = "dev.lock"
CARS_MAX = 256
SLOTS_MAX = 64
START_S = 90.0
"""From the guest image being there to the first readiness, on a slow and busy machine."""
POLL_S = 0.05
ASK_S = 1.0
COME_BACK_S = 0.2
"""A car here is back at work soon after its owner: nobody wants to wait at a desk."""
TENANT = "default"
FLEET = (sys.executable, "-P", "-m", "fleet.cli.main")


@dataclass(frozen=True, slots=True)
class DevSettings:
    """What ``fleet dev`` was asked for. ``port`` 0: a free one. ``data_dir`` is made if it isn't there."""

    data_dir: Path
    cars: int = 2
    slots: int = 1
    lanes: tuple[str, ...] | None = None
    """None: all that this machine can have."""
    host: str = "127.0.0.1"
    port: int = 4242
    trace: Path | None = None
    speed: float = 1.0
    sync: Literal["always", "default"] = "default"
    http: HttpSettings | None = None
    """None: no gateway."""

    def __post_init__(self) -> None:
        if not 0 <= self.cars <= CARS_MAX:
            raise InvalidOption(f"--cars {self.cars} is not allowed: 0 to {CARS_MAX}")
        if not 1 <= self.slots <= SLOTS_MAX:
            raise InvalidOption(f"--slots {self.slots} is not allowed: 1 to {SLOTS_MAX}")
        if not 0 <= self.port <= 65535:
            raise InvalidOption(f"--port {self.port} is not allowed: 0 (a free one) to 65535")
        if not 0 < self.speed <= 1e6:
            raise InvalidOption(f"--speed {self.speed:g} is not allowed: above 0, up to 1000000")


def free_port(host: str, port: int) -> int:
    """``port`` if it can be listened on, a free one for 0; Refused if it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise Refused(
                f"port {port} on {host} can't be used: {error.strerror}",
                hint="a fleet dev may be running there already; else choose another port: fleet dev --port 4300",
            ) from None
        return int(probe.getsockname()[1])


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold ``data_dir`` against a second supervisor; Refused if one has it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(
            f"the data directory {data_dir} can't be used: {error.strerror}", hint="choose another with --data DIR"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise Refused(
            f"the data directory {data_dir} is in use by another fleet dev",
            hint="stop it, or choose another: --data DIR",
        ) from None
    try:
        yield
    finally:
        os.close(handle)


class BrokerRun:
    """A started ``Broker`` as the supervisor sees it."""

    def __init__(self, broker: Broker, pid: int) -> None:
        self.pid = pid
        self._broker = broker

    async def wait(self) -> int:
        """Until nats-server ended: its exit code, or minus the signal."""
        return await self._broker.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it, if it still runs."""
        if self._broker.pid is not None:
            os.kill(self.pid, number)


async def supervise(settings: DevSettings) -> None:
    """Run the platform until a signal; FleetError if it can't start. No process is left when this returns."""
    port = free_port(settings.host, settings.port)
    with locked(settings.data_dir):
        broker = Broker(settings.data_dir, host=settings.host, port=port, sync=settings.sync)
        http_port = choose_port(settings.http) if settings.http is not None else 0
        http_url = url_at(settings.http, http_port) if settings.http is not None else ""
        supervisor = Supervisor(settings.data_dir / STATE_FILE, {"url": broker.url, "http_url": http_url})
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with anyio.create_task_group() as group:
                group.start_soon(_hear, supervisor, signals)
                group.start_soon(_start, supervisor, settings, Platform(broker, http_url, http_port), group)
                await supervisor.over.wait()
                await supervisor.stop()
                group.cancel_scope.cancel()
            await broker.stop()  # its start may have been cut off half-way
        supervisor.state_file.unlink(missing_ok=True)
    if supervisor.failure is not None:
        raise supervisor.failure


async def _hear(supervisor: Supervisor, signals: AsyncIterator[signal.Signals]) -> None:
    async for _ in signals:
        if supervisor.over.is_set():
            supervisor.kill()
        else:
            supervisor.say("fleet dev: stopping")
            supervisor.over.set()


@dataclass(frozen=True, slots=True)
class Platform:
    """Where the parts listen. ``http_url`` empty: there is no gateway."""

    broker: Broker
    http_url: str
    http_port: int


async def _start(supervisor: Supervisor, settings: DevSettings, place: Platform, group: anyio.abc.TaskGroup) -> None:
    """Start all, in order; ends with the ready line on stdout, or with ``supervisor.failure``."""
    broker = place.broker
    failed: FleetError | None = None
    try:
        async with anyio.create_task_group() as starting:
            starting.start_soon(_start_platform, supervisor, settings, place, group)
            if settings.cars and WASM in (settings.lanes or (WASM,)):
                await _make_guest()
        for number in range(settings.cars):
            command = car_command(settings, broker.url, number)
            await group.start(supervisor.keep, Child(car_name(number), partial(spawn, command), tier=1))
        missing = ["nothing answers"]
        with anyio.move_on_after(START_S) as limit:
            await _until_usable(place, settings, missing)
        if limit.cancelled_caught:
            raise FleetUnavailable(
                f"the platform was not ready within {START_S:.0f} s: {missing[0]}", hint="look above"
            )
    except* FleetError as errors:
        failed = _first(errors)
    if failed is not None:
        supervisor.give_up(failed)
        return
    supervisor.ready = True
    supervisor.write_state()
    if settings.http is not None:
        why = (
            f", because {PORT_DEFAULT} is taken"
            if settings.http.port is None and place.http_port != PORT_DEFAULT
            else ""
        )
        supervisor.say(f"fleet dev: HTTP at {place.http_url}{why}")
    print(f"{READY_PREFIX}{broker.url}", flush=True)


def _first(error: BaseException) -> FleetError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FleetError), error
    return error


async def _start_platform(
    supervisor: Supervisor, settings: DevSettings, place: Platform, group: anyio.abc.TaskGroup
) -> None:
    broker = place.broker

    async def start_broker() -> Running:
        await broker.start()
        assert broker.pid is not None
        return BrokerRun(broker, broker.pid)

    await group.start(supervisor.keep, Child("broker", start_broker, tier=3))
    control = partial(spawn, control_command(broker, place.http_url))
    await group.start(supervisor.keep, Child("control", control, tier=2))
    if settings.http is not None:
        gateway = partial(spawn, gateway_command(settings.http, broker.url, place.http_port))
        await group.start(supervisor.keep, Child("gateway", gateway, tier=0))


async def _make_guest() -> None:
    """Build or check the guest image once, before several cars would wait for each other."""
    process = await spawn([*FLEET, "guest"])
    try:
        code = await process.wait()
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # the compiler it may have started, too
        except ProcessLookupError:
            pass
    if code:
        raise Refused("the guest image could not be made", hint="its own words stand above; fleet doctor says more")


async def _until_usable(place: Platform, settings: DevSettings, missing: list[str]) -> None:
    """Return once a first call would succeed; ``missing[0]`` says what is still not there."""
    bus: Bus | None = None
    try:
        while True:
            try:
                bus = bus or await Bus.connect(place.broker.url, kind="dev", name=TENANT, connect_s=1.0)
                missing[0] = await what_is_missing(Api(bus, TENANT), settings.cars, traced=settings.trace is not None)
            except FleetError as error:
                missing[0] = error.message
            if not missing[0] and place.http_url and not await answers(place.http_url):
                missing[0] = f"the gateway at {place.http_url} does not answer"
            if not missing[0]:
                return
            await anyio.sleep(POLL_S)
    finally:
        if bus is not None:
            await bus.close()


async def what_is_missing(api: Api, cars: int, *, traced: bool) -> str:
    """Why a first call would not succeed yet, "" if it would. Cars of a trace may be away: that they said hello is enough."""
    platform, _ = await api.ask(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply, timeout_s=ASK_S)
    if not platform.leader:
        return "no dispatcher leads yet"
    listed, _ = await api.ask(ApiVerb.CARS, CarsRequest(), CarsReply, timeout_s=ASK_S)
    for name in map(car_name, range(cars)):
        found = next((car for car in listed.cars if car.car == name and car.online), None)
        if found is None:
            return f"{name} has not said hello"
        if not traced and (not found.standing.eligible or not found.offer.slots):
            return f"{name} has no slot ready"
    return ""


def control_command(broker: Broker, http_url: str) -> list[str]:
    """The command line of the control plane child; ``http_url``: where the gateway listens, which is not its child."""
    command = [*FLEET, "serve", "--nats", broker.url, "--data", str(broker.data_dir), "--sync", broker.sync]
    return [*command, "--no-http", *(["--http-url", http_url] if http_url else [])]


def car_name(number: int) -> str:
    """The name of car ``number``, counted from 0."""
    return f"car-{number + 1}"


def car_command(settings: DevSettings, url: str, number: int) -> list[str]:
    """The command line of one car. Of a trace it replays the station with the ``number``-th most sessions."""
    command = [*FLEET, "--url", url, "car", "run", "--name", car_name(number), "--slots", str(settings.slots)]
    command += ["--come-back", f"{COME_BACK_S:g}"]
    if settings.lanes is not None:
        command += ["--lanes", ",".join(settings.lanes)]
    if settings.trace is not None:
        command += ["--trace", str(settings.trace), "--station", str(number), "--speed", f"{settings.speed:g}"]
    return command
