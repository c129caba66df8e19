"""A warm ``.remote()`` of a no-op, against one JetStream publish + pull + reply by bare nats-py on the same broker."""

from __future__ import annotations

from benchmarks.floor import floor
from benchmarks.functions import noop
from benchmarks.harness import Figure, Pair, Settings, Sync, figure, fleet_of, interleaved, timed

WARM_UP = 50


def remote_block(count: int) -> list[float]:
    """Seconds of each of ``count`` warm calls."""
    return timed(noop.remote, count)


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """Ratios within pairs of blocks, over several fresh starts."""
    pairs: dict[str, list[Pair]] = {"fetch": [], "kept": []}
    for _ in range(settings.starts):
        with fleet_of(cars=1, sync=sync) as fleet:
            for way, found in pairs.items():
                with floor(fleet.url, fleet.data, way) as bare:
                    remote_block(WARM_UP)
                    bare.block(WARM_UP)
                    found += interleaved(remote_block, bare.block, settings)
    calls = [1000 * second for found in pairs.values() for pair in found for second in pair.first]
    floors = {way: [1000 * s for pair in found for s in pair.second] for way, found in pairs.items()}
    return [
        figure(
            "warm .remote() over bare publish + fetch + reply", [pair.ratio for pair in pairs["fetch"]], "x",
            target=4.0, sync=sync, note="ratio of p50s of neighbouring blocks; aim 2.5x",
        ),
        figure("warm .remote() p99", calls, "ms", share=0.99, target=10.0, sync=sync),
        figure("warm .remote() p50", calls, "ms", sync=sync),
        figure("bare nats-py, fetch(1), p50", floors["fetch"], "ms", sync=sync),
        figure(
            "warm .remote() over bare publish + standing pull + reply", [pair.ratio for pair in pairs["kept"]], "x",
            sync=sync, note="the fastest floor that nats-py allows",
        ),
        figure("bare nats-py, standing pull, p50", floors["kept"], "ms", sync=sync),
    ]  # fmt: skip
