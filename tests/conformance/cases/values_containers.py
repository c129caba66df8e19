"""Containers, there as an argument and back as a result."""

import array
import collections
import datetime as dt
import functools
import types

from tests.conformance.case import case, through


def identity(value):
    return value


value = through(identity)

value("an empty list", [])
value("a list of mixed values", [1, "a", None, 2.5, [b"x"]])
value("a list of many floats", [n / 7 for n in range(1000)])
value("a list of floats with nan and infinity", [float("nan"), float("-inf"), -0.0] * 10)
value("a list of many ints", list(range(-500, 500)))
value("a list of ints, one of them large", [*range(40), 2**65])
value("a list of ints and floats that are equal", [1, 1.0, True] * 20)
value("a list of bools", [True, False] * 30)
value("a list of equal texts", ["same"] * 100)
value("an empty tuple", ())
value("a tuple of one", (1,))
value("a tuple of many floats", tuple(n / 3 for n in range(100)))
value("tuples inside lists inside tuples", ([(1, [2, (3,)])],))
value("a set", {1, "a", (2, 3)})
value("an empty set", set())
value("a frozenset of frozensets", frozenset({frozenset({1}), frozenset()}))
value("a dict with its order", {"z": 1, "a": 2, "m": 3})
value(
    "a dict with keys of many kinds",
    {1: "int", "1": "str", None: 0, (1, 2): 1, b"b": 2, 1.5: 3, frozenset({1}): 4, False: 5},
)
value("a dict with dates as keys", {dt.date(2026, 1, 1): "new year"})
value("a dict of dicts, four deep", {"a": {"b": {"c": {"d": []}}}})
value("a table: a list of dicts with the same keys", [{"id": n, "name": f"n{n}", "x": n / 3} for n in range(100)])
value("a list of dicts with different keys", [{"a": 1}, {"b": 2, "a": 3}, {}])
value("columns: a dict of lists", {"t": [0.5] * 50, "n": list(range(50)), "s": ["a"] * 50})
value("a dict with a thousand float values", {f"k{n}": n / 9 for n in range(1000)})
value("a deque", collections.deque([1, 2, 3]))
value("a bounded deque", collections.deque("abc", maxlen=5))
value("a Counter", collections.Counter("abracadabra"))
value("a Counter with negative counts", collections.Counter(a=-1, b=0))
value("a defaultdict of lists as a value", collections.defaultdict(list, {"a": [1]}))
value("a defaultdict without a factory", collections.defaultdict(None, {"a": 1}))
value("an OrderedDict", collections.OrderedDict([("b", 1), ("a", 2)]))
value("an array of doubles", array.array("d", [1.5, -0.0, float("inf")]))
value("an array of bytes", array.array("B", b"\x00\xff"))
value("an array of 64-bit ints", array.array("q", [2**62, -1]))
value("an empty array of chars", array.array("u"))
value("a simple namespace", types.SimpleNamespace(a=1, b=[types.SimpleNamespace()]))
value("sixty levels of nested lists", functools.reduce(lambda inner, _: [inner], range(60), 0))
value("the same list twice becomes two equal lists", [[1]] * 2)
value("a list of every single value", [None, True, 1, 1.0, "s", b"b", ..., NotImplemented, 1j])


@case("a generator's values as a list, a map's as a tuple", 3)
def iterated(n):
    return [i for i in range(n)], tuple(map(str, range(n)))


@case("keys, values and items made lists")
def views():
    table = {"a": 1}
    return list(table), list(table.values()), list(table.items())


@case("a large result of rows", 5000)
def rows(n):
    return [{"id": i, "label": f"row {i}", "score": i / 7, "tags": ["a", "b"]} for i in range(n)]


@case("a hundred thousand floats", 100_000)
def floats(n):
    return [i * 0.5 for i in range(n)]


@case("a dict changed after it was put into the result")
def changed_later():
    inner = {"a": 1}
    outer = [inner]
    inner["b"] = 2
    return outer


@case("a set of tuples and a dict with tuple keys", [("a", 1), ("b", 2)])
def tuple_keys(pairs):
    return set(pairs), {pair: index for index, pair in enumerate(pairs)}
