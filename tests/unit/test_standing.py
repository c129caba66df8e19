"""Standing: every condition of the owner stops at once, unknown counts as not met, coming back waits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.protocol.errors import InvalidOption
from fleet.protocol.limits import SIGNAL_STALE_S
from runtime.signals.model import Gear, Signals
from runtime.standing import Hours, OwnerPolicy, Reason, StandingState, evaluate

MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
GOOD = Signals(
    at_unix_s=MONDAY_NOON, gear=Gear.PARK, plugged_in=True, fast_charging=False, soc_pct=80, battery_c=20, cabin_c=20,
    wifi=True,
)  # fmt: skip
STRICT = OwnerPolicy(
    wifi_only=True, battery_c_min=0, battery_c_max=40, cabin_c_max=45, hours=(Hours.parse("mon 08:00-18:00"),),
    come_back_s=5,
)  # fmt: skip


def at(
    policy: OwnerPolicy, signals: Signals | None, now_s: float = 0.0, state: StandingState | None = None, **more: Any
) -> StandingState:
    heard_s = more.pop("heard_s", now_s)
    return evaluate(
        policy, state or StandingState(), signals, heard_s=heard_s, now_s=now_s, unix_s=1000.0 + now_s, **more
    )


def test_a_good_car_is_eligible_at_once() -> None:
    state = at(STRICT, GOOD)
    assert state.eligible and state.reasons == () and state.standing.since_unix_s == 1000.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gear": Gear.DRIVE}, Reason.NOT_PARKED),
        ({"gear": Gear.UNKNOWN}, Reason.NOT_PARKED),
        ({"plugged_in": False}, Reason.NOT_PLUGGED_IN),
        ({"plugged_in": None}, Reason.NOT_PLUGGED_IN),
        ({"soc_pct": 19.9}, Reason.SOC_BELOW_FLOOR),
        ({"soc_pct": None}, Reason.SOC_BELOW_FLOOR),
        ({"fast_charging": True}, Reason.FAST_CHARGING),
        ({"fast_charging": None}, Reason.FAST_CHARGING),
        ({"battery_c": -1.0}, Reason.BATTERY_TEMPERATURE),
        ({"battery_c": 41.0}, Reason.BATTERY_TEMPERATURE),
        ({"battery_c": None}, Reason.BATTERY_TEMPERATURE),
        ({"cabin_c": 46.0}, Reason.CABIN_TEMPERATURE),
        ({"cabin_c": None}, Reason.CABIN_TEMPERATURE),
        ({"at_unix_s": MONDAY_NOON + 6 * 3600}, Reason.OUTSIDE_HOURS),
        ({"at_unix_s": MONDAY_NOON + 86400}, Reason.OUTSIDE_HOURS),
        ({"wifi": False}, Reason.NOT_ON_WIFI),
        ({"wifi": None}, Reason.NOT_ON_WIFI),
        ({"paused": True}, Reason.PAUSED),
        ({"departing": True}, Reason.DEPARTING),
    ],
)
def test_one_failing_condition_stops_at_once(change: dict[str, Any], reason: Reason) -> None:
    running = at(STRICT, GOOD)
    stopped = at(STRICT, replace(GOOD, **change), 1.0, running)
    assert not stopped.eligible
    assert stopped.reasons == (reason,)
    assert stopped.may_finish == (reason is Reason.DEPARTING)


def test_what_the_owner_does_not_ask_for_need_not_be_known() -> None:
    blind = Signals(at_unix_s=0, gear=Gear.PARK, plugged_in=True)
    assert at(OwnerPolicy(soc_floor_pct=0, allow_fast_charging=True), blind).eligible


def test_silence_fails_closed_and_its_time_is_told_ahead() -> None:
    running = at(STRICT, GOOD)
    assert running.due_s == SIGNAL_STALE_S
    assert at(STRICT, GOOD, SIGNAL_STALE_S - 0.01, running, heard_s=0.0).eligible
    assert at(STRICT, GOOD, SIGNAL_STALE_S, running, heard_s=0.0).reasons == (Reason.SIGNALS_STALE,)
    assert at(STRICT, None).reasons == (Reason.SIGNALS_STALE,)


def test_coming_back_waits_and_a_relapse_begins_the_wait_anew() -> None:
    away = replace(GOOD, plugged_in=False)
    state = at(STRICT, away, 1.0, at(STRICT, GOOD))
    state = at(STRICT, GOOD, 2.0, state)
    assert state.reasons == (Reason.COMING_BACK,) and state.due_s == 7.0
    state = at(STRICT, away, 6.0, state)
    state = at(STRICT, GOOD, 6.5, state)
    assert at(STRICT, GOOD, 11.4, state).reasons == (Reason.COMING_BACK,)
    assert at(STRICT, GOOD, 11.5, state).eligible


def test_charge_must_rise_above_the_floor_to_come_back() -> None:
    policy = OwnerPolicy(soc_floor_pct=20, soc_hysteresis_pct=5, come_back_s=0)
    state = at(policy, replace(GOOD, soc_pct=19), 1, at(policy, GOOD))
    assert not at(policy, replace(GOOD, soc_pct=24), 2, state).eligible
    unknown = at(policy, replace(GOOD, soc_pct=None), 2, state)
    assert not at(policy, replace(GOOD, soc_pct=24), 3, unknown).eligible
    assert at(policy, replace(GOOD, soc_pct=25), 3, unknown).eligible


def test_not_opted_in_and_stopping_are_told_first() -> None:
    state = at(OwnerPolicy(opted_in=False), replace(GOOD, plugged_in=False), stopping=True)
    assert state.reasons == (Reason.STOPPING, Reason.NOT_OPTED_IN, Reason.NOT_PLUGGED_IN)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("mon-fri 22:00-06:00", [(0, 23 * 60), (1, 0), (5, 5 * 60 + 59)], [(0, 5 * 60), (5, 23 * 60), (6, 60)]),
        ("sat-mon 08:00-09:00", [(5, 480), (6, 539), (0, 500)], [(1, 480), (5, 540)]),
        ("00:00-24:00", [(day, minute) for day in range(7) for minute in (0, 1439)], []),
    ],
)
def test_hours_of_the_week(text: str, inside: list[tuple[int, int]], outside: list[tuple[int, int]]) -> None:
    hours = Hours.parse(text)
    assert [pair for pair in inside if not hours.holds(*pair)] == []
    assert [pair for pair in outside if hours.holds(*pair)] == []


def test_hours_are_the_owners_local_time() -> None:
    policy = OwnerPolicy(hours=(Hours.parse("13:00-14:00"),), timezone="Europe/Oslo")
    assert at(policy, GOOD).eligible  # 12:00 UTC is 13:00 in Oslo in winter


@pytest.mark.parametrize("text", ["", "mon", "monday 08:00-09:00", "xyz 08:00-09:00", "08:00-25:00", "08:61-09:00"])
def test_bad_hours_are_refused(text: str) -> None:
    with pytest.raises(InvalidOption):
        Hours.parse(text)


@pytest.mark.parametrize(
    "bad",
    [
        {"soc_floor_pct": 101}, {"soc_floor_pct": 90, "soc_hysteresis_pct": 11}, {"come_back_s": -1},
        {"cabin_c_max": 200.0}, {"timezone": "Mars/Olympus"},
    ],
)  # fmt: skip
def test_bad_policies_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        OwnerPolicy(**bad)


def test_every_reason_has_a_line_for_owner_and_operator() -> None:
    assert all(reason.for_owner and reason.for_operator for reason in Reason)


SIGNALS = st.builds(
    Signals,
    at_unix_s=st.floats(MONDAY_NOON, MONDAY_NOON + 600_000),
    gear=st.sampled_from(Gear),
    plugged_in=st.sampled_from([True, False, None]),
    fast_charging=st.sampled_from([True, False, None]),
    soc_pct=st.one_of(st.none(), st.floats(0, 100)),
    paused=st.booleans(),
    departing=st.booleans(),
)


@given(st.lists(st.tuples(st.floats(0, 40), st.one_of(st.none(), SIGNALS)), max_size=20))
def test_eligible_means_that_all_conditions_hold_now(steps: list[tuple[float, Signals | None]]) -> None:
    policy = OwnerPolicy(come_back_s=3)
    state, now_s, heard_s, newest = StandingState(), 0.0, 0.0, None
    stopped_s = None
    for pause_s, signals in steps:
        now_s += pause_s
        if signals is not None:
            newest, heard_s = signals, now_s
        before = state
        state = at(policy, newest, now_s, state, heard_s=heard_s)
        assert state.eligible == (not state.reasons)
        if before.eligible and not state.eligible:
            stopped_s = now_s
        if state.eligible:
            assert newest is not None and now_s < heard_s + SIGNAL_STALE_S
            assert newest.gear is Gear.PARK and newest.plugged_in and not newest.paused and not newest.departing
            assert newest.soc_pct is not None and newest.soc_pct >= policy.soc_floor_pct
            assert before.eligible or stopped_s is None or now_s >= stopped_s + policy.come_back_s
