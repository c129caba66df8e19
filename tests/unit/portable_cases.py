"""Functions of a script, one per feature of the language: each must give there what it gives here.

Run as a script: ``python portable_cases.py OUT`` writes the portable pickle of ``run_all`` to OUT and prints what it gives
here. With ``--load IN`` it prints what the function in IN gives, in whatever Python runs it: nothing else of this file is
used then.
"""

# ruff: noqa: TID251, C416, PIE796
from __future__ import annotations

import abc
import asyncio
import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import itertools
import json
import math as m
import operator
import os.path
import re
import sys
import traceback
import types
import typing
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

CASES: dict[str, Callable[[], Any]] = {}


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """Collect it: all cases are reached through this global."""
    CASES[function.__name__] = function
    return function


def run_all() -> dict[str, str]:
    """What each case gives, as text."""
    found = {}
    for name, function in CASES.items():
        try:
            found[name] = repr(function())
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


# --- functions

FACTOR = 3
WORDS = {"a", "list", "of", "words"}
counter = 0
MISSING = object()


@case
def constants() -> Any:
    return FACTOR, sorted(WORDS), m.pi, json.dumps([1])


@case
def count_twice() -> Any:
    def bump() -> int:
        global counter
        counter += 1
        return counter

    return bump(), bump(), look()


def look() -> int:
    return counter


@case
def default_is_the_same_object() -> Any:
    return takes_default(), takes_default(1), takes_default.__kwdefaults__


def takes_default(x: Any = MISSING, *, y: int = 2) -> Any:
    return x is MISSING, y


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


@case
def mutual_recursion() -> Any:
    return even(10), odd(7)


def make_counter() -> tuple[Callable[[], int], Callable[[], int]]:
    n = 0

    def up() -> int:
        nonlocal n
        n += 1
        return n

    def now() -> int:
        return n

    return up, now


up, now = make_counter()


@case
def two_closures_share_a_cell() -> Any:
    return up(), up(), now()


def make_factorial() -> Callable[[int], int]:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    return factorial


factorial = make_factorial()


@case
def closure_that_refers_to_itself() -> Any:
    return factorial(6)


def make_empty_cell() -> Callable[[], Any]:
    def read() -> Any:
        return later

    if FACTOR == 4:
        later = 1
    return read


read_empty = make_empty_cell()


@case
def empty_cell() -> Any:
    try:
        return read_empty()
    except NameError as error:
        return type(error).__name__


first, second = lambda x: x + 1, lambda x: x + 2  # fmt: skip
nested_lambda = lambda a: lambda b: lambda c: (a, b, c)  # noqa: E731


@case
def lambdas_on_one_line() -> Any:
    return first(1), second(1), nested_lambda(1)(2)(3), [f(2) for f in [lambda v: v, lambda v: -v]]


def noisy(prefix: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return prefix, function.__name__, function(*args, **kwargs)

        return wrapper

    return decorate


@noisy("<")
@noisy(">")
def decorated(x: int) -> int:
    """Doc."""
    return x * 2


@case
def decorators() -> Any:
    return decorated(2), decorated.__name__, decorated.__doc__, decorated.__wrapped__.__wrapped__(4)  # type: ignore


@case
def function_attributes() -> Any:
    return marked.colour, marked.__doc__, marked.__module__, marked.__qualname__  # type: ignore[attr-defined]


def marked() -> None: ...


marked.colour = "red"  # type: ignore[attr-defined]
marked.__doc__ = "set later"

double = functools.partial(operator.mul, 2)
shifted = functools.partial(takes_default, 5, y=6)


@case
def partials() -> Any:
    return double(4), shifted(), shifted.keywords


@functools.lru_cache(maxsize=10)
def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@case
def cached_function() -> Any:
    return fib(50), fib.cache_parameters(), fib.cache_info().misses


@functools.singledispatch
def show(value: Any) -> str:
    return "any"


@show.register
def _(value: int) -> str:
    return f"int {value}"


@show.register(list)
def _(value: list[Any]) -> str:
    return f"list of {len(value)}"


@case
def single_dispatch() -> Any:
    return show(1), show("x"), show([1, 2]), show(True)


@contextlib.contextmanager
def tag(name: str) -> Iterator[list[str]]:
    out = [f"<{name}>"]
    yield out
    out.append(f"</{name}>")


@contextlib.asynccontextmanager
async def async_tag(name: str) -> Any:
    yield [name]


@case
def context_managers() -> Any:
    with tag("b") as out:
        out.append("x")

    async def main() -> Any:
        async with async_tag("q") as other:
            return other

    return out, asyncio.run(main())


def numbers(n: int) -> Iterator[int]:
    got = yield from range(n)
    yield got or -1


async def ticks(n: int) -> Any:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


async def gathered() -> Any:
    async def one(x: int) -> int:
        return x * FACTOR

    return await asyncio.gather(*[one(i) for i in range(3)]), [i async for i in ticks(3)]


@tag("deco")
def within(x: int) -> int:
    return x + 1


@case
def context_managers_as_decorators() -> Any:
    return within(1), within(2)


@case
def generators_and_coroutines() -> Any:
    return list(numbers(3)), asyncio.run(gathered()), sum(x for x in range(4) if x % 2)


@case
def comprehensions_see_everything() -> Any:
    base = 10
    return [base + i * FACTOR for i in range(3)], {k: v for k, v in zip("ab", [1, 2])}, [y := 5, y + 1]


@case
def match_statement() -> Any:
    def kind(value: Any) -> Any:
        match value:
            case {"x": int(x), **rest}:
                return "mapping", x, rest
            case [first, *_] if first:
                return "sequence", first
            case Point(x=0, y=y):
                return "on axis", y
            case Colour.RED | Colour.GREEN:
                return "colour"
            case _:
                return "other"

    return [kind(v) for v in ({"x": 1, "z": 2}, [3, 4], Point(0, 5), Colour.RED, None)]


@case
def f_strings() -> Any:
    width = 6
    return f"{FACTOR:>{width}}|{(lambda: 'in')()!r}|{'nested ' + f'{FACTOR}'}"


@case
def exception_groups() -> Any:
    caught = []
    try:
        raise ExceptionGroup("both", [ValueError(1), Late("x", 2)])
    except* ValueError as group:
        caught.append(len(group.exceptions))
    except* Late as group:
        caught.append([str(one) for one in group.exceptions])
    return caught


class Late(Exception):
    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)
        self.code = code

    def __str__(self) -> str:
        return f"late: {self.code}"


@case
def own_exception() -> Any:
    try:
        raise Late("a", 7)
    except Late as error:
        return str(error), error.args, isinstance(copy.copy(error), Late)


@case
def traceback_lines() -> Any:
    try:
        raise_here()
    except ZeroDivisionError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return frame.filename.rpartition("/")[2], frame.lineno, frame.name, frame.line


def raise_here() -> float:
    zero = 0
    return (
        1
        / zero
    )  # fmt: skip


@case
def modules_and_submodules() -> Any:
    tree = xml.etree.ElementTree.fromstring("<a><b/></a>")
    return len(tree), os.path.join("a", "b"), re.sub("a+", "-", "baab")


@case
def imports_inside() -> Any:
    import heapq
    from textwrap import dedent as undent

    return heapq.nsmallest(2, [3, 1, 2]), undent("  x")


@case
def builtin_methods() -> Any:
    return joined(["a", "b"]), largest([1, 3]), getter({"k": 1}), upper("a")


joined = ", ".join
largest = functools.partial(max, default=0)
getter = operator.itemgetter("k")
upper = str.upper

if FACTOR == 3:

    def in_a_block(x: int) -> int:
        return x + FACTOR


try:
    fallback = lambda: "tried"  # noqa: E731
finally:
    pass


@case
def defined_in_blocks() -> Any:
    return in_a_block(1), fallback()


# --- classes


class Base(abc.ABC):
    made: typing.ClassVar[list[str]] = []

    def __init_subclass__(cls, *, key: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.key = key
        Base.made.append(cls.__name__)

    @abc.abstractmethod
    def area(self) -> float: ...

    @property
    def described(self) -> str:
        return f"{type(self).__name__} of {self.area()}"


class Square(Base, key="sq"):
    __slots__ = ("__side",)

    def __init__(self, side: float) -> None:
        self.__side = side

    def area(self) -> float:
        return self.__side**2

    @property
    def described(self) -> str:
        return super().described + "!"

    @described.setter
    def described(self, value: str) -> None:
        self.__side = float(value)

    @classmethod
    def unit(cls) -> Square:
        return cls(1)

    @staticmethod
    def corners() -> int:
        return 4


@case
def abstract_classes_and_properties() -> Any:
    square = Square(3)
    before = square.described
    square.described = "2"
    try:
        Base()  # type: ignore[abstract]
    except TypeError:
        abstract = True
    return before, square.area(), Square.unit().area(), Square.corners(), Base.made, Square.key, abstract


@case
def slots_hold() -> Any:
    class Tight:
        __slots__ = ("a",)

    tight = Tight()
    square = Slotted(1)
    for one in (tight, square):
        try:
            one.nothing = 1  # type: ignore
        except AttributeError:
            continue
        return "accepted"
    return "refused", Slotted.__slots__


class Slotted:
    """With documentation."""

    __slots__ = ("a", "b")

    def __init__(self, a: int) -> None:
        self.a = a


class Stateful:
    total = 0
    seen: typing.ClassVar[dict[str, int]] = {}

    def add(self, n: int) -> int:
        Stateful.total += n
        self.seen[str(n)] = n
        return self.total


Stateful.total = 40
Stateful.extra = lambda self: self.total * 2  # type: ignore[attr-defined]


@case
def class_level_state() -> Any:
    return Stateful().add(2), Stateful.seen, Stateful().extra(), Slotted.__doc__  # type: ignore[attr-defined]


class Meta(type):
    registry: typing.ClassVar[dict[str, type]] = {}

    def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
        made = super().__new__(cls, name, bases, space)
        Meta.registry[name] = made
        return made

    def __call__(cls, *args: Any) -> Any:
        made = super().__call__(*args)
        made.by_meta = True
        return made

    def __len__(cls) -> int:
        return 7


class WithMeta(metaclass=Meta):
    def __init__(self, x: int) -> None:
        self.x = x


class WithMetaToo(WithMeta):
    pass


@case
def metaclasses() -> Any:
    made = WithMetaToo(3)
    return made.x, made.by_meta, len(WithMeta), sorted(Meta.registry), Meta.registry["WithMeta"] is WithMeta  # type: ignore


class Positive:
    def __set_name__(self, owner: type, name: str) -> None:
        self.name = "_" + name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else getattr(instance, self.name, 0)

    def __set__(self, instance: Any, value: int) -> None:
        if value < 0:
            raise ValueError(self.name)
        setattr(instance, self.name, value)


class Account:
    balance = Positive()

    def __getattr__(self, name: str) -> str:
        return f"no {name}"

    def __getitem__(self, key: Any) -> Any:
        return key

    def __class_getitem__(cls, key: Any) -> Any:
        return "class", key

    @functools.cached_property
    def expensive(self) -> int:
        return self.balance * 100

    @functools.partialmethod
    def unused(self) -> None: ...

    def _set(self, value: int, extra: int = 0) -> int:
        self.balance = value + extra
        return self.balance

    set_ten = functools.partialmethod(_set, 10)

    @functools.singledispatchmethod
    def kind(self, value: Any) -> str:
        return "any"

    @kind.register
    def _(self, value: int) -> str:
        return "int"


@case
def descriptors_and_special_methods() -> Any:
    account = Account()
    account.balance = 5
    try:
        account.balance = -1
    except ValueError as error:
        refused = str(error)
    kinds = account.kind(1), account.kind("x")
    return account.expensive, account.set_ten(extra=2), account.what, account[1, 2], Account[int], refused, kinds


@functools.total_ordering
class Version:
    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.n == other.n

    def __lt__(self, other: Version) -> bool:
        return self.n < other.n

    def __hash__(self) -> int:
        return hash(self.n)


@case
def ordering() -> Any:
    return (
        Version(1) <= Version(2),
        Version(3) > Version(2),
        sorted({Version(1), Version(1)})[0].n,
        max(map(Version, [1, 4])).n,
    )


def make_class(n: int) -> type:
    class Made:
        size = n

        def get(self) -> Any:
            return self.size, n, __class__.__name__  # type: ignore[name-defined]

    return Made


One, Two = make_class(1), make_class(2)


@case
def classes_made_in_functions() -> Any:
    return One().get(), Two().get(), One is Two, One.__qualname__  # type: ignore[attr-defined]


@case
def cyclic_classes() -> Any:
    return Parent().child().parent().child.__qualname__  # type: ignore


class Parent:
    def child(self) -> Any:
        return Child()


class Child:
    back: typing.ClassVar[type] = Parent

    def parent(self) -> Any:
        return self.back()


# --- dataclasses, enums, tuples, typing


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    tags: list[str] = dataclasses.field(default_factory=list, repr=False)

    def moved(self, dx: int) -> Point:
        return dataclasses.replace(self, x=self.x + dx)


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Frozen:
    a: int
    b: str = "b"
    scale: dataclasses.InitVar[int] = 1
    kinds: typing.ClassVar[tuple[str, ...]] = ("k",)
    c: float = dataclasses.field(default=0.0, compare=False, metadata={"unit": "m"})

    def __post_init__(self, scale: int) -> None:
        object.__setattr__(self, "c", self.a * scale * 1.0)


@dataclasses.dataclass(kw_only=True)
class Inherited(Point):
    z: int
    _: dataclasses.KW_ONLY
    w: int = 1

    def __repr__(self) -> str:
        return "own repr"

    def __eq__(self, other: object) -> bool:
        return NotImplemented


@dataclasses.dataclass(eq=False)
class Node:
    value: int
    next: Node | None = None


@dataclasses.dataclass(slots=True, weakref_slot=True)
class Weak:
    a: int


ORIGIN = Point(0, 0, ["o"])


@case
def data_classes() -> Any:
    point = Point(1)
    point.tags.append("t")
    return point, point.moved(2), point == Point(1, 0, ["t"]), dataclasses.asdict(ORIGIN), Point(2).tags


@case
def frozen_data_classes() -> Any:
    frozen = Frozen(2, scale=3)
    try:
        frozen.a = 1  # type: ignore[misc]
    except dataclasses.FrozenInstanceError as error:
        refused = str(error)
    fields = [(one.name, dict(one.metadata)) for one in dataclasses.fields(Frozen)]
    slots = hasattr(frozen, "__dict__"), Frozen.__slots__  # type: ignore[attr-defined]
    return frozen, frozen < Frozen(3), hash(frozen) == hash(Frozen(2)), frozen.c, refused, fields, slots, Frozen.kinds


@case
def inherited_data_classes() -> Any:
    made = Inherited(x=1, z=2)
    same = Inherited.__hash__, made == copy.copy(made)
    names = [one.name for one in dataclasses.fields(made)]
    return made, made.w, names, same, Inherited.__match_args__, Weak(1).__weakref__  # type: ignore


@case
def classes_made_there_with_annotations_as_texts() -> Any:
    @dataclasses.dataclass
    class Inner:
        shared: ClassVar[int] = 1
        text: int | None = None

    return [one.name for one in dataclasses.fields(Inner)], str(typing.get_type_hints(Inner)["text"])


@case
def linked_data_classes() -> Any:
    node = Node(1, Node(2))
    return node.next.value, node == Node(1), dataclasses.fields(Node)[1].type  # type: ignore[union-attr]


class Colour(enum.Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1

    @property
    def lower(self) -> str:
        return self.name.lower()

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.GREEN if value == "g" else None


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    MARS = (0.6, 3.4)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass = mass
        self.radius = radius

    @property
    def gravity(self) -> float:
        return round(self.mass / self.radius**2, 3)


class Coordinate(bytes, enum.Enum):
    def __new__(cls, value: int, label: str) -> Any:
        made = bytes.__new__(cls, [value])
        made._value_ = value
        made.label = label
        return made

    PX = (0, "P.X")
    PY = (1, "P.Y")


class Permission(enum.IntFlag):
    R = enum.auto()
    W = enum.auto()
    RW = R | W


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Name(enum.StrEnum):
    ONE = enum.auto()
    TWO = "zwei"


class Auto(enum.Enum):
    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[Any]) -> Any:
        return name * 2

    A = enum.auto()


class Operation(enum.Enum):
    ADD = enum.member(operator.add)
    TUPLE = ()

    def __call__(self, *args: Any) -> Any:
        return self.value(*args)


@case
def enums() -> Any:
    return (
        list(Colour),
        Colour(1),
        Colour["CRIMSON"] is Colour.RED,
        Colour.GREEN.lower,
        Colour("g"),
        Colour.__members__.keys(),
    )


@case
def enums_with_data() -> Any:
    coordinate = Coordinate.PY
    again = Coordinate(1)
    return (
        Planet.EARTH.gravity,
        Planet((0.6, 3.4)),
        coordinate.label,
        bytes(coordinate),
        again is coordinate,
        Operation.ADD(1, 2),
        Auto.A.value,
    )


@case
def enums_of_numbers_and_texts() -> Any:
    return (
        Permission.R | Permission.W,
        Permission(3) is Permission.RW,
        ~Permission.R,
        Level.HIGH + 1,
        Name.ONE + "!",
        Name("zwei"),
        f"{Name.TWO}",
    )


class Pair(typing.NamedTuple):
    """A pair."""

    left: int
    right: str = "r"

    def both(self) -> str:
        return f"{self.left}{self.right}"


Plain = collections.namedtuple("Plain", "a b", defaults=[2])


class Derived(collections.namedtuple("Derived", "x")):
    def twice(self) -> int:
        return self.x * 2


@case
def named_tuples() -> Any:
    pair = Pair(1)
    return (
        pair,
        pair.both(),
        pair._replace(left=5),
        Pair.__doc__,
        Plain(1),
        Plain._fields,
        Derived(4).twice(),
        Derived(1),
        Pair._field_defaults,
    )


class Movie(typing.TypedDict, total=False):
    title: typing.Required[str]
    year: int


T = typing.TypeVar("T")
N = typing.TypeVar("N", bound=int)
UserId = typing.NewType("UserId", int)


class Box(typing.Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    def map(self, function: Callable[[T], N]) -> Box[N]:
        return Box(function(self.value))


class IntBox(Box[int]): ...


@typing.runtime_checkable
class Sized(typing.Protocol):
    def size(self) -> int: ...


class HasSize:
    def size(self) -> int:
        return 1


@case
def typing_classes() -> Any:
    alias = Box[int]
    return (
        Movie(title="x"), sorted(Movie.__required_keys__), alias(3).map(lambda v: v + 1).value, IntBox(2).value,
        isinstance(HasSize(), Sized), isinstance(3, Sized), UserId(4), N.__bound__, typing.get_args(alias),
        IntBox.__orig_bases__[0].__origin__ is Box, Box.__parameters__ == (T,),
    )  # fmt: skip


@case
def containers_of_everything() -> Any:
    return (
        TABLE[Colour.RED], TABLE[Frozen(1)], VIEWS[0], PATTERN.match("ab").group(), SPACE.x, CHAIN["k"], FROZEN_MAP["a"],
        type(Ellipsis), NOTHING, list(itertools.islice(COUNT, 2)),
    )  # fmt: skip


TABLE = {Colour.RED: 1, Frozen(1): 2}
VIEWS = [list({"k": 1}.items())]
PATTERN = re.compile("a(?P<x>b)", re.IGNORECASE)
SPACE = types.SimpleNamespace(x=1)
CHAIN = collections.ChainMap({"k": 5})
FROZEN_MAP = types.MappingProxyType({"a": 1})
NOTHING = type(None)
COUNT = itertools.count(5)


@case
def instances_keep_their_class() -> Any:
    return type(ORIGIN) is Point, isinstance(SQUARES[0], Square), SQUARES[1].described


SQUARES = [Square(1), Square(2)]


def _main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + "/sdk")
    if sys.argv[1] == "--load":
        from fleet._rebuild import functions as _rebuild

        with open(sys.argv[2], "rb") as stream:
            function = _rebuild.load_program(stream.read())
    else:
        from fleet._imports import Finder
        from fleet._portable import pickler as _portable
        from fleet._portable import world as _world

        world = _world.World(None, finder=Finder(os.getcwd()))
        session = _portable.Session(world, {}, numbered=True, importable_main=True)
        data = session.dumps(run_all)
        with open(sys.argv[1], "wb") as stream:
            stream.write(data)
        function = run_all
    print(json.dumps(function()))


if __name__ == "__main__":
    _main()
