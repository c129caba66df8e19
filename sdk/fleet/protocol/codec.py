"""Values as data: what leaves a sandbox. A tagged MessagePack profile; decoding never runs code that a car chose.

None, bool, int, float, str, bytes, list and dict are MessagePack as it stands (dict keys may be of any kind). The rest:

====================  =================================================================================================
int beyond 64 bits    ext 1: two's complement, big endian
str with surrogates   ext 2: UTF-8 with surrogates passed
everything else       an array whose first element is ext 3 with one byte, the kind (``_TUPLE`` ... below), then its fields
====================  =================================================================================================

Lists of 16 or more floats, or of ints of 64 bits, are one packed field (30 times faster than element by element).
Types are matched exactly: a subclass would come back as something else, so it is refused. An exception becomes an
``ExceptionData``. Standard library only: it runs in the guest, where every microsecond counts twice, and in the client.

Bounds:  depth ``CODEC_DEPTH_MAX``, elements ``CODEC_VALUES_MAX``, bytes ``PAYLOAD_BYTES_MAX``; a length is compared with
         what is left of the data before anything is allocated for it.
Errors:  ``encode`` raises ResultNotPortable that names the path inside the value; ``decode`` raises ProtocolError.
"""

from __future__ import annotations

import datetime as dt
import sys
from array import array
from collections.abc import Callable
from struct import Struct
from typing import Any

from fleet.protocol._exception_data import FIELDS, ExceptionData, describe
from fleet.protocol._not_portable import explain, is_zone
from fleet.protocol.errors import ProtocolError, ResultNotPortable
from fleet.protocol.limits import CODEC_DEPTH_MAX, CODEC_VALUES_MAX, PAYLOAD_BYTES_MAX

__all__ = ["ExceptionData", "decode", "decode_exception", "encode", "encode_exception"]

_EXT_INT, _EXT_STR, _EXT_KIND = 1, 2, 3
_TUPLE, _SET, _FROZENSET = 1, 2, 3
_DATETIME, _DATE, _TIME, _TIMEDELTA, _TIMEZONE, _ZONEINFO = 4, 5, 6, 7, 8, 9
_EXCEPTION, _FLOATS, _INTS = 10, 11, 12
_PACKED_MIN = 16

_Out = list[bytes]
_Writer = Callable[[Any, _Out, int], None]


class _Refused(Exception):
    """Internal: the value can't be encoded; ``explain`` finds out where and why."""


# --- encoding --------------------------------------------------------------------------------------------------------

_TAG = {kind: bytes((0xD4, _EXT_KIND, kind)) for kind in range(1, 13)}
_SMALL = [bytes((n,)) for n in range(128)] + [bytes((0x100 + n,)) for n in range(-32, 0)]
_U8, _U16, _U32 = Struct(">BB").pack, Struct(">BH").pack, Struct(">BI").pack
_I32, _I64, _U64, _F64 = Struct(">Bi").pack, Struct(">Bq").pack, Struct(">BQ").pack, Struct(">Bd").pack


def _none(_value: None, out: _Out, _depth: int) -> None:
    out.append(b"\xc0")


def _bool(value: bool, out: _Out, _depth: int) -> None:
    out.append(b"\xc3" if value else b"\xc2")


def _int(value: int, out: _Out, _depth: int) -> None:
    if -32 <= value < 128:
        out.append(_SMALL[value])  # The negative ones lie at the list's end.
    elif -(2**31) <= value < 2**31:
        out.append(_I32(0xD2, value))
    elif -(2**63) <= value < 2**63:
        out.append(_I64(0xD3, value))
    elif 0 < value < 2**64:
        out.append(_U64(0xCF, value))
    else:
        _ext(_EXT_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), out)


def _ext(code: int, data: bytes, out: _Out) -> None:
    out += (_U32(0xC9, len(data)), bytes((code,)), data)


def _float(value: float, out: _Out, _depth: int) -> None:
    out.append(_F64(0xCB, value))


def _str(value: str, out: _Out, _depth: int) -> None:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        return _ext(_EXT_STR, value.encode("utf-8", "surrogatepass"), out)
    size = len(data)
    if size < 32:
        out.append(bytes((0xA0 | size,)) + data)
    else:
        out += (_U8(0xD9, size) if size < 0x100 else _U32(0xDB, size), data)


def _bytes(value: bytes, out: _Out, _depth: int) -> None:
    size = len(value)
    out += (_U8(0xC4, size) if size < 0x100 else _U32(0xC6, size), value)


def _array_head(size: int) -> bytes:
    if size < 16:
        return bytes((0x90 | size,))
    return _U16(0xDC, size) if size < 0x10000 else _U32(0xDD, size)


def _elements(values: Any, out: _Out, depth: int) -> None:
    if depth >= CODEC_DEPTH_MAX or len(out) + len(values) > CODEC_VALUES_MAX:
        raise _Refused
    depth += 1
    find = _WRITERS.get
    for value in values:
        find(type(value), _other)(value, out, depth)


def _list(value: list[Any], out: _Out, depth: int) -> None:
    if len(value) >= _PACKED_MIN and _packed(value, out):
        return
    out.append(_array_head(len(value)))
    _elements(value, out, depth)


def _packed(value: list[Any], out: _Out) -> bool:
    kind = type(value[0])
    if (kind is not float and kind is not int) or set(map(type, value)) != {kind}:
        return False
    try:
        numbers = array("d" if kind is float else "q", value)
    except OverflowError:
        return False
    if sys.byteorder == "big":
        numbers.byteswap()
    out += (b"\x92", _TAG[_FLOATS if kind is float else _INTS])
    _bytes(numbers.tobytes(), out, 0)
    return True


def _tagged(kind: int) -> _Writer:
    tag = _TAG[kind]

    def write(value: Any, out: _Out, depth: int) -> None:
        out += (_array_head(len(value) + 1), tag)
        _elements(value, out, depth)

    return write


def _dict(value: dict[Any, Any], out: _Out, depth: int) -> None:
    size = len(value)
    if depth >= CODEC_DEPTH_MAX or len(out) + 2 * size > CODEC_VALUES_MAX:
        raise _Refused
    out.append(bytes((0x80 | size,)) if size < 16 else _U32(0xDF, size))
    depth += 1
    find = _WRITERS.get
    for key, item in value.items():
        find(type(key), _other)(key, out, depth)
        find(type(item), _other)(item, out, depth)


def _datetime(v: dt.datetime, out: _Out, depth: int) -> None:
    fields = (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold, v.tzinfo)
    _tagged(_DATETIME)(fields, out, depth)


def _date(v: dt.date, out: _Out, depth: int) -> None:
    _tagged(_DATE)((v.year, v.month, v.day), out, depth)


def _time(v: dt.time, out: _Out, depth: int) -> None:
    _tagged(_TIME)((v.hour, v.minute, v.second, v.microsecond, v.fold, v.tzinfo), out, depth)


def _timedelta(v: dt.timedelta, out: _Out, depth: int) -> None:
    _tagged(_TIMEDELTA)((v.days, v.seconds, v.microseconds), out, depth)


def _timezone(v: dt.timezone, out: _Out, depth: int) -> None:
    name = v.tzname(None)
    offset = v.utcoffset(None)
    _tagged(_TIMEZONE)((offset, None if name == dt.timezone(offset).tzname(None) else name), out, depth)


def _exception(v: ExceptionData, out: _Out, depth: int) -> None:
    _tagged(_EXCEPTION)(tuple(getattr(v, name) for name in FIELDS), out, depth)


def _other(value: Any, out: _Out, depth: int) -> None:
    if isinstance(value, BaseException):
        return _exception(describe(value, encode), out, depth)
    if is_zone(value):
        return _tagged(_ZONEINFO)((value.key,), out, depth)
    raise _Refused


_WRITERS: dict[type, _Writer] = {
    type(None): _none, bool: _bool, int: _int, float: _float, str: _str, bytes: _bytes,
    list: _list, tuple: _tagged(_TUPLE), set: _tagged(_SET), frozenset: _tagged(_FROZENSET), dict: _dict,
    dt.datetime: _datetime, dt.date: _date, dt.time: _time, dt.timedelta: _timedelta, dt.timezone: _timezone,
    ExceptionData: _exception,
}  # fmt: skip


def encode(value: Any, name: str = "result", prefix: bytes = b"") -> bytes:
    """``value`` as data, behind ``prefix``. ResultNotPortable says which part of ``name`` can't travel, and why."""
    out: _Out = [prefix]
    try:
        _WRITERS.get(type(value), _other)(value, out, 0)
        if sum(map(len, out)) > PAYLOAD_BYTES_MAX:
            raise _Refused
    except (_Refused, RecursionError):
        raise ResultNotPortable(explain(value, name, _WRITERS)) from None
    return b"".join(out)


def encode_exception(error: BaseException, hide: Callable[[str], bool] | None = None, prefix: bytes = b"") -> bytes:
    """``error`` as data: type, message, arguments where they can travel, traceback text, notes, cause and context.

    ``hide(file_name)`` leaves frames out of the traceback. Never fails for an exception of any kind.
    """
    return encode(describe(error, encode, hide), prefix=prefix)


# --- decoding --------------------------------------------------------------------------------------------------------

_Revive = Callable[[ExceptionData], Any]


class _Decoder:
    """Reads one value; every length is checked against the data that is left."""

    __slots__ = ("at", "data", "revive", "size", "values")

    def __init__(self, data: bytes | memoryview, revive: _Revive | None) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0
        self.values = 0
        self.revive = revive

    def take(self, size: int) -> bytes | memoryview:
        at = self.at
        end = at + size
        if end > self.size:
            raise ProtocolError("a value is cut short")
        self.at = end
        return self.data[at:end]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def value(self, depth: int) -> Any:
        head = self.take(1)[0]
        if head < 0x80:
            return head
        if head >= 0xE0:
            return head - 0x100
        if 0xA0 <= head < 0xC0:
            return str(self.take(head & 0x1F), "utf-8")
        if head < 0x90:
            return self.mapping(head & 0x0F, depth)
        if head < 0xA0:
            return self.sequence(head & 0x0F, depth)
        return self.long(head, depth)

    def long(self, head: int, depth: int) -> Any:
        if head <= 0xC3:
            if head == 0xC1:
                raise ProtocolError("a value of no known kind")
            return None if head == 0xC0 else head == 0xC3
        if head in _LENGTHS:
            what, size = _LENGTHS[head]
            length = self.number(size)
            if what == "bytes":
                return bytes(self.take(length))
            if what == "str":
                return str(self.take(length), "utf-8")
            if what == "ext":
                return self.extension(length)
            return self.sequence(length, depth) if what == "list" else self.mapping(length, depth)
        if head == 0xCB:
            return _READ_F64(self.take(8))[0]
        if head == 0xCA:
            return _READ_F32(self.take(4))[0]
        if head in (0xD4, 0xD5, 0xD6, 0xD7, 0xD8):
            return self.extension(1 << head - 0xD4)
        if head <= 0xCF:
            return self.number(1 << head - 0xCC)
        return self.number(1 << head - 0xD0, signed=True)

    def extension(self, size: int) -> Any:
        code = self.take(1)[0]
        data = self.take(size)
        if code == _EXT_INT:
            return int.from_bytes(data, "big", signed=True)
        if code == _EXT_STR:
            return str(data, "utf-8", "surrogatepass")
        raise ProtocolError("a value of no known kind")

    def room(self, count: int, depth: int) -> None:
        """Refuse what is too deep, too much, or longer than the data that is left (each element takes a byte)."""
        self.values += count
        if depth >= CODEC_DEPTH_MAX or self.values > CODEC_VALUES_MAX or count > self.size - self.at:
            raise ProtocolError("a value is too deep, too large or cut short")

    def sequence(self, count: int, depth: int) -> Any:
        self.room(count, depth)
        data, at = self.data, self.at
        if count and at + 3 <= self.size and data[at] == 0xD4 and data[at + 1] == _EXT_KIND:
            self.at = at + 3
            return self.kind(data[at + 2], count - 1, depth + 1)
        value, depth = self.value, depth + 1
        return [value(depth) for _ in range(count)]

    def mapping(self, count: int, depth: int) -> dict[Any, Any]:
        self.room(2 * count, depth)
        value, depth = self.value, depth + 1
        # Keys come before their values in the data, as they do in a dict display's evaluation.
        return {value(depth): value(depth) for _ in range(count)}

    def kind(self, kind: int, count: int, depth: int) -> Any:
        if kind == _EXCEPTION:
            return self.exception(count, depth)
        fields = [self.value(depth) for _ in range(count)]
        if kind == _TUPLE:
            return tuple(fields)
        if kind == _SET:
            return set(fields)
        if kind == _FROZENSET:
            return frozenset(fields)
        if kind in (_FLOATS, _INTS):
            (data,) = fields
            numbers = array("d" if kind == _FLOATS else "q", data)
            if sys.byteorder == "big":
                numbers.byteswap()
            return numbers.tolist()
        return _calendar(kind, fields)

    def exception(self, count: int, depth: int) -> Any:
        # Cause and context stay data: the outermost one is revived as a whole.
        revive, self.revive = self.revive, None
        found = ExceptionData.of_fields([self.value(depth) for _ in range(count)])
        self.revive = revive
        return revive(found) if revive is not None else found


_LENGTHS = {
    0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4),
    0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4),
    0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("dict", 2), 0xDF: ("dict", 4),
}  # fmt: skip
_READ_F64, _READ_F32 = Struct(">d").unpack, Struct(">f").unpack


def _calendar(kind: int, fields: list[Any]) -> Any:
    if kind == _DATETIME:
        year, month, day, hour, minute, second, microsecond, fold, zone = fields
        return dt.datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)
    if kind == _DATE:
        return dt.date(*fields)
    if kind == _TIME:
        hour, minute, second, microsecond, fold, zone = fields
        return dt.time(hour, minute, second, microsecond, zone, fold=fold)
    if kind == _TIMEDELTA:
        return dt.timedelta(*fields)
    if kind == _TIMEZONE:
        offset, name = fields
        return dt.timezone(offset, name) if name is not None else dt.timezone(offset)
    if kind == _ZONEINFO:
        import zoneinfo  # Only where it is used: `import fleet` stays light.

        return zoneinfo.ZoneInfo(*fields)
    raise ProtocolError("a value of no known kind")


def decode(data: bytes | bytearray | memoryview, revive: _Revive | None = None) -> Any:
    """The value that ``encode`` encoded; ProtocolError for anything else. Runs no code but ``revive``.

    ``revive`` turns each ``ExceptionData`` inside the value into what the caller wants there.
    """
    decoder = _Decoder(data if isinstance(data, bytes) else memoryview(data).cast("B"), revive)
    try:
        value = decoder.value(0)
    except (ValueError, TypeError, OverflowError, LookupError, RecursionError) as error:
        raise ProtocolError(f"a value is malformed: {error}") from None
    if decoder.at != decoder.size:
        raise ProtocolError("data follows behind a value")
    return value


def decode_exception(data: bytes | bytearray | memoryview) -> ExceptionData:
    """What ``encode_exception`` encoded; ProtocolError for anything else."""
    found = decode(data)
    if not isinstance(found, ExceptionData):
        raise ProtocolError("an exception was expected")
    return found
