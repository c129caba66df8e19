"""Whether two values are the same: in type, in content, in order, down to the sign of a zero.

``==`` is not enough: it holds between 1 and True, it fails between two nans, and classes may define it as they like.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any

_REMOTE = "Remote traceback:\n"


def difference(here: Any, there: Any, path: str = "it") -> str:
    """Empty when they are the same, else one sentence that names the path to the first difference."""
    return next(_differences(here, there, path), "")


def _differences(here: Any, there: Any, path: str) -> Iterator[str]:
    if type(here) is not type(there):
        yield f"{path} is {_shown(here)} here and {_shown(there)} on the car"
    elif isinstance(here, BaseException):
        yield from _exceptions(here, there, path)
    elif isinstance(here, float):
        if struct.pack("d", here) != struct.pack("d", there) and not (here != here and there != there):
            yield f"{path} is {here!r} here and {there!r} on the car"
    elif isinstance(here, complex):
        yield from _differences((here.real, here.imag), (there.real, there.imag), path)
    elif isinstance(here, memoryview):
        yield from _differences((here.tobytes(), here.format), (there.tobytes(), there.format), path)
    elif isinstance(here, Mapping):
        yield from _mappings(here, there, path)
    elif isinstance(here, list | tuple | deque):
        if len(here) != len(there):
            yield f"{path} has {len(here)} elements here and {len(there)} on the car: {here!r}, {there!r}"
        for index, pair in enumerate(zip(here, there, strict=False)):
            yield from _differences(*pair, f"{path}[{index}]")
        if isinstance(here, deque) and here.maxlen != there.maxlen:
            yield f"{path} has maxlen {here.maxlen} here and {there.maxlen} on the car"
    elif isinstance(here, set | frozenset):
        if here != there or Counter(map(type, here)) != Counter(map(type, there)):
            yield f"{path} is {here!r} here and {there!r} on the car"
    else:
        if type(here).__eq__ is not object.__eq__ and (repr(here) != repr(there) or (here != there and here == here)):
            yield f"{path} is {here!r} here and {there!r} on the car"
        if type(here).__module__ not in sys.stdlib_module_names or type(here).__module__ == "__main__":
            yield from _attributes(here, there, path)


def _mappings(here: Any, there: Any, path: str) -> Iterator[str]:
    if isinstance(here, defaultdict) and here.default_factory is not there.default_factory:
        yield f"{path} makes {here.default_factory} here and {there.default_factory} on the car"
    if isinstance(here, dict | OrderedDict):
        yield from _differences(list(here), list(there), f"the keys of {path}")
    for key in here:
        if key in there:
            yield from _differences(here[key], there[key], f"{path}[{key!r}]")


def _exceptions(here: Any, there: Any, path: str) -> Iterator[str]:
    yield from _differences(str(here), str(there), f"str({path})")
    yield from _differences(here.args, there.args, f"{path}.args")
    yield from _differences(_notes(here), _notes(there), f"{path}.__notes__")
    yield from _differences(here.__cause__, there.__cause__, f"{path}.__cause__")
    if not here.__suppress_context__:  # what a traceback would not show needs no journey
        yield from _differences(here.__context__, there.__context__, f"{path}.__context__")
    yield from _attributes(here, there, path)


def _notes(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if not note.startswith(_REMOTE)]


def _attributes(here: Any, there: Any, path: str) -> Iterator[str]:
    yield from _differences(_state(here), _state(there), f"vars({path})")


def _state(value: Any) -> dict[str, Any]:
    """``__dict__`` and slots, by name; what Python keeps there for itself is left out."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                found[name] = getattr(value, name)
    found.pop("__notes__", None)
    found.pop("__weakref__", None)
    return dict(sorted(found.items()))


def _shown(value: Any) -> str:
    if isinstance(value, BaseException):
        notes = "".join(f" [{note}]" for note in getattr(value, "__notes__", ()))
        return f"{type(value).__qualname__}: {value}{notes}"
    return f"{value!r} ({type(value).__module__}.{type(value).__qualname__})"
