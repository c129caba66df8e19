"""Values to data: the hot half of the codec, which runs in the guest. See ``codec`` and ``_kinds``.

A writer appends pieces to ``out``. ``out[0]`` is no piece but the memory that reading will take so far, and ``out[1]``
the classes that were named (both are replaced at the end): attributes of an object of our own would cost twice as much.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from itertools import chain
from operator import itemgetter
from struct import Struct
from typing import Any

from fleet.protocol import _kinds as k
from fleet.protocol.limits import CODEC_DEPTH_MAX, CODEC_VALUES_MAX, PAYLOAD_BYTES_MAX

Out = list[Any]
Writer = Callable[[Any, Out, int], None]


class Refused(Exception):
    """Internal: the value can't be encoded; ``explain`` finds out where and why. ``reason`` is for its last words."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason


TAG = {kind: bytes((0xD4, k.EXT_KIND, kind)) for kind in k.KINDS}
_SMALL = [bytes((n,)) for n in range(128)] + [bytes((0x100 + n,)) for n in range(-32, 0)]
_STR_HEADS = [bytes((0xA0 | n,)) for n in range(32)]
_ARRAY_HEADS = [bytes((0x90 | n,)) for n in range(16)]
_DICT_HEADS = [bytes((0x80 | n,)) for n in range(16)]
_U8, _U16, _U32 = Struct(">BB").pack, Struct(">BH").pack, Struct(">BI").pack
_I32, _I64, _U64, _F64 = Struct(">Bi").pack, Struct(">Bq").pack, Struct(">BQ").pack, Struct(">Bd").pack
_KEYS_KEPT = 1024
_keys: dict[str, bytes] = {}
"""Short keys of dicts as they were written before: results of a function have the same ones again and again."""


def _none(_value: None, out: Out, _depth: int) -> None:
    out.append(b"\xc0")


def _bool(value: bool, out: Out, _depth: int) -> None:
    out.append(b"\xc3" if value else b"\xc2")


def _int(value: int, out: Out, _depth: int) -> None:
    if -32 <= value < 128:
        out.append(_SMALL[value])  # The negative ones lie at the list's end.
    elif -(2**31) <= value < 2**31:
        out.append(_I32(0xD2, value))
    elif -(2**63) <= value < 2**63:
        out.append(_I64(0xD3, value))
    elif 0 < value < 2**64:
        out.append(_U64(0xCF, value))
    else:
        data = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
        out[0] += k.BYTES_COST + 2 * len(data)
        _ext(k.EXT_INT, data, out)


def _ext(code: int, data: bytes, out: Out) -> None:
    out += (_U32(0xC9, len(data)), bytes((code,)), data)


def _float(value: float, out: Out, _depth: int) -> None:
    out.append(_F64(0xCB, value))


def write_str(value: str, out: Out, _depth: int) -> None:
    """Short ASCII has a head of its own, so that what the rest costs to read is known from the heads."""
    if value.isascii():
        size = len(value)
        if size < 32:
            out.append(_STR_HEADS[size] + value.encode())
            return
        data = value.encode()
        out[0] += k.TEXT_COST + size
    else:
        try:
            data = value.encode()
        except UnicodeEncodeError:
            data = value.encode("utf-8", "surrogatepass")
            out[0] += k.WIDE_COST + k.WIDE_FACTOR * len(data)
            return _ext(k.EXT_STR, data, out)
        size = len(data)
        out[0] += k.WIDE_COST + k.WIDE_FACTOR * size
    out += (_U8(0xD9, size) if size < 0x100 else _U32(0xDB, size), data)


def write_bytes(value: bytes, out: Out, _depth: int = 0) -> None:
    """Also a packed field, whose cost its own writer charges."""
    size = len(value)
    out[0] += k.BYTES_COST + size
    out += (_U8(0xC4, size) if size < 0x100 else _U32(0xC6, size), value)


def array_head(size: int) -> bytes:
    """The head of an array."""
    if size < 16:
        return _ARRAY_HEADS[size]
    return _U16(0xDC, size) if size < 0x10000 else _U32(0xDD, size)


def write_all(values: Any, out: Out, depth: int) -> None:
    """The elements of a container at ``depth``."""
    size = len(values)
    if depth >= CODEC_DEPTH_MAX or len(out) + size > CODEC_VALUES_MAX:
        raise Refused
    out[0] += k.LIST_COST + k.ITEM_COST * size
    depth += 1
    find = WRITERS.get
    for value in values:
        find(type(value), other)(value, out, depth)


def _list(value: list[Any], out: Out, depth: int) -> None:
    if len(value) >= k.PACKED_MIN and depth < CODEC_DEPTH_MAX and _packed(value, out, depth):
        return
    out.append(array_head(len(value)))
    write_all(value, out, depth)


def _tuple(value: tuple[Any, ...], out: Out, depth: int) -> None:
    if len(value) >= k.PACKED_MIN and depth + 1 < CODEC_DEPTH_MAX:
        at = len(out)
        out += (b"\x92", TAG[k.PACKED_TUPLE])
        if _packed(value, out, depth + 1):
            out[0] += k.LIST_COST + k.ITEM_COST + 8 * len(value)
            return
        del out[at:]
    out += (array_head(len(value) + 1), TAG[k.TUPLE])
    out[0] += 8 * len(value)
    write_all(value, out, depth)


def write_set(kind: int) -> Writer:
    """Writer of sets, tagged with ``kind``."""
    tag = TAG[kind]

    def write(value: Any, out: Out, depth: int) -> None:
        out += (array_head(len(value) + 1), tag)
        out[0] += k.SET_COST + k.MEMBER_COST * len(value)
        write_all(value, out, depth)

    return write


def write_fields(kind: int, fields: tuple[Any, ...] | list[Any], out: Out, depth: int) -> None:
    """Any other kind: its fields."""
    out += (array_head(len(fields) + 1), TAG[kind])
    out[0] += k.OBJECT_COST
    write_all(fields, out, depth)


def _dict(value: dict[Any, Any], out: Out, depth: int) -> None:
    size = len(value)
    if depth >= CODEC_DEPTH_MAX or len(out) + 2 * size > CODEC_VALUES_MAX:
        raise Refused
    out[0] += k.dict_cost(size) + 2 * k.NUMBER_COST * size
    if size >= k.PACKED_MIN and depth + 1 < CODEC_DEPTH_MAX and set(map(type, value)) == {str}:
        out += (b"\x93", TAG[k.COLUMNS])
        out[0] += k.OBJECT_COST + k.LIST_COST + 3 * k.ITEM_COST
        _list(list(value), out, depth + 1)
        _list(list(value.values()), out, depth + 1)
        return
    out.append(_DICT_HEADS[size] if size < 16 else _U32(0xDF, size))
    write_pairs(value, out, depth + 1)


def write_pairs(value: dict[Any, Any], out: Out, depth: int) -> None:
    """Keys and values in turn."""
    find, known = WRITERS.get, _keys.get
    for key, item in value.items():
        if type(key) is str:
            data = known(key)
            if data is None:
                _new_key(key, out)
            else:
                out.append(data)
        else:
            find(type(key), other)(key, out, depth)
        find(type(item), other)(item, out, depth)


def _new_key(key: str, out: Out) -> None:
    write_str(key, out, 0)
    if len(key) < 32 and key.isascii():
        if len(_keys) >= _KEYS_KEPT:
            _keys.clear()
        _keys[key] = out[-1]


# --- lists of one kind -----------------------------------------------------------------------------------------------


def _packed(value: Any, out: Out, depth: int) -> bool:
    """Write a long list (or tuple) of one kind of values as a packed field; False where it is none."""
    pack = _PACKERS.get(type(value[0]))
    if pack is None:
        return False
    types = set(map(type, value))
    if len(types) > 1 and not (pack is _pack_flags and types == {bool, type(None)}):
        return False
    return pack(value, out, depth)


def _pack_numbers(kind: int, numbers: array[Any], out: Out) -> bool:
    if sys.byteorder == "big":
        numbers.byteswap()
    out += (b"\x92", TAG[kind])
    write_bytes(numbers.tobytes(), out)
    # With what the field is charged for: 32 for a float and its place, 44 for an int.
    out[0] += k.LIST_COST + k.ITEM_COST + (24 if kind == k.FLOATS else 36) * len(numbers)
    return True


def _pack_floats(value: Any, out: Out, _depth: int) -> bool:
    return _pack_numbers(k.FLOATS, array("d", value), out)


def _pack_ints(value: Any, out: Out, _depth: int) -> bool:
    try:
        data = bytes(value)
    except ValueError:
        pass
    else:
        return _pack_bytes(k.BYTE_INTS, data, out)
    try:
        return _pack_numbers(k.INTS, array("q", value), out)
    except OverflowError:
        return False


def _pack_bytes(kind: int, data: bytes, out: Out) -> bool:
    out += (b"\x92", TAG[kind])
    write_bytes(data, out)
    out[0] += k.LIST_COST + k.ITEM_COST + 9 * len(data)
    return True


def _pack_flags(value: Any, out: Out, _depth: int) -> bool:
    return _pack_bytes(k.FLAGS, bytes(map({False: 0, True: 1, None: 2}.__getitem__, value)), out)


def _pack_strs(value: Any, out: Out, _depth: int) -> bool:
    count = len(value)
    if sum(map(len, value)) > k.STR_MEAN_MAX * count:
        return False
    text = "".join(value)
    out_of_ascii = not text.isascii()
    if out_of_ascii:
        try:
            parts = [one.encode() for one in value]
        except UnicodeEncodeError:
            return False
        data = b"".join(parts)
    else:
        parts = value
        data = text.encode()
    sizes = list(map(len, parts))
    wide = max(sizes) > 255
    out += (b"\x94", TAG[k.STRS], b"\x04" if wide else b"\x01")
    lengths = array("I", sizes) if wide else bytes(sizes)
    if wide and sys.byteorder == "big":
        lengths.byteswap()  # type: ignore[union-attr]
    write_bytes(bytes(lengths), out)
    write_bytes(data, out)
    each, factor = (k.WIDE_COST, k.WIDE_FACTOR) if out_of_ascii else (k.TEXT_COST, 1)
    out[0] += k.OBJECT_COST + (each + 18) * count + factor * len(data)
    return True


def _pack_dicts(value: Any, out: Out, depth: int) -> bool:
    keys = tuple(value[0])
    width = len(keys)
    if not 0 < width <= k.KEYS_MAX or depth + 2 >= CODEC_DEPTH_MAX or not all(map(keys.__eq__, map(tuple, value))):
        return False
    if set(map(type, chain.from_iterable(value))) != {str}:  # What equals a string may still be something else.
        return False
    out += (array_head(width + 2), TAG[k.ROWS])
    out[0] += k.dict_cost(width) * len(value)
    _pack_columns(list(keys), keys, value, out, depth)
    return True


def _pack_tuples(value: Any, out: Out, depth: int) -> bool:
    width = len(value[0])
    if not 0 < width <= k.ROW_WIDTH_MAX or depth + 2 >= CODEC_DEPTH_MAX or set(map(len, value)) != {width}:
        return False
    is_tuple = type(value[0]) is tuple
    out += (array_head(width + 2), TAG[k.ROWS])
    out[0] += (k.ROW_COST + k.CELL_COST * width) * len(value)
    _pack_columns(width if is_tuple else -width, range(width), value, out, depth)
    return True


def _pack_columns(shape: Any, keys: Any, rows: Any, out: Out, depth: int) -> None:
    out[0] += k.OBJECT_COST + 2 * k.CELL_COST * len(rows) + k.ITEM_COST * (len(keys) + 3)
    WRITERS[type(shape)](shape, out, depth + 1)
    for key in keys:
        _list(list(map(itemgetter(key), rows)), out, depth + 1)


_PACKERS: dict[type, Callable[[Any, Out, int], bool]] = {
    float: _pack_floats, int: _pack_ints, bool: _pack_flags, type(None): _pack_flags, str: _pack_strs,
    dict: _pack_dicts, tuple: _pack_tuples, list: _pack_tuples,
}  # fmt: skip


# --- all of it -------------------------------------------------------------------------------------------------------

found: dict[type, Writer] = {}
"""Writers of types that were met, beyond ``WRITERS``."""


def other(value: Any, out: Out, depth: int) -> None:
    """Everything that is not in ``WRITERS``."""
    kind = type(value)
    writer = found.get(kind)
    if writer is None:
        from fleet.protocol._encode_more import writer_of  # Here: it builds on this module.

        writer = writer_of(kind)
        if len(found) >= _KEYS_KEPT:
            found.clear()  # Classes made in a loop must not be kept forever.
        found[kind] = writer
    writer(value, out, depth)


WRITERS: dict[type, Writer] = {
    type(None): _none, bool: _bool, int: _int, float: _float, str: write_str, bytes: write_bytes,
    list: _list, tuple: _tuple, set: write_set(k.SET), frozenset: write_set(k.FROZENSET), dict: _dict,
}  # fmt: skip


def encode_parts(value: Any, prefix: bytes) -> bytes:
    """``value`` behind ``prefix``; Refused (or RecursionError) where it can't be encoded."""
    out: Out = [0, None]
    WRITERS.get(type(value), other)(value, out, 0)
    cost = out[0]
    out[0], out[1] = prefix, b""
    size = sum(map(len, out))
    room = k.GRACE_BYTES + k.EXPANSION * (size - len(prefix))
    if cost + k.SHORT_COST * len(out) > room:
        missing = cost + _cost_of_short_strs(out) - room
        if missing > 0:
            padding = b"\xc1" + bytes(missing // k.EXPANSION + 1)
            size += len(padding)
            out.append(padding)
    if size > PAYLOAD_BYTES_MAX:
        raise Refused
    return b"".join(out)


def _cost_of_short_strs(out: Out) -> int:
    heads = bytes(map(itemgetter(0), filter(None, out)))
    return sum(heads.count(0xA0 | size) * (k.TEXT_COST + size) for size in range(32))
