"""Why a value can't leave the sandbox: one sentence that names the path inside it. Standard library only."""

from __future__ import annotations

import collections
import datetime as dt
import types
from typing import Any

from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.encode import WRITERS, Refused
from fleet.protocol._codec.encode_more import EXACT, parts_of, sort_of, writer_of
from fleet.protocol.limits import CODEC_DEPTH_MAX

_LOOKED_AT_MAX = 1_000_000
_PAIRS = (dict, collections.OrderedDict, collections.Counter, collections.defaultdict)
_ROWS = (list, tuple, collections.deque)
_WAYS_OUT = {
    "generator": "return list(...) of it",
    "async_generator": "return a list of what it yields",
    "coroutine": "await it, and return what that gives",
    "dict_keys": "return list(...) of it",
    "dict_values": "return list(...) of it",
    "dict_items": "return list(...) of it",
    "mappingproxy": "return dict(...) of it",
    "map": "return list(...) of it",
    "filter": "return list(...) of it",
    "zip": "return list(...) of it",
    "enumerate": "return list(...) of it",
    "reversed": "return list(...) of it",
    "re.Match": "return its .group() or .groups()",
    "re.Pattern": "return its .pattern",
    "_io.StringIO": "return its .getvalue()",
    "_io.BytesIO": "return its .getvalue()",
    "function": "return what it gives",
    "module": "return what you need of it",
    "type": "return its name",
}


def explain(value: Any, name: str, reason: str) -> str:
    """One sentence on the first part of ``value`` that refuses to be encoded; ``reason`` where none is found."""
    seen = 0
    stack: list[tuple[Any, str, tuple[int, ...]]] = [(value, name, ())]
    while stack:
        part, path, above = stack.pop()
        seen += 1
        if id(part) in above:
            return f"{path} contains itself"
        if len(above) > CODEC_DEPTH_MAX:
            return f"{path[:60]}... is nested more than {CODEC_DEPTH_MAX} deep"
        if seen > _LOOKED_AT_MAX:
            break
        why = _why(part)
        if why:
            return f"{path} is {why}"
        stack += reversed([(inner, inner_path, (*above, id(part))) for inner, inner_path in _inside(part, path)])
    return f"{name} is {reason or 'too deep, or holds what is no data'}"


def _why(part: Any) -> str:
    """What is wrong with ``part`` itself; empty if nothing is."""
    kind = type(part)
    if kind in WRITERS:
        return ""
    try:
        writer_of(kind)
    except Refused:
        return f"{_kind_name(kind)}, which can't leave the sandbox as data"
    inside = [inner for inner, _ in _inside(part, "")]
    try:  # Alone, without what is in it: that has its own turn.
        writer_of(kind)(part, [0, None], CODEC_DEPTH_MAX - 1) if not inside else _own(part)
    except Refused as refused:
        return refused.reason
    except RecursionError:
        return ""
    return ""


def _own(part: Any) -> None:
    """Refused where ``part`` refuses for what it is, not for what it contains."""
    kind = type(part)
    if kind is collections.defaultdict:
        writer_of(kind)(collections.defaultdict(part.default_factory), [0, None], 0)
    else:
        sort = sort_of(kind)
        if sort is not None and sort != k.ENUMERATION:
            parts_of(part, sort)


def _inside(part: Any, path: str) -> list[tuple[Any, str]]:
    """What ``part`` contains, each with its path."""
    kind = type(part)
    if kind in _PAIRS:
        pairs = [((key, f"a key of {path}"), (item, f"{path}[{_shown(key)}]")) for key, item in part.items()]
        return [entry for pair in pairs for entry in pair]
    if kind in _ROWS:
        return [(item, f"{path}[{n}]") for n, item in enumerate(part)]
    if kind is set or kind is frozenset:
        return [(item, f"an element of {path}") for item in part]
    if kind in (dt.datetime, dt.time) and part.tzinfo is not None:
        return [(part.tzinfo, f"{path}.tzinfo")]
    if kind is slice:
        return [(getattr(part, name), f"{path}.{name}") for name in ("start", "stop", "step")]
    if kind is types.SimpleNamespace:
        return [(item, f"{path}.{name}") for name, item in part.__dict__.items()]
    if kind in WRITERS or isinstance(part, BaseException):
        return []
    try:
        sort = sort_of(kind)
        if sort is None or sort == k.ENUMERATION:
            return []
        names, _, values = parts_of(part, sort)
    except Refused:
        return []
    return [(item, f"{path}.{name}") for name, item in zip((*names, *["__pydantic_fields_set__"] * 3), values)]


def _shown(key: Any) -> str:
    try:
        return f"{key!r:.60}"
    except Exception:  # A key of the function's own class may raise anything.
        return f"a {type(key).__name__}"


def _kind_name(kind: type) -> str:
    short = kind.__module__ in ("builtins", "__main__", "__mp_main__")
    name = kind.__qualname__ if short else f"{kind.__module__}.{kind.__qualname__}"
    base = next((b.__name__ for b in kind.__mro__[1:] if b in WRITERS or b in EXACT), "")
    way_out = f"convert it with {base}(...)" if base else _WAYS_OUT.get(name, "")
    if not way_out and "__reduce__" not in kind.__dict__ and kind.__flags__ & _HEAP_TYPE:
        way_out = "make its class a dataclass, or return a dict"
    return f"of type {name}" + (f" ({'a subclass of ' + base + ': ' if base else ''}{way_out})" if way_out else "")


_HEAP_TYPE = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: made by a class statement."""
