"""Both lanes on the same cars, for real: one slot each, shared by Python functions and jax programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fleet
from fleet.testing import LocalFleet

app = fleet.App("lanes")
CALLS = 12


@app.function
def python(n: int) -> int:
    return n * n


@app.function(runtime="jax")
def tensor(x: Any) -> Any:
    return (x * x).sum()


@app.function(runtime="jax", timeout="1s")
def endless(x: Any) -> Any:
    import jax

    return jax.lax.while_loop(lambda one: one < 1, lambda one: one * 0.5, x)


@pytest.mark.local_fleet(cars=1)
def test_python_and_jax_share_the_places_of_a_car(local_fleet: LocalFleet) -> None:
    (car,) = local_fleet.cars
    info = car.info()
    assert info.offer.lanes[:2] == ["wasm", "jax-cpu"] and {slot.lane for slot in info.slots} <= {"wasm"}
    calls = [(python.spawn(n), tensor.spawn(np.full(3, n, np.float32))) for n in range(CALLS)]
    for n, (of_python, of_jax) in enumerate(calls):
        assert of_python.result() == n * n and float(of_jax.result()) == 3 * n * n
    lanes = [slot.lane for slot in local_fleet.wait_for(lambda: jax_slots(car), "the jax slot to be told")]
    assert lanes == ["jax-cpu"]
    with pytest.raises(fleet.CallTimeout):
        endless.remote(np.float32(0.5))
    assert python.remote(7) == 49 and float(tensor.remote(np.ones(2, np.float32))) == 2
    car.drive_away()
    assert car.slots() == []
    car.park()
    car.plug()
    local_fleet.wait_for(lambda: jax_slots(car), "a jax slot, started ahead because there was one before")


def jax_slots(car: Any) -> list[Any]:
    return [slot for slot in car.info().slots if slot.lane != "wasm"]
