"""Cancel, time limits, retries and what a sandbox may take, on real cars: each ends the call it meets and no other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

import fleet
from fleet.testing import LocalFleet
from tests.integration import fault_functions as fn

GRACE_S = 0.25
"""DEADLINE_GRACE_S of the contract; what a loaded machine of two cores adds stands beside each use."""
BUSY_MACHINE_S = 1.5


@pytest.fixture(scope="module")
def local() -> Iterator[LocalFleet]:
    with LocalFleet(cars=2) as started:
        assert fn.add.remote(1) == 2
        yield started


def until_running(local: LocalFleet, call: fleet.Call[object]) -> str:
    """The car that runs ``call``."""

    def car() -> str | None:
        return next((one.name for one in local.cars if call.id in one.info().running), None)

    name = local.wait_for(car, f"call {call.id} to run")
    local.wait_for(lambda: call.logs() == ["started"], "its first line")
    return name


def car_named(local: LocalFleet, name: str) -> fleet.testing.LocalCar:
    return next(car for car in local.cars if car.name == name)


# --- cancel


def test_cancel_of_a_running_call_kills_its_slot(local: LocalFleet) -> None:
    call = fn.busy.spawn(50)
    car = car_named(local, until_running(local, call))
    slots = set(car.slots())
    began_s = time.monotonic()
    assert call.cancel() is True
    local.wait_for(lambda: slots - set(car.slots()), "the slot to be gone")
    assert time.monotonic() - began_s < GRACE_S + BUSY_MACHINE_S
    with pytest.raises(fleet.CallCancelled):
        call.result(timeout=10)
    assert call.status() == "cancelled"
    assert call.cancel() is False
    local.wait_for(lambda: len(car.slots()) == len(slots), "another slot to take its place")
    assert fn.add.remote(5) == 6


def test_cancel_of_a_queued_call_and_of_a_group(local: LocalFleet) -> None:
    running = [fn.busy.spawn(50) for _ in local.cars]
    for call in running:
        until_running(local, call)
    # Behind a running call each slot holds one that it was granted ahead: one more than that waits in the queue.
    group = fn.busy.spawn_map([50.0] * 6)
    last = fn.busy.spawn(50)
    assert last.status() in ("queued", "running")
    assert last.cancel() is True
    assert group.cancel() == 6
    assert group.status() == {"cancelled": 6}
    with pytest.raises(fleet.CallCancelled):
        last.result(timeout=10)
    assert [call.status() for call in running] == ["running", "running"], "nobody else was touched"
    assert all(call.cancel() for call in running)
    assert last.logs() == []
    local.wait_for(lambda: not local.platform().running and not local.platform().waiting, "nothing to be left")


# --- time limits and retries


def test_timeout_ends_the_call_and_replaces_the_slot(local: LocalFleet) -> None:
    before = {pid for car in local.cars for pid in car.slots()}
    began_s = time.monotonic()
    with pytest.raises(fleet.CallTimeout, match=r"0\.5 s"):
        fn.too_slow.remote()
    assert 0.5 <= time.monotonic() - began_s < 0.5 + GRACE_S + BUSY_MACHINE_S
    local.wait_for(lambda: before - {pid for car in local.cars for pid in car.slots()}, "its slot to be gone")
    local.wait_for(lambda: all(car.info().offer.slots for car in local.cars), "the spare to take its place")
    assert fn.add.remote(1) == 2


def test_timeout_of_a_map_is_per_item(local: LocalFleet) -> None:
    got = list(fn.sleep_on.map(range(8), [5] * 8, chunksize=8, return_exceptions=True))
    assert [value for value in got if isinstance(value, int)] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(got[5], fleet.CallTimeout)


def test_retries_wait_longer_each_time(local: LocalFleet) -> None:
    call = fn.third_time.spawn()
    assert call.result(timeout=30) == 3
    lines = local.wait_for(lambda: lines if len(lines := call.logs()) == 3 else None, "three lines")
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    at = [float(line.split()[1]) for line in lines]
    assert at[1] - at[0] >= 0.5
    assert at[2] - at[1] >= 1.0


def test_max_concurrency_holds_over_the_whole_fleet(local: LocalFleet) -> None:
    calls = [fn.alone.spawn(0.3) for _ in range(4)]
    waiting = calls[-1].explain()
    spans = sorted(call.result(timeout=30) for call in calls)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    assert "max_concurrency=1" in waiting


# --- what a sandbox may take


def test_a_trap_is_its_own_error_and_costs_nobody_else(local: LocalFleet) -> None:
    with pytest.raises(fleet.SandboxTrap):
        fn.trap.remote()
    assert fn.add.remote(1) == 2


def test_a_memory_bomb_stays_in_its_sandbox(local: LocalFleet) -> None:
    assert fn.hoard.remote(8) == 8 << 20
    with pytest.raises((MemoryError, fleet.SandboxTrap)):
        fn.hoard.remote(200)
    assert fn.hoard.remote(8) == 8 << 20


def test_a_departure_goes_on_from_the_checkpoint(local: LocalFleet) -> None:
    call = fn.steps.spawn(20, 0.15)

    def saved() -> str | None:
        car = next((car for car in local.cars if call.id in car.info().running), None)
        return car.name if car else None

    car = car_named(local, local.wait_for(saved, "the call to run"))
    time_left = time.monotonic() + 1.0
    local.wait_for(lambda: time.monotonic() > time_left, "some steps")
    car.drive_away()
    try:
        result = call.result(timeout=30)
    finally:
        car.park()
    assert result["done"] == 20
    assert 0 < result["first"] < 20, "neither from the start nor done already"
    assert result["attempt"] == 1, "an owner leaving never costs a retry"


# --- without anybody who leads


def test_cancel_without_a_dispatcher_stays(local: LocalFleet) -> None:
    """The control plane is killed right after the cancel was accepted, and the call stays cancelled after its return."""
    call = fn.busy.spawn(50)
    until_running(local, call)
    assert call.cancel() is True
    local.control.kill()
    local.control.wait_restarted()
    assert call.status() == "cancelled"
    with pytest.raises(fleet.CallCancelled):
        call.result(timeout=10)
    local.wait_for(lambda: not local.platform().running and not local.platform().waiting, "nothing to be left")
    assert fn.add.remote(1) == 2
