"""Thousands of separate ``.spawn()``, then all their results."""

from __future__ import annotations

import time

from benchmarks.functions import noop
from benchmarks.harness import Figure, Settings, Sync, figure, fleet_of, timed

CALLS = 5000


def one_run(calls: int) -> tuple[float, float]:
    """Calls per second from the first spawn to the last result, and calls per second of spawning alone."""
    began = time.perf_counter()
    handed_over = [noop.spawn(number) for number in range(calls)]
    spawned_s = time.perf_counter() - began
    for number, call in enumerate(handed_over):
        answer = call.result(timeout=120)
        assert answer == number, (answer, number)
    return calls / (time.perf_counter() - began), calls / spawned_s


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """Several runs on one fleet of two cars."""
    with fleet_of(cars=2, sync=sync):
        timed(noop.remote, 20)
        runs = [one_run(CALLS) for _ in range(3 if settings.quick else 7)]
    whole, spawning = zip(*runs, strict=True)
    return [
        figure(
            f"{CALLS:,} separate .spawn(), then all results", whole, "calls/s",
            target=2000.0, better="more", sync=sync, note="aim 4,000",
        ),
        figure("the spawning alone", spawning, "calls/s", better="more", sync=sync),
    ]  # fmt: skip
