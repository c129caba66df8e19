"""Shaping: batch, debounce, rate limit, and that a restart changes nothing of what they let go."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol import limits
from fleet.protocol.messages import EventBatch, RateLimit, SubjectTrigger
from fnplatform.triggers import shaping
from fnplatform.triggers.pace import STEPS_MAX, Pace, PaceState
from fnplatform.triggers.shaping import Release, Shaper, ShaperState

UNIX_S = 1_800_000_000.0


def trigger_of(
    batch: tuple[int, float] | None = None, debounce_s: float | None = None, rate: tuple[int, float] | None = None
) -> SubjectTrigger:
    return SubjectTrigger(
        subject="s.>",
        batch=None if batch is None else EventBatch(max_size=batch[0], max_wait_s=batch[1]),
        debounce_s=debounce_s,
        rate_limit=None if rate is None else RateLimit(count=rate[0], per_s=rate[1]),
    )


@dataclass(frozen=True)
class Row:
    seq: int
    key: str
    unix_s: float
    size_bytes: int
    matches: bool = True


@dataclass
class Shell:
    """What feeds a Shaper: the stream, how far it read, and what it stored."""

    trigger: SubjectTrigger
    log: list[Row] = field(default_factory=list)
    now_unix_s: float = UNIX_S
    true_s: float = 0.0
    """What a stopwatch says."""
    started: list[tuple[float, float, Release]] = field(default_factory=list)
    """Stopwatch, clock, and what started."""
    superseded: int = 0

    def __post_init__(self) -> None:
        self.shaper = Shaper(self.trigger)
        self.stored = self.shaper.state()

    def publish(self, key: str, unix_s: float, size_bytes: int = 100, matches: bool = True) -> None:
        self.log.append(Row(len(self.log) + 1, key, unix_s, size_bytes, matches))

    def feed(self) -> float | None:
        """Add what it has room for: up to which time that is, None if it is everything."""
        seen = self.shaper.position
        for row in self.log[seen:]:
            if not self.shaper.room:
                return self.log[self.shaper.position - 1].unix_s
            if row.matches:
                self.shaper.add(row.seq, row.key, row.unix_s, row.size_bytes)
            else:
                self.shaper.passed(row.seq)
        return None

    def step(self, *, keep: bool = True) -> None:
        """One turn: read, release, store it all in one step (or die before that)."""
        read_to_unix_s = self.feed()
        released = self.shaper.release(self.now_unix_s, read_to_unix_s)
        if keep:
            self.started += [(self.true_s, self.now_unix_s, one) for one in released]
            self.stored = ShaperState.model_validate_json(self.shaper.state().model_dump_json())
            self.superseded += self.shaper.superseded
            self.shaper.superseded = 0
        else:
            self.restart()

    def restart(self) -> None:
        self.shaper = Shaper(self.trigger, self.stored)
        for seq in self.shaper.missing:
            row = self.log[seq - 1]
            self.shaper.add(row.seq, row.key, row.unix_s, row.size_bytes)

    def pass_time(self, by_s: float) -> None:
        # In microseconds: distances between times of today are only as exact as those, and add up differently.
        self.true_s = round(self.true_s + max(0.0, by_s), 6)
        self.now_unix_s += by_s

    def finish(self, *, restarts: bool = False) -> None:
        """Let time pass until nothing is held any more."""
        for _ in range(20_000):
            self.step()
            if self.shaper.position == len(self.log) and not self.shaper.missing and not self.shaper._events:
                return
            if self.shaper.room and self.shaper.position < len(self.log):
                continue
            due = self.shaper.next_unix_s
            assert due is not None, "something is held, and nothing will let it go"
            if restarts:
                self.restart()
            self.pass_time(max(0.0, due - self.now_unix_s) + 1e-3)
        pytest.fail("it never ended")

    @property
    def releases(self) -> list[Release]:
        return [release for _, _, release in self.started]


# --- what each of them does ------------------------------------------------------------------------------------------


def test_a_batch_goes_when_it_is_full_or_its_first_event_waited() -> None:
    shell = Shell(trigger_of(batch=(3, 1.0)))
    for number in range(7):
        shell.publish("", UNIX_S + number / 100)
    shell.step()
    assert [one.seqs for one in shell.releases] == [[1, 2, 3], [4, 5, 6]]
    assert shell.shaper.next_unix_s == UNIX_S + 0.06 + 1.0
    shell.pass_time(1.05)
    shell.step()
    assert len(shell.releases) == 2
    shell.pass_time(0.02)
    shell.step()
    assert shell.releases[2] == Release([7], "")
    assert shell.shaper.next_unix_s is None and shell.shaper.idle


def test_a_batch_is_bounded_in_bytes() -> None:
    shell = Shell(trigger_of(batch=(100, 5.0)))
    third = limits.EVENT_BATCH_BYTES_MAX // 3 + 1
    for size_bytes in (third, third, third, 2 * limits.EVENT_BATCH_BYTES_MAX, 10):
        shell.publish("", UNIX_S, size_bytes)
    shell.step()
    assert [one.seqs for one in shell.releases] == [[1, 2], [3], [4]]
    shell.finish()
    assert shell.releases[-1].seqs == [5]


def test_with_a_key_each_key_has_its_own_batch() -> None:
    shell = Shell(trigger_of(batch=(2, 1.0)))
    for key in "abcaxb":
        shell.publish(key, UNIX_S)
    shell.step()
    assert shell.releases == [Release([1, 4], "a"), Release([2, 6], "b")]
    shell.pass_time(1.0)
    shell.step()
    assert shell.releases[2:] == [Release([3], "c"), Release([5], "x")]


def test_debounce_lets_the_newest_go_after_quiet_time() -> None:
    shell = Shell(trigger_of(debounce_s=5.0))
    for at_s in (0.0, 3.0, 6.0):
        shell.now_unix_s = UNIX_S + at_s
        shell.publish("", shell.now_unix_s)
        shell.step()
    assert shell.releases == [] and shell.superseded == 2
    shell.now_unix_s = UNIX_S + 10.99
    shell.step()
    assert shell.releases == []
    shell.now_unix_s = UNIX_S + 11
    shell.step()
    assert shell.releases == [Release([3], "")]


def test_debounce_judges_an_outage_as_if_somebody_had_been_there() -> None:
    """What was quiet for long enough starts the function, although it is read together with what followed."""
    shell = Shell(trigger_of(debounce_s=5.0))
    for at_s in (0, 1, 20, 21, 40):
        shell.publish("k", UNIX_S + at_s)
    shell.now_unix_s = UNIX_S + 3600
    shell.step()
    assert [one.seqs for one in shell.releases] == [[2], [4], [5]]


def test_while_events_are_unread_the_clock_is_theirs() -> None:
    """The shell is behind: an event that the next one takes the place of must not go because the clock is far ahead."""
    shaper = Shaper(trigger_of(debounce_s=5.0))
    shaper.add(1, "k", UNIX_S, 10)
    assert shaper.release(UNIX_S + 100, read_to_unix_s=UNIX_S) == []
    shaper.add(2, "k", UNIX_S + 3, 10)
    assert shaper.release(UNIX_S + 100) == [Release([2], "k")]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_rate_limit_allows_a_burst_once_and_is_even_then(restarts: bool) -> None:
    shell = Shell(trigger_of(rate=(10, 60.0)))
    for _ in range(25):
        shell.publish("", UNIX_S)
    shell.finish(restarts=restarts)
    at_s = [round(true_s, 1) for true_s, _, _ in shell.started]
    assert at_s[:10] == [0.0] * 10
    assert at_s[10:] == [60.0 + 6 * number for number in range(15)]
    assert [one.seqs for one in shell.releases] == [[number] for number in range(1, 26)]


def test_a_burst_that_is_taken_in_parts_is_still_one() -> None:
    shaper = Shaper(trigger_of(rate=(10, 60.0)))
    for seq in range(1, 13):
        shaper.add(seq, "", UNIX_S, 10)
    parts = [shaper.release(UNIX_S, calls_max=4) for _ in range(4)]
    assert [len(part) for part in parts] == [4, 4, 2, 0]


def test_a_batch_counts_as_one_start_and_grows_while_it_waits() -> None:
    shell = Shell(trigger_of(batch=(100, 1.0), rate=(1, 60.0)))
    for second in range(120):
        shell.publish("", shell.now_unix_s)
        shell.step()
        shell.pass_time(1.0)
        assert len(shell.started) <= 1 + second // 60
    shell.finish()
    assert [len(one.seqs) for one in shell.releases] == [2, 60, 58]


def test_a_restart_gives_no_second_burst() -> None:
    shell = Shell(trigger_of(rate=(5, 60.0)))
    for _ in range(20):
        shell.publish("", UNIX_S)
        shell.step()
        shell.restart()
    assert len(shell.started) == 5
    shell.now_unix_s -= 3600  # and a clock that goes back neither gives one nor stops everything for an hour
    shell.step()
    assert len(shell.started) == 5
    shell.pass_time(60.0)
    shell.step()
    assert len(shell.started) == 6


def test_a_trigger_holds_no_more_than_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "SHAPER_HELD_MAX", 10)
    waiting = Shell(trigger_of(debounce_s=5.0))
    crowded = Shell(trigger_of(batch=(4, 3600.0)))
    for shell in (waiting, crowded):
        for number in range(100):
            shell.publish(f"k{number}", UNIX_S)
        shell.step()
    assert len(waiting.shaper._events) == 10 and waiting.releases == [] and not waiting.shaper.room
    assert crowded.shaper.room and len(crowded.releases) == 1, "a batch isn't waited for whose events can't be read"
    for shell in (waiting, crowded):
        shell.finish()
        assert sorted(seq for one in shell.releases for seq in one.seqs) == list(range(1, 101))
    assert waiting.true_s < 60 and crowded.true_s < 3700


def test_simple_cases_hold_no_list() -> None:
    """First in, first out: what is stored stays small however much waits."""
    shell = Shell(trigger_of(batch=(10_000, 60.0)))
    for number in range(9_000):
        shell.publish("", UNIX_S + number / 1000)
    shell.now_unix_s = UNIX_S + 9
    shell.step()
    assert shell.stored.upto == 0 and shell.stored.held == [] and shell.releases == []
    shell.restart()
    shell.finish()
    assert [len(one.seqs) for one in shell.releases] == [9_000]


def test_what_is_stored_is_bounded() -> None:
    shell = Shell(trigger_of(debounce_s=3600.0))
    for number in range(4 * shaping.SHAPER_HELD_MAX):
        shell.publish(f"k{number % shaping.SHAPER_HELD_MAX}", UNIX_S, matches=True)
    shell.step()
    assert len(shell.shaper.state().held) in (0, shaping.SHAPER_HELD_MAX)
    assert len(shell.stored.model_dump_json()) < 30_000


def test_what_events_no_longer_has_is_not_waited_for() -> None:
    state = ShaperState(upto=9, held=[3, 4])
    shaper = Shaper(trigger_of(debounce_s=1.0), state)
    assert shaper.missing == [3, 7] and shaper.release(UNIX_S) == []
    shaper.forget(3)
    shaper.add(7, "k", UNIX_S - 10, 10)
    assert shaper.release(UNIX_S) == [Release([7], "k")]


def test_what_had_been_quiet_for_long_enough_stays_so_whatever_clocks_say() -> None:
    """Held by the rate limit, it is read again after a restart beside one whose time lies before its own end."""
    shell = Shell(trigger_of(debounce_s=5.0, rate=(1, 60.0)))
    shell.publish("x", UNIX_S)
    shell.pass_time(5.0)
    shell.step()
    for at_s in (0, 6, 4):
        shell.publish("k", UNIX_S + at_s)
        shell.pass_time(2.0)
        shell.step()
    assert shell.superseded == 1
    shell.restart()
    shell.finish()
    assert [one.seqs for one in shell.releases] == [[1], [2], [4]]


def test_an_event_from_the_future_waits_no_longer_than_others_restart_or_not() -> None:
    shell = Shell(trigger_of(batch=(10, 10.0)))
    shell.publish("", UNIX_S + 4000)
    shell.step()
    shell.pass_time(6.0)
    shell.restart()
    shell.step()
    shell.pass_time(4.0)
    shell.step()
    assert [one.seqs for one in shell.releases] == [[1]]


# --- whatever happens ------------------------------------------------------------------------------------------------

_S = st.sampled_from([0.0, 0.1, 0.9, 1.0, 2.5, 7.0])
_TRIGGERS = st.one_of(
    st.builds(
        trigger_of, batch=st.tuples(st.integers(1, 4), _S), rate=st.none() | st.tuples(st.integers(1, 4), st.just(5.0))
    ),
    st.builds(
        trigger_of,
        debounce_s=st.sampled_from([0.5, 2.0, 6.0]),
        rate=st.none() | st.tuples(st.integers(1, 4), st.just(5.0)),
    ),
    st.builds(trigger_of, rate=st.tuples(st.integers(1, 4), st.sampled_from([1.0, 5.0]))),
)
_EVENT = st.tuples(
    st.just("event"),
    st.sampled_from(["", "a", "b", "c"]),
    st.sampled_from([0.0, 0.0, -0.3, -5.0, -4000.0, 0.5, 30.0, 4000.0]),
    st.sampled_from([1, limits.EVENT_BATCH_BYTES_MAX // 3]),
    st.sampled_from([True, True, True, False]),
)
_PLANS = st.lists(
    st.one_of(
        _EVENT,
        _EVENT,
        st.tuples(st.just("time"), st.sampled_from([0.01, 0.4, 1.0, 3.0, 10.0, -2.0, -4000.0])),
        st.tuples(st.just("step")),
        st.tuples(st.just("restart")),
        st.tuples(st.just("crash")),
    ),
    max_size=40,
)


def play(shell: Shell, plan: list[tuple], *, restarts: bool, crashes: bool) -> None:
    for what, *rest in plan:
        if what == "event":
            key, offset_s, size_bytes, matches = rest
            shell.publish(key, shell.now_unix_s + offset_s, size_bytes, matches)
        elif what == "time":
            shell.pass_time(rest[0])
        elif what == "step":
            shell.step()
        elif what == "restart" and restarts:
            shell.step()
            shell.restart()
        elif what == "restart":
            shell.step()
        elif what == "crash" and crashes:
            shell.step(keep=False)
    shell.finish()


def assert_rules(shell: Shell) -> None:
    trigger = shell.trigger
    batch, limit = trigger.batch, trigger.rate_limit
    rows = {row.seq: row for row in shell.log if row.matches}
    released = [seq for one in shell.releases for seq in one.seqs]
    assert len(set(released)) == len(released), "nothing twice"
    assert set(released) <= set(rows)
    if trigger.debounce_s is None:
        assert set(released) == set(rows), "nothing lost"
    grouped = batch is not None or trigger.debounce_s is not None
    for key in {row.key for row in rows.values()} if grouped else {""}:
        mine = [seq for one in shell.releases for seq in one.seqs if rows[seq].key == key or not grouped]
        assert mine == sorted(mine), "order is kept"
        if trigger.debounce_s is not None and any(row.key == key for row in rows.values()):
            assert mine[-1] == max(seq for seq, row in rows.items() if row.key == key), "the newest one goes"
    for one in shell.releases:
        assert {rows[seq].key for seq in one.seqs} == {one.key} or not grouped
        assert len(one.seqs) <= (batch.max_size if batch else 1)
        size_bytes = sum(rows[seq].size_bytes for seq in one.seqs)
        assert len(one.seqs) == 1 or size_bytes <= limits.EVENT_BATCH_BYTES_MAX
    if limit is not None:
        at_s = [true_s for true_s, _, _ in shell.started]
        for early, late in zip(at_s, at_s[limit.count :], strict=False):
            assert late - early >= limit.per_s - 1e-6, "the limit holds"


@pytest.mark.parametrize("small", [False, True])
@given(trigger=_TRIGGERS, plan=_PLANS)
@settings(max_examples=250, deadline=None)
def test_a_restart_changes_nothing(small: bool, trigger: SubjectTrigger, plan: list[tuple]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(shaping, "SHAPER_HELD_MAX", 3)
        patch.setattr(shaping, "LAG_EVENTS_MAX", 5)
        through, again = Shell(trigger), Shell(trigger)
        play(through, plan, restarts=False, crashes=False)
        play(again, plan, restarts=True, crashes=False)
        assert_rules(through)
        assert again.started == through.started


@pytest.mark.parametrize("small", [False, True])
@given(trigger=_TRIGGERS, plan=_PLANS)
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_and_nothing_doubled_by_crashes_before_the_store(
    small: bool, trigger: SubjectTrigger, plan: list[tuple]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(shaping, "SHAPER_HELD_MAX", 3)
        patch.setattr(shaping, "LAG_EVENTS_MAX", 5)
        shell = Shell(trigger)
        play(shell, plan, restarts=True, crashes=True)
        assert_rules(shell)


@given(st.integers(1, 400), st.lists(st.floats(0, 3), min_size=1, max_size=300))
@settings(max_examples=60, deadline=None)
def test_the_limit_holds_in_every_window_and_is_used(count: int, pauses: list[float]) -> None:
    limit = RateLimit(count=count, per_s=10.0)
    pace = Pace(limit, PaceState())
    now, started = UNIX_S, []
    for pause_s in pauses:
        now += pause_s
        pace.at(now)
        while len(started) < 5_000 and pace.may_start():
            pace.start()
            started.append(now)
        pace.waits(True)
    for early, late in zip(started, started[count:], strict=False):
        assert late - early >= limit.per_s - 1e-6
    assert len(pace.state().starts) <= 2 * STEPS_MAX + 2
    assert len(started) >= min(count, 5_000)
