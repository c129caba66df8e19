"""The benchmark's arithmetic, and that its table and file say what was measured."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from benchmarks import harness
from benchmarks.harness import Figure, Pair, Settings, figure
from benchmarks.run import chosen, number, table_of


def test_percentiles_are_samples() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert harness.percentile(values, 0.0) == 1.0
    assert harness.percentile(values, 0.5) == 51.0
    assert harness.percentile(values, 0.99) == 100.0
    assert harness.percentile([7.0], 0.99) == 7.0


def test_the_median_of_an_even_number_lies_between() -> None:
    assert figure("a", [1.0, 2.0, 4.0, 9.0], "ms").value == 3.0
    assert figure("a", [1.0, 2.0, 4.0], "ms").value == 2.0


def test_verdicts() -> None:
    assert figure("a", [1.0, 2.0, 3.0], "ms", target=2.0).passed is True
    assert figure("a", [1.0, 2.0, 3.0], "ms", target=1.9).passed is False
    assert figure("a", [1.0, 2.0, 3.0], "1/s", target=2.1, better="more").passed is False
    assert figure("a", [1.0, 2.0, 3.0], "1/s", target=2.0, better="more").passed is True
    assert figure("a", [1.0], "ms").passed is None


def test_pairs_are_compared_median_with_median() -> None:
    pair = Pair([3.0, 3.0, 90.0], [1.0, 1.0, 50.0])
    assert pair.ratio == 3.0
    assert pair.difference == 2.0


def test_pairs_beside_a_change_of_speed_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(harness, "calibrate", lambda: next(speeds))
    blocks = iter(range(1, 9))
    pairs = harness.interleaved(
        lambda count: [float(next(blocks))] * count, lambda count: [1.0] * count, Settings(quick=True)
    )
    assert [pair.ratio for pair in pairs] == [1.0, 3.0, 4.0]


def test_without_one_steady_pair_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([float(1 + turn % 2) for turn in range(100)])
    monkeypatch.setattr(harness, "calibrate", lambda: next(speeds))
    with pytest.raises(RuntimeError, match="never stood still"):
        harness.interleaved(lambda count: [1.0], lambda count: [1.0], Settings(quick=True))


def test_the_table_shows_target_and_verdict() -> None:
    figures = [
        figure("fast", [1.0], "ms", target=2.0),
        figure("slow", [3.0], "ms", target=2.0),
        figure("told", [1.5], "x"),
    ]
    console = Console(width=140, record=True)
    console.print(table_of(figures))
    lines = {line.split()[0]: line for line in console.export_text().splitlines() if line.strip()}
    assert "met" in lines["fast"]
    assert "missed" in lines["slow"]
    assert "at most" not in lines["told"]


def test_json_holds_the_verdict() -> None:
    made: Figure = figure("a", [1.0, 2.0, 3.0], "ms", target=1.0)
    assert json.loads(json.dumps(made.as_json()))["passed"] is False


def test_only_takes_known_names() -> None:
    assert list(chosen(["warm"])) == ["warm"]
    with pytest.raises(Exception, match="nonsense"):
        chosen(["nonsense"])


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (12.345, "12.35"), (123.4, "123.4"), (34567.0, "34,567")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
