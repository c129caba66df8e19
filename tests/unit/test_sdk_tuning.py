"""The tuner of map, against a fleet of slots in virtual time."""

from __future__ import annotations

import heapq

import pytest

from fleet._tuning import CHUNK_S, CHUNKS_UNKNOWN_MAX, INLINE_BYTES, Tuner, away_s
from fleet.protocol.limits import CHUNK_ITEMS_MAX
from fleet.protocol.messages import Metering


def drive(
    slots: int, item_s: float, until_s: float, *, item_bytes: int = 20, overhead_s: float = 0.003
) -> tuple[Tuner, float]:
    """Keep ``chunks_max`` chunks in flight on ``slots``; the tuner, and the busy share of the slots in the second half."""
    tuner = Tuner(None)
    free = [0.0] * slots
    flying: list[tuple[float, float, int, float]] = []  # (back at, sent at, items, run)
    now_s, busy_s, next_tick_s = 0.0, 0.0, 0.01
    while now_s < until_s:
        while len(flying) < tuner.chunks_max:
            items = min(tuner.items, max(1, tuner.bytes_max // item_bytes))
            begin_s = max(heapq.heappop(free), now_s + overhead_s / 2)
            run_s = items * item_s
            heapq.heappush(free, begin_s + run_s)
            heapq.heappush(flying, (begin_s + run_s + overhead_s / 2, now_s, items, run_s))
            if begin_s > until_s / 2:
                busy_s += max(0.0, min(run_s, until_s - begin_s))
        if flying[0][0] > next_tick_s:
            now_s = next_tick_s
            next_tick_s += 0.01
            tuner.nothing_yet()
            continue
        now_s, sent_s, items, run_s = heapq.heappop(flying)
        tuner.observe(items, items * item_bytes, run_s, now_s - sent_s)
    return tuner, busy_s / (slots * until_s / 2)


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("item_s", [30e-6, 1e-3, 0.02, 0.3])
def test_all_slots_are_busy_and_chunks_take_a_tenth_of_a_second(slots: int, item_s: float) -> None:
    tuner, busy = drive(slots, item_s, until_s=60.0 if item_s > 0.1 else 10.0)
    assert busy > 0.9
    assert 2 <= tuner.chunks_max <= 8 * slots + 8
    chunk_s = min(tuner.items, tuner.bytes_max // 20) * item_s
    assert item_s >= CHUNK_S or chunk_s == pytest.approx(CHUNK_S, rel=0.6)


def test_a_fleet_is_filled_before_the_first_long_call_is_back() -> None:
    tuner = Tuner(None)
    for _ in range(10):
        tuner.nothing_yet()
    assert tuner.chunks_max == CHUNKS_UNKNOWN_MAX
    assert tuner.items == 1


def test_sizes_are_bounded_and_grow_step_by_step() -> None:
    tuner = Tuner(None)
    sizes = []
    for _ in range(8):
        tuner.observe(tuner.items, tuner.items * 20, tuner.items * 1e-7, 0.003)
        sizes.append(tuner.items)
    assert sizes[:4] == [8, 64, 512, CHUNK_ITEMS_MAX]
    assert max(sizes) == CHUNK_ITEMS_MAX


def test_small_items_prefer_what_fits_the_queue() -> None:
    small, large = Tuner(None), Tuner(None)
    for _ in range(5):
        small.observe(1000, 20_000, 0.03, 0.05)
        large.observe(10, 100_000, 0.001, 0.01)
    assert small.bytes_max == INLINE_BYTES
    assert large.bytes_max > INLINE_BYTES


def test_a_given_chunksize_stays() -> None:
    tuner = Tuner(7)
    for _ in range(5):
        tuner.observe(7, 100, 1e-4, 0.003)
    assert tuner.items == 7


def test_one_late_answer_does_not_ruin_it() -> None:
    tuner, _ = drive(4, 1e-3, until_s=5.0)
    before = tuner.chunks_max
    tuner.observe(100, 2000, 0.1, 30.0)
    assert tuner.chunks_max >= before // 2


def test_what_a_slot_made_ready_is_no_waiting() -> None:
    metering = Metering(
        car="c", lease=1, epoch=1, attempt=1, submitted_unix_s=0, granted_unix_s=1, started_unix_s=2,
        finished_unix_s=5.1, run_s=0.1,
    )  # fmt: skip
    assert away_s(3.5, metering) == pytest.approx(0.5)
    assert away_s(2.0, metering) == 0.0
    assert away_s(0.5, metering.model_copy(update={"finished_unix_s": 1.0})) == 0.5


def test_chunks_of_items_that_run_together_are_made_of_whole_batches() -> None:
    tuner = Tuner(None, 64)
    assert tuner.items == 64
    for _ in range(8):
        tuner.observe(64, 64 * 2000, 64 * 0.0005, 0.05)
    assert tuner.items == 192 and tuner.bytes_max >= 192 * 2000
    tuner.observe(192, 192 * 2000, 192 * 1.0, 200.0)
    assert tuner.items == 64
