"""Results that are large: rows, and many numbers; what encoding them costs beside pickle, timed in the sandbox itself."""

from __future__ import annotations

import time

from benchmarks.functions import encode_and_pickle, floats, noop, rows
from benchmarks.harness import Figure, Settings, Sync, figure, fleet_of, timed

ROWS = 12_500
"""About 1 MB as the codec writes it."""
FLOATS = 100_000
OVER_PICKLE_MAX = 3.0
TURNS = 5


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """Warm calls in turns, on one car."""
    count = 10 if settings.quick else 50
    row_ms: list[float] = []
    float_ms: list[float] = []
    ratios: list[float] = []
    row_ratios: list[float] = []
    with fleet_of(cars=1, sync=sync):
        for function in (rows, floats, encode_and_pickle):
            function.remote(10)
        timed(noop.remote, 20)
        for _ in range(count):
            began = time.perf_counter()
            assert len(rows.remote(ROWS)) == ROWS
            row_ms.append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            assert len(floats.remote(FLOATS)) == FLOATS
            float_ms.append(1000 * (time.perf_counter() - began))
            for table, found in ((False, ratios), (True, row_ratios)):
                encode_s, pickle_s = encode_and_pickle.remote(ROWS if table else FLOATS, table, TURNS)
                found.append(encode_s / pickle_s)
    return [
        figure(f"a result of {ROWS:,} dicts (1 MB)", row_ms, "ms", sync=sync, note="made, sent and decoded"),
        figure(f"a result of {FLOATS:,} floats", float_ms, "ms", sync=sync, note="made, sent and decoded"),
        figure(
            f"{FLOATS:,} floats: encoding over pickle, in the sandbox", ratios, "x", target=OVER_PICKLE_MAX, sync=sync,
        ),
        figure(f"{ROWS:,} dicts: encoding over pickle, in the sandbox", row_ratios, "x", sync=sync),
    ]  # fmt: skip
