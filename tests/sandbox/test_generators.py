"""Generators in the real sandbox: what they tell, when they stop, where they go on."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fleet.protocol import codec, limits
from runtime.slot_wire import SlotProgram, StreamStart
from tests.sandbox.wasm_bench import Bench

COUNT = """
def f(n):
    for i in range(n):
        yield i * 10
    return "nobody sees this"
"""


def stream(bench: Bench, program: SlotProgram, *args: Any, skip: int = 0, consumed: int = 0, **more: Any) -> list[Any]:
    """Run a generator; what it told. ``bench.end`` is what it ended with."""
    bench.desk.yielded.clear()
    start = StreamStart(skip, consumed)
    bench.end = bench.run(program, *args, stream=start, **more).result  # type: ignore[attr-defined]
    assert all(item[0] == 0 for item in bench.desk.yielded)
    return [codec.decode(item[1:]) for item in bench.desk.yielded]


def error(bench: Bench) -> codec.ExceptionData:
    end: bytes = bench.end  # type: ignore[attr-defined]
    assert end[0] == 1
    return codec.decode_exception(end[1:])


def test_every_item_is_told_and_the_return_value_is_not(bench: Bench) -> None:
    program = bench.load(COUNT)
    assert stream(bench, program, 5) == [0, 10, 20, 30, 40]
    assert bench.end == b"\0" + codec.encode(None)  # type: ignore[attr-defined]
    assert stream(bench, program, 0) == []


@pytest.mark.parametrize(
    "source",
    [
        "async def f(n):\n    for i in range(n):\n        yield i * 10\n",
        "import asyncio\nasync def f(n):\n    for i in range(n):\n        await asyncio.sleep(0.001)\n        yield i * 10\n",
        "def f(n): return map(lambda i: i * 10, range(n))\n",
        "def f(n): return iter([i * 10 for i in range(n)])\n",
        "def g(n):\n    yield from (i * 10 for i in range(n))\ndef f(n): return g(n)\n",
        "import fleet\n@fleet.function\ndef f(n):\n    for i in range(n): yield i * 10\n",
    ],
    ids=["async", "awaiting", "map", "iterator", "delegating", "decorated"],
)
def test_kinds_of_generators(bench: Bench, source: str) -> None:
    assert stream(bench, bench.load(source), 3) == [0, 10, 20]


def test_what_is_stored_is_dropped_unencoded(bench: Bench) -> None:
    program = bench.load("def f():\n    yield lambda: 0\n    yield 1\n    yield 2\n")
    assert stream(bench, program, skip=1, consumed=1) == [1, 2]
    assert stream(bench, program, skip=3, consumed=3) == []
    assert stream(bench, program, skip=9, consumed=3) == []
    assert stream(bench, program) == []
    assert "yield 0" in error(bench).message, error(bench)


def test_what_raises_after_items(bench: Bench) -> None:
    program = bench.load(
        "def f():\n    try:\n        yield 1\n        yield 2\n        raise ValueError('late')\n"
        "    finally:\n        print('closed')\n"
    )
    assert stream(bench, program) == [1, 2]
    assert (error(bench).type_name, error(bench).message) == ("ValueError", "late")
    program = bench.load(
        "def f():\n    try:\n        yield 1\n        yield len\n    finally:\n        print('closed')\n"
    )
    assert stream(bench, program) == [1]
    assert "yield 1" in error(bench).message
    assert [text for _, _, text in bench.desk.lines] == ["closed", "closed"]


def test_one_value_and_many_are_not_mixed_up(bench: Bench) -> None:
    assert "remote_gen()" in bench.raised(bench.load(COUNT), 1).message
    assert "remote_gen()" in bench.raised(bench.load("async def f(n):\n    yield n\n"), 1).message
    assert stream(bench, bench.load("def f(n): return [n]\n"), 1) == []
    assert "returned list" in error(bench).message
    assert stream(bench, bench.load("async def f(n): return n\n"), 1) == []
    assert "returned int" in error(bench).message


def test_it_waits_when_the_window_is_full_and_goes_on_by_credit(bench: Bench) -> None:
    window = limits.STREAM_WINDOW_ITEMS
    bench.desk.credits = [1, 1, 100, 10_000]
    assert len(stream(bench, bench.load(COUNT), window + 103)) == window + 103
    assert bench.desk.waits == [window, window + 1, window + 2, window + 102]


def test_it_waits_by_bytes_too(bench: Bench) -> None:
    program = bench.load("def f(n, size):\n    for i in range(n): yield bytes(size)\n")
    bench.desk.credits = [1, 1, 1]
    assert len(stream(bench, program, 6, limits.STREAM_WINDOW_BYTES // 4)) == 6
    assert bench.desk.waits == [4, 5, 6]
    bench.desk.waits.clear()
    bench.desk.credits = [1, 1]
    assert len(stream(bench, program, 2, 2 * limits.STREAM_WINDOW_BYTES)) == 2
    assert bench.desk.waits == [1, 2], "one item is always allowed"


def test_a_run_that_begins_far_ahead_waits_before_its_first_item(bench: Bench) -> None:
    window = limits.STREAM_WINDOW_ITEMS
    bench.desk.credits = [5]
    assert stream(bench, bench.load(COUNT), window + 3, skip=window + 1, consumed=1) == [
        (window + 1) * 10,
        (window + 2) * 10,
    ]
    assert bench.desk.waits == [0]


SAVING = """
import fleet
def f(n):
    for i in range(fleet.current().resume(0), n):
        print(i)
        yield i
        fleet.current().checkpoint(i + 1)
"""


def test_a_checkpoint_says_how_many_items_are_before_it(bench: Bench) -> None:
    program = bench.load(SAVING)
    assert stream(bench, program, 5) == [0, 1, 2, 3, 4]
    third = bench.desk.saved[2]
    bench.desk.lines.clear()
    assert stream(bench, program, 6, skip=4, consumed=4, checkpoint=third) == [4, 5]
    assert [text for _, _, text in bench.desk.lines] == ["3", "4", "5"]
    # Items before it were never stored: it is of no use.
    bench.desk.lines.clear()
    assert stream(bench, program, 4, skip=2, consumed=2, checkpoint=third) == [2, 3]
    assert bench.desk.lines[0][2] == "0"


def test_a_checkpoint_that_nobody_asks_for_changes_nothing(bench: Bench) -> None:
    program = bench.load(SAVING.replace("fleet.current().resume(0)", "0"))
    assert stream(bench, program, 5) == [0, 1, 2, 3, 4]
    third = bench.desk.saved[2]
    assert stream(bench, program, 5, skip=4, consumed=4, checkpoint=third) == [4]


def test_a_checkpoint_behind_a_header(bench: Bench) -> None:
    program = bench.load(SAVING.replace("    for i", "    yield 'header'\n    for i"))
    assert stream(bench, program, 4) == ["header", 0, 1, 2, 3]
    third = bench.desk.saved[2]
    assert stream(bench, program, 5, skip=4, consumed=4, checkpoint=third) == [3, 4]


def test_calls_after_a_generator_know_nothing_of_it(bench: Bench) -> None:
    source = (
        "import fleet\ndef f(n):\n    fleet.current().checkpoint(1)\n    return (x for x in range(n)) if n else n\n"
    )
    program = bench.load(source)
    assert stream(bench, program, 2) == [0, 1]
    assert bench.value(program, 0) == 0
    assert len(bench.desk.saved[0]) == len(bench.desk.saved[1]) + 8


@pytest.mark.alone
def test_speed(bench: Bench) -> None:
    program = bench.load("def f(n):\n    yield from range(n)\n")
    bench.desk.credits = [1 << 31]
    started_s = time.perf_counter()
    count = len(stream(bench, program, 50_000))
    rate = count / (time.perf_counter() - started_s)
    assert rate > 10_000, f"{rate:.0f} items/s"
