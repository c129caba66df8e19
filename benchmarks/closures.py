"""The first call of a function that travels by value: by the size of what it holds, by the length of its source."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import fleet
from benchmarks.functions import noop
from benchmarks.harness import Figure, Settings, Sync, figure, fleet_of, timed

HELD_BYTES = (1_000, 100_000, 1_000_000)
SOURCE_LINES = (10, 1000)
Fresh = fleet.Function[[int], int]


def holding(size: int) -> Fresh:
    """A new function that holds ``size`` bytes which nobody has seen."""
    held = os.urandom(size)

    def length(more: int) -> int:
        return len(held) + more

    return fleet.function(length)


def source_of(lines: int) -> str:
    """A module whose ``make`` gives a nested function of so many lines."""
    body = "\n".join(f"        total += value * {line} if value > {line} else 1" for line in range(lines - 3))
    return f"def make():\n    def fresh(value):\n        total = 0\n{body}\n        return total\n    return fresh\n"


@contextmanager
def written(name: str, source: str) -> Iterator[ModuleType]:
    """A module that was written just now."""
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
        (Path(folder) / f"{name}.py").write_text(source)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield importlib.import_module(name)
        finally:
            sys.path.remove(folder)
            sys.modules.pop(name, None)


def first_call(function: Fresh, check: Callable[[int], bool]) -> float:
    """Milliseconds of the only call."""
    began = time.perf_counter()
    answer = function.remote(0)
    took_ms = 1000 * (time.perf_counter() - began)
    assert check(answer), answer
    return took_ms


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """All sizes in turns, on one car; every call is the first one of its function."""
    count = 10 if settings.quick else 60
    held: dict[int, list[float]] = {size: [] for size in HELD_BYTES}
    long: dict[int, list[float]] = {lines: [] for lines in SOURCE_LINES}
    with fleet_of(cars=1, sync=sync):
        timed(noop.remote, 20)
        for _ in range(count):
            for size, took_ms in held.items():
                took_ms.append(first_call(holding(size), lambda answer, size=size: answer == size))  # type: ignore[misc]
            for lines, took_ms in long.items():
                # A name that nobody has seen makes its functions new ones.
                with written(f"bench_{os.urandom(8).hex()}", source_of(lines)) as module:
                    took_ms.append(first_call(fleet.function(module.make()), lambda answer: answer > 0))
    return [
        figure(f"first call of a closure over {size / 1000:,.0f} kB", took_ms, "ms", sync=sync)
        for size, took_ms in held.items()
    ] + [
        figure(f"first call of a nested function of {lines:,} lines", took_ms, "ms", sync=sync)
        for lines, took_ms in long.items()
    ]
