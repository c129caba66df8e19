"""The part of ``fleet`` that user code may import in here: what needs the standard library only."""

from __future__ import annotations

import importlib
from typing import Any

MODULES = (
    "fleet",
    "fleet._app",
    "fleet._context",
    "fleet._event",
    "fleet._event_values",
    "fleet._function",
    "fleet._generators",
    "fleet._keep",
    "fleet._names",
    "fleet._params",
    "fleet._rebuild",
    "fleet._rebuild.annotate",
    "fleet._rebuild.classes",
    "fleet._rebuild.functions",
    "fleet._rebuild.kinds",
    "fleet._rebuild.segments",
    "fleet._ref",
    "fleet._verbs",
    "fleet.protocol",
    "fleet.protocol._codec",
    "fleet.protocol._codec.arrays",
    "fleet.protocol._codec.decode",
    "fleet.protocol._codec.decode_more",
    "fleet.protocol._codec.encode",
    "fleet.protocol._codec.encode_more",
    "fleet.protocol._codec.encode_packed",
    "fleet.protocol._codec.exception_data",
    "fleet.protocol._codec.kinds",
    "fleet.protocol._codec.not_portable",
    "fleet.protocol._codec.own",
    "fleet.protocol._codec.rebuild",
    "fleet.protocol._codec.where",
    "fleet.protocol.codec",
    "fleet.protocol.errors",
    "fleet.protocol.ids",
    "fleet.protocol.limits",
    "fleet.protocol.options",
    "fleet.protocol.triggers",
    "fleet.protocol.units",
    "fleet.protocol.window",
)
"""Baked into the guest (``build.py`` copies these files)."""


def import_fleet() -> None:
    """Import all of it, and let what only makes sense outside do nothing."""
    from .placeholders import Placeholder  # Here: the build, outside, reads MODULES alone.

    for name in MODULES:
        importlib.import_module(name)
    fleet: Any = importlib.import_module("fleet")
    for name in fleet.__all__:
        if fleet._HOMES.get(name, MODULES[0]) not in MODULES:
            setattr(fleet, name, Placeholder(f"fleet.{name}"))
    # A script may say these at its top level, before or without `if __name__ == "__main__":`.
    fleet.connect = fleet.enable_output = _nothing


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Accept anything, do nothing."""
