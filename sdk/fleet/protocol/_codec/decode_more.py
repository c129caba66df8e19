"""Data to values: the kinds beyond the builtin ones. Nothing is imported by a name from the data. See ``decode``."""

from __future__ import annotations

import collections
import datetime as dt
import re
import sys
import types
from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

from fleet.protocol._codec import arrays, own
from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.decode import Decoder, strings
from fleet.protocol._codec.encode_more import ADDRESSES, FACTORIES, MEMORY_FORMATS, PATHS
from fleet.protocol.errors import ProtocolError, ResultNotPortable

_ZONE_KEY = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*\Z")
_Maker = Callable[[Decoder, list[Any]], Any]


def make(decoder: Decoder, kind: int, fields: list[Any]) -> Any:
    """The value of ``kind`` with ``fields``; any exception means that they don't fit."""
    maker = _MAKERS.get(kind)
    if maker is None:
        raise ProtocolError("a value of no known kind")
    return maker(decoder, fields)


def _typed(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise ProtocolError(f"a field is of type {type(value).__name__}")
    return value


def _datetime(_d: Decoder, fields: list[Any]) -> dt.datetime:
    year, month, day, hour, minute, second, microsecond, fold, zone = fields
    return dt.datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _time(_d: Decoder, fields: list[Any]) -> dt.time:
    hour, minute, second, microsecond, fold, zone = fields
    return dt.time(hour, minute, second, microsecond, zone, fold=fold)


def _timedelta(_d: Decoder, fields: list[Any]) -> dt.timedelta:
    days, seconds, microseconds = (_typed(field, int) for field in fields)
    return dt.timedelta(days, seconds, microseconds)


def _timezone(_d: Decoder, fields: list[Any]) -> dt.timezone:
    offset, name = fields
    return dt.timezone(offset, name) if name is not None else dt.timezone(offset)


def _zone(_d: Decoder, fields: list[Any]) -> Any:
    import zoneinfo  # Only where it is used: `import fleet` stays light.

    (key,) = fields
    if not _ZONE_KEY.match(_typed(key, str)):
        raise ProtocolError("a time zone is malformed")
    # An unknown key would be looked for as a file, and then as a module of tzdata.
    if key not in _zones():
        raise ResultNotPortable(
            f"the result has the time zone {key[:60]!r}, which is not known on this computer",
            hint="install its data here: pip install tzdata",
        )
    return zoneinfo.ZoneInfo(key)


@cache
def _zones() -> frozenset[str]:
    import zoneinfo

    return frozenset(zoneinfo.available_timezones())


def _memoryview(_d: Decoder, fields: list[Any]) -> memoryview:
    form, shape, data = fields
    if _typed(form, str) not in MEMORY_FORMATS:
        raise ProtocolError("a memoryview of no known format")
    flat = memoryview(_typed(data, bytes))
    return flat.cast(form) if shape is None else flat.cast(form, [_typed(one, int) for one in _typed(shape, tuple)])


def _deque(_d: Decoder, fields: list[Any]) -> Any:
    longest, *items = fields
    if longest is not None and _typed(longest, int) < len(items):
        raise ProtocolError("a deque has more items than it may")
    return collections.deque(items, longest)


def _counter(decoder: Decoder, fields: list[Any]) -> Any:
    made: Any = collections.Counter.__new__(collections.Counter)
    dict.update(made, _pairs(decoder, fields))
    return made


def _defaultdict(decoder: Decoder, fields: list[Any]) -> Any:
    name, *flat = fields
    return collections.defaultdict(None if name is None else FACTORIES[_typed(name, str)], _pairs(decoder, flat))


def _ordered(decoder: Decoder, fields: list[Any]) -> Any:
    return collections.OrderedDict(_pairs(decoder, fields))


def _namespace(decoder: Decoder, fields: list[Any]) -> Any:
    made = types.SimpleNamespace()
    made.__dict__.update({_typed(name, str): value for name, value in _pairs(decoder, fields).items()})
    return made


def _pairs(decoder: Decoder, flat: list[Any]) -> dict[Any, Any]:
    if len(flat) & 1:
        raise ProtocolError("a dict has a key without a value")
    size = len(flat) // 2
    decoder.charge(2 * k.dict_cost(size) + (k.HASH_COST * size if size > k.CHECKED_MIN else 0))
    return decoder.dict_of(flat[::2], flat[1::2])


def _range(_d: Decoder, fields: list[Any]) -> range:
    start, stop, step = (_typed(field, int) for field in fields)
    return range(start, stop, step)


def _slice(_d: Decoder, fields: list[Any]) -> slice:
    start, stop, step = fields
    return slice(start, stop, step)


def _complex(_d: Decoder, fields: list[Any]) -> complex:
    real, imaginary = (_typed(field, float) for field in fields)
    return complex(real, imaginary)


def _decimal(_d: Decoder, fields: list[Any]) -> Any:
    import decimal

    (text,) = fields
    if not _typed(text, str).isascii() or "_" in text:
        raise ProtocolError("a Decimal is malformed")
    # A context of our own: the caller's decides neither what is refused nor what is noted there.
    return decimal.Decimal(text, decimal.Context(traps=[decimal.InvalidOperation]))


def _fraction(_d: Decoder, fields: list[Any]) -> Any:
    import fractions

    numerator, denominator = (_typed(field, int) for field in fields)
    if max(numerator.bit_length(), denominator.bit_length()) > k.FRACTION_BITS_MAX:
        raise ProtocolError("a Fraction is too large")
    return fractions.Fraction(numerator, denominator)


def _uuid(_d: Decoder, fields: list[Any]) -> Any:
    import uuid

    (data,) = fields
    return uuid.UUID(bytes=_typed(data, bytes))


def _path(_d: Decoder, fields: list[Any]) -> Any:
    import pathlib

    number, text = fields
    name = PATHS[_typed(number, int)]
    # A path of the car's system is one of the caller's; a pure one says which system it means.
    return getattr(pathlib, name if name.startswith("Pure") else "Path")(_typed(text, str))


def _address(_d: Decoder, fields: list[Any]) -> Any:
    import ipaddress

    number, text = fields
    return getattr(ipaddress, ADDRESSES[_typed(number, int)])(_typed(text, str))


def _array(decoder: Decoder, fields: list[Any]) -> array[Any]:
    typecode, size, data = fields
    if _typed(typecode, str) in ("u", "w"):
        return array("u", _typed(data, str))
    made: array[Any] = array(typecode)
    if made.itemsize != _typed(size, int):  # A long is shorter in there.
        same = {("l", 4): "i", ("L", 4): "I", ("l", 8): "q", ("L", 8): "Q"}[typecode, size]
        decoder.charge(2 * (k.ITEM_COST * len(_typed(data, bytes)) // size))
        return array(typecode, _swapped(array(same, data)).tolist())
    decoder.charge(len(_typed(data, bytes)))
    return _swapped(array(typecode, data))


def _swapped(numbers: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _bytearray(decoder: Decoder, fields: list[Any]) -> bytearray:
    (data,) = fields
    decoder.charge(len(_typed(data, bytes)))
    return bytearray(data)


def _own(decoder: Decoder, fields: list[Any]) -> Any:
    number, *parts = fields
    decoder.charge(own.cost_of(parts))
    return own.by_number[_typed(number, int)].made(*parts)


def _constant(_d: Decoder, fields: list[Any]) -> Any:
    (number,) = fields
    return (Ellipsis, NotImplemented)[_typed(number, int)]


_MAKERS: dict[int, _Maker] = {
    k.DATETIME: _datetime, k.DATE: lambda _d, fields: dt.date(*fields), k.TIME: _time, k.TIMEDELTA: _timedelta,
    k.TIMEZONE: _timezone, k.ZONEINFO: _zone, k.STRS: strings, k.COMPLEX: _complex, k.BYTEARRAY: _bytearray,
    k.MEMORYVIEW: _memoryview, k.DEQUE: _deque, k.COUNTER: _counter, k.DEFAULTDICT: _defaultdict,
    k.ORDEREDDICT: _ordered, k.NAMESPACE: _namespace, k.RANGE: _range, k.SLICE: _slice, k.DECIMAL: _decimal,
    k.FRACTION: _fraction, k.UUID: _uuid, k.PATH: _path, k.ADDRESS: _address, k.ARRAY: _array,
    k.CONSTANT: _constant, k.OWN: _own, k.NDARRAY: arrays.make_array, k.NUMPY_SCALAR: arrays.make_scalar,
}  # fmt: skip
