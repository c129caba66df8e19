"""How a slot gets its sandbox, and its walls round that: for each lane in the order that it needs."""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import dataclass
from typing import Any

from fleet.protocol.limits import WEIGHTS_PIECES_MAX
from runtime.sandbox import lockdown
from runtime.slot_wire import Layers

_WEIGHTS_AHEAD = 4 * WEIGHTS_PIECES_MAX
"""A jax slot reads ahead while it waits for an answer: so many pieces of weights may come with the jobs behind."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a slot is started; travels as JSON in its arguments."""

    pipe: int
    page: int
    parent_pid: int
    path_aot: str
    started_monotonic_s: float
    data_bytes_max: int
    lane: str = "wasm"
    import_path: tuple[str, ...] = ()


Begun = tuple[Any, Layers, dict[str, Any] | None, int]
"""A sandbox behind its walls, the layers of these, the device of a jax lane, and bytes that are resident."""


def begin(settings: Settings, held: list[str], host: Any) -> Begun:
    """Make the sandbox of the lane, which tells ``host``, and lock this process in; ``held`` by ``lockdown.prepare``."""
    files_max = lockdown.FILES_MAX + (0 if settings.lane == "wasm" else _WEIGHTS_AHEAD)
    plan = lockdown.Plan(settings.parent_pid, data_bytes_max=settings.data_bytes_max, files_max=files_max)
    return (_begin_wasm if settings.lane == "wasm" else _begin_jax)(settings, plan, held, host)


def _begin_wasm(settings: Settings, plan: lockdown.Plan, held: list[str], host: Any) -> Begun:
    os.environ["TOKIO_WORKER_THREADS"] = "1"  # wasmtime's clock runs on tokio, which would start one per core.
    from runtime.sandbox.wasm import WasmSandbox  # Last: an orphan is gone before it has read 50 MB.

    sandbox = WasmSandbox(settings.path_aot, host)
    sandbox.prepare()  # Warms whatever is made on first use, while files can still be opened.
    _keep_for_good()
    resident_bytes = _resident_bytes()
    return sandbox, lockdown.lock(plan, held), None, resident_bytes


def _begin_jax(settings: Settings, plan: lockdown.Plan, held: list[str], host: Any) -> Begun:
    readable = [*settings.import_path, sys.base_prefix, *lockdown.READABLE]
    devices: list[str] = []
    environment: dict[str, str] = {}
    if settings.lane == "jax-gpu":
        from runtime.sandbox import jax_gpu

        devices, environment = jax_gpu.devices(), jax_gpu.ENVIRONMENT
        readable += jax_gpu.READABLE
        plan = jax_gpu.plan(plan)
    held = lockdown.lock_before_threads(plan, held, readable, devices)
    from runtime.sandbox import jax_start

    started = jax_start.start(settings.lane, environment)
    from runtime.sandbox.jax import JaxSandbox  # Behind `start`, which says how jax is to be imported.
    from runtime.sandbox.jax_memory import MemoryWall

    # What CUDA maps counts as memory of the process: there the client's own bound has to do.
    sandbox = JaxSandbox(host, started, None if devices else MemoryWall())
    sandbox.prepare()
    _keep_for_good()
    resident_bytes = _resident_bytes()
    layers = lockdown.lock_threads(plan, held, jit=True, devices=bool(devices))
    return sandbox, layers, started.described, resident_bytes


def _keep_for_good() -> None:
    """What start-up made stays: later collections needn't look at it, and its pages stay shared."""
    gc.collect()
    gc.freeze()


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
