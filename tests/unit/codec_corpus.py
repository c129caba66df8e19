"""Values of every kind that a result may have, classes that notice when their code runs, and mutants of encodings."""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import pathlib
import random
import types
import uuid
import zoneinfo
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from typing import Any, NamedTuple

import pydantic

import fleet
from fleet._classes import Classes
from fleet.protocol._codec import own

try:
    import attrs
except ImportError:  # only here for tests
    attrs = None  # type: ignore[assignment]
try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

ran: list[str] = []
"""What of the classes' own code was run."""


class Traps:
    """Whatever a careless reader would call."""

    def __setattr__(self, name: str, value: Any) -> None:
        ran.append(f"setattr {name}")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        ran.append(f"getattr {name}")
        raise AttributeError(name)

    def __setstate__(self, state: Any) -> None:
        ran.append("setstate")

    def __reduce__(self) -> Any:
        ran.append("reduce")
        return object.__reduce__(self)

    @property
    def double(self) -> int:
        ran.append("property")
        return 2


@dataclass
class Item(Traps):
    name: str
    qty: int = 1
    parts: list[Any] = field(default_factory=list)
    seed: InitVar[int] = 0

    def __post_init__(self, seed: int) -> None:
        ran.append("post_init")


@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0


@dataclass(frozen=True, slots=True)
class Slotted:
    a: int
    b: Any = None


@dataclass
class Base:
    one: int = 1


@dataclass
class Derived(Base):
    two: str = "2"

    def __post_init__(self) -> None:
        self.three = [self.one]


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    A = "a"


class Flags(enum.Flag):
    A = 1
    B = 2
    C = 4


class IntFlags(enum.IntFlag):
    A = 1
    B = 2


class Model(pydantic.BaseModel):
    name: str
    items: list[Point] = []
    _note: str = pydantic.PrivateAttr(default="private")

    @pydantic.model_validator(mode="after")
    def check(self) -> Model:
        ran.append("validator")
        return self


class Open(pydantic.BaseModel, extra="allow"):
    a: int = 1


class SoldOut(Traps, Exception):
    def __init__(self, what: str, left: int) -> None:
        ran.append("exception init")
        super().__init__(f"{what}: {left}")
        self.what = what
        self.left = left


OSLO = zoneinfo.ZoneInfo("Europe/Oslo")


def scalars() -> list[Any]:
    """One or more of every kind that has no class of the caller's."""
    return [
        *(None, True, 0, 200, -33, 2**40, 2**64 - 1, -(2**64), 2**200, 1.5, float("inf"), -0.0, 1 - 2j, "", "a", "ø" * 40),
        *("x" * 40, "\ud800y", "😀", b"", b"b" * 300, bytearray(b"ab"), memoryview(b"abc"), ..., NotImplemented),
        memoryview(array.array("d", [1.0, 2.0])), memoryview(bytes(6)).cast("B", [2, 3]),
        *(range(3), range(9, 0, -2), slice(1, None, 2), slice(None, "x", 2.5)),
        *(decimal.Decimal("1.10"), decimal.Decimal("-Infinity"), decimal.Decimal("1e-900"), fractions.Fraction(-1, 3)),
        *(uuid.UUID(int=7), pathlib.Path("/a/b"), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("c:\\x")),
        *(ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fe80::1%eth0"), ipaddress.ip_network("10.0.0.0/8")),
        ipaddress.ip_interface("::1/64"),
        *(array.array("d", [1.5]), array.array("l", [-1, 2]), array.array("B", b"xy"), array.array("u", "hé")),
        *(dt.datetime(2026, 10, 25, 2, 30, tzinfo=OSLO, fold=1), dt.date(2026, 1, 2), dt.time(1, 2, 3, 4, fold=1)),
        *(dt.timedelta(-1, 5), dt.UTC, dt.timezone(dt.timedelta(hours=1), "Lunch"), OSLO),
    ]  # fmt: skip


def containers() -> list[Any]:
    """Containers of builtin kinds, short ones and packed ones."""
    numbers = list(range(1000, 1040))
    return [
        *([], [1, [2, []]], (), (1, (2,)), {1, "a"}, frozenset({(1, 2)}), {"a": 1, 2: {3: None}, (1,): []}),
        collections.deque([1, "b"], 7), collections.deque(), collections.Counter("abca"),
        collections.defaultdict(list, {1: [2]}), collections.defaultdict(None, {"a": 1}),
        collections.OrderedDict([("z", 1), ("a", 2)]), types.SimpleNamespace(a=1, b=[2]),
        numbers, tuple(numbers), set(numbers), frozenset(map(str, numbers)), [n % 7 for n in numbers],
        [0.5 * n for n in numbers], tuple(0.5 * n for n in numbers), [True, False, None] * 9, [None] * 30,
        [f"s{n}" for n in numbers], [f"ø{n}" for n in numbers], ["y" * 300, "z"] * 20, {f"k{n}": n / 2 for n in numbers},
        [{"id": n, "tags": ["a", "b"], "inner": {"x": n / 2}} for n in numbers],
        [(n, str(n)) for n in numbers], [[n, None] for n in numbers], [[n / 2] * 20 for n in numbers],
        {n: str(n) for n in range(100)}, {(n, "x"): n for n in range(100)}, [1, 2.5] * 20, [2**70] * 20,
    ]  # fmt: skip


def instances() -> list[Any]:
    """Instances of the classes above, and of attrs and numpy where those are."""
    found: list[Any] = [
        Item("apple", 3, [Point(1.0), {"p": Point(2.0, 3.0)}]), Point(1.5), Slotted(1, Pair(2)), Derived(5, "t"), Pair(1),
        [Pair(n) for n in range(20)], [Point(n / 2) for n in range(20)], [Slotted(n) for n in range(20)],
        {Point(1.0): Colour.RED}, {Slotted(1), Slotted(2)}, Colour.BLUE, Level.LOW, Word.A, Flags.A | Flags.C, Flags(0),
        IntFlags(3), [Colour.RED] * 20, Model(name="m", items=[Point(1.0)]), Open(a=2, other=[3]),
    ]  # fmt: skip
    if attrs is not None:
        found += [Defined(1), Cached(2), Open_(3), {Cached(2)}, [Defined(n) for n in range(20)]]
    if numpy is not None:
        found += [
            numpy.arange(6).reshape(2, 3), numpy.float32(1.5), numpy.bool_(True), numpy.array(["a", "bc"]),
            numpy.zeros((0, 3)), numpy.datetime64("2026-01-01"), numpy.array([1 + 2j]),
        ]  # fmt: skip
    return found


if attrs is not None:

    @attrs.define
    class Defined:
        a: int
        b: str = "b"

        def __attrs_post_init__(self) -> None:
            ran.append("attrs post_init")

    @attrs.frozen(cache_hash=True)
    class Cached:
        a: int

    @attrs.define(slots=False)
    class Open_:
        a: int


def events() -> list[Any]:
    """The platform's own classes."""
    request = fleet.HttpRequest("POST", "/a/7", {"id": "7"}, [("q", "1"), ("q", "2")], [("X-A", "b")], b"body")
    return [
        fleet.Event("a.b", {"t": 1}, time="2026-01-02T03:04:05+00:00", dataschema="s", extensions={"k": "v"}),
        fleet.Event("a", b"x", time=dt.datetime(2026, 1, 2), http=request), request,
        fleet.Response({"a": [1]}, 201, {"X-A": "b"}), fleet.Response("text", content_type="text/html"),
        fleet.emit("a.b", {"t": 1}, type="hot"), fleet.emit("a"), [fleet.emit("a", b"x")] * 20,
    ]  # fmt: skip


def raised() -> list[BaseException]:
    """Exceptions with all that they may carry."""
    found: list[BaseException] = [
        ValueError("plain"),
        KeyError("k"),
        OSError(2, "no such file", "a.txt"),
        SoldOut("pear", 3),
    ]
    error = TypeError("outer")
    error.__cause__ = ValueError("inner")
    error.add_note("a note")
    found.append(error)
    found.append(ExceptionGroup("two", [ValueError(1), ExceptionGroup("three", [KeyError("x")])]))
    return found


def everything() -> list[Any]:
    """All of it."""
    return scalars() + containers() + instances() + events() + raised()


CLASSES = Classes(
    None, {(one.__module__, one.__qualname__): one for one in list(globals().values()) if isinstance(one, type)}
)


def same(a: Any, b: Any) -> bool:
    """Equal, in types, order, sign and bits as well."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple | collections.deque):
        return len(a) == len(b) and all(map(same, a, b)) and getattr(a, "maxlen", 0) == getattr(b, "maxlen", 0)
    if isinstance(a, float):
        return repr(a) == repr(b)
    if type(a) in own.by_type:
        fields = own.by_type[type(a)].fields
        return same(fields(a), fields(b))
    if numpy is not None and isinstance(a, numpy.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and (a == b).all())
    if isinstance(a, memoryview):
        return (a.format, a.shape, a.tobytes()) == (b.format, b.shape, b.tobytes())
    if isinstance(a, dt.datetime | dt.time):
        return bool(a == b) and (a.fold, repr(a.tzinfo)) == (b.fold, repr(b.tzinfo))
    if isinstance(a, BaseException):
        return repr(a) == repr(b)
    return bool(a == b)


def mutants(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Damaged encodings: bits, bytes, cuts, repetitions, splices, lengths and kinds of others."""
    draw = random.Random(seed)
    heads = bytes(
        (0x90, 0x9F, 0x80, 0xA5, 0xC0, 0xC4, 0xC6, 0xC9, 0xCB, 0xD2, 0xD3, 0xD4, 0xDB, 0xDC, 0xDD, 0xDF, 0x7F, 0xFF)
    )
    for _ in range(count):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            at = draw.randrange(len(data) + 1)
            how = draw.randrange(9)
            if how == 0 and at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            elif how == 1 and at < len(data):
                data[at] = draw.choice(heads)
            elif how == 2:
                data[at:at] = bytes(draw.choices(heads, k=draw.randrange(1, 5)))
            elif how == 3:
                del data[at : at + draw.randrange(1, 9)]
            elif how == 4:
                other = draw.choice(seeds)
                start = draw.randrange(len(other) + 1)
                data[at : at + draw.randrange(12)] = other[start : start + draw.randrange(1, 40)]
            elif how == 5:
                data[at:at] = data[max(0, at - draw.randrange(1, 20)) : at] * draw.randrange(1, 4)
            elif how == 6:
                found = data.find(b"\xd4\x03", at)
                if 0 <= found < len(data) - 2:
                    data[found + 2] = draw.randrange(48)
            elif how == 7:
                data[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"))
            elif at < len(data):
                data[at] = draw.randrange(256)
            if not data:
                break
        yield bytes(data[:20_000])


__all__ = [name for name in globals() if not name.startswith("_")]
