"""Values to data: long lists of one kind, packed: far quicker than one by one, and smaller. See ``encode``.

A packer returns False, before it has written anything, where the elements don't fit after all.
"""

from __future__ import annotations

import marshal
import sys
from array import array
from itertools import chain
from operator import countOf, itemgetter
from struct import Struct
from typing import Any

from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.encode import PACKERS, WRITERS, Out, open_tagged, write_bytes, write_list
from fleet.protocol.limits import CODEC_DEPTH_MAX


def _pack_data(kind: int, data: bytes | bytearray, cost: int, out: Out, depth: int) -> bool:
    """One field of bytes, and what it costs to make a list of it, beyond the size of the field."""
    open_tagged(kind, 1, cost, out, depth)
    write_bytes(data, out)
    return True


def _pack_floats(value: Any, out: Out, depth: int) -> bool:
    """Twice as fast as looking at every type and an array: marshal writes ``g`` and eight bytes for exactly a float."""
    size = len(value)
    try:
        # A list, or a tuple: either has a head of five bytes. Version 4 writes shared parts once.
        data = bytearray(marshal.dumps(value, 4))
    except ValueError:  # Something in it that is no data.
        return False
    tags = data[5::9]
    if len(data) != 5 + 9 * size or tags.count(b"g") + tags.count(b"\xe7") != size:
        # Floats that are met twice are references there.
        if countOf(map(type, value), float) != size:
            return False
        data = bytearray(Struct(f"<{size}d").pack(*value))
    else:
        del data[5::9]
        del data[:5]
    # 24 and a place for each are four times the data: lists of floats are never padded.
    return _pack_data(k.FLOATS, data, 24 * size, out, depth)


def _pack_ints(value: Any, out: Out, depth: int) -> bool:
    try:
        data = bytes(value)
    except ValueError:
        pass
    else:
        return _pack_data(k.BYTE_INTS, data, 9 * len(data), out, depth)
    try:
        numbers = array("q", value)
    except OverflowError:
        return False
    if sys.byteorder == "big":
        numbers.byteswap()
    return _pack_data(k.INTS, numbers.tobytes(), 36 * len(numbers), out, depth)


def _pack_flags(value: Any, out: Out, depth: int) -> bool:
    if not set(map(type, value)) <= {bool, type(None)}:
        return False
    return _pack_data(k.FLAGS, bytes(map({False: 0, True: 1, None: 2}.__getitem__, value)), 9 * len(value), out, depth)


def _pack_strs(value: Any, out: Out, depth: int) -> bool:
    sizes = list(map(len, value))
    count = len(sizes)
    if sum(sizes) > k.STR_MEAN_MAX * count:
        return False
    text = "".join(value)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return False
    try:
        width, lengths = b"\x01", bytes(sizes)
    except ValueError:
        numbers = array("I", sizes)
        if sys.byteorder == "big":
            numbers.byteswap()
        width, lengths = b"\x04", numbers.tobytes()
    each, factor = (k.TEXT_COST, 2) if text.isascii() else (k.WIDE_COST, k.STRS_FACTOR)
    open_tagged(k.STRS, 3, k.OBJECT_COST + (each + 18) * count + factor * len(data), out, depth)
    out.append(width)
    write_bytes(lengths, out)
    write_bytes(data, out)
    return True


def _pack_dicts(value: Any, out: Out, depth: int) -> bool:
    keys = tuple(value[0])
    width = len(keys)
    if not 0 < width <= k.KEYS_MAX or depth + 2 >= CODEC_DEPTH_MAX or not all(map(keys.__eq__, map(tuple, value))):
        return False
    # What equals a string may still be something else.
    if countOf(map(type, chain.from_iterable(value)), str) != width * len(value):
        return False
    _pack_columns(k.dict_cost(width), list(keys), keys, value, out, depth)
    return True


def _pack_tuples(value: Any, out: Out, depth: int) -> bool:
    width = len(value[0])
    if (
        not 0 < width <= k.ROW_WIDTH_MAX
        or depth + 2 >= CODEC_DEPTH_MAX
        or countOf(map(len, value), width) != len(value)
    ):
        return False
    is_tuple = type(value[0]) is tuple
    _pack_columns(k.ROW_COST + k.CELL_COST * width, width if is_tuple else -width, range(width), value, out, depth)
    return True


def _pack_columns(row_cost: int, shape: Any, keys: Any, rows: Any, out: Out, depth: int) -> None:
    open_tagged(k.ROWS, len(keys) + 1, k.OBJECT_COST + (row_cost + 2 * k.CELL_COST) * len(rows), out, depth)
    WRITERS[type(shape)](shape, out, depth + 1)
    for key in keys:
        write_list(list(map(itemgetter(key), rows)), out, depth + 1)


def install() -> None:
    """Let lists be packed from now on."""
    PACKERS.update(
        {
            float: _pack_floats,
            int: _pack_ints,
            bool: _pack_flags,
            type(None): _pack_flags,
            str: _pack_strs,
            dict: _pack_dicts,
            tuple: _pack_tuples,
            list: _pack_tuples,
        }
    )
