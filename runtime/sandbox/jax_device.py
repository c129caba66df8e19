"""What jax is and runs on, in words: for the offers of a car, and for the key of what was compiled.

jax is imported by the functions alone: it looks at the environment when it is.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True, slots=True)
class Device:
    """What runs programs here; the fields are those of ``messages.cars.Device``."""

    lane: str
    kind: str
    memory_bytes: int
    jaxlib: str
    calling_convention_min: int
    calling_convention_max: int
    stablehlo: str


def describe(lane: str, device: Any) -> tuple[Device, str]:
    """The device, and all that compiled code may depend on, as text."""
    import jax.export
    from jaxlib.mlir.dialects import stablehlo

    if lane == "jax-cpu":
        kind, features = _processor()
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        kind, features = device.device_kind, str(getattr(device, "compute_capability", ""))
        memory_bytes = int((device.memory_stats() or {}).get("bytes_limit", 0))
    described = Device(
        lane=lane,
        kind=kind,
        memory_bytes=memory_bytes,
        jaxlib=version("jaxlib"),
        calling_convention_min=jax.export.minimum_supported_calling_convention_version,
        calling_convention_max=jax.export.maximum_supported_calling_convention_version,
        stablehlo=stablehlo.get_current_version(),
    )
    return described, features


def _processor() -> tuple[str, str]:
    """(name, features) of the processor as the kernel knows it."""
    found: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
            for line in cpuinfo:
                name, _, value = line.partition(":")
                found.setdefault(name.strip(), value.strip())
    except OSError:
        pass  # No procfs. The machine's name has to do, and compiled programs of it are still this jaxlib's.
    kind = found.get("model name") or platform.machine()
    return kind, " ".join((platform.machine(), found.get("flags") or found.get("Features", "")))
