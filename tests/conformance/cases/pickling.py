"""Instances of the script's classes as arguments, by every protocol that pickle knows."""

import collections
import copyreg
import dataclasses
import enum
import functools
import operator
import pickle
import types

from tests.conformance.case import case


class WithState:
    def __init__(self, n):
        self.n = n
        self.cache = ["not sent"]

    def __getstate__(self):
        return {"n": self.n}

    def __setstate__(self, state):
        self.n = state["n"]
        self.cache = "made there"


class Reduced:
    def __init__(self, a, b):
        self.a, self.b = a, b

    def __reduce__(self):
        return Reduced, (self.b, self.a)


def _rebuild(parts):
    made = ByFunction.__new__(ByFunction)
    made.parts = parts
    return made


class ByFunction:
    def __init__(self):
        self.parts = [1]

    def __reduce_ex__(self, protocol):
        return _rebuild, ([*self.parts, protocol >= 2],)


class NewArgs:
    def __new__(cls, n, *, unit="m"):
        one = super().__new__(cls)
        one.text = f"{n}{unit}"
        return one

    def __getnewargs_ex__(self):
        return (5,), {"unit": "km"}

    def __getstate__(self):
        return None


class Slotted:
    __slots__ = ("a", "b")


class Everything(dict):
    def __init__(self, **items):
        super().__init__(**items)
        self.note = "attribute"


class Numbers(list):
    pass


class Registered:
    def __init__(self, n):
        self.n = n


copyreg.pickle(Registered, lambda one: (Registered, (one.n * 10,)))


class Singleton:
    def __reduce__(self):
        return "ONLY"


ONLY = Singleton()


@dataclasses.dataclass
class Node:
    name: str
    next: "Node | None" = None

    def describe(self, mark):
        return self.name + mark


class Kind(enum.Enum):
    A = "a"


class Failure(Exception):
    def __init__(self, code, *, text):
        super().__init__(code)
        self.text = text

    def __reduce__(self):
        return functools.partial(Failure, text=self.text), self.args


@case("__getstate__ and __setstate__", WithState(4), copied=True)
def state(one):
    return one.n, one.cache


@case("__reduce__", Reduced(1, 2), copied=True)
def reduce(one):
    return one.a, one.b


@case("__reduce_ex__ with a function of the script", ByFunction(), copied=True)
def reduce_ex(one):
    return one.parts


@case("__getnewargs_ex__", NewArgs(1), copied=True)
def new_args(one):
    return one.text


def _slotted():
    one = Slotted()
    one.a = 1
    return one


@case("slots with one of them empty", _slotted())
def slots(one):
    return one.a, hasattr(one, "b")


@case("an instance of a child of dict, with an attribute", Everything(x=1))
def dict_child(one):
    return dict(one), one.note, type(one) is Everything


@case("an instance of a child of list", Numbers([1, 2]))
def list_child(one):
    return sum(one), type(one).__name__


@case("a class registered with copyreg", Registered(3), copied=True)
def registered(one):
    return one.n


@case("an object that is found by its name", ONLY)
def by_name(one):
    return one is ONLY


def _ring():
    first, second = Node("a"), Node("b")
    first.next, second.next = second, first
    return first


@case("a ring of instances", _ring())
def ring(first):
    return first.next.next is first, first.next.name


@case("the same object twice among the arguments", *[[1]] * 2)
def same_twice(a, b):
    a.append(2)
    return a is b, b


def _holds_itself():
    values = [1]
    values.append(values)
    return values


@case("a list that holds itself", _holds_itself())
def holds_itself(values):
    return values[1] is values, len(values)


@case(
    "a partial, a method and a module as arguments",
    functools.partial(_rebuild, [2]),
    Node("n").describe,
    operator,
)
def callables(partial, method, module):
    return partial().parts, method("!"), module.add(1, 2)


@case("a lambda as an argument", lambda n: n + 1)
def takes_lambda(function):
    return function(41)


@case("lambdas inside a container as an argument", {"f": [lambda n: n * 2]})
def takes_nested(table):
    return table["f"][0](4)


def _closure(n):
    def inner(m):
        return n + m

    return inner


@case("a closure as an argument", _closure(5))
def takes_closure(function):
    return function(1)


def _local_class():
    class Local:
        def __init__(self, n):
            self.n = n

        def twice(self):
            return self.n * 2

    return Local(6)


@case("an instance of a class of a function's own scope", _local_class())
def takes_local(one):
    return one.twice(), type(one).__name__


@case("classes, enum members and exceptions as arguments", Kind, Kind.A, Failure(3, text="why"))
def takes_kinds(kind, member, error):
    return kind("a") is member, error.args, error.text


@case("a named tuple of collections as an argument", collections.namedtuple("Row", "a b")(1, 2))
def takes_row(row):
    return row.a + row.b, row._fields


@case("an iterator as an argument", iter([1, 2, 3]))
def takes_iterator(values):
    return next(values), list(values)


@case("a chain of itertools' functions as an argument", map(str, [1, 2]))
def takes_map(values):
    return list(values)


@case("a namespace and a mapping proxy's copy", types.SimpleNamespace(a=1, b=[2]))
def takes_namespace(space):
    return space.a, vars(space)


@case("pickling and unpickling inside the call", Node("x", Node("y")))
def pickles(node):
    again = pickle.loads(pickle.dumps(node))
    return again == node, again is node, type(again) is Node


def _never_made():
    raise TypeError("not to be made")


@case("a value that can't be rebuilt from its pickle", raises=TypeError)
def not_rebuilt():
    class Broken:
        def __reduce__(self):
            return _never_made, ()

    return pickle.loads(pickle.dumps(Broken()))


@case("a dict with keys of every kind as an argument", {1: "a", (2, "b"): "c", None: 0, frozenset({1}): 1, Kind.A: 2})
def takes_keys(table):
    return table[(2, "b")], table[None], table[frozenset({1})], table[Kind.A], len(table)


@case("large bytes beside small ones", bytes(300_000), b"s")
def takes_bytes(large, small):
    return len(large), small, large[:2]
