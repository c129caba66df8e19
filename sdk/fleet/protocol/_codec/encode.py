"""Values to data: the hot half of the codec, which runs in the guest. See ``codec`` and ``kinds``.

A writer appends pieces to ``out``. ``out[0]`` is no piece but the memory that reading will take so far, and ``out[1]``
the classes that were named (both are replaced at the end): attributes of an object of our own would cost twice as much.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import countOf, itemgetter
from struct import Struct
from typing import Any

from fleet.protocol._codec import kinds as k
from fleet.protocol.errors import ResultNotPortable
from fleet.protocol.limits import CODEC_DEPTH_MAX, CODEC_VALUES_MAX, PAYLOAD_BYTES_MAX

Out = list[Any]
Writer = Callable[[Any, Out, int], None]


class Refused(Exception):
    """Internal: the value can't be encoded; ``explain`` finds out where, and why if ``reason`` doesn't say."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason


class TooLarge(Refused):
    """Internal: the value as a whole is too large; looking for the place would take as long again."""


def check_room(count: int, out: Out, depth: int) -> None:
    """Refused where so many more values, at ``depth``, are too many or too deep."""
    if depth >= CODEC_DEPTH_MAX:
        raise Refused(f"nested more than {CODEC_DEPTH_MAX} deep")
    if len(out) + count > CODEC_VALUES_MAX:
        raise TooLarge


TAG = {kind: bytes((0xD4, k.EXT_KIND, kind)) for kind in k.KINDS}
_SMALL = [bytes((n,)) for n in range(128)] + [bytes((0x100 + n,)) for n in range(-32, 0)]
_STR_HEADS = [bytes((0xA0 | n,)) for n in range(32)]
_ARRAY_HEADS = [bytes((0x90 | n,)) for n in range(16)]
_DICT_HEADS = [bytes((0x80 | n,)) for n in range(16)]
_U8, _U16, _U32 = Struct(">BB").pack, Struct(">BH").pack, Struct(">BI").pack
_I32, _I64, _U64, _F64 = Struct(">Bi").pack, Struct(">Bq").pack, Struct(">BQ").pack, Struct(">Bd").pack
_DICT_COSTS = k.DICT_COSTS
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


def write_bytes(value: bytes | bytearray, out: Out, _depth: int = 0) -> None:
    """Also a packed field, whose cost its own writer charges."""
    size = len(value)
    out[0] += k.BYTES_COST + size
    out += (_U8(0xC4, size) if size < 0x100 else _U32(0xC6, size), value)


def array_head(size: int) -> bytes:
    """The head of an array."""
    if size < 16:
        return _ARRAY_HEADS[size]
    return _U16(0xDC, size) if size < 0x10000 else _U32(0xDD, size)


def open_array(count: int, out: Out, depth: int) -> None:
    """The head of an array at ``depth``, charged as the reader will."""
    if depth >= CODEC_DEPTH_MAX or len(out) + count > CODEC_VALUES_MAX:
        check_room(count, out, depth)
    out.append(array_head(count))
    out[0] += k.LIST_COST + k.ITEM_COST * count


def open_tagged(kind: int, count: int, cost: int, out: Out, depth: int) -> None:
    """The head of a tagged array of so many fields, and what the reader charges for that kind."""
    open_array(count + 1, out, depth)
    out.append(TAG[kind])
    out[0] += cost


def write_all(values: Any, out: Out, depth: int) -> None:
    """Elements, each at ``depth``."""
    find, append = WRITERS.get, out.append
    for value in values:
        kind = type(value)
        if kind is str and len(value) < 32 and value.isascii():  # Half of all calls of writers, spared.
            append(_STR_HEADS[len(value)] + value.encode())
        elif kind is int and -32 <= value < 128:
            append(_SMALL[value])
        else:
            find(kind, other)(value, out, depth)


def write_list(value: list[Any], out: Out, depth: int) -> None:
    """A list, packed where it can be."""
    if len(value) >= k.PACKED_MIN and depth < CODEC_DEPTH_MAX and _packed(value, out, depth):
        return
    open_array(len(value), out, depth)
    write_all(value, out, depth + 1)


def _collection(kind: int, packed_kind: int, cost: Callable[[int], int]) -> Writer:
    """Writer of tuples and sets."""

    def write(value: Any, out: Out, depth: int) -> None:
        size = len(value)
        if size >= k.PACKED_MIN and depth + 1 < CODEC_DEPTH_MAX:
            at, before = len(out), out[0]
            open_tagged(packed_kind, 1, k.OBJECT_COST + cost(size), out, depth)
            if _packed(value if kind == k.TUPLE else list(value), out, depth + 1):
                return
            del out[at:]
            out[0] = before
        open_tagged(kind, size, cost(size), out, depth)
        write_all(value, out, depth + 1)

    return write


def write_fields(kind: int, fields: tuple[Any, ...] | list[Any], out: Out, depth: int, cost: int = 0) -> None:
    """Any other kind: its fields, and what it costs beyond them."""
    open_tagged(kind, len(fields), k.OBJECT_COST + cost, out, depth)
    write_all(fields, out, depth + 1)


def _dict(value: dict[Any, Any], out: Out, depth: int) -> None:
    size = len(value)
    if depth >= CODEC_DEPTH_MAX or len(out) + 2 * size > CODEC_VALUES_MAX:
        check_room(2 * size, out, depth)
    out[0] += _DICT_COSTS[size] if size < k.SMALL_DICT else k.dict_cost(size)
    if size >= k.PACKED_MIN and depth + 1 < CODEC_DEPTH_MAX and countOf(map(type, value), str) == size:
        open_tagged(k.COLUMNS, 2, k.OBJECT_COST, out, depth)
        write_list(list(value), out, depth + 1)
        write_list(list(value.values()), out, depth + 1)
        return
    out[0] += k.NUMBER_COST * size + (k.HASH_COST * size if size > k.CHECKED_MIN else 0)
    out.append(_DICT_HEADS[size] if size < 16 else _U32(0xDF, size))
    write_pairs(value, out, depth + 1)


def write_pairs(value: dict[Any, Any], out: Out, depth: int) -> None:
    """Keys and values in turn."""
    find, known, append = WRITERS.get, _keys.get, out.append
    for key, item in value.items():
        if type(key) is str:
            data = known(key)
            if data is None:
                _new_key(key, out)
            else:
                append(data)
        else:
            out[0] += k.NUMBER_COST
            find(type(key), other)(key, out, depth)
        kind = type(item)
        if kind is str and len(item) < 32 and item.isascii():
            append(_STR_HEADS[len(item)] + item.encode())
        elif kind is int and -32 <= item < 128:
            append(_SMALL[item])
        else:
            find(kind, other)(item, out, depth)


def _new_key(key: str, out: Out) -> None:
    write_str(key, out, 0)
    if len(key) < 32 and key.isascii():
        if len(_keys) >= _KEYS_KEPT:
            _keys.clear()
        _keys[key] = out[-1]


# --- lists of one kind -----------------------------------------------------------------------------------------------


def _packed(value: Any, out: Out, depth: int) -> bool:
    """Write a long list (or tuple) of one kind of values as a packed field; False where it is none."""
    kind = type(value[0])
    pack = PACKERS.get(kind) or row_writers.get(kind)
    if pack is None:
        return False
    # Floats are checked while they are packed, and flags are of two types.
    fits = kind in (float, bool, type(None)) or countOf(map(type, value), kind) == len(value)
    return fits and pack(value, out, depth)


PACKERS: dict[type, Callable[[Any, Out, int], bool]] = {}
"""By the type of the elements (see ``encode_packed``). Each may still find that they don't fit, before it writes."""


# --- all of it -------------------------------------------------------------------------------------------------------

found: dict[type, Writer] = {}
"""Writers of types that were met, beyond ``WRITERS``."""
row_writers: dict[type, Callable[[Any, Out, int], bool]] = {}
"""Those of lists of instances, for the classes among them."""


def other(value: Any, out: Out, depth: int) -> None:
    """Everything that is not in ``WRITERS``."""
    kind = type(value)
    writer = found.get(kind)
    if writer is None:
        from fleet.protocol._codec.encode_more import writer_of  # Here: it builds on this module.

        writer = writer_of(kind)
        if len(found) >= _KEYS_KEPT:
            row_writers.clear()
            found.clear()  # Classes made in a loop must not be kept forever.
        found[kind] = writer
    writer(value, out, depth)


WRITERS: dict[type, Writer] = {
    type(None): _none, bool: _bool, int: _int, float: _float, str: write_str, bytes: write_bytes,
    list: write_list, dict: _dict,
    tuple: _collection(k.TUPLE, k.PACKED_TUPLE, lambda size: 8 * size),
    set: _collection(k.SET, k.PACKED_SET, k.set_cost),
    frozenset: _collection(k.FROZENSET, k.PACKED_FROZENSET, k.set_cost),
}  # fmt: skip


def encode(value: Any, name: str = "result", prefix: bytes = b"") -> bytes:
    """``value`` as data, behind ``prefix``. ResultNotPortable says which part of ``name`` can't travel, and why."""
    out: Out = [0, None]
    try:
        WRITERS.get(type(value), other)(value, out, 0)
        # Whatever is larger than a number is charged for at least its size: below this, nothing else can be too large.
        if out[0] + k.SHORT_COST * len(out) > k.GRACE_BYTES:
            _pad(out)
    except TooLarge:
        most = f"{PAYLOAD_BYTES_MAX >> 20} MiB or {CODEC_VALUES_MAX:,} values"
        raise ResultNotPortable(f"{name} takes more than {most}") from None
    except (Refused, RecursionError) as error:
        from fleet.protocol._codec.not_portable import explain  # Here: it builds on this module.

        raise ResultNotPortable(explain(value, name, getattr(error, "reason", ""))) from None
    out[0], out[1] = prefix, b""
    return b"".join(out)


def _pad(out: Out) -> None:
    """Make up for what takes more memory than is granted for its size; Refused if it is too large altogether."""
    size = sum(map(len, out[2:]))
    missing = out[0] + _cost_of_short_strs(out) - k.GRACE_BYTES - k.EXPANSION * size
    if missing > 0:
        padding = b"\xc1" + bytes(missing // k.EXPANSION + 1)
        size += len(padding)
        out.append(padding)
    if size > PAYLOAD_BYTES_MAX:
        raise TooLarge


def _cost_of_short_strs(out: Out) -> int:
    heads = bytes(map(itemgetter(0), filter(None, out[2:])))
    return sum(heads.count(0xA0 | size) * (k.TEXT_COST + size) for size in range(32))
