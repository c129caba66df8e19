"""Results that a hostile car may send: no code runs, nothing is imported, memory and time are bounded, errors are typed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from fleet._results import Failure, decode_item, revive
from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.decode import Decoder
from fleet.protocol.codec import ExceptionData, decode, encode, encode_exception
from fleet.protocol.errors import FleetError, ProtocolError, ResultNotPortable
from fleet.protocol.limits import MIB
from tests.unit import codec_corpus as corpus
from tests.unit.codec_corpus import CLASSES, Colour, Flags, Item, Pair, Point

ROOT = Path(__file__).parents[2]
MUTANTS = 100_000
TYPED = (ProtocolError, ResultNotPortable)


def array(*items: bytes) -> bytes:
    return b"\xdd" + pack(">I", len(items)) + b"".join(items)


def tag(kind: int, *fields: bytes) -> bytes:
    return array(bytes((0xD4, k.EXT_KIND, kind)), *fields)


def named(sort: int, kind: type | str, fields: int, *names: str, module: str = corpus.__name__) -> bytes:
    label = kind if isinstance(kind, str) else kind.__qualname__
    return b"\xdc" + pack(">H", 5 + len(names)) + bytes((0xD4, 3, k.CLASS)) + b"".join(
        encode(one) for one in (sort, module, label, fields, *names)
    )  # fmt: skip


def instance(sort: int, kind: type | str, values: dict[str, Any], module: str = corpus.__name__) -> bytes:
    # At most 15 fields: an array of that size has the head that the reader of classes knows.
    parts = [named(sort, kind, len(values), *values, module=module), *(encode(one) for one in values.values())]
    return tag(k.INSTANCE, *parts)


# --- what isn't what it says -----------------------------------------------------------------------------------------

e = encode
PICKLE = b"\x80\x04\x95\x1f" + bytes(7) + b"\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04echo\x94\x85\x94R\x94."
MALFORMED = {
    "a pickle": PICKLE,
    "an old pickle": b"cos\nsystem\n(S'echo'\ntR.",
    "marshalled code": b"\xe3\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00",
    "no kind": tag(0),
    "unknown kind": tag(99, e(1)),
    "a class alone": named(1, Point, 0),
    "kind 255": tag(255),
    "a tuple of nothing packed": tag(k.PACKED_TUPLE),
    "a packed tuple of a str": tag(k.PACKED_TUPLE, e("ab")),
    "a packed tuple of two": tag(k.PACKED_TUPLE, e([1]), e([2])),
    "a packed set of a dict": tag(k.PACKED_SET, e({1: 2})),
    "odd floats": tag(k.FLOATS, e(b"abc")),
    "floats of text": tag(k.FLOATS, e("abcdefgh")),
    "flags of 3": tag(k.FLAGS, e(b"\x03")),
    "floats of a list": tag(k.FLOATS, e([1])),
    "two floats": tag(k.FLOATS, e(b""), e(b"")),
    "ints of 7": tag(k.INTS, e(b"1234567")),
    "strs too short": tag(k.STRS, e(1), e(b"\x05"), e(b"abc")),
    "strs too long": tag(k.STRS, e(1), e(b"\x01"), e(b"abc")),
    "strs of width 2": tag(k.STRS, e(2), e(b"\x01\x00"), e(b"a")),
    "strs of width True": tag(k.STRS, e("1"), e(b"\x01"), e(b"a")),
    "strs cut in a letter": tag(k.STRS, e(1), e(b"\x01"), e(b"\xc3")),
    "strs of text": tag(k.STRS, e(1), e("a"), e(b"a")),
    "a table without columns": tag(k.ROWS, e([])),
    "a table of no shape": tag(k.ROWS, e(None), e([1])),
    "width 0": tag(k.ROWS, e(0)),
    "uneven columns": tag(k.ROWS, e(["a", "b"]), e([1]), e([1, 2])),
    "equal keys": tag(k.ROWS, e(["a", "a"]), e([1]), e([1])),
    "keys of ints": tag(k.ROWS, e([1]), e([1])),
    "columns of text": tag(k.ROWS, e(1), e("ab")),
    "huge width": tag(k.ROWS, e(2**62)),
    "keys without values": tag(k.COLUMNS, e(["a"]), e([])),
    "keys of lists": tag(k.COLUMNS, e([[1]]), e([1])),
    "one column": tag(k.COLUMNS, e(["a"])),
    "a key twice": b"\x82\x01\x02\x01\x03",
    "a member twice": tag(k.SET, e(1), e(1)),
    "a key twice in columns": tag(k.COLUMNS, e(["a", "a"]), e([1, 2])),
    "unhashable key": b"\x81\x90\x01",
    "unhashable member": tag(k.SET, e([])),
    "a counter of odd parts": tag(k.COUNTER, e(1)),
    "complex of text": tag(k.COMPLEX, e("1"), e("j")),
    "complex of one": tag(k.COMPLEX, e(1.0)),
    "bytearray of int": tag(k.BYTEARRAY, e(2**40)),
    "memoryview of P": tag(k.MEMORYVIEW, e("P"), e(None), e(b"12345678")),
    "memoryview of 2**60": tag(k.MEMORYVIEW, e("B"), e((2**60, 0)), e(b"")),
    "memoryview shape -1": tag(k.MEMORYVIEW, e("B"), e((-1,)), e(b"a")),
    "deque too long": tag(k.DEQUE, e(1), e(1), e(2)),
    "deque of -1": tag(k.DEQUE, e(-1)),
    "deque of 2**70": tag(k.DEQUE, e(2**70)),
    "factory os.system": tag(k.DEFAULTDICT, e("os.system")),
    "factory eval": tag(k.DEFAULTDICT, e("eval")),
    "factory 1": tag(k.DEFAULTDICT, e(1)),
    "range of text": tag(k.RANGE, e("a"), e("b"), e("c")),
    "range by 0": tag(k.RANGE, e(0), e(1), e(0)),
    "slice of two": tag(k.SLICE, e(1), e(2)),
    "decimal of words": tag(k.DECIMAL, e("one")),
    "decimal of int": tag(k.DECIMAL, e(1)),
    "decimal 1_0": tag(k.DECIMAL, e("1_0")),
    "decimal too large": tag(k.DECIMAL, e("1e9999999999999999999999")),
    "fraction by 0": tag(k.FRACTION, e(1), e(0)),
    "fraction of text": tag(k.FRACTION, e("1"), e("2")),
    "fraction too large": tag(k.FRACTION, e(1), e(1 << 20_000)),
    "uuid of 3 bytes": tag(k.UUID, e(b"abc")),
    "uuid of text": tag(k.UUID, e("0" * 32)),
    "path 9": tag(k.PATH, e(9), e("a")),
    "path of bytes": tag(k.PATH, e(0), e(b"a")),
    "path -1": tag(k.PATH, e("x"), e("a")),
    "address of int": tag(k.ADDRESS, e(0), e(1)),
    "address of text": tag(k.ADDRESS, e(0), e("nowhere")),
    "array of O": tag(k.ARRAY, e("O"), e(8), e(b"")),
    "array of 3": tag(k.ARRAY, e("d"), e(3), e(b"")),
    "array cut": tag(k.ARRAY, e("d"), e(8), e(b"abc")),
    "array u of bytes": tag(k.ARRAY, e("u"), e(0), e(b"a")),
    "namespace of ints": tag(k.NAMESPACE, e(1), e(2)),
    "constant 2": tag(k.CONSTANT, e(2)),
    "constant of text": tag(k.CONSTANT, e("x")),
    "date 0": tag(k.DATE, e(0), e(0), e(0)),
    "date of text": tag(k.DATE, e("2"), e(1), e(1)),
    "zone of text": tag(k.DATETIME, *map(e, (2026, 1, 1, 0, 0, 0, 0, 0, "x"))),
    "timedelta huge": tag(k.TIMEDELTA, e(2**70), e(0), e(0)),
    "timedelta of floats": tag(k.TIMEDELTA, e(1e300), e(0), e(0)),
    "offset of a week": tag(k.TIMEZONE, tag(k.TIMEDELTA, e(7), e(0), e(0)), e(None)),
    "zone up": tag(k.ZONEINFO, e("../../etc/passwd")),
    "zone /dev": tag(k.ZONEINFO, e("/dev/zero")),
    "zone of a module": tag(k.ZONEINFO, e("..os")),
    "zone with NUL": tag(k.ZONEINFO, e("Europe/Oslo\0")),
    "dtype of objects": tag(k.NDARRAY, e("|O"), e((1,)), e(b"12345678")),
    "dtype of code": tag(k.NDARRAY, e("__import__('os')"), e((1,)), e(b"1")),
    "shape too large": tag(k.NDARRAY, e("<f8"), e((2**40,)), e(b"12345678")),
    "shape of -1": tag(k.NDARRAY, e("<f8"), e((-5,)), e(b"12345678")),
    "shape of text": tag(k.NDARRAY, e("<f8"), e("a"), e(b"12345678")),
    "strings of no size": tag(k.NDARRAY, e("<U0"), e((10**12,)), e(b"")),
    "empty but large": tag(k.NDARRAY, e("<f8"), e((2**40,)), e(b"")),
    "scalar of two": tag(k.NUMPY_SCALAR, e("<f8"), e(bytes(16))),
    "an exception of nothing": tag(k.EXCEPTION),
    "an exception of ints": tag(k.EXCEPTION, *[e(1)] * 10),
    "attributes of ints": tag(k.EXCEPTION, *map(e, ("a", "b", "c", (), "", (), None, None, "", "", {1: 2}, False))),
    "an unknown number of a class": tag(k.INSTANCE, e(5)),
    "a negative one": tag(k.INSTANCE, e(-40)),
    "a class of text": tag(k.INSTANCE, e("Point")),
    "a class of a list": tag(k.INSTANCE, e([1, 2])),
    "a sort of 9": tag(k.INSTANCE, named(9, Point, 0)),
    "fields of -1": tag(k.INSTANCE, named(1, Point, -1)),
    "fields too many": tag(k.INSTANCE, named(1, Point, 3, "x")),
    "names twice": tag(k.INSTANCE, named(1, Point, 2, "x", "x"), e(1.0), e(1.0)),
    "values missing": tag(k.INSTANCE, named(1, Point, 2, "x", "y"), e(1.0)),
    "values too many": tag(k.INSTANCE, named(1, Point, 2, "x", "y"), *[e(1.0)] * 3),
    "an enum as an instance": tag(k.INSTANCE, named(5, Colour, 0)),
    "an instance as an enum": tag(k.ENUM, named(1, Point, 2, "x", "y"), e("RED"), e(None)),
    "a member by both": tag(k.ENUM, named(5, Colour, 0), e("RED"), e(1)),
    "a member by none": tag(k.ENUM, named(5, Colour, 0), e(None), e(None)),
    "flags beyond": tag(k.ENUM, named(5, Flags, 0), e(None), e(2**40)),
    "flags of text": tag(k.ENUM, named(5, Flags, 0), e(None), e("A")),
    "rows of no fields": tag(k.INSTANCE_ROWS, named(1, Point, 0)),
    "rows of uneven columns": tag(k.INSTANCE_ROWS, named(1, Point, 2, "x", "y"), e([1.0]), e([])),
    "rows of text": tag(k.INSTANCE_ROWS, named(1, Point, 2, "x", "y"), e("ab"), e("ab")),
    "padding alone": b"\xc1" * 50,
    "trailing": e(1) + b"\x00",
    "depth": b"\x91" * 5000 + b"\x00",
    "depth of dicts": b"\x81\x01" * 5000,
    "depth of tags": b"\x92\xd4\x03\x01" * 5000,
    "depth of causes": b"\x98\xd4\x03\x0a\xa0\xa0\xa0\xc0\xa0\x91" * 3000,
    **{
        f"length {head:#x} of 4 GiB": bytes((head,)) + b"\xff\xff\xff\xff" + bytes(999)
        for head in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF)
    },
    **{
        f"length {head:#x} of 64 Ki": bytes((head,)) + b"\xff\xff" + bytes(999)
        for head in (0xC5, 0xC8, 0xDA, 0xDC, 0xDE)
    },
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_what_it_says_is_a_typed_error(name: str) -> None:
    corpus.ran.clear()
    with pytest.raises(TYPED):
        decode(MALFORMED[name], revive, CLASSES.find)
    assert corpus.ran == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("os", "_Environ"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "type"),
        ("builtins", "object"), ("never.imported", "Item"), (corpus.__name__, "Classes"), (corpus.__name__, "Item.double"),
        (corpus.__name__, "everything"), (corpus.__name__, "pathlib.Path"), (corpus.__name__, ""), ("", ""), ("sys", "modules"),
        ("dataclasses", "Field"), ("fleet._ticket", "Ticket"), ("pydantic.main", "BaseModel"), ("__main__", "__builtins__"),
    ],
)  # fmt: skip
def test_classes_outside_the_set_are_not_made(module: str, name: str) -> None:
    open_set = corpus.Classes()
    for sort in k.SORTS:
        with pytest.raises(ResultNotPortable, match="which is not"):
            decode(instance(sort, name, {"a": 1}, module=module), find=open_set.find)


@pytest.mark.parametrize("sort", k.SORTS)
@pytest.mark.parametrize(
    "kind", [Item, Point, Pair, Colour, Flags, corpus.Model, corpus.Slotted, corpus.SoldOut, corpus.Traps]
)
@pytest.mark.parametrize(
    "values",
    [{}, {"x": 1}, {"name": 1, "__class__": 2}, {"__dict__": {}}, {"name": 1, "qty": 2, "parts": 3, "__setattr__": 4},
     {"name": 1, "qty": 2, "parts": 3, "double": 4}, {"x": 1.0, "y": 2.0, "__eq__": 3}, {"left": 1, "right": 2, "third": 3}],
    ids=str,
)  # fmt: skip
def test_instances_of_other_sorts_and_fields_are_not_made(sort: int, kind: type, values: dict[str, Any]) -> None:
    corpus.ran.clear()
    with pytest.raises(TYPED):
        decode(instance(sort, kind, values), find=CLASSES.find)
    assert corpus.ran == []


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("subprocess", "Popen"), ("builtins", "SystemExit"), ("builtins", "eval"), ("x" * 10**5, "E"),
     (corpus.__name__, "Item"), (corpus.__name__, "ran"), ("sys", "modules"), ("", "."), ("..", ".."), ("os.path", "__name__")],
)  # fmt: skip
def test_exceptions_with_hostile_names_are_remote_errors(module: str, name: str) -> None:
    attributes = {
        "__class__": "x",
        "__dict__": {},
        "args": 1,
        "with_traceback": 2,
        "__notes__": 7,
        "add_note": 1,
        "errno": "x",
    }
    told = ExceptionData(module, name, "text", ("echo",), attributes=attributes)
    failure = decode_item(b"\x01" + encode(told), CLASSES)
    assert isinstance(failure, Failure) and type(failure.error).__name__ == "RemoteError"
    builtin = decode_item(b"\x01" + encode(ExceptionData("builtins", "OSError", "m", (1, "x"), attributes=attributes)))
    assert (isinstance(builtin, Failure) and type(builtin.error) is PermissionError) or type(builtin.error) is OSError
    assert builtin.error.args == (1, "x") and callable(builtin.error.add_note)


# --- memory ----------------------------------------------------------------------------------------------------------


def many(count: int, item: bytes) -> bytes:
    return b"\xdd" + pack(">I", count) + item * count


def table(columns: int, rows: int, dicts: bool) -> bytes:
    shape = encode([f"k{n}" for n in range(columns)]) if dicts else encode(columns)
    return tag(k.ROWS, shape, *[tag(k.FLAGS, encode(bytes(rows)))] * columns)


def keyed(kind: int, count: int, *first: bytes) -> bytes:
    return tag(kind, *first, *(encode(n) for pair in range(300, 300 + count) for n in (pair, None)))


ASTRAL = "a" * 26 + "😀"
FILL: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "lists": (400_000, lambda n: many(n, b"\x90")),
    "nones": (3_000_000, lambda n: many(n, b"\xc0")),
    "dicts": (300_000, lambda n: many(n, b"\x80")),
    "numbers": (600_000, lambda n: many(n, b"\xd0\xe0")),
    "small dicts": (150_000, lambda n: many(n, b"\x81\x01\x02")),
    "six": (40_000, lambda n: many(n, b"\x86" + bytes((0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)))),
    "tuples": (400_000, lambda n: many(n, b"\x92\xd4\x03\x01\x00")),
    "sets": (100_000, lambda n: many(n, b"\x91\xd4\x03\x02")),
    "sets of five": (40_000, lambda n: many(n, b"\x96\xd4\x03\x02\x01\x02\x03\x04\x05")),
    "deques": (50_000, lambda n: many(n, b"\x92\xd4\x03" + bytes((k.DEQUE,)) + b"\xc0")),
    "counters": (50_000, lambda n: many(n, b"\x91\xd4\x03" + bytes((k.COUNTER,)))),
    "ordered": (30_000, lambda n: many(n, b"\x93\xd4\x03" + bytes((k.ORDEREDDICT,)) + b"\x01\x02")),
    "namespaces": (40_000, lambda n: many(n, b"\x91\xd4\x03" + bytes((k.NAMESPACE,)))),
    "ranges": (60_000, lambda n: many(n, b"\x94\xd4\x03" + bytes((k.RANGE,)) + b"\x00\x01\x01")),
    "bytearrays": (60_000, lambda n: many(n, b"\x92\xd4\x03" + bytes((k.BYTEARRAY,)) + b"\xc4\x01a")),
    "uuids": (40_000, lambda n: many(n, b"\x92\xd4\x03" + bytes((k.UUID,)) + b"\xc4\x10" + bytes(16))),
    "paths": (30_000, lambda n: many(n, tag(k.PATH, e(0), e("a/b/c/d")))),
    "decimals": (60_000, lambda n: many(n, tag(k.DECIMAL, e("1")))),
    "fractions": (30_000, lambda n: many(n, tag(k.FRACTION, e(301), e(302)))),
    "networks": (20_000, lambda n: many(n, tag(k.ADDRESS, e(5), e("::1/64")))),
    "arrays": (60_000, lambda n: many(n, tag(k.ARRAY, e("B"), e(1), e(b"")))),
    "longs": (250_000, lambda n: tag(k.ARRAY, e("l"), e(4), e(bytes(n * 8)))),
    "memoryviews": (30_000, lambda n: many(n, tag(k.MEMORYVIEW, e("B"), e(None), e(b"a")))),
    "zones": (60_000, lambda n: many(n, tag(k.TIMEZONE, tag(k.TIMEDELTA, e(0), e(1), e(0)), e("x")))),
    "exceptions": (9_000, lambda n: many(n, encode(ExceptionData("", "", "")))),
    "bools": (3_000_000, lambda n: tag(k.FLAGS, e(bytes(n)))),
    "small ints": (3_000_000, lambda n: tag(k.BYTE_INTS, e(bytes(n)))),
    "ints": (375_000, lambda n: tag(k.INTS, e(b"\x7f" * n * 8))),
    "floats": (1_000_000, lambda n: tag(k.FLOATS, e(bytes(n * 8)))),
    "packed tuple": (1_000_000, lambda n: tag(k.PACKED_TUPLE, tag(k.FLOATS, e(bytes(n * 8))))),
    "strs": (300_000, lambda n: many(n, b"\xa2ab")),
    "astral strs": (100_000, lambda n: many(n, b"\xbe" + ASTRAL.encode())),
    "astral text": (4_000_000, lambda n: b"\xdb" + pack(">I", n + 4) + b"a" * n + "😀".encode()),
    "surrogates": (4_000_000, lambda n: encode("\ud800" + "a" * n)),
    "packed strs": (400_000, lambda n: tag(k.STRS, e(1), e(bytes(n)), e(b""))),
    "packed strs of two": (300_000, lambda n: tag(k.STRS, e(1), e(b"\x02" * n), e(b"ab" * n))),
    "packed astral strs": (150_000, lambda n: tag(k.STRS, e(1), e(b"\x02" * n), e("😀a".encode() * n))),
    "big ints": (100_000, lambda n: many(n, b"\xc9\x00\x00\x00\x09\x01" + b"\x7f" * 9)),
    "one big int": (8_000_000, lambda n: b"\xc9" + pack(">I", n) + b"\x01" + b"\x7f" * n),
    "bytes": (300_000, lambda n: many(n, b"\xc4\x01a")),
    "rows of one": (200_000, lambda n: table(1, n, True)),
    "rows of six": (60_000, lambda n: table(6, n, True)),
    "rows of tuples": (300_000, lambda n: table(1, n, False)),
    "columns": (
        60,
        lambda n: tag(
            k.COLUMNS, tag(k.STRS, e(4), e(b"\x01\x00\x00\x00" * n), e(bytes(range(n)))), tag(k.FLAGS, e(bytes(n)))
        ),
    ),
    "large dict": (
        90_000,
        lambda n: b"\xdf" + pack(">I", n) + b"".join(b"\xd2" + pack(">i", one + 300) + b"\xc0" for one in range(n)),
    ),
    "large set": (90_000, lambda n: tag(k.PACKED_SET, encode(list(range(1000, 1000 + n))))),
    "large counter": (60_000, lambda n: keyed(k.COUNTER, n)),
    "large ordered": (40_000, lambda n: keyed(k.ORDEREDDICT, n)),
    "large defaultdict": (60_000, lambda n: keyed(k.DEFAULTDICT, n, b"\xc0")),
    "points": (30_000, lambda n: encode([1] + [Point(one / 2) for one in range(n)])),
    "rows of points": (
        50_000,
        lambda n: tag(k.INSTANCE_ROWS, named(1, Point, 2, "x", "y"), *[tag(k.FLAGS, e(bytes(n)))] * 2),
    ),
    "items": (20_000, lambda n: encode([1] + [Item("", one) for one in range(n)])),
    "members": (60_000, lambda n: encode([Flags(one % 8) for one in range(n)])),
    "records": (20_000, lambda n: many(n, encode(ExceptionData("", "", "", (1,))))),
    "pairs": (40_000, lambda n: encode([1] + [Pair(one) for one in range(n)])),
    "classes": (3_000, lambda n: array(*[instance(1, Point, {"x": 1.0, "y": 1.0}) for _ in range(n)])),
    "names": (3_000, lambda n: array(*[instance(1, f"Gone{one}", {"a": one}) for one in range(n)])),
}


def peak_of(data: bytes, records: bool = False) -> tuple[int, bool]:
    """The most memory that decoding took, and whether the data was accepted."""
    made: Any = None
    tracemalloc.start()
    try:
        made = decode(data, revive, CLASSES.find, records=records)
    except TYPED:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, made is not None


def charge_of(data: bytes) -> int:
    reader = Decoder(data, None, CLASSES.find, True)
    reader.left = 1 << 60
    reader.value(0)
    return (1 << 60) - reader.left


@pytest.mark.parametrize("name", FILL)
def test_nothing_takes_more_memory_than_it_is_charged_for(name: str) -> None:
    """What the bound rests on, kind by kind. (Besides, the first value of a kind may load what makes it.)"""
    count, make = FILL[name]
    decode(make(min(count, 60)), revive, CLASSES.find, records=True)
    for size in (count // 40, count // 57) if count > 60 else (count,):
        data = make(size)
        assert peak_of(data + b"\xc1" + bytes(charge_of(data) // 4), records=True)[0] <= charge_of(data) + 64 * 1024


@pytest.mark.parametrize(("name", "grace"), [("small dicts", k.GRACE_BYTES), *((name, 1 * MIB) for name in FILL)])
def test_memory_is_bounded_by_what_was_sent(name: str, grace: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and padded so that the reader just accepts it. With the real grace for one kind, with less for all."""
    monkeypatch.setattr(k, "GRACE_BYTES", grace)
    most, make = FILL[name]
    probe = min(most, 1000)
    data = make(min(most, grace * 4 // 3 // max(1, charge_of(make(probe)) // probe)))
    padding = max(0, charge_of(data) - grace - 4 * len(data)) // 4
    for whole, fits in ((data, not padding), (data + b"\xc1" + bytes(padding), True)):
        peak, accepted = peak_of(whole, records=True)
        assert accepted is fits and peak <= 4 * len(whole) + grace + MIB


def test_columns_of_one_table_are_charged_each() -> None:
    """A table that is nothing but shape: what it expands to is counted before it is made."""
    for dicts in (True, False):
        with pytest.raises(ProtocolError, match="takes more memory"):
            decode(table(16, 100_000, dicts), revive)


# --- time ------------------------------------------------------------------------------------------------------------

PRIME = sys.hash_info.modulus
COLLIDING: dict[str, Callable[[], list[bytes]]] = {
    "ints": lambda: [encode(n * PRIME + 7) for n in range(1, 20_000)],
    "fractions": lambda: [tag(k.FRACTION, encode(7 * n % PRIME), encode(n)) for n in range(2, 20_000)],
    "uuids": lambda: [tag(k.UUID, encode((n * PRIME + 7).to_bytes(16, "big"))) for n in range(20_000)],
    "decimals": lambda: [tag(k.DECIMAL, encode(str(n * PRIME + 7))) for n in range(20_000)],
}


@pytest.mark.parametrize("name", COLLIDING)
def test_keys_that_were_made_to_collide_are_refused(name: str) -> None:
    """Quadratic time otherwise: minutes for one megabyte."""
    keys = COLLIDING[name]()
    pairs = [part for key in keys for part in (key, b"\xc0")]
    forms = [
        tag(k.SET, *keys),
        tag(k.COUNTER, *pairs),
        b"\xdf" + pack(">I", len(keys)) + b"".join(pairs),
        tag(k.PACKED_SET, array(*keys)),
    ]
    for data in forms:
        # Padded, so that it isn't refused for its memory.
        with pytest.raises(ProtocolError, match="collide"):
            decode(data + b"\xc1" + bytes(4_000_000))


def test_some_collisions_are_no_attack() -> None:
    value = {n * PRIME + 7: n for n in range(300)}
    assert decode(encode(value)) == value
    assert decode(encode({-1: 1, -2: 2} | {n: n for n in range(100)}))[-1] == 1


# --- mutants ---------------------------------------------------------------------------------------------------------

_CHILD = """
import sys
from fleet._results import decode_item
from fleet.protocol.codec import encode, encode_exception
from fleet.protocol.errors import ProtocolError, ResultNotPortable
from tests.unit import codec_corpus as corpus
import zoneinfo, os, pickle

seeds = [encode(value, prefix=b"\\0") for value in corpus.everything()]
seeds += [encode_exception(error, prefix=b"\\1") for error in corpus.raised()]
for seed in seeds:
    decode_item(seed, corpus.CLASSES)
for name in ("load", "loads", "Unpickler"):
    setattr(pickle, name, None)
sys.modules["_pickle"] = None
zones = tuple(os.path.abspath(path) + os.sep for path in zoneinfo.TZPATH)
allowed = {"array.__new__", "object.__getattr__", "object.__setattr__", "sys._getframe", "builtins.id", "gc.get_objects"}
watching, seen = [], set()

def watch(event, args):
    if watching and event not in allowed and not (event == "open" and str(args[0]).startswith(zones)):
        seen.add((event, str(args)[:200]))

sys.addaudithook(watch)
corpus.ran.clear()
watching.append(1)
kept = refused = 0
for data in corpus.mutants(seeds, int(sys.argv[1]), int(sys.argv[2])):
    try:
        decode_item(data, corpus.CLASSES)
        kept += 1
    except (ProtocolError, ResultNotPortable):
        refused += 1
watching.clear()
hashes = [one for one in corpus.ran if not one.startswith("getattr")]
print(kept, refused, sorted(seen), hashes)
"""


def test_mutants_run_nothing_and_raise_typed_errors() -> None:
    """In a process of its own, whose audit hook hears of every import, exec, open, process and socket."""
    command = [sys.executable, "-c", _CHILD, str(MUTANTS), "7"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    kept, refused, rest = done.stdout.split(" ", 2)
    assert int(kept) + int(refused) == MUTANTS and int(kept) > MUTANTS // 50 and int(refused) > MUTANTS // 3
    assert rest.strip() == "[] []"


def test_any_byte_may_be_any_other() -> None:
    for value in (corpus.Derived(1), [{"a": n} for n in range(17)], Flags.A | Flags.B, {1.5: b"x"}):
        data = encode(value)
        for at in range(len(data)):
            for byte in range(0, 256, 3):
                try:
                    decode(data[:at] + bytes((byte,)) + data[at + 1 :], revive, CLASSES.find)
                except TYPED:
                    pass


def test_every_cut_is_a_typed_error() -> None:
    for value in corpus.everything():
        data = encode(value)
        for cut in range(0, len(data), 1 + len(data) // 60):
            with pytest.raises(TYPED):
                decode(data[:cut], revive, CLASSES.find)
    data = encode_exception(corpus.raised()[-1])
    for cut in range(0, len(data), 7):
        with pytest.raises(FleetError):
            decode_item(b"\x01" + data[:cut])


# --- no pickle -------------------------------------------------------------------------------------------------------

FORBIDDEN = {"pickle", "_pickle", "cloudpickle", "shelve", "dill", "joblib", "ctypes", "runpy", "code"}


def imports_of(module: str) -> tuple[set[str], str]:
    """Everything that a module of ours imports, when it is loaded or later; and its source."""
    path = ROOT / "sdk" / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = ROOT / "sdk" / module.replace(".", "/") / "__init__.py"
    if not path.exists():
        return set(), ""
    text = path.read_text()
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found, text


def test_no_pickle_is_reachable_from_decoding() -> None:
    waiting, seen = ["fleet.protocol.codec", "fleet._results", "fleet._classes"], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        found, text = imports_of(module)
        assert not {name.partition(".")[0] for name in found} & FORBIDDEN, module
        assert "marshal.load" not in text and "__import__" not in text, module
        waiting += [name for name in found if name.startswith("fleet")]
    assert {
        "fleet.protocol._codec.decode",
        "fleet.protocol._codec.decode_more",
        "fleet.protocol._codec.rebuild",
    } <= seen
    assert "fleet._portable.arguments" not in seen and "fleet._client" not in seen
