"""On a fleet: concurrent calls run as one, arrays are mapped by rows, owners leave in the middle, and forged programs are
refused by name with everything alive.

The programs return how many rows their run had, so that a test sees what really ran together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fleet
from fleet._jax import program as jax_programs
from fleet._jax.encoding import encoded
from fleet._packed import packed as wrapped
from fleet.protocol import jax_bundle
from fleet.protocol.errors import ProgramRefused
from fleet.protocol.ids import digest
from fleet.testing import LocalFleet
from tests.sandbox.jax_forge import flat, main, packed, spec, with_module

app = fleet.App("batch")


def sized(x: Any) -> Any:
    """Twice ``x``, and for each row how many rows ran together."""
    return x * 2, jnp.zeros(x.shape[:1], np.int32) + x.shape[0]


together = app.function(runtime="jax", batch=fleet.Batch(max_size=16, max_wait="50ms"))(sized)


@pytest.fixture(scope="module")
def cars() -> Iterator[LocalFleet]:
    with LocalFleet(cars=2, lanes=["jax-cpu"]) as local:
        together.remote(np.ones((1, 4), np.float32))
        yield local


def row(number: float) -> Any:
    return np.full((1, 4), number, np.float32)


@pytest.mark.usefixtures("cars")
def test_concurrent_calls_run_in_few_executions() -> None:
    calls = [together.spawn(row(number)) for number in range(32)]
    executions = 0.0
    for number, call in enumerate(calls):
        twice, rows = call.result()
        np.testing.assert_array_equal(twice, 2 * row(number))
        executions += 1 / int(rows[0])
    assert executions < 16


@pytest.mark.usefixtures("cars")
def test_a_bad_call_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK sends no such call; another client might."""
    traced = jax_programs.describe(together, (row(0),), {})
    calls = [together.spawn(row(0)), together.spawn(row(1))]
    with monkeypatch.context() as patched:
        patched.setattr(traced, "pack", lambda call: wrapped(encoded([np.ones((1, 5), np.float32)], "x"), {}))
        bad = together.spawn(row(2))
    calls += [together.spawn(row(2)), together.spawn(row(3))]
    with pytest.raises(ValueError, match="has to be"):
        bad.result()
    assert [float(call.result()[0][0, 0]) for call in calls] == [0, 2, 4, 6]


def test_a_map_over_an_array_gives_a_result_per_row_and_survives_departures(cars: LocalFleet) -> None:
    x = np.random.default_rng(1).random((600, 4)).astype(np.float32)
    found: list[Any] = []
    for number, result in enumerate(together.map(x)):
        found.append(result)
        if number == 100:
            cars.cars[0].drive_away()
            cars.cars[0].park()
    np.testing.assert_array_equal(np.stack([twice for twice, _ in found]), 2 * x)
    assert sum(1 / int(rows) for _, rows in found) < 600 / 4


@pytest.mark.usefixtures("cars")
def test_rows_of_two_arrays_are_zipped_and_whole_arrays_stay_whole() -> None:
    @app.function(runtime="jax", batch=fleet.Batch(max_size=8))
    def add(x: Any, y: Any) -> Any:
        return x + y

    x, y = np.arange(12.0, dtype=np.float32).reshape(6, 2), np.ones((6, 2), np.float32)
    np.testing.assert_array_equal(np.stack(list(add.map(x, y))), x + 1)
    np.testing.assert_array_equal(np.stack(list(add.spawn_map(x, y).results())), x + 1)
    whole = list(add.map([x, x[:2]], [y, y[:2]]))
    assert [one.shape for one in whole] == [(6, 2), (2, 2)]


# --- forged programs, registered by a client that was taken apart


def _forged(text: str) -> bytes:
    base = flat(lambda x: x, spec(8, 8))
    return with_module(base, text)


SQUARE = "tensor<8x8xf32>"
FORGED = {
    "callback": (
        _forged(
            main(
                '%z = "stablehlo.custom_call"(%a) {call_target_name = "xla_ffi_python_cpu_callback", api_version = 4 : i32,'
                f" backend_config = {{index = 7 : ui64}}}} : ({SQUARE}) -> {SQUARE}"
            )
        ),
        "xla_ffi_python_cpu_callback",
    ),
    "overrun": (
        _forged(
            main(
                '%z:3 = "stablehlo.custom_call"(%a) {call_target_name = "lapack_sgetrf_ffi", mhlo.backend_config = {}}'
                f" : ({SQUARE}) -> (tensor<1x1xf32>, tensor<8xi32>, tensor<i32>)"
            )
        ),
        "lapack_sgetrf_ffi",
    ),
    "recursion": (_forged(main(f"%z = func.call @main(%a) : ({SQUARE}) -> {SQUARE}")), "calls itself"),
    "garbage": (b"\0\1\2\3" * 300, "can't be read"),
    "half": (packed(flat(lambda x: x, spec(8, 8)))[:900], ""),
}


def test_forged_programs_are_refused_and_everything_lives(cars: LocalFleet) -> None:
    def identity(x: Any) -> Any:
        return x

    x = np.ones((8, 8), np.float32)
    together.remote(row(1))
    before = {car.name: (car.pid, sorted(car.slots())) for car in cars.cars}
    for name, (module, named) in FORGED.items():
        function = app.function(runtime="jax", name=f"forged-{name}")(identity)
        traced = jax_programs.describe(function, (x,), {})
        head, _ = jax_bundle.unpack(traced.bundle)
        head["modules"] = [{**head["modules"][0], "platforms": ["cpu"]}]
        traced.bundle = jax_bundle.pack(head, [module])
        traced.digest = digest(traced.bundle)
        with pytest.raises(ProgramRefused) as refused:
            function.remote(x)
        assert named in str(refused.value), name
    assert float(together.remote(row(3))[0][0, 0]) == 6
    assert {car.name: (car.pid, sorted(car.slots())) for car in cars.cars} == before
