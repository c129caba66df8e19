"""Results as the guest itself writes them: what is hard there, and how long it takes."""

from __future__ import annotations

import pytest

from fleet.protocol.codec import decode
from fleet.protocol.errors import ResultNotPortable
from tests.sandbox.wasm_bench import Bench

SHAPES = """
import collections, enum
from dataclasses import dataclass

class Colour(enum.Enum):
    RED = 1

@dataclass
class Point:
    x: float
    y: float = 0.5

def nested(depth, leaf):
    value = leaf
    for _ in range(depth):
        value = [value]
    return value

def f(name):
    if name == "floats before what nests too deep":
        return [1.5] * 20 + [nested(1400, 1)] + [1.5] * 20
    if name == "far too deep":
        return nested(100_000, 1.5)
    if name == "floats and bytes":
        return [1.5] * 20 + [bytearray(b"x"), memoryview(b"y")]
    if name == "floats and ints":
        return [1.5, 2] * 20
    if name == "shared floats":
        return [1.5] * 100_000
    if name == "points":
        return [Point(n / 2) for n in range(1000)] + [Colour.RED]
    if name == "longs":
        import array
        return array.array("l", [1, -2])
"""


@pytest.mark.parametrize("name", ["floats before what nests too deep", "far too deep"])
def test_what_is_too_much_is_refused_and_ends_no_sandbox(bench: Bench, name: str) -> None:
    program = bench.load(SHAPES)
    told = bench.raised(program, name)
    assert told.code == "result_not_portable" and "deep" in told.message
    assert len(bench.value(program, "shared floats")) == 100_000


def test_types_are_kept(bench: Bench) -> None:
    program = bench.load(SHAPES)
    found = bench.value(program, "floats and bytes")
    assert found[-2:] == [bytearray(b"x"), memoryview(b"y")] and type(found[-2]) is bytearray
    assert [type(one) for one in bench.value(program, "floats and ints")[:2]] == [float, int]
    assert bench.value(program, "longs").tolist() == [1, -2]


def test_classes_are_named_by_their_script(bench: Bench) -> None:
    program = bench.load(SHAPES)
    with pytest.raises(ResultNotPortable, match=r"result\[0\] is of class Point, which is not known here"):
        bench.value(program, "points")
    found = decode(bench.run(program, "points").result[1:], records=True)
    assert repr(found[-2:]) == "[Point(x=499.5, y=0.5), Colour.RED]"


FLOATS = """
import pickle, time
from fleet.protocol import codec

def best(work):
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)

def f():
    values = [n / 7 for n in range(100_000)]
    return best(lambda: codec.encode(values)), best(lambda: pickle.dumps(values))
"""


@pytest.mark.alone
def test_a_hundred_thousand_floats_take_at_most_three_times_as_long_as_pickling_them(bench: Bench) -> None:
    ours_s, pickle_s = bench.value(bench.load(FLOATS))
    assert ours_s <= 3 * pickle_s
