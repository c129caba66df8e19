"""The first call of a function that nobody knows yet, and what a sandbox of its own costs each call."""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.functions import noop, noop_fresh
from benchmarks.harness import Figure, Settings, Sync, figure, fleet_of, interleaved, timed

SOURCE = """import fleet


@fleet.function
def fresh(value):
    return value + {number}
"""


@contextmanager
def new_functions(count: int) -> Iterator[list[Any]]:
    """Functions of ``count`` modules that were written just now."""
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
        sys.path.insert(0, folder)
        try:
            for number in range(count):
                (Path(folder) / f"bench_fresh_{number}.py").write_text(SOURCE.format(number=number))
            importlib.invalidate_caches()
            yield [importlib.import_module(f"bench_fresh_{number}").fresh for number in range(count)]
        finally:
            sys.path.remove(folder)


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """Every first call uploads its bundle and is fetched by the car; the client is connected already."""
    first: list[float] = []
    with fleet_of(cars=1, sync=sync) as fleet, new_functions(20 if settings.quick else 200) as functions:
        timed(noop.remote, 20)
        for number, function in enumerate(functions):
            began = time.perf_counter()
            answer = function.remote(1)
            first.append(1000 * (time.perf_counter() - began))
            assert answer == number + 1, (answer, number)
        timed(noop.remote, 20)
        timed(noop_fresh.remote, 20)
        pairs = interleaved(
            lambda count: timed(noop_fresh.remote, count), lambda count: timed(noop.remote, count), settings
        )
        assert fleet.cars[0].info().online
    over = [1000 * pair.difference for pair in pairs]
    note = "register, upload, fetch by the car, new instance, run"
    return [
        figure("first call of a function the car never saw, p50", first, "ms", target=40.0, sync=sync, note=note),
        figure("first call, p99", first, "ms", share=0.99, sync=sync),
        figure('isolation="call" over a warm call', over, "ms", target=6.0, sync=sync, note="difference of p50s"),
    ]
