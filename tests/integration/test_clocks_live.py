"""Clocks on a whole fleet: the control plane and the broker die over them. The long run: ``python -m tests.chaos.clocks``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fleet.testing import LocalFleet
from tests.chaos.clocks import POLICIES, deploy, run_window

SECONDS = 8
DOWN_S = 3.0


@pytest.fixture(scope="module")
def local() -> Iterator[LocalFleet]:
    with LocalFleet(cars=1) as started:
        deploy()
        yield started


@pytest.mark.alone
@pytest.mark.parametrize("victim", ["control", "broker"])
def test_each_policy_runs_the_ticks_it_must_and_none_double(local: LocalFleet, victim: str) -> None:
    known: dict[str, Any] = {}
    window = run_window(local, getattr(local, victim), SECONDS, DOWN_S, known)
    assert window.violations() == []
    missed = sum(map(len, window.missed()))
    assert missed >= DOWN_S - 1, "nothing was missed: the run proves nothing"
    moments = len(window.missed())
    counts = {policy: len(window.ran[policy]) for policy in POLICIES}
    assert counts == {"all": SECONDS, "one": SECONDS - missed + moments, "skip": SECONDS - missed}
