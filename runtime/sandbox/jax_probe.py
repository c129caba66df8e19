"""``python -P -m runtime.sandbox.jax_probe``: what jax is and sees on this machine, as one line of JSON on stdout.

A process of its own, because the agent never imports jax. See ``runtime.devices``.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from runtime.sandbox.jax_device import describe


def main() -> None:
    """Print a list of ``Device`` as objects, the processor first."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # Looking at a card must not fill it.
    import jax

    found = [("jax-cpu", jax.devices("cpu")[0]), *(("jax-gpu", card) for card in _cards(jax))]
    print(json.dumps([asdict(describe(lane, device)[0]) for lane, device in found]))


def _cards(jax: Any) -> list[Any]:
    """The first graphics card: a slot uses one."""
    try:
        return list(jax.devices("cuda")[:1])
    except RuntimeError:  # No plugin for it, or no card.
        return []


if __name__ == "__main__":
    main()
