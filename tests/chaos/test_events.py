"""The short chaos run of events that every ``make test`` does, and that its checker sees what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.event_checker import Handled, Letter, Rules, Stored, judge
from tests.chaos.events import SHORT, chaos

RULES = Rules(
    takes={"all": lambda n: True, "even": lambda n: n % 2 == 0},
    fails={"all": lambda n: n == 3},
    attempts=2,
    keys={"even": lambda n: 0},
)
GOOD = Stored(
    accepted=[0, 1, 2, 3],
    handled=[*(Handled("all", n, n != 3) for n in range(4)), Handled("even", 0, True), Handled("even", 2, True)],
    letters=[Letter("all", 3, 2)],
)


def test_what_is_right_has_no_violation() -> None:
    assert judge(GOOD, 4, RULES) == []


@pytest.mark.parametrize(
    ("wrong", "violation"),
    [
        (replace(GOOD, handled=GOOD.handled[1:]), "lost: all"),
        (replace(GOOD, handled=[*GOOD.handled, Handled("all", 1, True)]), "double: all"),
        (replace(GOOD, handled=[Handled("all", 0, False), *GOOD.handled[1:]]), "wrong: event 0 failed"),
        (replace(GOOD, handled=[*GOOD.handled, Handled("even", 1, True)]), "foreign: even"),
        (replace(GOOD, handled=[*GOOD.handled, Handled("other", 1, True)]), "foreign: other"),
        (replace(GOOD, letters=[]), "dead: event 3"),
        (replace(GOOD, letters=[*GOOD.letters, *GOOD.letters]), "dead: event 3"),
        (replace(GOOD, letters=[*GOOD.letters, Letter("even", 2, 2)]), "dead: event 2"),
        (replace(GOOD, letters=[Letter("all", 3, 1)]), "dead: the letter of event 3 says 1 attempts"),
        (replace(GOOD, accepted=[2, 1, 0, 3]), "order: even handled event 0 before 2"),
        (replace(GOOD, accepted=[0, 1, 2]), "lost: event 3"),
        (replace(GOOD, accepted=[0, 1, 2, 3, 3]), "double: event 3 is stored"),
        (replace(GOOD, waiting=2), "left: 2"),
        (replace(GOOD, unreadable=["x"]), "unreadable: x"),
    ],
)
def test_what_is_wrong_has_one(wrong: Stored, violation: str) -> None:
    found = judge(wrong, 4, RULES)
    assert any(line.startswith(violation) for line in found), found


@pytest.mark.alone
def test_every_event_has_one_outcome_for_each_function_through_departures_deaths_and_restarts() -> None:
    result = chaos(SHORT)
    assert result.violations == []
    assert result.counts["events stored"] == SHORT.events
    assert result.counts["dead letters of events"] == SHORT.events // 100
    assert result.counts["kills of the broker"] == result.counts["kills of the control plane"] == 1
    assert result.counts["events found to be copies"] > 0
