"""NamedTuple, TypedDict, Protocol, generics, and what else typing leaves behind at run time."""

import collections
import typing
from collections.abc import Callable, Sequence
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
)

from tests.conformance.case import case, made

T = TypeVar("T")
P = ParamSpec("P")
UserId = NewType("UserId", int)
Alias = dict[str, list[int]]


class Point(NamedTuple):
    x: int
    y: int = 0

    def moved(self, by):
        return self._replace(x=self.x + by)

    @property
    def sum(self):
        return self.x + self.y


Pair = collections.namedtuple("Pair", "left right", defaults=[9])


class Labeled(Point):
    """A child of a named tuple."""

    def label(self):
        return f"({self.x}|{self.y})"


class Movie(TypedDict, total=False):
    title: str
    year: int


class Closable(Protocol):
    def close(self) -> str: ...


@typing.runtime_checkable
class Sized(Protocol):
    def size(self) -> int: ...


class Stack(Generic[T]):
    def __init__(self) -> None:
        self.items: list[T] = []

    def push(self, item: T) -> "Stack[T]":
        self.items.append(item)
        return self

    def map(self, function: Callable[[T], Any]) -> list[Any]:
        return [function(item) for item in self.items]


class IntStack(Stack[int]):
    pass


@case("a NamedTuple with a method, a property and a default")
def named_tuple():
    point = Point(1)
    return repr(point), point.moved(5).x, point.sum, point == (1, 0), point._asdict(), Point._fields


@case("collections.namedtuple")
def by_function():
    return repr(Pair(1)), Pair._make([3, 4]).right, Pair(1, 2)._replace(left=5).left, Pair._field_defaults


@case("a child of a NamedTuple")
def child():
    return Labeled(1, 2).label(), isinstance(Labeled(1), tuple)


@case("a NamedTuple as an argument, unpacked", Point(3, 4))
def as_argument(point):
    x, y = point
    return x * y, type(point) is Point, point._replace(y=0).y


@made("a NamedTuple of a function's own scope")
def local_named_tuple():
    class Local(NamedTuple):
        a: int
        b: str = "b"

    def call():
        return Local(1).b, repr(Local(2, "c"))

    return call


@case("a named tuple with names that are changed")
def renamed():
    return collections.namedtuple("Row", ["class", "x", "x"], rename=True)._fields


@case("a TypedDict is a dict")
def typed_dict():
    movie = Movie(title="Metropolis", year=1927)
    return movie, type(movie).__name__, Movie.__total__, sorted(Movie.__annotations__)


@case("a Protocol that is fulfilled without being named")
def protocol():
    class Door:
        def close(self):
            return "closed"

    def shut(thing: Closable) -> str:
        return thing.close()

    return shut(Door())


@case("isinstance with a runtime-checkable Protocol")
def runtime_checkable():
    class Box:
        def size(self):
            return 1

    return isinstance(Box(), Sized), isinstance(5, Sized)


@case("a generic class and a child of it")
def generic():
    stack = IntStack().push(1).push(2)
    return stack.map(lambda n: n * 10), typing.get_args(IntStack.__orig_bases__[0]) == (int,), Stack[str]().items


@case("a generic function with a TypeVar")
def type_var():
    def first(values: Sequence[T]) -> T:
        return values[0]

    return first("ab"), T.__name__, first.__annotations__["return"] is T


@case("ParamSpec in a decorator")
def param_spec():
    def logged(function: Callable[P, T]) -> Callable[P, list[T]]:
        def inner(*args: P.args, **kwargs: P.kwargs) -> list[T]:
            return [function(*args, **kwargs)]

        return inner

    return logged(lambda a, *, b: a + b)(1, b=2)


@case("NewType, Literal, Optional and unions at run time")
def at_run_time():
    hint = Optional[Literal["a", "b"]]
    return (
        UserId(5),
        typing.get_args(int | str) == (int, str),
        typing.get_args(hint)[1] is type(None),
        isinstance(1, int | str),
    )


@case("an alias of a generic builtin")
def alias():
    return typing.get_origin(Alias).__name__, typing.get_args(Alias)[0].__name__, Alias(a=[1])


@case("Annotated keeps its metadata")
def annotated():
    def take(n: Annotated[int, "meters", 5]) -> None: ...

    hints = typing.get_type_hints(take, include_extras=True)
    return hints["n"].__metadata__, typing.get_type_hints(take)["n"].__name__


@case("get_type_hints of a class with a text annotation")
def class_hints():
    class Node:
        next: "Optional[Node]"
        value: "int" = 0

    return typing.get_type_hints(Node, localns={"Node": Node})["value"].__name__, Node.value


@case("cast, TYPE_CHECKING, final and override-like marks do nothing")
def marks():
    @typing.final
    class Sealed:
        level: typing.Final = 3

    return typing.cast(int, "text"), typing.TYPE_CHECKING, Sealed().level, typing.no_type_check(lambda: 1)()


@case("overloads leave the last definition")
def overloads():
    @typing.overload
    def double(x: int) -> int: ...
    @typing.overload
    def double(x: str) -> str: ...
    def double(x):
        return x * 2

    return double(2), double("a")


@case("a TypedDict with required and optional keys")
def required_keys():
    class Row(TypedDict):
        must: typing.Required[int]
        may: typing.NotRequired[str]

    return Row(must=1), sorted(Row.__required_keys__), sorted(Row.__optional_keys__)


@case("a generic protocol implemented by a generic class")
def generic_protocol():
    class Source(Protocol[T]):
        def get(self) -> T: ...

    class Constant(Generic[T]):
        def __init__(self, value: T) -> None:
            self.value = value

        def get(self) -> T:
            return self.value

    def read(source: Source[T]) -> T:
        return source.get()

    return read(Constant(7))
