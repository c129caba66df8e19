"""Why a value can't leave the sandbox: one sentence that names the path inside it. Standard library only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Container
from typing import Any

from fleet.protocol.limits import CODEC_DEPTH_MAX, CODEC_VALUES_MAX, PAYLOAD_BYTES_MAX


def is_zone(value: Any) -> bool:
    """Whether ``value`` is a ``zoneinfo.ZoneInfo`` that has a key. (Found without importing zoneinfo.)"""
    kind = type(value)
    return kind.__module__.startswith("zoneinfo") and kind.__name__ == "ZoneInfo" and bool(value.key)


def explain(value: Any, name: str, portable: Container[type]) -> str:
    """One sentence on the first part of ``value`` that refuses to be encoded; ``portable``: the types that don't."""
    seen = 0
    stack: list[tuple[Any, str, tuple[int, ...]]] = [(value, name, ())]
    while stack:
        part, path, above = stack.pop()
        seen += 1
        if id(part) in above:
            return f"{path} contains itself"
        if len(above) > CODEC_DEPTH_MAX:
            return f"{path[:60]}... is nested more than {CODEC_DEPTH_MAX} deep"
        if seen > CODEC_VALUES_MAX:
            break
        below = [(inner, inner_path, (*above, id(part))) for inner, inner_path in _inside(part, path, portable)]
        stack += reversed(below)
        if not below and type(part) not in portable and not is_zone(part) and not isinstance(part, BaseException):
            return f"{path} is {_kind_name(part, portable)}, which can't leave the sandbox as data"
    return f"{name} takes more than {PAYLOAD_BYTES_MAX >> 20} MiB or {CODEC_VALUES_MAX:,} values"


def _inside(part: Any, path: str, portable: Container[type]) -> list[tuple[Any, str]]:
    kind = type(part)
    if kind is dict:
        pairs = [((key, f"a key of {path}"), (item, f"{path}[{key!r:.60}]")) for key, item in part.items()]
        return [entry for pair in pairs for entry in pair]
    if kind is list or kind is tuple:
        return [(item, f"{path}[{n}]") for n, item in enumerate(part)]
    if kind is set or kind is frozenset:
        return [(item, f"an element of {path}") for item in part]
    if kind in (dt.datetime, dt.time) and part.tzinfo is not None:
        return [(part.tzinfo, f"{path}.tzinfo")]
    return []


def _kind_name(value: Any, portable: Container[type]) -> str:
    kind = type(value)
    short = kind.__module__ in ("builtins", "__main__", "__mp_main__")
    name = kind.__qualname__ if short else f"{kind.__module__}.{kind.__qualname__}"
    base = next((b.__name__ for b in kind.__mro__[1:] if b in portable), "")
    return f"of type {name}" + (f" (a subclass of {base}: convert it with {base}(...))" if base else "")
