"""Calls that run as one: who joins whom, what each gets, and that nobody's error is another's.

Programs here return how many rows their run had (``x.shape[0]``), so that a test sees what really ran together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fleet.protocol import codec
from runtime.guest.inside.wire import pack_items
from runtime.sandbox import jax_batch
from runtime.sandbox.jax_program import describe
from runtime.slots import Done, Items
from tests.sandbox.jax_programs import arguments, bundle, program
from tests.sandbox.test_jax_slot import JaxDesk, end, start
from tests.sandbox.test_slots import ended, value

B = True


def _sized(x: Any) -> list[Any]:
    return [x * 2, jnp.zeros(x.shape[:1], np.int32) + x.shape[0]]


SIZED = bundle(_sized, ("float32", ("b", 4)), result={"tuple": [0, 1]}, batch=B)
SCALED = bundle(
    lambda x, by: [x * by, jnp.zeros(x.shape[:1], np.int32) + x.shape[0]],
    ("float32", ("b", 4)),
    ("float32", ()),
    result={"tuple": [0, 1]},
    batch=B,
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def desk() -> AsyncIterator[JaxDesk]:
    desk = await start()
    yield desk
    await end(desk)


def row(number: float) -> Any:
    return np.full((1, 4), number, np.float32)


async def results(desk: JaxDesk, jobs: list[int]) -> list[Done]:
    return [await desk.wait(Done, ended(job)) for job in jobs]


# --- joining and splitting, without a slot


def _plan(code: bytes = SIZED, rows_max: int = 8) -> jax_batch.Plan:
    plan = jax_batch.plan_of(describe(code), rows_max)
    assert plan is not None
    return plan


def _runs(plan: jax_batch.Plan, inputs: list[list[Any]], **options: Any) -> tuple[list[Any], list[int]]:
    """What each call gets, and the rows of each run that was tried."""
    ran: list[int] = []

    def call(arrays: list[Any]) -> list[Any]:
        ran.append(len(arrays[0]))
        options.get("first", lambda arrays: None)(arrays)
        return [arrays[0] * 2]

    parts = [jax_batch.part_of(plan, arrays) for arrays in inputs]
    return jax_batch.run(plan, parts, call, (ValueError, MemoryError)), ran


def test_rows_are_joined_up_to_the_limit_and_come_back_to_whom_they_belong() -> None:
    inputs = [[np.full((rows, 4), number, np.float32)] for number, rows in enumerate((3, 1, 3, 2, 8, 1, 9))]
    found, ran = _runs(_plan(), inputs)
    for (given,), (got,) in zip(inputs, found, strict=True):
        np.testing.assert_array_equal(got, given * 2)
    assert ran == [8, 2, 8, 1, 9]  # 3+1+3 and a row added; what has more than fits runs alone, as it is


def test_a_row_without_its_dimension_gets_a_result_without_it() -> None:
    (one, two), ran = _runs(_plan(), [[np.ones(4, np.float32)], [np.ones((2, 4), np.float32)]])
    assert one[0].shape == (4,) and two[0].shape == (2, 4) and ran == [4]


@pytest.mark.parametrize(("rows", "size"), [(0, 0), (1, 1), (3, 4), (5, 8), (33, 48), (48, 48), (50, 50)])
def test_there_are_few_sizes(rows: int, size: int) -> None:
    assert jax_batch.bucket(rows, 48) == size


def test_an_error_of_some_rows_is_that_of_one_call() -> None:
    def refuse(arrays: list[Any]) -> None:
        if (arrays[0] == 3).any():
            raise ValueError("three")

    found, _ = _runs(_plan(), [[row(number)] for number in range(8)], first=refuse)
    assert [isinstance(one, ValueError) for one in found] == [number == 3 for number in range(8)]


def test_a_batch_that_is_too_large_runs_in_halves() -> None:
    def refuse(arrays: list[Any]) -> None:
        if len(arrays[0]) > 2:
            raise MemoryError("too large")

    found, ran = _runs(_plan(), [[row(number)] for number in range(8)], first=refuse)
    assert ran == [8, 4, 2, 2, 4, 2, 2]
    assert [one[0][0, 0] for one in found] == [2 * number for number in range(8)]


@pytest.mark.parametrize(
    ("function", "shapes", "head"),
    [
        (lambda x: [x.sum(0)], [("b", 4)], B),
        (lambda x: [x @ x.T], [("b", 4)], B),
        (lambda x, y: [x @ y], [("b", 4), (4, "b")], B),
        (lambda x: [x], [("b", 4)], None),
        (lambda x: [x], [(2, 4)], B),
    ],
)
def test_programs_whose_rows_mix_are_never_joined(function: Any, shapes: Any, head: Any) -> None:
    code = bundle(function, *(("float32", shape) for shape in shapes), batch=head, platforms=("cpu",))
    assert jax_batch.plan_of(describe(code), 8) is None


# --- in a slot


@pytest.mark.anyio
async def test_calls_that_come_together_run_together(desk: JaxDesk) -> None:
    which = program("sized", batch=(64, 0.2))
    jobs = [desk.submit(which, arguments(row(number)), SIZED) for number in range(32)]
    executions = 0.0
    for number, done in enumerate(await results(desk, jobs)):
        twice, rows = value(done)
        np.testing.assert_array_equal(twice, 2 * row(number))
        executions += 1 / rows[0]
    assert executions < 32 / 4


@pytest.mark.anyio
async def test_a_bad_call_fails_alone(desk: JaxDesk) -> None:
    which = program("sized", batch=(64, 0.2))
    sent = [row(1), np.ones((1, 5), np.float32), row(2), np.ones((1, 4), np.float64), row(3)]
    jobs = [desk.submit(which, arguments(one), SIZED) for one in sent]
    good, wide, _, double, last = await results(desk, jobs)
    assert wide.result[0] == 1 and "ValueError" in wide.summary
    assert double.result[0] == 1 and "TypeError" in double.summary
    assert value(good)[1][0] > 1 and value(last)[0][0, 0] == 6


@pytest.mark.anyio
async def test_what_calls_share_has_to_be_the_same(desk: JaxDesk) -> None:
    which = program("scaled", batch=(64, 0.2))
    sent = [(1, 2.0), (2, 3.0), (3, 2.0), (4, 3.0)]
    jobs = [desk.submit(which, arguments(row(x), np.float32(by)), SCALED) for x, by in sent]
    for (x, by), done in zip(sent, await results(desk, jobs), strict=True):
        scaled, rows = value(done)
        np.testing.assert_array_equal(scaled, row(x * by))
        assert rows[0] == 2


@pytest.mark.anyio
async def test_more_memory_than_there_is_for_all_is_enough_for_some(desk: JaxDesk) -> None:
    code = bundle(
        lambda x: [jnp.flip(jnp.cumsum(jnp.broadcast_to(x, (x.shape[0], 1 << 16)), 1), 1)[:, -4:] * jnp.ones(4)],
        ("float32", ("b", 1)),
        result=0,
        batch=B,
        platforms=("cpu",),
    )
    which = program("hungry", memory_bytes=3 << 20, batch=(8, 0.2))
    jobs = [desk.submit(which, arguments(np.full((1, 1), n, np.float32)), code) for n in range(8)]
    for number, done in enumerate(await results(desk, jobs)):
        np.testing.assert_array_equal(value(done)[0], number * np.arange(4, 0, -1))


@pytest.mark.anyio
async def test_items_of_a_chunk_are_rows_of_runs(desk: JaxDesk) -> None:
    which = program("sized", batch=(8, 0.0))
    items = [arguments(np.full(4, number, np.float32)) for number in range(20)]
    items[7] = arguments(np.full(3, 7, np.float32))
    items[9] = arguments(np.full((5, 4), 9, np.float32))
    job = desk.submit(which, pack_items(items), SIZED, items=20, item_numbers=[(0, 19)])
    done = await desk.wait(Done, ended(job))
    found = [one for part in desk.of(Items) if part.job == job for one in _items(part.results)]
    found += _items(done.result)
    assert len(found) == 20
    for number, data in enumerate(found):
        if number == 7:
            assert data[0] == 1
            continue
        twice, rows = codec.decode(data[1:])
        assert twice.shape == ((5, 4) if number == 9 else (4,)) and (twice == 2 * number).all()
        assert np.all(rows > 1)


@pytest.mark.anyio
async def test_one_alone_waits_for_nobody_longer_than_told(desk: JaxDesk) -> None:
    found = value(await desk.give("sized", SIZED, row(1), batch=(64, 0.001)))
    assert found[1][0] == 1


def _items(packed: Any) -> list[Any]:
    from fleet.protocol.frames import unpack_items

    return [memoryview(one) for one in unpack_items(packed, 4096)]
