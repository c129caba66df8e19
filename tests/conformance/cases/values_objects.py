"""Instances of the script's own classes, enum members and exceptions: there as arguments, back as results."""

import collections
import dataclasses
import enum
import typing
from dataclasses import dataclass, field

from tests.conformance.case import case, through


def identity(value):
    return value


value = through(identity)


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass(frozen=True)
class Frozen:
    name: str
    tags: frozenset = frozenset()


@dataclass(slots=True)
class Slotted:
    a: int
    b: "list[int]" = field(default_factory=list)


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Strict:
    a: int
    b: str = "b"


@dataclass
class Node:
    value: int
    children: "list[Node]" = field(default_factory=list)
    parent: "Node | None" = None


@dataclass
class Base:
    name: str


@dataclass
class Derived(Base):
    level: int = 1


@dataclass
class Initialized:
    side: float
    factor: dataclasses.InitVar[float] = 2.0
    area: float = field(init=False, default=0.0)
    kind: typing.ClassVar[str] = "square"

    def __post_init__(self, factor):
        self.area = self.side * factor


@dataclass
class Validated:
    percent: int

    def __post_init__(self):
        if not 0 <= self.percent <= 100:
            raise ValueError("out of range")


@dataclass
class Holder(typing.Generic[typing.TypeVar("T")]):
    value: typing.Any


class Row(typing.NamedTuple):
    id: int
    name: str = ""


Pair = collections.namedtuple("Pair", "left right")


class Color(enum.Enum):
    RED = 1
    GREEN = "g"
    BOTH = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    READ = "r"


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    A = 1
    B = 4


class Movie(typing.TypedDict):
    title: str


class Outer:
    class Kind(enum.Enum):
        A = "a"

    @dataclass
    class Inner:
        n: int


class Failure(Exception):
    pass


class Rich(Failure):
    def __init__(self, message, code=0):
        super().__init__(message)
        self.code = code


value("a dataclass as a value", Point(1, 2.5))
value("a dataclass with values other than its annotations say", Point("text", None))
value("a frozen dataclass as a value", Frozen("a", frozenset({"t"})))
value("a dataclass with slots as a value", Slotted(1, [2]))
value("a dataclass with every option as a value", Strict(a=1))
value("a tree of dataclasses", Node(1, [Node(2), Node(3, [Node(4)])]))
value("a child of a dataclass as a value", Derived("n", 5))
value("a dataclass with InitVar and computed fields as a value", Initialized(3.0))
value("a generic dataclass as a value", Holder([1]))
value("a dataclass inside a class", Outer.Inner(5))
value("a list of dataclasses", [Point(n, n / 2) for n in range(50)])
value("a dict with frozen dataclasses as keys", {Frozen("a"): 1, Frozen("b"): 2})
value("a set of frozen dataclasses", {Strict(a=1), Strict(a=2)})
value("a NamedTuple as a value", Row(1, "a"))
value("a list of NamedTuples", [Row(n) for n in range(20)])
value("a collections.namedtuple as a value", Pair(Row(1), [Pair(1, 2)]))
value("a member of an enum", Color.RED)
value("members of enums with values of other kinds", [Color.GREEN, Color.BOTH])
value("a member of an IntEnum", Level.LOW)
value("a member of a StrEnum", Mode.READ)
value("a flag", Permission.WRITE)
value("flags combined", Permission.READ | Permission.WRITE)
value("an empty flag", Permission(0))
value("an IntFlag with unknown bits", Bits.A | 8)
value("an enum inside a class", Outer.Kind.A)
value("enum members as keys and values", {Color.RED: Color.GREEN, Level.LOW: [Mode.READ]})
value("a TypedDict as a value", Movie(title="Metropolis"))
value("an exception as a value", ValueError("text", 5))
value("an exception without arguments as a value", KeyError())
value("an exception of the script as a value", Failure("own"))
value("an exception with attributes as a value", Rich("message", 7))
value("an exception group as a value", ExceptionGroup("g", [ValueError(1), Failure(2)]))
value("an OSError as a value", OSError("only text"))
value("exceptions inside a dict", {"a": [TypeError("x")], "b": LookupError()})


@case("a dataclass changed so that its checks would fail")
def invalid():
    one = Validated(50)
    one.percent = 500
    return one


@case("a dataclass that the car made", 3)
def made_there(n):
    return [Derived(f"d{i}", i) for i in range(n)]


@case("a dataclass of an annotation as text")
def annotated() -> "list[Point]":
    return [Point(1), Point(2, 3.5)]


@case("dataclasses, enums and named tuples nested in each other")
def nested():
    return Node(1, [Node({"row": Row(1, "x"), "color": Color.RED, "points": (Point(1), Frozen("f"))})])


@case("an exception with a cause and notes as a value")
def chained_value():
    error = Failure("outer")
    error.__cause__ = ValueError("inner")
    error.add_note("noted")
    return error


@case("a mapping of exceptions that were caught")
def caught():
    found = {}
    for text in ("x", "5", ""):
        try:
            found[text] = int(text)
        except ValueError as error:
            found[text] = error
    return found


@case("asdict of a tree of dataclasses as a result")
def as_dict():
    return dataclasses.asdict(Node(1, [Node(2)]))
