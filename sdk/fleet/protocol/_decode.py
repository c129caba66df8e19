"""Data to values: the half of the codec that reads bytes of a car. See ``codec`` and ``_kinds``.

Every length is compared with what is left of the data, and every value is charged, before anything is made of it.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from struct import Struct
from typing import Any

from fleet.protocol import _kinds as k
from fleet.protocol._exception_data import ExceptionData
from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import CODEC_DEPTH_MAX, CODEC_VALUES_MAX

Revive = Callable[[ExceptionData], Any]
Find = Callable[[int, str, str], "type | None"]
COLLISIONS_MAX = 1_000_000
"""Comparisons of keys with equal hashes: crafted numbers could otherwise keep a reader busy for hours."""
CHECKED_MIN = 64
_UNCHECKED = {str, bytes}
"""Their hashes are salted in every process: nobody can craft them."""


class UnknownClass(Exception):
    """Internal: a class that isn't known here; where it is named in the data."""

    def __init__(self, at: int, sentence: str) -> None:
        self.at = at
        self.sentence = sentence


class Decoder:
    """Reads one value. ``find`` knows the classes that may be made; ``records`` shows others instead of refusing."""

    __slots__ = ("at", "classes", "collisions", "data", "find", "keys", "left", "records", "revive", "size", "values")

    def __init__(self, data: bytes | memoryview, revive: Revive | None, find: Find | None, records: bool) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0
        self.values = 0
        self.left = k.GRACE_BYTES + k.EXPANSION * self.size
        self.collisions = COLLISIONS_MAX
        self.revive = revive
        self.find = find
        self.records = records
        self.classes: list[Any] = []
        self.keys: dict[bytes | memoryview, str] = {}

    def take(self, size: int) -> bytes | memoryview:
        """The next ``size`` bytes."""
        at = self.at
        end = at + size
        if end > self.size:
            raise ProtocolError("a value is cut short")
        self.at = end
        return self.data[at:end]

    def charge(self, cost: int) -> None:
        """Account for memory before it is used."""
        self.left -= cost
        if self.left < 0:
            raise ProtocolError(
                f"a value takes more memory than {k.EXPANSION} times its data and {k.GRACE_BYTES >> 20} MiB"
            )

    def number(self, size: int, signed: bool = False) -> int:
        """A big-endian int."""
        return int.from_bytes(self.take(size), "big", signed=signed)

    def value(self, depth: int) -> Any:
        """The next value."""
        head = self.take(1)[0]
        if head < 0x80:
            return head
        if head >= 0xE0:
            return head - 0x100
        if 0xA0 <= head < 0xC0:
            return self.short(head & 0x1F)
        if head < 0x90:
            return self.mapping(head & 0x0F, depth)
        if head < 0xA0:
            return self.sequence(head & 0x0F, depth)
        return self.long(head, depth)

    def short(self, size: int) -> str:
        """Text of less than 32 bytes."""
        text = str(self.take(size), "utf-8")
        self.charge(k.TEXT_COST + size if len(text) == size else k.WIDE_COST + k.WIDE_FACTOR * size)
        return text

    def key(self, depth: int) -> Any:
        """A key of a dict: the same short ones come again and again."""
        at = self.at
        if at < self.size and 0xA0 <= self.data[at] < 0xC0:
            data = self.data[at : at + 1 + (self.data[at] & 0x1F)]
            known = self.keys.get(data)
            if known is not None:
                self.at = at + len(data)
                return known
            known = self.value(depth)
            if len(self.keys) < 4096:
                self.keys[bytes(data)] = known
                self.charge(k.OBJECT_COST // 4)
            return known
        return self.value(depth)

    def long(self, head: int, depth: int) -> Any:
        """What has a head of its own."""
        if head <= 0xC3:
            if head == k.PAD:
                raise ProtocolError("a value of no known kind")
            return None if head == 0xC0 else head == 0xC3
        if head in _LENGTHS:
            what, size = _LENGTHS[head]
            length = self.number(size)
            if what == "bytes":
                self.charge(k.BYTES_COST + length)
                return bytes(self.take(length))
            if what == "str":
                return self.text(length)
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

    def text(self, size: int) -> str:
        """Text of any length. What is beyond ASCII is charged before it is read."""
        data = self.take(size)
        self.charge(k.TEXT_COST + size)
        try:
            return str(data, "ascii")
        except UnicodeDecodeError:
            self.charge(k.WIDE_COST - k.TEXT_COST + (k.WIDE_FACTOR - 1) * size)
            return str(data, "utf-8")

    def extension(self, size: int) -> Any:
        """An int beyond 64 bits, or text with surrogates."""
        code = self.take(1)[0]
        data = self.take(size)
        if code == k.EXT_INT:
            self.charge(k.BYTES_COST + 2 * size)
            return int.from_bytes(data, "big", signed=True)
        if code == k.EXT_STR:
            self.charge(k.WIDE_COST + k.WIDE_FACTOR * size)
            return str(data, "utf-8", "surrogatepass")
        raise ProtocolError("a value of no known kind")

    def room(self, count: int, depth: int) -> None:
        """Refuse what is too deep, too much, or longer than the data that is left (each element takes a byte)."""
        self.values += count
        if depth >= CODEC_DEPTH_MAX or self.values > CODEC_VALUES_MAX or count > self.size - self.at:
            raise ProtocolError("a value is too deep, too large or cut short")

    def sequence(self, count: int, depth: int) -> Any:
        """A list, or whatever its first element says."""
        self.room(count, depth)
        self.charge(k.LIST_COST + k.ITEM_COST * count)
        data, at = self.data, self.at
        if count and at + 3 <= self.size and data[at] == 0xD4 and data[at + 1] == k.EXT_KIND:
            self.at = at + 3
            return self.kind(data[at + 2], count - 1, depth + 1)
        value, depth = self.value, depth + 1
        return [value(depth) for _ in range(count)]

    def mapping(self, count: int, depth: int) -> dict[Any, Any]:
        """A dict, entry by entry."""
        self.room(2 * count, depth)
        self.charge(k.dict_cost(count) + 2 * k.NUMBER_COST * count)
        value, key, depth = self.value, self.key, depth + 1
        if count > CHECKED_MIN:
            return self.keyed([(key if n & 1 == 0 else value)(depth) for n in range(2 * count)])
        # Keys come before their values in the data, as they do in a dict display's evaluation.
        made = {key(depth): value(depth) for _ in range(count)}
        if len(made) != count:
            raise ProtocolError("a dict has a key twice")
        return made

    def keyed(self, flat: list[Any]) -> dict[Any, Any]:
        """A dict of keys and values in turn."""
        keys = flat[::2]
        if len(flat) & 1:
            raise ProtocolError("a dict has a key without a value")
        self.hashable(keys)
        made = dict(zip(keys, flat[1::2]))
        if len(made) != len(keys):
            raise ProtocolError("a dict has a key twice")
        return made

    def hashable(self, keys: list[Any]) -> None:
        """Refuse keys that were crafted to collide: putting them into a table would take quadratic time."""
        if len(keys) <= CHECKED_MIN or set(map(type, keys)) <= _UNCHECKED:
            return
        self.charge(2 * k.MEMBER_COST * len(keys))
        hashes = list(map(hash, keys))
        if len(set(hashes)) == len(keys):
            return
        self.collisions -= sum(count * count for count in Counter(hashes).values() if count > 1)
        if self.collisions < 0:
            raise ProtocolError("the keys of a dict or set were made to collide")

    def kind(self, kind: int, count: int, depth: int) -> Any:
        """A tagged value."""
        if kind == k.TUPLE:
            self.charge(8 * count)
            value = self.value
            return tuple([value(depth) for _ in range(count)])
        if kind == k.EXCEPTION:
            return self.exception(count, depth)
        if kind in (k.ENUM, k.INSTANCE):
            from fleet.protocol._rebuild import enum_member, instance  # Here: it builds on this module.

            self.charge(k.INSTANCE_COST + k.dict_cost(count - 1))
            return (enum_member if kind == k.ENUM else instance)(self, count, depth)
        if kind in (k.FLOATS, k.INTS, k.BYTE_INTS, k.FLAGS) and count == 1:
            return self.packed(kind)
        if kind == k.ROWS:
            return self.rows(count, depth)
        if kind in (k.SET, k.FROZENSET):
            self.charge(k.SET_COST + k.MEMBER_COST * count)
        else:
            self.charge(k.OBJECT_COST)
        value = self.value
        fields = [value(depth) for _ in range(count)]
        if kind in (k.SET, k.FROZENSET):
            self.hashable(fields)
            made = set(fields) if kind == k.SET else frozenset(fields)
            if len(made) != count:
                raise ProtocolError("a set has an element twice")
            return made
        if kind == k.PACKED_TUPLE:
            (found,) = fields
            self.charge(8 * len(found))
            return tuple(_checked(found, list))
        if kind == k.COLUMNS:
            keys, values = _checked(fields[0], list), _checked(fields[1], list)
            if len(fields) != 2 or len(keys) != len(values):
                raise ProtocolError("a dict has a key without a value")
            self.charge(k.dict_cost(len(keys)))
            self.hashable(keys)
            columns = dict(zip(keys, values))
            if len(columns) != len(keys):
                raise ProtocolError("a dict has a key twice")
            return columns
        from fleet.protocol._decode_more import make  # Here: it builds on this module.

        return make(self, kind, fields)

    def packed(self, kind: int) -> list[Any]:
        """A list that is one field."""
        head = self.take(1)[0]
        if head == 0xC4:
            size = self.number(1)
        elif head == 0xC6:
            size = self.number(4)
        else:
            raise ProtocolError("a packed list has no data")
        data = self.take(size)
        if kind in (k.FLOATS, k.INTS):
            self.charge((32 if kind == k.FLOATS else 44) * (size // 8))
            if sys.byteorder == "big":
                numbers = array("d" if kind == k.FLOATS else "q", bytes(data))
                numbers.byteswap()
                return numbers.tolist()
            return memoryview(data).cast("d" if kind == k.FLOATS else "q").tolist()
        self.charge(9 * size)
        return list(data) if kind == k.BYTE_INTS else list(map((False, True, None).__getitem__, data))

    def rows(self, count: int, depth: int) -> list[Any]:
        """A list of dicts, tuples or lists of one shape, written column by column."""
        shape = self.value(depth)
        is_dict = type(shape) is list
        width = len(shape) if is_dict else abs(_checked(shape, int))
        if count - 1 != width or not width:
            raise ProtocolError("a table's columns don't fit its shape")
        columns = [_checked(self.value(depth), list) for _ in range(width)]
        length = len(columns[0])
        if any(len(column) != length for column in columns):
            raise ProtocolError("a table's columns have different lengths")
        self.charge(k.OBJECT_COST + 2 * k.CELL_COST * length)
        if is_dict:
            if set(map(type, shape)) != {str} or len(set(shape)) != width:
                raise ProtocolError("a table's keys are malformed")
            self.charge(k.dict_cost(width) * length)
            return [dict(zip(shape, row)) for row in zip(*columns)]
        self.charge((k.ROW_COST + k.CELL_COST * width) * length)
        return list(zip(*columns)) if shape > 0 else [list(row) for row in zip(*columns)]

    def exception(self, count: int, depth: int) -> Any:
        """An ``ExceptionData``, or what ``revive`` makes of it."""
        # Cause, context and members stay data: the outermost one is revived as a whole. A class that isn't known here
        # must not hide what went wrong: it shows as a record.
        revive, self.revive = self.revive, None
        records, self.records = self.records, True
        self.charge(2 * k.OBJECT_COST)
        found = ExceptionData.of_fields([self.value(depth) for _ in range(count)])
        self.revive, self.records = revive, records
        return revive(found) if revive is not None else found


_LENGTHS = {
    0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4),
    0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4),
    0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("dict", 2), 0xDF: ("dict", 4),
}  # fmt: skip
_READ_F64, _READ_F32 = Struct(">d").unpack, Struct(">f").unpack


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ProtocolError("a packed value is malformed")
    return value


def strings(decoder: Decoder, fields: list[Any]) -> list[str]:
    """A packed list of strings: their sizes and all their bytes."""
    width, lengths, data = fields
    if type(lengths) is not bytes or type(data) is not bytes or type(width) is not int or width not in (1, 4):
        raise ProtocolError("a packed list of strings is malformed")
    if len(lengths) % width:
        raise ProtocolError("a packed list of strings is cut short")
    count = len(lengths) // width
    is_ascii = data.isascii()
    each, factor = (k.TEXT_COST, 1) if is_ascii else (k.WIDE_COST, k.WIDE_FACTOR)
    decoder.charge((each + 18) * count + factor * len(data))
    if width == 4:
        sizes = array("I", lengths)
        if sys.byteorder == "big":
            sizes.byteswap()
        ends = accumulate(sizes)
    else:
        ends = accumulate(lengths)
    made = []
    at = 0
    encoding = "ascii" if is_ascii else "utf-8"
    for end in ends:
        made.append(str(data[at:end], encoding))
        at = end
    if at != len(data):
        raise ProtocolError("a packed list of strings is cut short")
    return made
