"""Clocks against a search by hand, over changes of the clock, outages, and clocks that jump."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol.errors import InvalidOption
from fleet.protocol.limits import EXPRESSION_CHARS_MAX, TICK_GRACE_S, TICKS_MISSED_MAX
from fleet.protocol.messages.triggers import AtTrigger, ClockTrigger, CronTrigger, EveryTrigger, Missed
from fnplatform.triggers.clocks import ClockState, due, next_tick, parse_cron, tick_text


def unix_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def ticks(expression: str, timezone: str, begin: str, end: str) -> list[str]:
    """Ticks within [begin, end) as times of day there."""
    cron, zone = parse_cron(expression, timezone), ZoneInfo(timezone)
    first = datetime.fromisoformat(begin).replace(tzinfo=zone).timestamp() - 1
    last = datetime.fromisoformat(end).replace(tzinfo=zone).timestamp() - 1
    found = cron.newest(first, last, 100_000)
    assert found == sorted(set(found))
    return [datetime.fromtimestamp(tick, zone).strftime("%H:%M:%S%z") for tick in found]


# --- expressions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 * * * *", ["00:00:00", "00:20:00", "00:40:00", "01:00:00"]),
        ("30 0,1 * * *", ["00:30:00", "01:30:00"]),
        ("*/30 0 1 * * *", ["01:00:00", "01:00:30"]),
        ("5,10 59 0 * * *", ["00:59:05", "00:59:10"]),
        ("@hourly", ["00:00:00", "01:00:00"]),
        ("@DAILY", ["00:00:00"]),
        ("@midnight", ["00:00:00"]),
        ("@weekly", ["00:00:00"]),
        ("@monthly", []),
        ("@yearly", []),
        ("0 1 * NOV sun", ["01:00:00"]),
        ("0 1 * * MON#4", []),
        ("0 1 * * SUN#4", ["01:00:00"]),
        ("  0   1  *  *  *  ", ["01:00:00"]),
    ],
)
def test_expressions_give_their_ticks(expression: str, expected: list[str]) -> None:
    found = ticks(expression, "UTC", "2026-11-22T00:00", "2026-11-22T02:00")  # a Sunday
    assert [text.removesuffix("+0000") for text in found][: len(expected) or 1] == expected
    assert len(found) == len(expected) or expression == "*/20 * * * *"


@pytest.mark.parametrize(
    ("expression", "timezone", "named"),
    [
        ("61 * * * *", "UTC", 'field for the minute, "61"'),
        ("* 24 * * *", "UTC", 'field for the hour, "24"'),
        ("* * 0 * *", "UTC", 'field for the day of month, "0"'),
        ("* * * 13 *", "UTC", 'field for the month, "13"'),
        ("* * * * MOO", "UTC", 'field for the day of week, "MOO"'),
        ("60 * * * * *", "UTC", 'field for the second, "60"'),
        ("* * * * 5-1", "UTC", 'field for the day of week, "5-1"'),
        ("*/0 * * * *", "UTC", 'field for the minute, "*/0"'),
        ("* * * *", "UTC", "4 fields"),
        ("* * * * * * *", "UTC", "7 fields"),
        ("", "UTC", "0 fields"),
        ("@reboot", "UTC", "no name of a clock"),
        ("0 0 30 2 *", "UTC", "never matches"),
        ("0 0 31 4,6,9,11 *", "UTC", "never matches"),
        ("0 0 0 30 FEB *", "UTC", "never matches"),
        ("* * * * *", "Europe/Belin", 'did you mean "Europe/Berlin"'),
        ("* * * * *", "europe/berlin", 'did you mean "Europe/Berlin"'),
        ("* * * * *", "", "timezone"),
        ("* * * * *", "../../etc/passwd", "timezone"),
        ("* * * * *", "localtime", "timezone"),
        ("1" * (EXPRESSION_CHARS_MAX + 1), "UTC", "over the limit"),
    ],
)
def test_a_wrong_clock_is_refused_by_the_name_of_what_is_wrong(expression: str, timezone: str, named: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_cron(expression, timezone)
    assert named in str(caught.value)


@given(st.one_of(st.text(max_size=40), st.from_regex(r"\A([0-9*/,L#W-]{1,5}|MON|JAN)( ([0-9*/,LW#-]{1,5})){4,5}\Z")))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_clock_or_refused(expression: str) -> None:
    try:
        cron = parse_cron(expression, "America/New_York")
    except InvalidOption:
        return
    now = unix_s("2026-11-01T06:30Z")  # within a doubled hour
    assert next(cron.after(now)) > now
    assert all(now - 3e5 < tick <= now for tick in cron.newest(now - 3e5, now, 3))


def test_the_29th_of_february_comes_in_leap_years() -> None:
    trigger = CronTrigger(expression="0 12 29 2 *", timezone="UTC")
    assert tick_text(next_tick(trigger, unix_s("2026-01-01T00:00Z")) or 0) == "2028-02-29T12:00:00Z"


# --- clocks put forward and back ----------------------------------------------------------------------------------------

FORWARD = ("Europe/Berlin", "2026-03-29T00:00", "2026-03-29T06:00")  # 02:00 -> 03:00
BACK = ("Europe/Berlin", "2026-10-25T00:00", "2026-10-25T06:00")  # 03:00 -> 02:00


def test_a_time_of_day_in_the_skipped_hour_comes_at_its_end_once() -> None:
    assert ticks("30 2 * * *", *FORWARD) == ["03:00:00+0200"]
    assert ticks("0,15,30 2 * * *", *FORWARD) == ["03:00:00+0200"]
    assert ticks("0 2,3 * * *", *FORWARD) == ["03:00:00+0200"]
    assert ticks("20 30 2 * * *", *FORWARD) == ["03:00:20+0200"]


def test_a_time_of_day_in_the_doubled_hour_comes_the_first_time_only() -> None:
    assert ticks("30 2 * * *", *BACK) == ["02:30:00+0200"]
    assert ticks("0 30 2 * * *", *BACK) == ["02:30:00+0200"]
    assert ticks("59 1-3 * * *", *BACK) == ["01:59:00+0200", "02:59:00+0200", "03:59:00+0100"]


def test_a_clock_with_a_star_goes_by_elapsed_time() -> None:
    hours = [text[:2] for text in ticks("0 * * * *", *FORWARD)]
    assert hours == ["00", "01", "03", "04", "05"]
    assert [text[:2] for text in ticks("0 * * * *", *BACK)] == ["00", "01", "02", "02", "03", "04", "05"]
    assert ticks("*/30 2 * * *", *FORWARD) == []
    assert ticks("*/30 2 * * *", *BACK) == ["02:00:00+0200", "02:30:00+0200", "02:00:00+0100", "02:30:00+0100"]


def test_ticks_follow_each_other_from_wherever_one_begins() -> None:
    """Also from within the doubled hour, where a local time is earlier than the tick it follows."""
    for timezone, begin, end in (FORWARD, BACK):
        zone = ZoneInfo(timezone)
        first = datetime.fromisoformat(begin).replace(tzinfo=zone).timestamp()
        last = datetime.fromisoformat(end).replace(tzinfo=zone).timestamp()
        for expression in ("30 2 * * *", "0 2,3 * * *", "15 * * * *", "0 0,3 * * *"):
            trigger = CronTrigger(expression=expression, timezone=timezone)
            whole = parse_cron(expression, timezone).newest(first, last, 1000)
            for minute in range(0, round((last - first) / 60), 5):
                now = first + 60 * minute
                assert parse_cron(expression, timezone).newest(first, now, 1000) == [t for t in whole if t <= now]
                assert parse_cron(expression, timezone).newest(first, now, 1) == [t for t in whole if t <= now][-1:]
                following = next_tick(trigger, now)
                assert following == next((t for t in whole if t > now), following)


ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Africa/Cairo",
    "America/Sao_Paulo",
    "Pacific/Apia",
]
_FIELD = st.sampled_from(["*", "*/7", "0", "30", "5,35", "10-20"])
_HOUR = st.sampled_from(["*", "*/5", "0", "2", "1-3", "23"])


@given(
    minute=_FIELD, hour=_HOUR, days=st.sampled_from(["* * *", "*/3 * *", "* * 1-5", "* 3,10 *"]),
    zone=st.sampled_from(ZONES),
    begin=st.integers(min_value=round(unix_s("2015-01-01T00:00Z")), max_value=round(unix_s("2027-01-01T00:00Z"))),
    width=st.integers(min_value=1, max_value=30 * 3600), count=st.integers(min_value=1, max_value=50),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_newest_ticks_are_the_last_of_all_ticks(
    minute: str, hour: str, days: str, zone: str, begin: int, width: int, count: int
) -> None:
    cron = parse_cron(f"{minute} {hour} {days}", zone)
    whole = []
    for tick in cron.after(begin):
        if tick > begin + width:
            break
        whole.append(tick)
    assert whole == sorted(set(whole))
    assert cron.newest(begin, begin + width, count) == whole[-count:]
    if "*" in (minute[0], hour[0]):  # by elapsed time: each minute for itself
        there = ZoneInfo(zone)
        by_hand = []
        for at in range(begin // 60 * 60 + 60, begin + width + 1, 60):
            local = datetime.fromtimestamp(at, there)
            if _matches(minute, local.minute) and _matches(hour, local.hour) and _day_matches(days, local):
                by_hand.append(float(at))
        assert whole == by_hand


def _matches(field: str, value: int) -> bool:
    if field == "*":
        return True
    if field.startswith("*/"):
        return value % int(field[2:]) == 0
    if "-" in field:
        low, high = field.split("-")
        return int(low) <= value <= int(high)
    return value in [int(one) for one in field.split(",")]


def _day_matches(days: str, local: datetime) -> bool:
    day, month, weekday = days.split()
    in_day = day == "*" or (local.day - 1) % int(day[2:]) == 0
    return in_day and _matches(month, local.month) and _matches(weekday, local.isoweekday() % 7)


# --- periods and single times ---------------------------------------------------------------------------------------------


@given(every_s=st.floats(1.0, 1e6), now=st.floats(0, 4e9))
@settings(max_examples=200, deadline=None)
def test_periods_tick_at_their_multiples(every_s: float, now: float) -> None:
    trigger = EveryTrigger(every_s=every_s)
    following = next_tick(trigger, now)
    assert following is not None and now < following <= now + every_s * 1.000001
    assert following == every_s * round(following / every_s)
    before = due(trigger.model_copy(update={"missed": "one"}), ClockState(), now).ticks
    assert next_tick(trigger, before[-1]) == following if before else now < every_s


def test_a_single_time_comes_once_and_never_when_it_was_over_at_the_deploy() -> None:
    trigger = AtTrigger(at_unix_s=1000.0)
    deployed = ClockState(last_unix_s=990.0)
    assert next_tick(trigger, 990.0) == 1000.0
    assert due(trigger, deployed, 999.9).ticks == []
    ran = due(trigger, deployed, 1000.2)
    assert ran.ticks == [1000.0]
    assert due(trigger, ran.state, 1e9).ticks == [] and next_tick(trigger, ran.state.last_unix_s) is None
    assert due(trigger, ClockState(last_unix_s=1000.0), 1000.0).ticks == []
    assert due(trigger, ClockState(last_unix_s=1001.0), 1e9).ticks == []
    assert due(trigger, deployed, 5000.0).ticks == [1000.0], "missed, made up for"
    assert due(AtTrigger(at_unix_s=1000.0, missed="skip"), deployed, 5000.0).ticks == []


# --- what was missed ------------------------------------------------------------------------------------------------------

_CLOCKS: list[Callable[[Missed], ClockTrigger]] = [
    lambda missed: CronTrigger(expression="* * * * * *", missed=missed),
    lambda missed: CronTrigger(expression="*/7 * * * * *", timezone="Asia/Kolkata", missed=missed),
    lambda missed: EveryTrigger(every_s=2.5, missed=missed),
    lambda missed: EveryTrigger(every_s=1.0, missed=missed),
]


@given(
    make=st.sampled_from(_CLOCKS),
    steps=st.lists(st.one_of(st.floats(0.0, 0.9), st.floats(0.9, 60.0), st.floats(-30.0, 0.0)), max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_outages_and_jumps_of_the_clock(make: Callable[[Missed], ClockTrigger], steps: list[float]) -> None:
    """All: each tick up to the farthest moment once. One: of each stretch of missed ones the newest. Skip: none of them."""
    start = now = unix_s("2026-11-23T00:00:00Z") + 0.25
    state = {policy: ClockState(last_unix_s=start) for policy in ("all", "one", "skip")}
    ran: dict[str, list[float]] = {"all": [], "one": [], "skip": []}
    expected: dict[str, list[float]] = {"one": [], "skip": []}
    for step in steps:
        now += step
        found = {policy: due(make(policy), state[policy], now) for policy in ("all", "one", "skip")}  # type: ignore[arg-type]
        for policy, one in found.items():
            assert one.state.last_unix_s == (one.ticks[-1] if one.ticks else state[policy].last_unix_s)
            assert one.late == sum(now - tick > TICK_GRACE_S for tick in one.ticks)
            state[policy] = one.state
            ran[policy] += one.ticks
        late = [tick for tick in found["all"].ticks if now - tick > TICK_GRACE_S]
        on_time = [tick for tick in found["all"].ticks if now - tick <= TICK_GRACE_S]
        expected["one"] += late[-1:] + on_time
        expected["skip"] += on_time
        if ran["skip"] and state["skip"].last_unix_s < state["all"].last_unix_s:
            assert not on_time
    farthest = max([start, *(start + sum(steps[: index + 1]) for index in range(len(steps)))])
    every = due(make("all"), ClockState(last_unix_s=start), farthest).ticks
    assert ran["all"] == sorted(set(ran["all"]))
    assert [tick for tick in every if tick < farthest - 1e-6] == [tick for tick in ran["all"] if tick < farthest - 1e-6]
    for policy in ("one", "skip"):
        assert len(set(ran[policy])) == len(ran[policy]), "none double"
        assert set(ran[policy]) <= set(every) | set(ran["all"])
    assert ran["one"] == expected["one"]


def test_too_many_missed_ticks_leave_the_newest() -> None:
    now = unix_s("2026-11-23T00:00:00Z") + 0.5
    state = ClockState(last_unix_s=now - 400 * 24 * 3600)
    for trigger in (CronTrigger(expression="* * * * * *", missed="all"), EveryTrigger(every_s=1, missed="all")):
        found = due(trigger, state, now)
        assert found.cut and found.late == TICKS_MISSED_MAX
        assert found.ticks == [float(int(now) - back) for back in range(TICKS_MISSED_MAX, -1, -1)]
        barely = due(trigger, ClockState(last_unix_s=now - TICKS_MISSED_MAX - 1), now)
        assert not barely.cut and len(barely.ticks) == TICKS_MISSED_MAX + 1
        assert due(trigger.model_copy(update={"missed": "one"}), state, now).ticks == [int(now) - 1.0, float(int(now))]
        assert due(trigger.model_copy(update={"missed": "skip"}), state, now).ticks == [float(int(now))]


def test_a_clock_far_behind_what_was_settled_is_silent() -> None:
    trigger = CronTrigger(expression="* * * * * *", missed="all")
    assert due(trigger, ClockState(last_unix_s=1e9), 0.9e9).ticks == []
    assert due(trigger, ClockState(last_unix_s=1e9), 1e9 + 2).ticks == [1e9 + 1, 1e9 + 2]


def test_the_name_of_a_tick_is_its_time_in_utc() -> None:
    assert tick_text(unix_s("2026-03-29T03:00:00+02:00")) == "2026-03-29T01:00:00Z"
    assert tick_text(1_700_000_000.5) == "2023-11-14T22:13:20.500000Z"
    assert datetime.fromisoformat(tick_text(1.1 * 1_500_000_000)).tzinfo is UTC
