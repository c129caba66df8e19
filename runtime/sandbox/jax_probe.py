"""``python -P -m runtime.sandbox.jax_probe``: what jax is and sees on this machine, as one line of JSON on stdout.

A process of its own, because the agent never imports jax. See ``runtime.devices``.
"""

from __future__ import annotations

import json
import os
import platform
from typing import Any

CPUINFO = "/proc/cpuinfo"


def main() -> None:
    """Print a list of ``Device`` as objects, the processor first."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # Looking at a card must not fill it.
    import jax
    from jax import export
    from jaxlib import version
    from jaxlib.mlir.dialects import stablehlo

    versions = {
        "jaxlib": version.__version__,
        "calling_convention_min": export.minimum_supported_calling_convention_version,
        "calling_convention_max": export.maximum_supported_calling_convention_version,
        "stablehlo": stablehlo.get_current_version(),
    }
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found: list[dict[str, Any]] = [
        {"lane": "jax-cpu", "kind": _processor(), "memory_bytes": memory_bytes, **versions},
        *({**card, **versions} for card in _cards(jax)),
    ]
    print(json.dumps(found))


def _cards(jax: Any) -> list[dict[str, Any]]:
    """The first graphics card: a slot uses one."""
    try:
        card = jax.devices("cuda")[0]
    except RuntimeError:  # No plugin for it, or no card.
        return []
    limit = (card.memory_stats() or {}).get("bytes_limit", 0)
    return [{"lane": "jax-gpu", "kind": card.device_kind, "memory_bytes": limit}]


def _processor() -> str:
    try:
        with open(CPUINFO, encoding="utf-8", errors="replace") as info:
            names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
