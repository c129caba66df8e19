"""How large the chunks of a map are, and how many of them are in flight. Pure: fed with what was measured.

A chunk should take CHUNK_S: long enough to make its cost per item small, short enough to be lost without regret.
As many chunks are in flight as keep every free slot busy with one more waiting behind it. The number of slots isn't
asked for, it shows in the waiting time (Little's law): with L chunks over S slots a chunk waits (L/S - 1) times as long
as it runs, so a wait of about one run means two for each slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.protocol.limits import CHUNK_ITEMS_MAX, INLINE_ARGS_BYTES_MAX, MIB

if TYPE_CHECKING:
    from fleet.protocol.messages import Metering

CHUNK_S = 0.1
CHUNK_BYTES_MAX = MIB
INLINE_BYTES = INLINE_ARGS_BYTES_MAX - 1024
"""Chunks that fit the queue itself save a blob on the way: preferred where they last half of CHUNK_S at least."""
GROWTH_MAX = 8
CHUNKS_START = 4
CHUNKS_MAX = 512
CHUNKS_UNKNOWN_MAX = 256
WAIT_NOISE_S = 0.004


def away_s(latency_s: float, metering: Metering) -> float:
    """How long a chunk was away, but for what its slot made ready meanwhile (a sandbox, a compiled program): that tells
    nothing of how many chunks wait, and happens once."""
    return max(0.0, latency_s - max(0.0, metering.finished_unix_s - metering.started_unix_s - metering.run_s))


class Tuner:
    """``chunksize`` fixes the size; ``chunks_max`` is how many chunks may be in flight now. ``unit``: as many items run as
    one, a chunk is made of whole ones."""

    def __init__(self, chunksize: int | None, unit: int = 1) -> None:
        self._fixed = chunksize
        self.unit = unit
        self.items = chunksize or unit
        self.bytes_max = CHUNK_BYTES_MAX
        self.chunks_max = CHUNKS_START
        self.observed = 0
        self._item_s = 0.0
        self._base_s = float("inf")
        self._slow_start = True

    def nothing_yet(self) -> None:
        """Called every now and then until the first chunk is back: long calls should fill a large fleet soon."""
        if not self.observed:
            self.chunks_max = min(CHUNKS_UNKNOWN_MAX, self.chunks_max * 2)

    def observe(self, items: int, payload_bytes: int, run_s: float, latency_s: float) -> None:
        """One chunk came back: it ran ``run_s`` and was away for ``latency_s``."""
        assert items >= 1, items
        self.observed += 1
        run_s = min(max(run_s, 0.0), latency_s)
        self._base_s = min(self._base_s, latency_s - run_s)
        self._observe_wait(run_s, latency_s - run_s - self._base_s, latency_s)
        item_s = max(run_s / items, 1e-7)
        self._item_s = item_s if self.observed == 1 else self._item_s + 0.4 * (item_s - self._item_s)
        if self._fixed is None:
            wanted = min(CHUNK_S / self._item_s, self.items * GROWTH_MAX, CHUNK_ITEMS_MAX)
            self.items = max(self.unit, int(wanted) // self.unit * self.unit)
            inline_items = INLINE_BYTES * items / max(1, payload_bytes)
            inline_is_enough = inline_items * self._item_s >= CHUNK_S / 2 and (
                self.unit == 1 or inline_items >= self.items
            )
            self.bytes_max = INLINE_BYTES if inline_is_enough else CHUNK_BYTES_MAX

    def _observe_wait(self, run_s: float, wait_s: float, latency_s: float) -> None:
        if wait_s < 0.7 * run_s + WAIT_NOISE_S:
            step = self.chunks_max if self._slow_start and self.observed % self.chunks_max == 0 else 1
            self.chunks_max = min(CHUNKS_MAX, self.chunks_max + step)
        else:
            self._slow_start = False
            if wait_s > 2 * run_s + 2 * WAIT_NOISE_S:
                fair = int(self.chunks_max * 2 * run_s / max(latency_s, 1e-6)) + 1
                self.chunks_max = max(2, fair, self.chunks_max // 2)
