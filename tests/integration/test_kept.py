"""``fleet.keep`` end to end: state stays on the car that made it, and goes on from its copy where that car has left."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fleet
from fleet.testing import LocalFleet
from tests.integration.test_takeover import record_of

app = fleet.App("kept")
BLOCKS = 6
STEPS = 16


def advance(state: Any, seed: Any) -> Any:
    """A scan whose numbers show every step that was missed or made twice."""

    def one(carry: Any, _: Any) -> Any:
        carry = {"h": jnp.tanh(carry["h"] @ carry["w"] + seed), "w": carry["w"] * 0.999, "n": carry["n"] + 1}
        return carry, carry["h"].sum()

    return jax.lax.scan(one, state, None, length=STEPS)


@app.function(runtime="jax")
def block(state: Any, seed: Any) -> Any:
    after, seen = advance(state, seed)
    return seen, fleet.keep(after)


def start() -> Any:
    w = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    return {"h": np.ones((8, 64), np.float32), "w": w, "n": np.int32(0)}


def car_of(local: LocalFleet, call: fleet.Call[Any]) -> str:
    metering = record_of(local, call).metering
    assert metering is not None
    return metering.car


def values(local: LocalFleet, ended: int) -> tuple[int, int]:
    """What the agents said of ``ended`` slots that ended: values that were sent to them, values that they had."""

    def told() -> list[tuple[str, str]] | None:
        rows = re.findall(r"slot \w+ was sent (\d+) values, and had (\d+)", local.stderr(400))
        return rows if len(rows) == ended else None

    rows = local.wait_for(told, f"{ended} slots to be reaped")
    return sum(int(sent) for sent, _ in rows), sum(int(had) for _, had in rows)


@pytest.mark.local_fleet(cars=2, lanes=("jax-cpu",))
def test_state_stays_on_a_car_and_goes_on_from_its_copy_elsewhere(local_fleet: LocalFleet) -> None:
    state: Any = start()
    wanted: Any = start()
    ran: list[str] = []
    for number in range(BLOCKS):
        seed = np.float32(number / 10)
        call = block.spawn(state, seed)
        seen, state = call.result()
        assert fleet.Call.from_id(call.id).result()[1] == state, "its id gives the same reference"
        ran.append(car_of(local_fleet, call))
        wanted, expected = jax.jit(advance)(wanted, seed)
        np.testing.assert_allclose(np.asarray(seen), np.asarray(expected), rtol=1e-5)
        if number == BLOCKS // 2 - 1:
            assert len(set(ran)) == 1
            leaving = next(car for car in local_fleet.cars if car.name == ran[0])
            leaving.drive_away()
            # Every block but the first used what was on the device.
            assert values(local_fleet, ended=1) == (0, BLOCKS // 2 - 1)
    assert set(ran[BLOCKS // 2 :]) == {car.name for car in local_fleet.cars} - {ran[0]}
    (staying,) = (car for car in local_fleet.cars if car.name != ran[0])
    staying.drive_away()
    # The copy was sent once, then the state was on the device again.
    assert values(local_fleet, ended=2) == (1, BLOCKS - 2)
