"""``.map`` of many no-ops on one car with one slot: speed once it runs, the first result, the client's memory."""

from __future__ import annotations

import os
import time

from benchmarks.functions import noop
from benchmarks.harness import MIB, Figure, Settings, Sync, figure, fleet_of, rss_bytes, timed

ITEMS = 200_000
ITEMS_QUICK = 100_000
SAMPLE_ITEMS = 1000
GROWTH_MIB_MAX = 8.0
"""What "flat" means: so much more resident memory at the end than after the first fifth."""


def one_run(items: int) -> tuple[float, float, float]:
    """Items per second, milliseconds to the first result, MiB that the client grew by.

    The rate leaves the first second out, unless the whole run is shorter than that.
    """
    began = time.perf_counter()
    first_s = 0.0
    after_a_second: tuple[float, int] | None = None
    fifth_bytes = 0
    count = 0
    for value in noop.map(range(items)):
        assert value == count, (value, count)
        if count == 0:
            first_s = time.perf_counter() - began
        count += 1
        if count % SAMPLE_ITEMS == 0:
            now_s = time.perf_counter() - began
            if after_a_second is None and now_s >= 1.0:
                after_a_second = (now_s, count)
            if count == items // 5:
                fifth_bytes = rss_bytes(os.getpid())
    end_s = time.perf_counter() - began
    since_s, since_count = after_a_second or (0.0, 0)
    grown = (rss_bytes(os.getpid()) - fifth_bytes) / MIB
    return (count - since_count) / (end_s - since_s), 1000 * first_s, grown


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """Several maps on one fleet, whose function is warm."""
    items = ITEMS_QUICK if settings.quick else ITEMS
    with fleet_of(cars=1, sync=sync):
        timed(noop.remote, 20)
        runs = [one_run(items) for _ in range(2 if settings.quick else 5)]
    rates, firsts, grown = zip(*runs, strict=True)
    return [
        figure(
            f".map of {items:,} no-ops after the first second", rates, "items/s",
            target=30_000.0, better="more", sync=sync,
        ),
        figure(".map first result", firsts, "ms", target=50.0, sync=sync),
        figure(
            ".map growth of the client", grown, "MiB", share=1.0, target=GROWTH_MIB_MAX, sync=sync,
            note="resident memory at the end less that after a fifth; the worst run",
        ),
    ]  # fmt: skip
