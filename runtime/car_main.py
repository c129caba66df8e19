"""``fleet car run``: the agent of one car as a process. Composition root of ``runtime``.

Nothing goes to stdout; one line of log per event goes to stderr.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import anyio
import anyio.to_thread

from fleet.protocol.lanes import WASM
from fleet.protocol.limits import MEMORY_BYTES_DEFAULT
from fleet.protocol.messages import Device
from fleet.transport import Bus
from runtime.agent import Agent
from runtime.agent_config import AHEAD_DEFAULT, AgentConfig
from runtime.agent_processes import OnSlotEvent, SlotPort
from runtime.bundles import BundleCache
from runtime.compiled_cache import CompiledCache
from runtime.devices import devices, lanes_of
from runtime.signals.manual import ManualSource
from runtime.signals.model import SignalSource
from runtime.signals.replay import ReplaySource, read
from runtime.slots import SlotImage, SlotProcess
from runtime.standing import OwnerPolicy
from runtime.weights_cache import WeightsCache

log = logging.getLogger("fleet.car")


@dataclass(frozen=True)
class CarSettings:
    """What ``run_car`` needs. ``trace``: replay recorded sessions of ``station`` instead of signals by hand."""

    name: str
    url: str
    creds: str | None = None
    trace: Path | None = None
    station: str | int = 0
    speed: float = 1.0
    start_unix_s: float | None = None
    """Where in the record to start; None: where the most cars are plugged in."""
    slots: int = field(default_factory=lambda: os.cpu_count() or 1)
    spares: int = 1
    ahead: int = AHEAD_DEFAULT
    memory_bytes: int = MEMORY_BYTES_DEFAULT
    region: str = ""
    lanes: tuple[str, ...] | None = None
    """None: all that this machine can have."""
    policy: OwnerPolicy = field(default_factory=OwnerPolicy)
    cache_dir: Path | None = None
    """Bundles are kept in ``cache_dir/bundles``, weights in ``cache_dir/weights``, what jax compiled in
    ``cache_dir/compiled``; None: in memory alone."""
    weights_bytes_max: int | None = None
    """Most bytes of weights that are kept on disk; None: see ``WeightsCache``."""


class Slots:
    """Starts slot processes. The wasm lane's guest is built by its first one, or found in its cache."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._lock = anyio.Lock()
        self._image: SlotImage | None = None

    async def prepare(self, lane: str) -> None:
        """See SlotStarter."""
        if lane != WASM:
            return
        async with self._lock:
            if self._image is None:
                from runtime.guest.build import ensure_guest

                # A build takes 20 s: an agent that is told to stop does not wait for it.
                self._image = await anyio.to_thread.run_sync(
                    functools.partial(ensure_guest, progress=self._progress), abandon_on_cancel=True
                )

    async def start(self, slot_id: str, lane: str, on_event: OnSlotEvent) -> SlotPort:
        """See SlotStarter. Must be called in the main thread: a slot dies with the thread that spawned it."""
        image = self._image if lane == WASM else None
        assert image is not None or lane != WASM, "prepare first"
        return await SlotProcess.start(slot_id=slot_id, image=image, on_event=on_event, lane=lane)


def source_of(settings: CarSettings) -> SignalSource:
    """The signal source that the settings ask for; InvalidOption when its file can't be used."""
    if settings.trace is None:
        return ManualSource()
    return ReplaySource(
        read(settings.trace), settings.station, speed=settings.speed, start_unix_s=settings.start_unix_s
    )


def config_of(settings: CarSettings, *, simulated: bool, found: tuple[Device, ...] = ()) -> AgentConfig:
    """The agent's own settings; InvalidOption where one is out of range. ``found``: what jax sees on this machine."""
    lanes, chosen = lanes_of(settings.lanes, found)
    try:
        package = version("fnplatform")
    except PackageNotFoundError:
        package = "unknown"
    return AgentConfig(
        car=settings.name, boot=secrets.token_hex(8), slots=settings.slots, spares=settings.spares, ahead=settings.ahead,
        memory_bytes=settings.memory_bytes, region=settings.region, lanes=lanes, devices=chosen, simulated=simulated,
        version=package, policy=settings.policy,
    )  # fmt: skip


async def serve_car(settings: CarSettings) -> None:
    """Run one agent until SIGTERM or SIGINT; the second of them ends it at once."""
    source = source_of(settings)
    asks = settings.lanes is None or set(settings.lanes) - {WASM}
    # Before anything is offered: what a car says of its lanes is complete from its first word on.
    found = await anyio.to_thread.run_sync(devices, settings.cache_dir) if asks else ()
    config = config_of(settings, simulated=source.simulated, found=found)
    agent = Agent(
        config,
        connect=functools.partial(Bus.connect, settings.url, kind="car", name=settings.name, creds=settings.creds),
        source=source,
        starter=Slots(lambda text: log.info("guest: %s", text)),
        bundles=BundleCache(settings.cache_dir / "bundles" if settings.cache_dir is not None else None),
        weights=WeightsCache(
            settings.cache_dir / "weights" if settings.cache_dir is not None else None,
            disk_bytes_max=settings.weights_bytes_max,
        ),
        compiled=CompiledCache(settings.cache_dir / "compiled") if settings.cache_dir is not None else None,
    )
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                stopping = False
                async for _ in received:
                    if stopping:
                        group.cancel_scope.cancel()
                    stopping = True
                    agent.stop()

        group.start_soon(watch)
        await agent.run()
        group.cancel_scope.cancel()


def run_car(settings: CarSettings) -> None:
    """Run one agent in this process, in its main thread, until it is told to stop.

    InvalidOption for settings that can't be; a broker that isn't there is waited for.
    """
    _log_to_stderr(settings.name)
    uvloop = _has_uvloop()
    anyio.run(serve_car, settings, backend_options={"use_uvloop": uvloop})


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


def _log_to_stderr(name: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {name} %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
