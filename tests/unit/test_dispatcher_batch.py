"""Calls of a function with batch=: they go to the car where a batch gathers, and its run takes one place."""

from __future__ import annotations

from fleet.protocol.messages import ArraySpec, Batch, Device, JaxModule, JaxProgram, Manifest
from fnplatform.dispatcher.queues import FunctionQueue, Limit
from tests.unit.core_rig import Rig, manifest, state

_CPU = Device(lane="jax-cpu", calling_convention_min=9, calling_convention_max=10, stablehlo="1.13.4")
_JAX = {"lanes": ["wasm", "jax-cpu"], "devices": [_CPU]}


def batched(size: int = 8, wait_s: float = 0.005) -> Manifest:
    made = manifest()
    modules = [JaxModule(platforms=["cpu"], calling_convention=10, stablehlo="1.10.0")]
    jax = JaxProgram(modules=modules, batch=Batch(max_size=size, max_wait_s=wait_s))
    return made.model_copy(update={"program": made.program.model_copy(update={"runtime": "jax", "jax": jax})})


def cars(rig: Rig, *names: str, slots: int = 1, ahead: int = 1) -> None:
    for name in names:
        rig.car(name, slots=slots, ahead=ahead, **_JAX)


def calls(count: int, first: int = 0, **more: object) -> list[object]:
    return [state(f"c{n}", **more) for n in range(first, first + count)]  # type: ignore[arg-type]


def names(rig: Rig) -> list[str]:
    return [lease.car for lease in rig.accept()]


def test_calls_that_come_together_go_to_one_car_until_its_batch_is_full() -> None:
    rig = Rig()
    cars(rig, "car-1", "car-2")
    rig.submit(*calls(11), of=batched())  # type: ignore[arg-type]
    got = names(rig)
    assert got.count(got[0]) == 8 and len(got) == 11 and len(set(got)) == 2
    assert [rig.board.cars[name].places_taken for name in ("car-1", "car-2")] == [1, 1]


def test_what_comes_later_than_the_wait_takes_another_car() -> None:
    rig = Rig()
    cars(rig, "car-1", "car-2")
    made = batched()
    rig.submit(*calls(2), of=made)  # type: ignore[arg-type]
    (first, _) = names(rig)
    rig.now_s += 0.004
    rig.submit(*calls(1, 2), of=made)  # type: ignore[arg-type]
    assert names(rig) == [first]
    rig.now_s += 0.004
    rig.submit(*calls(1, 3), of=made)  # type: ignore[arg-type]
    assert names(rig) != [first]


def test_what_waited_goes_together_once_a_car_has_a_place() -> None:
    rig = Rig()
    made = batched()
    rig.submit(*calls(20), of=made)  # type: ignore[arg-type]
    assert not rig.accept()
    cars(rig, "car-1")
    leases = rig.accept()
    assert len(leases) == 8
    for lease in leases:
        rig.report(lease, run_s=0.01)
    rig.store()
    assert rig.board.cars["car-1"].riders <= 15
    assert len(rig.accept()) == 12


def test_max_concurrency_counts_each_call() -> None:
    rig = Rig()
    cars(rig, "car-1")
    rig.submit(*calls(8), of=batched().model_copy(update={"max_concurrency": 3}))  # type: ignore[arg-type]
    assert len(rig.accept()) == 3


def test_a_chunk_joins_nothing() -> None:
    rig = Rig()
    cars(rig, "car-1", "car-2")
    made = batched()
    rig.submit(*calls(1), state("chunk", items=4), of=made)  # type: ignore[arg-type]
    assert len(set(names(rig))) == 2


def test_a_departure_in_the_middle_sends_the_whole_batch_elsewhere() -> None:
    rig = Rig()
    cars(rig, "car-1")
    rig.submit(*calls(6), of=batched())  # type: ignore[arg-type]
    leases = rig.accept()
    cars(rig, "car-2")
    rig.leave("car-1", *leases)
    assert names(rig) == ["car-2"] * 6
    assert rig.board.cars["car-1"].riders == 0 and rig.board.cars["car-1"].places_taken == 0
    assert rig.board.cars["car-2"].riders == 5


def test_riders_are_forgotten_with_their_leases() -> None:
    rig = Rig()
    cars(rig, "car-1")
    rig.submit(*calls(5), of=batched())  # type: ignore[arg-type]
    for lease in rig.accept():
        rig.report(lease)
    rig.store()
    car = rig.board.cars["car-1"]
    assert (car.riders, len(car.leases), car.load_s) == (0, 0, 0.0) and car.has_place


def test_a_grant_describes_no_arrays() -> None:
    """A description may have 56 KiB, and cars read it in the bundle; modules decide on the lane there."""
    made = batched()
    assert made.program.jax is not None
    described = {"inputs": [ArraySpec(dtype="float32", shape=["b"])], "arguments": "[]", "why_not": {"tpu": "no"}}
    jax = made.program.jax.model_copy(update=described)
    whole = made.program.model_copy(update={"jax": jax})
    queue = FunctionQueue("default", "shop.add", "v", made.model_copy(update={"program": whole}), Limit())
    assert queue.program == made.program and queue.manifest.program == whole
