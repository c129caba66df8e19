"""Clocks on a whole fleet: the control plane and the broker die over them. The long run: ``python -m tests.chaos.clocks``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.protocol.messages import DeleteReply, DeleteRequest
from fleet.protocol.subjects import ApiVerb
from fleet.testing import LocalFleet
from tests.chaos.clocks import POLICIES, deploy, local_fleet, read_window, run_window, started_again, wait_until

SECONDS = 8
DOWN_S = 3.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[LocalFleet, Path]]:
    with local_fleet() as started:
        yield started


@pytest.fixture
def local(fleet: tuple[LocalFleet, Path]) -> LocalFleet:
    return fleet[0]


@pytest.mark.alone
@pytest.mark.parametrize("victim", ["control", "broker"])
def test_each_policy_runs_the_ticks_it_must_and_none_double(fleet: tuple[LocalFleet, Path], victim: str) -> None:
    local, history = fleet
    known: dict[str, Any] = {}
    window = run_window(local, getattr(local, victim), SECONDS, DOWN_S, known)
    assert window.violations() == []
    missed = sum(map(len, window.missed()))
    assert missed >= DOWN_S - 1, "nothing was missed: the run proves nothing"
    moments = len(window.missed())
    counts = {policy: len(window.ran[policy]) for policy in POLICIES}
    assert counts == {"all": SECONDS, "one": SECONDS - missed + moments, "skip": SECONDS - missed}
    assert started_again(history) == []


@pytest.mark.alone
def test_clocks_go_with_their_app(local: LocalFleet) -> None:
    """Deleted, it doesn't tick; deployed again, it starts with that."""
    known: dict[str, Any] = {}
    first = int(time.time()) + 1
    local.wait_for(lambda: read_window(local, first, 1, known).ran["skip"], "a tick")
    local.ask(ApiVerb.DELETE, DeleteRequest(app="clocks", cancel=True), DeleteReply)
    deleted = time.time()
    wait_until(local, deleted + 1.5)
    deploy()
    again = int(time.time()) + 1
    local.wait_for(lambda: read_window(local, again, 1, known).ran["all"], "a tick of the app deployed again")
    between = read_window(local, int(deleted) + 1, again - int(deleted) - 1, known)
    assert between.ran == {policy: {} for policy in POLICIES}
