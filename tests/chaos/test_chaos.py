"""The short chaos run that every ``make test`` does; ``make chaos`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import SHORT, chaos


@pytest.mark.alone
def test_every_call_has_one_right_outcome_through_departures_deaths_and_restarts(tmp_path: Path) -> None:
    report = chaos(SHORT, tmp_path / "history.jsonl")
    assert report.violations == []
    assert (report.submitted, report.outcomes) == (SHORT.calls + 1, SHORT.calls + 1)
    assert report.counts["chaos.kill_car"] == 1
    assert report.counts["chaos.kill_control"] == 1
    assert report.counts["chaos.kill_broker"] == 1
    assert report.counts["dispatcher.end.release"] > 0, "no call was ever moved by a departure: the run proves nothing"
