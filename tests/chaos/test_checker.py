"""The checker finds what is planted, and nothing in a history that is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.checker import check

Row = dict[str, Any]


def history() -> list[Row]:
    """Two calls; the first moves from a car that left to another, its late outcome is refused."""
    lease = {"who": "dispatcher", "call": "a", "seq": 1, "epoch": 1}
    return [
        {"who": "client", "event": "submit", "call": "a", "expect": 4},
        {"who": "client", "event": "submit", "call": "b", "expect": 9},
        {**lease, "event": "grant", "counter": 1, "car": "car-1"},
        {**lease, "event": "grant", "call": "b", "counter": 2, "car": "car-2"},
        {**lease, "event": "end", "counter": 1, "why": "lapse"},
        {**lease, "event": "grant", "counter": 3, "car": "car-2"},
        {**lease, "event": "refuse", "counter": 1, "why": "stale"},
        {**lease, "event": "commit", "counter": 3, "state": "succeeded"},
        {**lease, "event": "commit", "call": "b", "counter": 2, "state": "succeeded"},
        {"who": "client", "event": "outcome", "call": "a", "value": 4},
        {"who": "client", "event": "outcome", "call": "b", "value": 9},
        {"who": "store", "event": "stored", "call": "a", "epoch": 1, "counter": 3},
        {"who": "store", "event": "stored", "call": "b", "epoch": 1, "counter": 2},
    ]


def test_a_right_history_has_no_violation() -> None:
    report = check(history())
    assert report.violations == []
    assert (report.submitted, report.outcomes) == (2, 2)


def lose(rows: list[Row]) -> None:
    rows.remove({"who": "client", "event": "outcome", "call": "b", "value": 9})


def lose_record(rows: list[Row]) -> None:
    del rows[-1]


def answer_twice(rows: list[Row]) -> None:
    rows.append({"who": "client", "event": "outcome", "call": "b", "value": 9})


def commit_twice(rows: list[Row]) -> None:
    rows.append(dict(rows[8]))


def store_twice(rows: list[Row]) -> None:
    rows.append(dict(rows[-1]))


def answer_wrong(rows: list[Row]) -> None:
    rows[9] = {**rows[9], "value": 5}


def commit_stale(rows: list[Row]) -> None:
    rows[7] = {**rows[7], "counter": 1}


def store_stale(rows: list[Row]) -> None:
    rows[-2] = {**rows[-2], "counter": 1}


def grant_twice(rows: list[Row]) -> None:
    del rows[4]


def invent(rows: list[Row]) -> None:
    rows.append({"who": "client", "event": "outcome", "call": "zz", "value": 1})


@pytest.mark.parametrize(
    ("plant", "name"),
    [
        (lose, "lost"),
        (lose_record, "lost"),
        (answer_twice, "double"),
        (commit_twice, "double"),
        (store_twice, "double"),
        (answer_wrong, "wrong"),
        (commit_stale, "stale"),
        (store_stale, "stale"),
        (grant_twice, "overlap"),
        (invent, "foreign"),
    ],
)
def test_a_planted_fault_is_found_and_named(plant: Callable[[list[Row]], None], name: str) -> None:
    rows = history()
    plant(rows)
    assert {line.split(":")[0] for line in check(rows).violations} == {name}
