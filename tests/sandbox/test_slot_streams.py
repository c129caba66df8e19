"""Generators in a real slot process: items as they come, waiting for credit on the pipe, what else lies in it."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.protocol import codec, frames
from fleet.protocol.limits import CHUNK_ITEMS_MAX, STREAM_WINDOW_ITEMS
from runtime.guest.build import GuestImage
from runtime.slot_wire import StreamStart
from runtime.slots import Checkpoint, Done, Items, LogLines
from tests.sandbox.test_slots import Desk, a_slot, bundle, ended, pickled, program, value

pytestmark = pytest.mark.anyio

SOURCE = """
import time
import fleet

def count(n):
    for i in range(n):
        yield i
def burst(n, seconds):
    yield from range(n)
    time.sleep(seconds)
    yield n
def saving():
    yield "a"
    yield "b"
    fleet.current().checkpoint("two")
    yield "c"
def add(x, y=1): return x + y
"""
CODE = bundle(SOURCE)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def begin(desk: Desk, function: str, *args: Any, skip: int = 0, consumed: int = 0) -> int:
    return desk.submit(
        program(function, key="streams" + function), pickled(*args), CODE, stream=StreamStart(skip, consumed)
    )


def items(desk: Desk, job: int) -> list[Any]:
    """What the job told so far, in order and without a gap."""
    found: list[Any] = []
    for event in desk.of(Items):
        if event.job == job:
            assert event.first == len(found)
            found += [codec.decode(bytes(one[1:])) for one in frames.unpack_items(event.results, CHUNK_ITEMS_MAX)]
    return found


async def test_items_go_out_while_the_generator_is_busy(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (_, desk):
        job = begin(desk, "burst", 50, 3.0)
        # The thread of the slot sends what gathered: the generator sleeps, and its result is seconds away.
        await desk.wait(Items, lambda event: len(items(desk, job)) == 50)
        assert not desk.of(Done)
        first, *_ = desk.of(Items)
        assert len(frames.unpack_items(first.results, 50)) == 1, "the first one waits for nobody"


async def test_it_waits_for_credit_and_keeps_what_else_comes(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (slot, desk):
        total = 2 * STREAM_WINDOW_ITEMS + 50
        job = begin(desk, "count", total)
        await desk.wait(Items, lambda _: len(items(desk, job)) == STREAM_WINDOW_ITEMS)
        behind = desk.submit(program("add", key="other"), pickled(1, 2), CODE)
        stream = begin(desk, "count", 3, skip=STREAM_WINDOW_ITEMS, consumed=0)
        slot.credit(stream, 1)
        slot.credit(job, 1)
        slot.credit(job, 10)
        await desk.wait(Items, lambda _: len(items(desk, job)) == STREAM_WINDOW_ITEMS + 10)
        slot.credit(job, total)
        await desk.wait(Done, ended(job))
        assert items(desk, job) == list(range(total))
        assert value(await desk.wait(Done, ended(behind))) == 3
        await desk.wait(Done, ended(stream))
        slot.credit(stream, 99)
        assert value(await desk.call("add", 4)) == 5, "credit of a job that is over is nothing"


async def test_a_checkpoint_comes_behind_its_items(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (_, desk):
        job = begin(desk, "saving")
        await desk.wait(Done, ended(job))
        before = desk.events[: next(i for i, event in enumerate(desk.events) if isinstance(event, Checkpoint))]
        told = sum(len(frames.unpack_items(event.results, 9)) for event in before if isinstance(event, Items))
        assert told == 2
        assert items(desk, job) == ["a", "b", "c"]
        assert not desk.of(LogLines)
