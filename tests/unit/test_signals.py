"""Signal sources: by hand, and replayed from recorded sessions, in a clock of the test's own."""

from __future__ import annotations

import gzip
from pathlib import Path

import anyio
import pytest

from fleet.protocol.errors import InvalidOption
from runtime.signals.manual import ManualSource, Overrides
from runtime.signals.model import HEARTBEAT_S, Charging, Gear, Signals
from runtime.signals.replay import Recording, ReplaySource, Stay, Timeline, merged, read, simulated_soc_pct

CSV = """site,station_id,session_id,arrival_utc,departure_utc,declared_departure_utc,requested_kwh,delivered_kwh,claimed
x,A,1,2019-05-01T08:00:00Z,2019-05-01T10:00:00Z,,1,12.0,True
x,A,2,2019-05-01T12:00:00Z,2019-05-01T13:00:00Z,,1,,True
x,A,3,2019-05-01T12:30:00Z,2019-05-01T14:00:00Z,,1,6.0,True
x,B,4,2019-05-01T09:00:00Z,2019-05-02T09:00:00Z,,1,30.0,True
x,B,5,2019-05-03T09:00:00Z,2019-05-03T09:00:00Z,,1,30.0,True
"""
DAY = 1556668800.0  # 2019-05-01


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class HandClock:
    """Time that a test moves; ``wait`` returns when it has come."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._moved = anyio.Event()
        self.waiting = anyio.Event()

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return 1_700_000_000.0 + self.now_s

    async def wait(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s - 1e-9:
            self.waiting.set()
            await self._moved.wait()

    async def move(self, seconds: float) -> None:
        with anyio.fail_after(5):
            await self.waiting.wait()
            self.waiting = anyio.Event()
            self.now_s += seconds
            moved, self._moved = self._moved, anyio.Event()
            moved.set()
            await self.waiting.wait()


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    path = tmp_path / "sessions.csv"
    path.write_text(CSV)
    return read(path)


def test_reads_stays_joins_overlapping_ones_and_drops_empty_ones(recording: Recording) -> None:
    hours = {
        name: [((stay.arrival_unix_s - DAY) / 3600, (stay.departure_unix_s - DAY) / 3600) for stay in stays]
        for name, stays in recording.stays.items()
    }
    assert hours == {"A": [(8, 10), (12, 14)], "B": [(9, 33)]}
    assert recording.stays["A"][1].delivered_kwh == 6.0
    assert recording.busiest_unix_s == DAY + 9 * 3600


def test_reads_gzip_and_says_what_is_wrong_with_other_files(tmp_path: Path) -> None:
    packed = tmp_path / "s.csv.gz"
    packed.write_bytes(gzip.compress(CSV.encode()))
    assert set(read(packed).stays) == {"A", "B"}
    for name, text, words in (
        ("a.csv", "when,where\n1,2\n", "station_id"),
        ("b.csv", "station_id,arrival_utc,departure_utc\nA,yesterday,today\n", "line 2"),
        ("c.csv", "station_id,arrival_utc,departure_utc\n", "no session"),
        ("d.csv.gz", "station_id", "can't be read"),
    ):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(InvalidOption, match=words):
            read(path)
    with pytest.raises(InvalidOption, match="can't be read"):
        read(tmp_path / "missing.csv")


def test_the_timeline_is_plugged_exactly_during_stays_and_repeats_by_weeks(recording: Recording) -> None:
    line = Timeline(recording.stays["A"], recording.span_unix_s)
    assert line.period_s == 7 * 86400
    for week in (0, 1, -1, 5):
        start = DAY + week * line.period_s
        for hour, plugged, left_h in ((8, True, 2), (9.5, True, 0.5), (10, False, 2), (13, True, 1), (14, False, 162)):
            signals, stays_s = line.at(start + hour * 3600)
            assert signals.plugged_in is plugged and stays_s / 3600 == pytest.approx(left_h), (week, hour)
            assert (signals.gear is Gear.PARK) == plugged
            assert signals.at_unix_s == start + hour * 3600


def test_what_nobody_recorded_is_marked(recording: Recording) -> None:
    signals, _ = Timeline(recording.stays["A"], recording.span_unix_s).at(DAY + 9 * 3600)
    assert "plugged_in" not in signals.simulated and "soc_pct" in signals.simulated
    stay = Stay(0, 100, 12.0)
    assert [simulated_soc_pct(stay, at) for at in (0, 50, 100)] == [60, 70, 80]
    assert simulated_soc_pct(Stay(0, 100, 600.0), 0) == 10


def test_merged_sorts() -> None:
    assert merged([Stay(5, 6, 1), Stay(1, 2, 1), Stay(2, 3, 1)]) == [Stay(1, 3, 2), Stay(5, 6, 1)]


def test_overrides_by_hand() -> None:
    base = Signals(at_unix_s=0, gear=Gear.PARK, plugged_in=True, charging=Charging.CHARGING)
    hand = Overrides()
    assert hand.apply(base) is base
    hand = hand.after("drive")
    driving = hand.apply(base)
    assert (driving.gear, driving.plugged_in, driving.charging) == (Gear.DRIVE, False, Charging.DISCONNECTED)
    hand = hand.after("plug")
    assert hand.apply(base).plugged_in is False, "a moving car has no cable"
    assert hand.after("park").apply(base).plugged_in is True
    hand = hand.after("unplug").after("park").after("pause")
    parked = hand.apply(base)
    assert (parked.gear, parked.plugged_in, parked.paused) == (Gear.PARK, False, True)
    assert hand.after("resume").apply(base).paused is False
    with pytest.raises(InvalidOption, match="drive, park"):
        hand.after("fly")


@pytest.mark.anyio
async def test_manual_source_reports_at_once_on_change_and_by_heartbeat() -> None:
    clock = HandClock()
    source = ManualSource(clock)
    heard: list[Signals] = []
    async with anyio.create_task_group() as group:
        group.start_soon(source.run, heard.append)
        with anyio.fail_after(5):
            await clock.waiting.wait()
        assert len(heard) == 1 and heard[0].plugged_in and heard[0].gear is Gear.PARK
        source.simulate("drive")
        assert len(heard) == 2 and heard[1].gear is Gear.DRIVE, "heard before simulate returns"
        await clock.move(HEARTBEAT_S)
        assert len(heard) == 3 and heard[2].gear is Gear.DRIVE
        assert heard[2].at_unix_s == heard[0].at_unix_s + HEARTBEAT_S
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_replay_runs_faster_than_the_clock_and_tells_changes_on_time(recording: Recording) -> None:
    clock = HandClock()
    source = ReplaySource(recording, "A", speed=3600, start_unix_s=DAY + 9 * 3600, clock=clock)
    heard: list[Signals] = []
    async with anyio.create_task_group() as group:
        group.start_soon(source.run, heard.append)
        with anyio.fail_after(5):
            await clock.waiting.wait()
        assert [signals.plugged_in for signals in heard] == [True]
        for _ in range(3):
            await clock.move(1.0)
        assert [(signals.plugged_in, (signals.at_unix_s - DAY) / 3600) for signals in heard] == [
            (True, 9), (False, 10), (True, 12),
        ]  # fmt: skip
        source.simulate("drive")
        assert heard[-1].gear is Gear.DRIVE and not heard[-1].plugged_in
        source.simulate("park")
        assert heard[-1].plugged_in
        group.cancel_scope.cancel()


def test_replay_refuses_what_is_not_there(recording: Recording) -> None:
    assert ReplaySource(recording, 0).station == "A"
    assert ReplaySource(recording, 1).station == "B"
    for station in ("C", 2, -1):
        with pytest.raises(InvalidOption):
            ReplaySource(recording, station)
    with pytest.raises(InvalidOption):
        ReplaySource(recording, "A", speed=0)
