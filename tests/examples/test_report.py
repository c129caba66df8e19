"""The demo's tables are computed from records: these are records whose tables are known."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from examples.demo import report
from examples.demo.tour import DAY, STATIONS, write_trace
from examples.sessions import score
from fleet.protocol.messages import CallState, CarInfo, Metering, OutcomeRecord, Standing
from runtime.signals.replay import ReplaySource, read


def record(
    call: str, car: str, *, items: int | None = None, departures: int = 0, started: float = 100.0
) -> OutcomeRecord:
    metering = Metering(
        car=car, lease=1, epoch=1, attempt=1, submitted_unix_s=1.0, granted_unix_s=started, started_unix_s=started,
        finished_unix_s=started + 1, run_s=0.5, departures=departures,
    )  # fmt: skip
    return OutcomeRecord(
        call=call, app="score", function="f", version="0" * 16, state=CallState.SUCCEEDED, metering=metering,
        indices=None if items is None else [(0, items - 1)],
    )  # fmt: skip


def car(name: str, departure: dict[str, float] | None = None) -> CarInfo:
    return CarInfo(car=name, online=True, standing=Standing(eligible=True), last_departure=departure or {})


def test_shares_count_items_and_name_idle_cars() -> None:
    records = [record("a", "car-1", items=3), record("b", "car-1"), record("c", "car-3", items=2)]
    assert report.shares(records, ["car-1", "car-2"]) == [
        report.CarShare("car-1", 4, 2, 1.0), report.CarShare("car-2", 0, 0, 0.0), report.CarShare("car-3", 2, 1, 0.5),
    ]  # fmt: skip


def test_departures_of_an_earlier_time_are_left_out() -> None:
    old = {"signal_unix_s": 10.0, "killed_s": 0.001, "reaped_s": 0.01}
    new = {"signal_unix_s": 90.0, "killed_s": 0.002, "reaped_s": 0.02}
    assert report.departures([car("car-1", old), car("car-2", new), car("car-3")], 50.0) == [
        report.Departure("car-2", 2.0, 20.0, 90.0)
    ]


def test_a_handover_names_the_car_that_left_before_the_restart() -> None:
    left = [report.Departure("car-1", 1, 1, 90.0), report.Departure("car-2", 1, 1, 95.0)]
    found = report.handovers(
        [
            record("a", "car-3", departures=1, started=90.5),
            record("b", "car-3", departures=1, started=96.0),
            record("c", "car-3"),
        ],
        left,
    )
    assert [(one.call, one.from_car, one.to_car, round(one.away_ms)) for one in found] == [
        ("a", "car-1", "car-3", 500), ("b", "car-2", "car-3", 1000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("remote", "local", "unequal"),
    [([1, 2], [1, 2], []), ([1, 3], [1, 2], [1]), ([1], [1, 2], [1]), ([1, 2], [1], [1]), ([], [], [])],
)
def test_differences(remote: list[int], local: list[int], unequal: list[int]) -> None:
    assert report.differences([{"v": one} for one in remote], [{"v": one} for one in local]) == unequal


def test_the_trace_gives_each_car_the_station_that_the_table_names(tmp_path: Path) -> None:
    write_trace(score.data_file(), tmp_path / "trace.csv")
    recording = read(tmp_path / "trace.csv")
    assert tuple(ReplaySource(recording, number).station for number in range(len(STATIONS))) == STATIONS
    at_start = [ReplaySource(recording, number).base()[0].plugged_in for number in range(len(STATIONS))]
    assert at_start == [True] * len(STATIONS)
    with (tmp_path / "trace.csv").open(newline="") as lines:
        assert {row["arrival_utc"][:10] for row in csv.DictReader(lines)} == {DAY}


GOOD = [
    "caltech",
    "CA-305",
    "s1",
    "2019-05-01T08:00:00Z",
    "2019-05-01T16:00:00Z",
    "2019-05-01T15:00:00Z",
    "20",
    "13.2",
    "True",
]


def test_a_plausible_session_is_scored() -> None:
    session = score.parse(GOOD)
    assert isinstance(session, score.Session)
    assert (session.stay_min, session.declared_min, session.delivered_wh) == (480, 420, 13_200)
    assert session.idle_permille == 750  # two hours of charging in eight
    assert session.score == (4 * 1000 + 4 * 750 + 2 * 667) // 10


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (4, "2019-05-01T08:05:00Z", "shorter than 10 minutes"),
        (4, "2019-05-01T07:00:00Z", "shorter than 10 minutes"),
        (4, "2019-05-09T08:00:00Z", "longer than four days"),
        (7, "61", "more power than the station has"),
        (7, "nan", "unreadable value"),
        (7, "inf", "unreadable value"),
        (3, "yesterday", "unreadable value"),
        (6, "0", "claimed, but nothing requested"),
    ],
)
def test_an_implausible_session_is_rejected_with_its_reason(column: int, value: str, reason: str) -> None:
    row = [*GOOD[:column], value, *GOOD[column + 1 :]]
    assert score.parse(row) == reason


def test_a_row_of_another_shape_is_rejected() -> None:
    assert score.parse(GOOD[:-1]) == "wrong number of columns"


def test_load_is_conserved_whatever_the_power() -> None:
    session = score.parse(GOOD)
    assert isinstance(session, score.Session)
    for power_w in (score.STATION_W, 100, 1):
        profile_wh = [0] * score.QUARTERS
        score.add_load(profile_wh, session, power_w)
        assert sum(profile_wh) == session.delivered_wh


def test_every_row_of_the_file_is_in_one_batch() -> None:
    batches = list(score.batches(score.data_file()))
    assert sum(map(len, batches)) == 27_407
    assert max(map(len, batches)) <= score.BATCH_ROWS
    assert all(len({line.split(",", 2)[1] for line in batch}) == 1 for batch in batches)
