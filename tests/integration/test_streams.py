"""``remote_gen`` against a real fleet: what is yielded arrives as it is yielded, once, in order, whatever leaves or dies."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

import fleet
from fleet.protocol.limits import STREAM_WINDOW_ITEMS
from fleet.testing import LocalCar, LocalFleet
from tests.integration import stream_functions as fn


def logs_of(stream: Any) -> list[str]:
    return fleet.Call.from_id(stream.id).logs()


@pytest.mark.usefixtures("shared_fleet")
class TestStreams:
    def test_items_in_order_and_then_the_end(self) -> None:
        assert list(fn.count.remote_gen(3000)) == list(range(3000))
        assert list(fn.count.remote_gen(0)) == []
        assert list(fn.returning.remote_gen()) == [1]
        assert list(fn.decorated.remote_gen(3)) == [0, 2, 4]
        stream = fn.count.remote_gen(2)
        assert [next(stream), next(stream)] == [0, 1]
        with pytest.raises(StopIteration):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
        assert fleet.Call.from_id(stream.id).status() == "succeeded"

    def test_items_come_as_they_are_yielded(self) -> None:
        arrived = []
        for _ in fn.paced.remote_gen(4, 0.15):
            arrived.append(time.monotonic())
        gaps = [later - earlier for earlier, later in itertools.pairwise(arrived)]
        assert min(gaps) > 0.05, gaps

    def test_the_car_stays_a_window_ahead_of_a_slow_consumer(self, shared_fleet: LocalFleet) -> None:
        stream = fn.told.remote_gen(10_000)
        taken = [next(stream) for _ in range(100)]
        last = str(STREAM_WINDOW_ITEMS - 1)
        shared_fleet.wait_for(lambda: logs_of(stream)[-1:] == [last], "the generator to wait for its consumer")
        status = fleet.Call.from_id(stream.id).status()
        assert status == "running"
        for value in stream:
            taken.append(value)
            if value == 5000:
                seen = [int(line) for line in logs_of(stream)]
                assert seen[-1] <= value + STREAM_WINDOW_ITEMS
        assert taken == list(range(10_000))

    def test_an_exception_comes_after_the_items_before_it(self) -> None:
        stream = fn.breaks.remote_gen(300)
        taken = []
        with pytest.raises(fn.Broken, match="after 300") as caught:
            for value in stream:
                taken.append(value)
        assert taken == list(range(300))
        assert "Remote traceback" in "\n".join(caught.value.__notes__)
        assert list(stream) == [], "it is over"
        with pytest.raises(fleet.ResultNotPortable, match="yield 3"):
            list(fn.unportable.remote_gen(3))

    def test_retries_go_on_behind_what_was_delivered(self) -> None:
        assert list(fn.third_time.remote_gen(500)) == list(range(500))

    def test_leaving_early_cancels(self, shared_fleet: LocalFleet) -> None:
        def cancelled(call: str) -> bool:
            return fleet.Call.from_id(call).status() == "cancelled"

        taken = []
        stream = fn.forever.remote_gen()
        for value in stream:
            taken.append(value)
            if value == 2500:
                break
        call = stream.id
        stream.close()
        assert taken == list(range(2501))
        assert list(stream) == []
        shared_fleet.wait_for(lambda: cancelled(call), "close() to cancel")
        with fn.forever.remote_gen(7) as stream:
            assert next(stream) == 7
            call = stream.id
        shared_fleet.wait_for(lambda: cancelled(call), "the end of the with to cancel")
        stream = fn.forever.remote_gen()
        next(stream)
        call = stream.id
        del stream
        gc.collect()
        shared_fleet.wait_for(lambda: cancelled(call), "garbage to cancel")
        assert fn.one.remote() == 1, "the slot is free"
        with fleet.connect(shared_fleet.url):
            stream = fn.forever.remote_gen()
            assert next(stream) == 0
        shared_fleet.wait_for(lambda: cancelled(stream.id), "the end of the connection to cancel")
        stream = fn.forever.remote_gen()
        assert next(stream) == 0
        assert fleet.Call.from_id(stream.id).cancel()
        with pytest.raises(fleet.CallCancelled):
            list(stream)

    def test_async_generators_and_async_iteration(self, shared_fleet: LocalFleet) -> None:
        async def collect() -> list[Any]:
            return [item async for item in fn.asynchronous.remote_gen.aio(20)]

        expected = [f"item {i}" for i in range(20)]
        assert asyncio.run(collect()) == expected
        assert list(fn.asynchronous.remote_gen(20)) == expected

        async def cancelled_task() -> str:
            stream = fn.forever.remote_gen.aio()

            async def consume() -> None:
                async for _ in stream:
                    await asyncio.sleep(0)

            async with asyncio.timeout(30):
                task = asyncio.ensure_future(consume())  # noqa: TID251
                while stream.id is None:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await stream.aclose()
            return stream.id

        call = asyncio.run(cancelled_task())
        shared_fleet.wait_for(lambda: fleet.Call.from_id(call).status() == "cancelled", "the task's end to cancel")

    def test_large_items_that_were_taken_are_let_go_of(self, shared_fleet: LocalFleet) -> None:
        def stored_bytes() -> int:
            return shared_fleet.platform().stream_bytes["OUTCOMES"]

        before = stored_bytes()
        for index, item in enumerate(fn.large.remote_gen(60, 1 << 20)):
            assert item == bytes([index]) * (1 << 20)
        shared_fleet.wait_for(lambda: stored_bytes() - before < 40 << 20, "parts to be let go of")
        for index, item in enumerate(fn.large.remote_gen(2, 6 << 20)):
            assert item == bytes([index]) * (6 << 20)

    def test_waiting_for_the_consumer_costs_no_time(self, shared_fleet: LocalFleet) -> None:
        stream = fn.quick_but_patient.remote_gen(3 * STREAM_WINDOW_ITEMS)
        next(stream)
        began_s = time.monotonic()
        shared_fleet.wait_for(lambda: time.monotonic() - began_s > 1.2, "more than its timeout to pass")
        assert len(list(stream)) == 3 * STREAM_WINDOW_ITEMS - 1
        taken = []
        with pytest.raises(fleet.CallTimeout):
            for value in fn.hangs.remote_gen(3):
                taken.append(value)
        assert taken == [0, 1, 2]

    def test_two_at_once(self) -> None:
        both = zip(fn.count.remote_gen(2000), fn.count.remote_gen(2000), strict=True)
        assert all(a == b for a, b in both)

    def test_what_cannot_work_says_so_before_anything_is_sent(self) -> None:
        with pytest.raises(fleet.InvalidOption, match="not a generator function"):
            fn.one.remote_gen()  # type: ignore[misc]
        for verb in (fn.count.remote, fn.count.spawn):
            with pytest.raises(fleet.InvalidOption, match="remote_gen"):
                verb(1)
        with pytest.raises(fleet.InvalidOption, match="remote_gen"):
            list(fn.count.map([1]))
        with pytest.raises(fleet.WrongArguments):
            fn.count.remote_gen()  # type: ignore[call-arg]

    def test_found_by_name(self) -> None:
        list(fn.count.remote_gen(1))
        app = fn.count.app_name
        version = fn.count.__dict__["_bound"].version
        found = fleet.Function.from_name(app, "count", version)
        assert list(found.remote_gen(4)) == [0, 1, 2, 3]
        with pytest.raises(fleet.Refused, match="remote_gen"):
            found.remote(1)


# --- cars that leave, processes that die


@pytest.fixture(scope="module")
def local() -> Iterator[LocalFleet]:
    with LocalFleet(cars=2) as started:
        assert fn.one.remote() == 1
        yield started


def car_of(local: LocalFleet, stream: fleet.Call[Any] | Any) -> LocalCar:
    return local.wait_for(lambda: next((car for car in local.cars if stream.id in car.info().running), None), "a car")


@pytest.mark.parametrize("function", [fn.paced, fn.saving], ids=["skip", "checkpoint"])
def test_departures_lose_and_repeat_nothing(local: LocalFleet, function: Any) -> None:
    stream = function.remote_gen(200, 0.005)
    taken = []
    for value in stream:
        taken.append(value)
        if value in (60, 120):
            car = car_of(local, stream)
            car.drive_away()
            car.park()
    assert taken == list(range(200))
    began = [line for line in logs_of(stream) if line.startswith("began")]
    assert len(began) == 3
    if function is fn.saving:
        starts = [int(line.split()[-1]) for line in began]
        assert starts[0] == 0 and starts[1] > 50 and starts[2] > 110, starts


def test_a_killed_car_loses_and_repeats_nothing(local: LocalFleet) -> None:
    stream = fn.saving.remote_gen(150, 0.005)
    taken = []
    for value in stream:
        taken.append(value)
        if value == 60:
            car = car_of(local, stream)
            car.kill()
            car.wait_restarted()
    assert taken == list(range(150))
    starts = [int(line.split()[-1]) for line in logs_of(stream)]
    assert len(starts) == 2 and starts[1] > 50, starts


def test_a_departure_while_it_waits_for_its_consumer(local: LocalFleet) -> None:
    stream = fn.told.remote_gen(3000)
    taken = [next(stream) for _ in range(10)]
    last = str(STREAM_WINDOW_ITEMS - 1)
    local.wait_for(lambda: logs_of(stream)[-1:] == [last], "the generator to wait")
    car = car_of(local, stream)
    car.drive_away()
    car.park()
    local.wait_for(lambda: logs_of(stream).count(last) == 2, "the generator to wait on another car")
    taken += stream
    assert taken == list(range(3000))


def test_a_control_plane_that_dies_in_the_middle(local: LocalFleet) -> None:
    stream = fn.paced.remote_gen(400, 0.01)
    taken = []
    for value in stream:
        taken.append(value)
        if value == 100:
            local.control.kill()
    assert taken == list(range(400))
    assert logs_of(stream) == ["began"], "the generator ran on"
    local.control.wait_restarted()
