"""What CPython 3.13 brought."""

import copy
import typing
from dataclasses import dataclass

from tests.conformance.case import case


class Box[T = int]:
    def get(self) -> T | None:
        return None


@dataclass
class Point:
    x: int
    y: int = 0


@case("defaults of type parameters")
def defaults():
    return Box.__type_params__[0].__default__ is int, Box().get()


@case("copy.replace")
def replaced():
    return repr(copy.replace(Point(1, 2), y=5))


@case("read-only keys of a TypedDict")
def read_only():
    class Row(typing.TypedDict):
        id: typing.ReadOnly[int]

    return sorted(Row.__readonly_keys__), Row(id=1)


@case("__static_attributes__ and __firstlineno__ of a class")
def class_attributes():
    class Thing:
        def __init__(self):
            self.a = self.b = 1

    return sorted(Thing.__static_attributes__), Thing.__firstlineno__ == class_attributes.__code__.co_firstlineno + 2


@case("locals() is a snapshot")
def snapshot():
    a = 1
    before = locals()
    a = 2
    return before["a"], locals()["a"], a


@case("a named tuple and an exception with a replaced part")
def others():
    class Row(typing.NamedTuple):
        a: int
        b: int

    return tuple(copy.replace(Row(1, 2), b=3)), str(PythonError("x"))


class PythonError(RuntimeError):
    pass
