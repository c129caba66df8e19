"""Ranges of items, and who is charged for what a chunk ran into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import RunStatus
from fnplatform.dispatcher import chunks
from fnplatform.dispatcher.chunks import Ranges, Settled

ITEMS = st.sets(st.integers(0, 40))


@given(ITEMS, ITEMS)
def test_ranges_are_sets(one: set[int], other: set[int]) -> None:
    a, b = chunks.of(one), chunks.of(other)
    assert set(chunks.numbers(a)) == one
    assert chunks.count(a) == len(one)
    assert set(chunks.numbers(chunks.subtract(a, b))) == one - other
    assert set(chunks.numbers(chunks.intersect(a, b))) == one & other
    assert set(chunks.numbers(chunks.union(a, b))) == one | other
    assert all(chunks.contains(a, number) == (number in one) for number in range(41))
    for ranges in (a, chunks.subtract(a, b), chunks.union(a, b), chunks.intersect(a, b)):
        assert chunks.normal(ranges) == ranges, "normal form is kept"


@given(ITEMS, ITEMS)
def test_select_picks_by_number(stored: set[int], wanted: set[int]) -> None:
    ranges = chunks.of(stored)
    items = [f"item {number}" for number in chunks.numbers(ranges)]
    picked = chunks.select(ranges, items, chunks.of(stored & wanted))
    assert picked == [f"item {number}" for number in sorted(stored & wanted)]


@pytest.mark.parametrize("ranges", [[(3, 2)], [(-1, 0)]])
def test_what_is_no_range_is_refused(ranges: Ranges) -> None:
    with pytest.raises(ProtocolError):
        chunks.normal(ranges)


def settle(remaining: Ranges, **more: object) -> Settled:
    fields: dict[str, object] = {
        "done": [], "failed": [], "status": RunStatus.OK, "culprit": None, "message": "", "attempts": {},
        "attempts_max": 2,
    }  # fmt: skip
    return chunks.settle(remaining, **{**fields, **more})  # type: ignore[arg-type]


def test_all_done_in_one_go() -> None:
    settled = settle([(0, 9)], done=[(0, 9)])
    assert (settled.commit, settled.rest, settled.retry) == ([(0, 9)], [], [])


def test_failing_item_is_kept_back_alone() -> None:
    settled = settle([(0, 9)], done=[(0, 9)], failed=[4])
    assert settled.commit == [(0, 3), (5, 9)]
    assert settled.rest == [(4, 4)]
    assert (settled.retry, settled.attempts) == ([4], {4: 1})


def test_failing_item_out_of_attempts_is_committed() -> None:
    settled = settle([(0, 9)], done=[(0, 9)], failed=[4], attempts={4: 1})
    assert (settled.commit, settled.rest, settled.dead) == ([(0, 9)], [], [4])


def test_known_culprit_alone_is_charged() -> None:
    settled = settle([(0, 9)], done=[(0, 2)], status=RunStatus.TRAP, culprit=3)
    assert (settled.commit, settled.rest, settled.attempts) == ([(0, 2)], [(3, 9)], {3: 1})
    assert not settled.culprit_unknown


def test_known_culprit_out_of_attempts_is_ended() -> None:
    settled = settle([(0, 9)], done=[(0, 2)], status=RunStatus.TIMEOUT, culprit=3, attempts_max=1)
    assert settled.ended[3].code == "call_timeout"
    assert (settled.rest, settled.dead) == ([(4, 9)], [3])


def test_unknown_culprit_charges_nobody() -> None:
    settled = settle([(0, 9)], done=[(0, 2)], status=RunStatus.TRAP)
    assert settled.culprit_unknown
    assert (settled.attempts, settled.rest) == ({}, [(3, 9)])


def test_the_only_item_left_is_the_culprit() -> None:
    settled = settle([(7, 7)], status=RunStatus.TRAP)
    assert (settled.attempts, settled.retry) == ({7: 1}, [7])


def test_items_reported_twice_or_never_asked_for_are_ignored() -> None:
    settled = settle([(5, 9)], done=[(0, 6), (20, 30)], failed=[1, 25])
    assert (settled.commit, settled.rest, settled.attempts) == ([(5, 6)], [(7, 9)], {})


@given(ITEMS, ITEMS, ITEMS, st.sampled_from(RunStatus), st.none() | st.integers(0, 40), st.integers(1, 3))
def test_no_item_is_lost_or_has_two_fates(
    remaining: set[int], done: set[int], failed: set[int], status: RunStatus, culprit: int | None, most: int
) -> None:
    settled = settle(
        chunks.of(remaining), done=chunks.of(done), failed=sorted(failed & done), status=status, culprit=culprit,
        attempts_max=most,
    )  # fmt: skip
    commit, rest = set(chunks.numbers(settled.commit)), set(chunks.numbers(settled.rest))
    ended = set(settled.ended)
    assert commit | rest | ended == remaining
    assert len(commit) + len(rest) + len(ended) == len(remaining)
    assert set(settled.retry) <= rest
