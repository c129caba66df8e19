"""A car that compiles is as easily stopped as one that runs: by a deadline, and by its owner. And it compiles once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import fleet
from fleet.testing import LocalCar, LocalFleet
from tests.integration import jax_compiling as fn

SQUARE = np.ones((64, 64), np.float32)
START_CPU_S = 2.0
KILLED_S, REAPED_S = 0.003 * 20, 0.040 * 20
"""Idle: 3 ms until the signal, 27 ms until a compiling slot of 450 MiB is reaped; two shared cores get 20 times that."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def local(cache: Path) -> Iterator[LocalFleet]:
    with LocalFleet(cars=1, lanes=["jax-cpu"], environment={"FLEET_CACHE": str(cache)}) as started:
        assert fn.double.remote(np.ones(3, np.float32)).tolist() == [2, 2, 2]
        yield started


def compiles(pid: int) -> bool:
    """Whether a slot has computed for longer than its start takes."""
    try:
        return psutil.Process(pid).cpu_times().user > START_CPU_S
    except psutil.NoSuchProcess:
        return False


def reaped(car: LocalCar) -> dict[str, float] | None:
    """What is known of the last departure, once it is over."""
    told = car.info().last_departure
    return told if told is not None and told["reaped_s"] > 0 else None


def test_a_deadline_ends_a_compile(local: LocalFleet) -> None:
    with pytest.raises(fleet.CallTimeout):
        fn.short_of_time.remote(SQUARE)


def test_an_owner_who_leaves_ends_a_compile_and_what_was_compiled_is_kept(local: LocalFleet, cache: Path) -> None:
    (car,) = local.cars
    kept = set((cache / "compiled").iterdir())
    assert len(kept) == 2, "the key, and the first program"
    call = fn.patient.spawn(SQUARE)
    local.wait_for(lambda: call.id in car.info().running or None, "the call to run")
    local.wait_for(lambda: any(map(compiles, car.slots())) or None, "it to be in the middle of it")
    car.drive_away()
    departure = local.wait_for(lambda: reaped(car), "the slot to be reaped")
    assert 0 < departure["killed_s"] < KILLED_S and departure["reaped_s"] < REAPED_S, departure
    assert set((cache / "compiled").iterdir()) == kept, "it hadn't finished"
    call.cancel()
    car.park()
    assert fn.double.remote(np.ones(3, np.float32)).tolist() == [2, 2, 2]
    assert set((cache / "compiled").iterdir()) == kept, "found, not made again"
