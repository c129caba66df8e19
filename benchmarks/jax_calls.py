"""The jax lane against the same jitted function in this process, and against the wasm lane, in one run."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.functions import noop
from benchmarks.harness import Figure, Pair, Settings, Sync, figure, fleet_of, interleaved, timed
from benchmarks.jax_functions import SIDE, TURNS, a_program, chain, in_process, negated, small
from fleet.testing import LocalFleet

WARM_UP = 50
CHAIN_CALLS = 3
"""Calls of one block of a chain that lasts a good part of a second."""
ARRAY_BYTES = 8_000_000
ARRAYS = 8
IN_FLIGHT = 3
COLD_PROGRAMS = 5


def warm(settings: Settings, sync: Sync) -> list[Figure]:
    """A small program that was called before."""
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    here = in_process(small)
    over_process: list[Pair] = []
    over_wasm: list[Pair] = []

    def remote(count: int) -> list[float]:
        return timed(lambda: small.remote(x), count)

    for _ in range(settings.starts):
        with fleet_of(cars=1, sync=sync):
            assert np.allclose(small.remote(x), here(x), rtol=1e-6)
            remote(WARM_UP)
            timed(noop.remote, WARM_UP)
            over_process += interleaved(remote, lambda count: timed(lambda: here(x), count), settings)
            over_wasm += interleaved(remote, lambda count: timed(noop.remote, count), settings)
    calls = [1000 * second for pair in over_process + over_wasm for second in pair.first]
    return [
        figure(
            "jax: small program, warm, over the same in process", [1000 * pair.difference for pair in over_process],
            "ms", target=2.0, sync=sync, note="difference of p50s of neighbouring blocks",
        ),
        figure(
            "jax: small program, warm, over the wasm lane's warm call", [pair.ratio for pair in over_wasm], "x",
            target=1.3, sync=sync,
        ),
        figure("jax: small program, warm, p50", calls, "ms", sync=sync),
        figure("jax: small program, warm, p99", calls, "ms", share=0.99, sync=sync),
    ]  # fmt: skip


def matmul(settings: Settings, sync: Sync) -> list[Figure]:
    """A chain of matrix products: what the car's program costs where the way there hardly counts."""
    x = np.random.default_rng(0).standard_normal(SIDE).astype(np.float32) / np.float32(SIDE**0.5)
    here = in_process(chain)
    with fleet_of(cars=1, sync=sync):
        assert np.allclose(chain.remote(x), here(x), atol=1e-3)
        pairs = interleaved(
            lambda _: timed(lambda: here(x), CHAIN_CALLS),
            lambda _: timed(lambda: chain.remote(x), CHAIN_CALLS),
            settings,
        )
    here_ms = [1000 * second for pair in pairs for second in pair.first]
    return [
        figure(
            "jax: chain of matrix products, speed over in process", [pair.ratio for pair in pairs], "x", target=0.95,
            better="more", sync=sync, note=f"{TURNS} products of {SIDE} x {SIDE}",
        ),
        figure("jax: chain of matrix products in process", here_ms, "ms", sync=sync),
    ]  # fmt: skip


def arrays(settings: Settings, sync: Sync) -> list[Figure]:
    """8 MB there and 8 MB back, all of them different."""
    made = np.random.default_rng(0).standard_normal((ARRAYS, ARRAY_BYTES // 4)).astype(np.float32)
    single, several = [], []
    calls = 8 if settings.quick else 24

    def fresh(number: int) -> np.ndarray:
        array = made[number % ARRAYS]
        array[0] = float(number)  # other bytes: what is stored already isn't sent again
        return array.copy()

    def one_after_the_other(first: int) -> float:
        taken_s = 0.0
        for number in range(first, first + calls):
            x = fresh(number)
            began = time.perf_counter()
            y = np.asarray(negated.remote(x))
            taken_s += time.perf_counter() - began
            assert np.array_equal(y, -x)
        return 2 * calls * ARRAY_BYTES / 1e6 / taken_s

    def several_at_once(first: int) -> float:
        sent = [fresh(number) for number in range(first, first + calls)]
        back = []
        began = time.perf_counter()
        waiting = [negated.spawn(x) for x in sent[:IN_FLIGHT]]
        for following in range(IN_FLIGHT, calls + IN_FLIGHT):
            back.append(np.asarray(waiting.pop(0).result(timeout=60)))
            if following < calls:
                waiting.append(negated.spawn(sent[following]))
        taken_s = time.perf_counter() - began
        assert all(np.array_equal(y, -x) for x, y in zip(sent, back, strict=True))
        return 2 * calls * ARRAY_BYTES / 1e6 / taken_s

    with fleet_of(cars=1, sync=sync):
        one_after_the_other(0)
        for turn in range(3 if settings.quick else 7):
            single.append(one_after_the_other(1000 + 2 * turn * calls))
            several.append(several_at_once(1000 + (2 * turn + 1) * calls))
    return [
        figure(
            f"jax: arrays of 8 MB there and back, {IN_FLIGHT} in flight", several, "MB/s", target=120.0, better="more",
            sync=sync, note="both ways counted; aim 200",
        ),
        figure("jax: arrays of 8 MB there and back, one after the other", single, "MB/s", better="more", sync=sync),
    ]  # fmt: skip


def cold(settings: Settings, sync: Sync) -> list[Figure]:
    """First calls of programs that the car compiled before, in a new slot that is warm: read, checked, compiled code loaded."""
    x = np.ones((4, 128), np.float32)
    programs = [a_program(number) for number in range(COLD_PROGRAMS)]
    seconds, compiled = [], []
    with fleet_of(cars=1, sync=sync) as fleet:
        for program in programs:
            compiled += timed(lambda program=program: program.remote(x), 1)
        for _ in range(2 if settings.quick else 6):
            _new_slots(fleet)
            small.remote(np.ones(64, np.float32))  # the slot is there, and has run something
            for program in programs:
                seconds += timed(lambda program=program: program.remote(x), 1)
    return [
        figure(
            "jax: first call of a compiled program in a warm slot", [1000 * one for one in seconds], "ms", target=150.0,
            sync=sync, note="whole call: read, checked, its compiled code loaded, run",
        ),
        figure("jax: first call ever, traced and compiled", [1000 * one for one in compiled], "ms", sync=sync),
    ]  # fmt: skip


def _new_slots(fleet: LocalFleet) -> None:
    for car in fleet.cars:
        car.drive_away()
        car.park()
