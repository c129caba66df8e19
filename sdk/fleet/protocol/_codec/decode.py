"""Data to values: the half of the codec that reads bytes of a car. See ``codec`` and ``kinds``.

Every length is compared with what is left of the data, and every value is charged, before anything is made of it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from itertools import accumulate, groupby, islice
from operator import countOf, eq
from struct import Struct
from typing import Any

from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.exception_data import ExceptionData
from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import CODEC_DEPTH_MAX, CODEC_VALUES_MAX, KIB

Revive = Callable[[ExceptionData], Any]
Find = Callable[[int, str, str], "type | None"]
COLLISIONS_MAX = 1_000_000
"""Comparisons of keys with equal hashes: crafted numbers could otherwise keep a reader busy for hours."""
_KEYS_MAX = 1024
_VIEW_MIN = 16 * KIB
_DICT_COSTS = k.DICT_COSTS
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
        self.keys: dict[bytes, str] = {}

    def take(self, size: int) -> bytes | memoryview:
        """The next ``size`` bytes."""
        at = self.at
        end = at + size
        if end > self.size:
            raise ProtocolError("a value is cut short")
        self.at = end
        # Slices of bytes are quicker, those of a view take no memory.
        return self.data[at:end] if size < _VIEW_MIN else memoryview(self.data)[at:end]

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
        at = self.at
        if at >= self.size:
            raise ProtocolError("a value is cut short")
        self.at = at + 1
        head = self.data[at]
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
        at = self.at
        self.at = end = at + size
        if end > self.size:
            raise ProtocolError("a value is cut short")
        text = str(self.data[at:end], "utf-8")
        self.left -= k.TEXT_COST + size if len(text) == size else k.WIDE_COST + k.WIDE_FACTOR * size
        if self.left < 0:
            self.charge(0)
        return text

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

    def room(self, count: int, depth: int, cost: int) -> None:
        """Refuse what is too deep, too much, or longer than the data that is left (each element takes a byte)."""
        self.values += count
        if depth >= CODEC_DEPTH_MAX or self.values > CODEC_VALUES_MAX or count > self.size - self.at:
            raise ProtocolError("a value is too deep, too large or cut short")
        self.left -= cost
        if self.left < 0:
            self.charge(0)

    def sequence(self, count: int, depth: int) -> Any:
        """A list, or whatever its first element says."""
        self.room(count, depth, k.LIST_COST + k.ITEM_COST * count)
        data, at = self.data, self.at
        if count and at + 3 <= self.size and data[at] == 0xD4 and data[at + 1] == k.EXT_KIND:
            self.at = at + 3
            return self.kind(data[at + 2], count - 1, depth + 1)
        value, depth = self.value, depth + 1
        return [value(depth) for _ in range(count)]

    def mapping(self, count: int, depth: int) -> dict[Any, Any]:
        """A dict, entry by entry. The same short keys come again and again in data, and are made once."""
        self.room(
            2 * count,
            depth,
            (_DICT_COSTS[count] if count < k.SMALL_DICT else k.dict_cost(count)) + k.NUMBER_COST * count,
        )
        data, value, known, depth = self.data, self.value, self.keys.get, depth + 1
        is_bytes = type(data) is bytes
        keys, items = [], []
        for _ in range(count):
            at = self.at
            head = data[at]
            if 0xA0 <= head < 0xC0:
                self.at = end = at + head - 0x9F
                raw = data[at:end]
                key = known(raw if is_bytes else bytes(raw))  # type: ignore[arg-type]
                keys.append(self.new_key(at, end) if key is None else key)
            else:
                self.left -= k.NUMBER_COST
                if self.left < 0:
                    self.charge(0)
                keys.append(value(depth))
            items.append(value(depth))
        return self.dict_of(keys, items)

    def new_key(self, at: int, end: int) -> str:
        """A short key that wasn't met yet."""
        self.at = at + 1
        key = self.short(end - at - 1)
        if len(self.keys) < _KEYS_MAX:
            self.keys[bytes(self.data[at:end])] = key
        return key

    def dict_of(self, keys: list[Any], items: list[Any]) -> dict[Any, Any]:
        """A dict; refuses a key that comes twice."""
        if len(keys) > k.CHECKED_MIN:
            self.hashable(keys)
        made = dict(zip(keys, items))
        if len(made) != len(keys):
            raise ProtocolError("a dict has a key twice")
        return made

    def hashable(self, keys: list[Any]) -> None:
        """Refuse keys that were crafted to collide: putting them into a table would take quadratic time."""
        if len(keys) <= k.CHECKED_MIN or set(map(type, keys)) <= _UNCHECKED:
            return
        hashes = sorted(map(hash, keys))
        if countOf(map(eq, hashes, islice(hashes, 1, None)), True):
            self.collisions -= sum(count * count for _, same in groupby(hashes) if (count := len(list(same))) > 1)
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
        if kind in (k.ENUM, k.INSTANCE, k.INSTANCE_ROWS):
            from fleet.protocol._codec import rebuild as _rebuild  # Here: it builds on this module.

            self.charge(k.INSTANCE_COST + k.dict_cost(count - 1))
            made = {k.ENUM: _rebuild.enum_member, k.INSTANCE: _rebuild.instance, k.INSTANCE_ROWS: _rebuild.instances}
            return made[kind](self, count, depth)
        if kind in (k.FLOATS, k.INTS, k.BYTE_INTS, k.FLAGS) and count == 1:
            return self.packed(kind)
        if kind == k.ROWS:
            return self.rows(count, depth)
        self.charge(k.set_cost(count) if kind in (k.SET, k.FROZENSET) else k.OBJECT_COST)
        value = self.value
        if kind == k.NDARRAY and count == 3:
            fields = [value(depth), value(depth), self.blob()]
        else:
            fields = [value(depth) for _ in range(count)]
        if kind in (k.SET, k.FROZENSET):
            return self.set_of(fields, set if kind == k.SET else frozenset)
        if kind in (k.PACKED_TUPLE, k.PACKED_SET, k.PACKED_FROZENSET):
            (found,) = fields
            size = len(_checked(found, list))
            self.charge(8 * size if kind == k.PACKED_TUPLE else k.set_cost(size))
            return (
                tuple(found)
                if kind == k.PACKED_TUPLE
                else self.set_of(found, set if kind == k.PACKED_SET else frozenset)
            )
        if kind == k.COLUMNS:
            keys, values = fields
            if len(_checked(keys, list)) != len(_checked(values, list)):
                raise ProtocolError("a dict has a key without a value")
            self.charge(k.dict_cost(len(keys)))
            return self.dict_of(keys, values)
        from fleet.protocol._codec.decode_more import make  # Here: it builds on this module.

        return make(self, kind, fields)

    def set_of(self, members: list[Any], kind: Any) -> Any:
        """A set; refuses a member that comes twice."""
        self.hashable(members)
        made = kind(members)
        if len(made) != len(members):
            raise ProtocolError("a set has an element twice")
        return made

    def blob(self) -> bytes | memoryview:
        """Bytes that are turned into something else at once: not copied here."""
        head = self.take(1)[0]
        if head == 0xC4:
            return self.take(self.number(1))
        if head == 0xC6:
            return self.take(self.number(4))
        raise ProtocolError("a packed value has no data")

    def packed(self, kind: int) -> list[Any]:
        """A list that is one field."""
        data = self.blob()
        size = len(data)
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
        columns, length = self.columns(width, depth)
        self.charge(k.OBJECT_COST + 2 * k.CELL_COST * length)
        if is_dict:
            if set(map(type, shape)) != {str} or len(set(shape)) != width:
                raise ProtocolError("a table's keys are malformed")
            self.charge(k.dict_cost(width) * length)
            return [dict(zip(shape, row)) for row in zip(*columns)]
        self.charge((k.ROW_COST + k.CELL_COST * width) * length)
        return list(zip(*columns)) if shape > 0 else [list(row) for row in zip(*columns)]

    def columns(self, width: int, depth: int) -> tuple[list[list[Any]], int]:
        """The columns of a table, and their length."""
        columns = [_checked(self.value(depth), list) for _ in range(width)]
        length = len(columns[0])
        if any(len(column) != length for column in columns):
            raise ProtocolError("a table's columns have different lengths")
        return columns, length

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
    """A packed list of strings: their lengths, and all of them as one text."""
    width, lengths, data = fields
    if type(lengths) is not bytes or type(data) is not bytes or width not in (1, 4) or len(lengths) % width:
        raise ProtocolError("a packed list of strings is malformed")
    each, factor = (k.TEXT_COST, 2) if data.isascii() else (k.WIDE_COST, k.STRS_FACTOR)
    decoder.charge((each + 18) * (len(lengths) // width) + factor * len(data))
    sizes: Any = lengths
    if width == 4:
        sizes = array("I", lengths)
        if sys.byteorder == "big":
            sizes.byteswap()
    text = str(data, "utf-8")
    made = []
    at = 0
    for end in accumulate(sizes):
        made.append(text[at:end])
        at = end
    if at != len(text):
        raise ProtocolError("a packed list of strings is malformed")
    return made
