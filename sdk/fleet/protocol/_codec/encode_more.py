"""Values to data: the kinds beyond the builtin ones. Standard library only; it runs in the guest. See ``encode``.

Types of modules that may not be imported are found by name among what is; what isn't imported can't have instances.
Everything is matched exactly, so that a subclass never comes back as something else.
"""

from __future__ import annotations

import collections
import datetime as dt
import enum
import sys
import types
from array import array
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from fleet.protocol._codec import arrays, own
from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.encode import (
    TAG,
    WRITERS,
    Out,
    Refused,
    Writer,
    array_head,
    encode,
    open_tagged,
    row_writers,
    write_all,
    write_bytes,
    write_fields,
    write_list,
    write_pairs,
    write_str,
)
from fleet.protocol._codec.exception_data import FIELDS, ExceptionData, describe, name_of_module
from fleet.protocol.limits import CODEC_DEPTH_MAX

FACTORIES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict,
        collections.Counter, collections.OrderedDict, collections.deque,
    )
}  # fmt: skip
"""What a defaultdict may call: they are data as well."""
MEMORY_FORMATS = frozenset("bBhHiIqQfdc?")
"""Formats of the same size everywhere."""
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
ADDRESSES = ("IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network", "IPv4Interface", "IPv6Interface")
_EXTENDED = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
PYDANTIC_PARTS = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")

# --- the standard library --------------------------------------------------------------------------------------------


def _datetime(v: dt.datetime, out: Out, depth: int) -> None:
    fields = (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold, v.tzinfo)
    write_fields(k.DATETIME, fields, out, depth)


def _date(v: dt.date, out: Out, depth: int) -> None:
    write_fields(k.DATE, (v.year, v.month, v.day), out, depth)


def _time(v: dt.time, out: Out, depth: int) -> None:
    write_fields(k.TIME, (v.hour, v.minute, v.second, v.microsecond, v.fold, v.tzinfo), out, depth)


def _timedelta(v: dt.timedelta, out: Out, depth: int) -> None:
    write_fields(k.TIMEDELTA, (v.days, v.seconds, v.microseconds), out, depth)


def _timezone(v: dt.timezone, out: Out, depth: int) -> None:
    name, offset = v.tzname(None), v.utcoffset(None)
    write_fields(k.TIMEZONE, (offset, None if name == dt.timezone(offset).tzname(None) else name), out, depth)


def _zone(v: Any, out: Out, depth: int) -> None:
    if not v.key:
        raise Refused("a ZoneInfo without a key")
    write_fields(k.ZONEINFO, (v.key,), out, depth)


def _exception_data(v: ExceptionData, out: Out, depth: int) -> None:
    write_fields(k.EXCEPTION, tuple(getattr(v, name) for name in FIELDS), out, depth, k.OBJECT_COST)


def _exception(v: BaseException, out: Out, depth: int) -> None:
    _exception_data(describe(v, encode), out, depth)


def _memoryview(v: memoryview, out: Out, depth: int) -> None:
    if v.format not in MEMORY_FORMATS:
        raise Refused(f"a memoryview of format {v.format!r}: convert it with .tolist() or bytes(...)")
    data = v.tobytes()
    if sys.byteorder == "big" and v.itemsize > 1:
        raise Refused("a memoryview of numbers: convert it with .tolist()")
    shape = None if v.ndim == 1 else tuple(v.shape or ())
    write_fields(k.MEMORYVIEW, (v.format, shape, data), out, depth)


def _array(v: array[Any], out: Out, depth: int) -> None:
    if v.typecode in "uw":
        return write_fields(k.ARRAY, (v.typecode, 0, v.tounicode()), out, depth)
    if sys.byteorder == "big":
        v = v[:]
        v.byteswap()
    # A long is wider where it is read, and converted by way of a list.
    cost = 2 * k.ITEM_COST * len(v) if v.typecode in "lL" else len(v) * v.itemsize
    write_fields(k.ARRAY, (v.typecode, v.itemsize, v.tobytes()), out, depth, cost)


def _pairs_of(kind: int) -> Callable[[dict[Any, Any], tuple[Any, ...], Out, int], None]:
    def write(pairs: dict[Any, Any], fields: tuple[Any, ...], out: Out, depth: int) -> None:
        size = len(pairs)
        cost = k.OBJECT_COST + 2 * k.dict_cost(size) + (k.HASH_COST * size if size > k.CHECKED_MIN else 0)
        open_tagged(kind, len(fields) + 2 * size, cost, out, depth)
        write_all(fields, out, depth + 1)
        write_pairs(pairs, out, depth + 1)

    return write


_counter, _defaultdict, _ordered, _namespace = map(_pairs_of, (k.COUNTER, k.DEFAULTDICT, k.ORDEREDDICT, k.NAMESPACE))


def _default_factory(v: collections.defaultdict[Any, Any], out: Out, depth: int) -> None:
    factory = v.default_factory
    name = getattr(factory, "__name__", "") if factory is not None else None
    if name is not None and FACTORIES.get(name) is not factory:
        shown = getattr(factory, "__qualname__", type(factory).__name__)
        raise Refused(f"a defaultdict whose factory {shown} is code: convert it with dict(...)")
    _defaultdict(v, (name,), out, depth)


def _simple_namespace(v: types.SimpleNamespace, out: Out, depth: int) -> None:
    _namespace(v.__dict__, (), out, depth)


def _fraction(v: Any, out: Out, depth: int) -> None:
    if max(v.numerator.bit_length(), v.denominator.bit_length()) > k.FRACTION_BITS_MAX:
        raise Refused(f"a Fraction of more than {k.FRACTION_BITS_MAX:,} bits: return numerator and denominator")
    write_fields(k.FRACTION, (v.numerator, v.denominator), out, depth)


def _fields(kind: int, of: Callable[[Any], tuple[Any, ...]]) -> Writer:
    return lambda v, out, depth: write_fields(kind, of(v), out, depth)


def _constant(number: int) -> Writer:
    return _fields(k.CONSTANT, lambda _v: (number,))


EXACT: dict[type, Writer] = {
    dt.datetime: _datetime,
    dt.date: _date,
    dt.time: _time,
    dt.timedelta: _timedelta,
    dt.timezone: _timezone,
    ExceptionData: _exception_data,
    complex: _fields(k.COMPLEX, lambda v: (v.real, v.imag)),
    bytearray: lambda v, out, depth: write_fields(k.BYTEARRAY, (bytes(v),), out, depth, len(v)),
    memoryview: _memoryview,
    collections.deque: _fields(k.DEQUE, lambda v: (v.maxlen, *v)),
    collections.Counter: lambda v, out, depth: _counter(v, (), out, depth),
    collections.OrderedDict: lambda v, out, depth: _ordered(v, (), out, depth),
    collections.defaultdict: _default_factory,
    range: _fields(k.RANGE, lambda v: (v.start, v.stop, v.step)),
    slice: _fields(k.SLICE, lambda v: (v.start, v.stop, v.step)),
    array: _array,
    types.SimpleNamespace: _simple_namespace,
    type(...): _constant(0),
    type(NotImplemented): _constant(1),
}
BY_NAME: dict[tuple[str, str], Writer] = {
    ("decimal", "Decimal"): _fields(k.DECIMAL, lambda v: (str(v),)),
    ("fractions", "Fraction"): _fraction,
    ("uuid", "UUID"): _fields(k.UUID, lambda v: (v.bytes,)),
    ("zoneinfo", "ZoneInfo"): _zone,
    **{("pathlib", name): _fields(k.PATH, lambda v, n=n: (n, str(v))) for n, name in enumerate(PATHS)},  # type: ignore[misc]
    **{("ipaddress", name): _fields(k.ADDRESS, lambda v, n=n: (n, str(v))) for n, name in enumerate(ADDRESSES)},  # type: ignore[misc]
}
"""By module and name as one imports them (the types themselves may say that they live in a private part of it)."""


def writer_of(kind: type) -> Writer:
    """The writer of instances of ``kind``; Refused where there is none."""
    writer = EXACT.get(kind) or _named(kind) or arrays.writer_of(kind) or _own(kind)
    if writer is not None:
        return writer
    if issubclass(kind, BaseException):
        return _exception
    if issubclass(kind, enum.Enum):
        return _enum
    sort = sort_of(kind)
    if sort is None or (sort != k.NAMEDTUPLE and issubclass(kind, _EXTENDED)):
        raise Refused
    return _instance(kind, sort)


def _named(kind: type) -> Writer | None:
    name = (kind.__module__.partition(".")[0].lstrip("_"), kind.__name__)
    if name not in BY_NAME:
        return None
    module = sys.modules.get(name[0])
    return BY_NAME[name] if module is not None and module.__dict__.get(name[1]) is kind else None


def _own(kind: type) -> Writer | None:
    one = own.by_type.get(kind)
    if one is None:
        return None
    number, _, fields_of, made = one

    def write(value: Any, out: Out, depth: int) -> None:
        try:
            fields = fields_of(value)
            made(*fields)  # As it will be looked at where it arrives.
        except Exception as error:  # An attribute that the function changed, in whatever way.
            raise Refused(f"a fleet.{kind.__name__} that can't travel: {error}") from None
        write_fields(k.OWN, (number, *fields), out, depth, own.cost_of(fields))

    return write


# --- classes ---------------------------------------------------------------------------------------------------------


def sort_of(kind: type) -> int | None:
    """How instances of ``kind`` are made: DATACLASS, NAMEDTUPLE, ATTRS, PYDANTIC or ENUMERATION; else None.

    No attribute hook of a metaclass is run.
    """
    names = {name for base in kind.__mro__ for name in base.__dict__}
    if issubclass(kind, enum.Enum):
        return k.ENUMERATION
    if "__pydantic_fields__" in names and "__pydantic_fields_set__" in names:
        return k.PYDANTIC
    if "__dataclass_fields__" in names:
        return k.DATACLASS
    if issubclass(kind, tuple):
        return k.NAMEDTUPLE if "_fields" in names and "_make" in names else None
    return k.ATTRS if "__attrs_attrs__" in names else None


def class_attribute(kind: type, name: str) -> Any:
    """What the class has under ``name``, without running a descriptor; None where it has nothing."""
    return next((base.__dict__[name] for base in kind.__mro__ if name in base.__dict__), None)


def declared_fields(kind: type, sort: int) -> tuple[str, ...]:
    """Names of the fields that instances of ``kind`` have, in order."""
    if sort == k.DATACLASS:
        fields = class_attribute(kind, "__dataclass_fields__").values()
        # InitVar and ClassVar are entries, too, but no fields (``dataclasses.fields`` tells them apart the same way).
        return tuple(field.name for field in fields if field._field_type.name == "_FIELD")
    if sort == k.NAMEDTUPLE:
        return tuple(class_attribute(kind, "_fields"))
    if sort == k.ATTRS:
        return tuple(one.name for one in class_attribute(kind, "__attrs_attrs__"))
    return tuple(class_attribute(kind, "__pydantic_fields__"))


def instance_dict(value: Any) -> dict[str, Any]:
    """The instance's own ``__dict__``, empty where its class has none."""
    found = value.__dict__ if hasattr(value, "__dict__") else {}
    return found if type(found) is dict else {}


def _is_extra(kind: type, name: Any) -> bool:
    """Whether an attribute beyond the fields travels: caches and Python's own marks are made anew where they arrive."""
    if type(name) is not str or name.startswith("__") or name == "_attrs_cached_hash":
        return False
    return type(class_attribute(kind, name)).__name__ != "cached_property"


def parts_of(value: Any, sort: int) -> tuple[tuple[str, ...], int, list[Any]]:
    """Names and values of what an instance holds; the first so many are fields, the others were added to it."""
    kind = type(value)
    names = declared_fields(kind, sort)
    if sort == k.NAMEDTUPLE:
        if instance_dict(value):
            raise Refused(f"a {kind.__qualname__} with attributes beside its fields")
        return names, len(names), list(tuple.__iter__(value))
    own = instance_dict(value)
    if sort == k.PYDANTIC:
        return names, len(names), [own[name] for name in names] + [getattr(value, part) for part in PYDANTIC_PARTS]
    missing = object()
    found = [(name, own[name] if name in own else getattr(value, name, missing)) for name in names]
    present = [(name, item) for name, item in found if item is not missing]
    fields = len(present)
    present += [(name, item) for name, item in own.items() if name not in names and _is_extra(kind, name)]
    return tuple(name for name, _ in present), fields, [item for _, item in present]


def _instance(kind: type, sort: int) -> Writer:
    declared = declared_fields(kind, sort)
    size = len(declared)
    in_dict = sort in (k.DATACLASS, k.ATTRS)

    def write(value: Any, out: Out, depth: int) -> None:
        own = instance_dict(value) if in_dict else None
        if own is not None and tuple(own) == declared:
            names, fields, values = declared, size, list(own.values())
        else:
            names, fields, values = parts_of(value, sort)
        cost = k.INSTANCE_COST + k.dict_cost(len(values))
        open_tagged(k.INSTANCE, 1 + len(values), cost, out, depth)
        _class(kind, sort, names, fields, out, depth)
        write_all(values, out, depth + 1)

    def write_rows(values: Any, out: Out, depth: int) -> bool:
        if not size or depth + 2 >= CODEC_DEPTH_MAX:
            return False
        rows: Any
        getters: list[Any]
        if sort == k.NAMEDTUPLE:
            rows, getters = values, [itemgetter(place) for place in range(size)]
            if any(map(instance_dict, values)):
                return False
        else:
            rows, getters = list(map(instance_dict, values)), [itemgetter(name) for name in declared]
            if not all(map(declared.__eq__, map(tuple, rows))):
                return False
        cost = k.INSTANCE_COST + k.dict_cost(size)
        open_tagged(k.INSTANCE_ROWS, 1 + size, cost + (cost + 4 * k.CELL_COST) * len(values), out, depth)
        _class(kind, sort, declared, size, out, depth)
        for getter in getters:
            write_list(list(map(getter, rows)), out, depth + 1)
        return True

    if sort != k.PYDANTIC:
        row_writers[kind] = write_rows
    return write


def _enum(value: enum.Enum, out: Out, depth: int) -> None:
    kind = type(value)
    open_tagged(k.ENUM, 3, k.INSTANCE_COST + k.dict_cost(2), out, depth)
    _class(kind, k.ENUMERATION, (), 0, out, depth)
    name = value._name_ if kind._member_map_.get(value._name_ or "") is value else None
    number = value._value_ if name is None else None
    if name is None and type(number) is not int:
        raise Refused(f"{kind.__qualname__}, of which {value!r:.60} is no member by name")
    WRITERS[type(name)](name, out, depth)
    WRITERS[type(number)](number, out, depth)


def _class(kind: type, sort: int, names: tuple[str, ...], fields: int, out: Out, depth: int) -> None:
    """Name a class in full for the first time, by its number afterwards."""
    classes = out[1]
    if classes is None:
        classes = out[1] = {}
    number = classes.get((kind, names))
    if number is not None:
        return WRITERS[int](number, out, depth)
    classes[kind, names] = len(classes)
    out += (array_head(5 + len(names)), TAG[k.CLASS])
    out[0] += k.OBJECT_COST * (7 + len(names))
    WRITERS[int](sort, out, depth)
    write_str(name_of_module(kind), out, depth)
    write_str(kind.__qualname__, out, depth)
    WRITERS[int](fields, out, depth)
    for name in names:
        write_str(name, out, depth)


__all__ = [
    "ADDRESSES", "BY_NAME", "EXACT", "FACTORIES", "MEMORY_FORMATS", "PATHS", "class_attribute",
    "declared_fields", "parts_of", "sort_of", "write_bytes", "writer_of",
]  # fmt: skip
