"""Syntax that CPython 3.12 brought."""

import typing

from tests.conformance.case import case, made

type Pair[T] = tuple[T, T]
type Tree = dict[str, Tree | int]


def first[T](values: list[T]) -> T:
    return values[0]


class Stack[T]:
    def __init__(self) -> None:
        self.items: list[T] = []

    def push(self, item: T) -> typing.Self:
        self.items.append(item)
        return self


class Sorted[T: (int, str)](Stack[T]):
    def sorted(self) -> list[T]:
        return sorted(self.items)


@case("a generic function with type parameters", ["a", "b"])
def generic_function(values):
    return first(values), [param.__name__ for param in first.__type_params__]


@case("a generic class with type parameters")
def generic_class():
    return Stack[int]().push(1).push(2).items, Stack.__type_params__[0].__name__


@case("a type parameter with constraints")
def constrained():
    return Sorted[int]().push(2).push(1).sorted(), len(Sorted.__type_params__[0].__constraints__)


@case("a type alias that is evaluated late")
def alias():
    return Pair.__name__, typing.get_args(Pair[int]) == (int,), typing.get_origin(Pair.__value__) is tuple


@case("a recursive type alias")
def recursive_alias():
    return Tree.__name__, typing.get_args(Tree.__value__)[0] is str


@made("type parameters inside a closure", 3)
def local_generic():
    factor = 2

    def scale[T: float](value: T) -> T:
        return value * factor

    return scale


@made("a type alias inside a closure")
def local_alias():
    type Number = int | float

    def is_number(value: Number = 5) -> bool:
        return isinstance(value, Number.__value__)

    return is_number


@case("a generic method of a generic class")
def generic_method():
    class Box[T]:
        def __init__(self, value: T):
            self.value = value

        def map[R](self, function: typing.Callable[[T], R]) -> "Box[R]":
            return Box(function(self.value))

    return Box(3).map(str).value


@case("the same quotes inside an f-string", {"k": "v"})
def same_quotes(table):
    return f"{table['k']} {f'{f"{1 + 1}"}'}"


@case("comments and line ends inside an f-string", [1, 2])
def inside_f_string(values):
    return f"{
        ', '.join(
            str(value)  # each of them
            for value in values
        )
    }"


@case("backslashes inside an f-string", ["a", "b"])
def backslashes(words):
    return f"{'\n'.join(words)} {'\t'}"


@case("ParamSpec and TypeVarTuple in brackets")
def other_parameters():
    def call[**P, R](function: typing.Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    def pack[*Ts](*values: *Ts) -> tuple[*Ts]:
        return values

    return call(max, 1, 5), pack(1, "a"), [type(param).__name__ for param in call.__type_params__]


@case("a comprehension inlined in a class body and in a lambda")
def inlined():
    class Table:
        rows = [[n * m for m in range(2)] for n in range(2)]

    return Table.rows, (lambda k: [k + n for n in range(2)])(10)


@case("typing.override and a slice as a key")
def override():
    class Base:
        def run(self):
            return "base"

    class Derived(Base):
        @typing.override
        def run(self):
            return "derived"

    return Derived().run(), Derived.run.__override__, {slice(1, 2): "kept"}[slice(1, 2)]


@case("a dataclass with type parameters")
def generic_dataclass():
    import dataclasses

    @dataclasses.dataclass
    class Cell[T]:
        value: T

    return Cell[int](5).value, repr(Cell("x")), [field.name for field in dataclasses.fields(Cell)]


@case("itertools.batched", "abcde")
def batched(text):
    import itertools

    return ["".join(batch) for batch in itertools.batched(text, 2)]
