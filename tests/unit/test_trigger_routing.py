"""Which triggers take an event, and what the router makes of events: alone, in chunks, behind the others."""

from __future__ import annotations

import random

import pytest

from fleet.protocol import frames
from fleet.protocol.messages import EventHead, InvocationState, Manifest, Program, SubjectTrigger
from fnplatform.triggers import lanes
from fnplatform.triggers.invocations import Arrived, chunk_max, invocation_of
from fnplatform.triggers.lanes import Lane, lanes_of
from fnplatform.triggers.matching import key_of, takers
from fnplatform.triggers.plans import CALLS_MAX, Batch, Rules
from fnplatform.triggers.router import CURSOR_S, FETCHES_MAX, RETRY_S, Router
from fnplatform.triggers.state import Cursor
from fnplatform.triggers.table import Bound, Table, bounds_of, subject_matches, trigger_id

VERSION = "0" * 16
BIG = b"x" * 40_000


def manifest(function: str, *triggers: SubjectTrigger, app: str = "shop", qualname: str = "f") -> Manifest:
    program = Program(bundle="0" * 64, bundle_bytes=1, module="m", qualname=qualname)
    return Manifest(app=app, function=function, display_name=function, program=program, triggers=list(triggers))


def bound(function: str, subject: str, tenant: str = "acme", **more: object) -> Bound:
    return bounds_of(tenant, VERSION, manifest(function, SubjectTrigger(subject=subject, **more)))[0]


def event(seq: int, subject: str = "s", data: bytes = b"", hops: int = 0) -> Arrived:
    return Arrived(seq, "acme", EventHead(id=f"e{seq}", source="/t", subject=subject, hops=hops), data, float(seq))


class Rig:
    """A router, its triggers, and tenants that may or may not store."""

    def __init__(self, *bounds: Bound, cursor: Cursor | None = None, check_upto: int = 0) -> None:
        self.table = Table()
        self.table.replace("acme", "shop", bounds)
        self.may = True
        self.cursor = cursor or Cursor()
        rules = Rules(takers, key_of, lambda _, lags: 3, lambda _: 0.0 if self.may else RETRY_S)
        self.router = Router(self.cursor, lanes_of(self.cursor, list(bounds), {}), rules, check_upto)
        self.now_s = 0.0

    def arrive(self, *events: Arrived) -> None:
        for one in events:
            self.router.arrive(one, self.table.matching(one.tenant, one.head.subject), self.now_s)

    def batch(self) -> Batch | None:
        return self.router.batch(self.now_s, self.now_s)

    def stored(self, batch: Batch | None) -> list[tuple[str, list[int]]]:
        """The calls of a batch that was stored."""
        assert batch is not None
        self.router.committed(batch, batch.cursor)
        return [(start.bound.function, [one.seq for one in start.events]) for start in batch.starts]

    def lone(self) -> list[tuple[str, int]]:
        starts = self.router.lones(self.now_s)
        for start in starts:
            self.router.lone_stored(start)
        return [(start.bound.function, start.events[0].seq) for start in starts]


def test_the_table_finds_what_the_pattern_says() -> None:
    rng = random.Random(1)
    tokens = ("a", "b", "c")
    patterns = {
        ".".join([rng.choice((*tokens, "*")) for _ in range(rng.randint(0, 3))] + [rng.choice((*tokens, "*", ">"))])
        for _ in range(200)
    }
    bounds = [bound(f"f{index}", pattern) for index, pattern in enumerate(sorted(patterns))]
    table = Table()
    table.replace("acme", "shop", bounds)
    table.replace("acme", "other", [bound("x", "a.*")])
    table.replace("zebra", "shop", [bound("x", ">", tenant="zebra")])
    table.replace("acme", "other", [])
    for _ in range(300):
        subject = ".".join(rng.choice((*tokens, "d")) for _ in range(rng.randint(1, 5)))
        found = [one.function for one in table.matching("acme", subject)]
        wanted = [one.function for one in bounds if subject_matches(one.trigger.subject, subject)]  # type: ignore[union-attr]
        assert sorted(found) == sorted(wanted), subject
    assert table.matching("nobody", "a") == []
    assert ("acme", "other") not in table.apps()


def test_a_trigger_keeps_its_name_while_it_stays_the_same() -> None:
    first, second = SubjectTrigger(subject="a"), SubjectTrigger(subject="a", filter="data.x > 1")
    assert trigger_id("t", "a", "f", first) != trigger_id("t", "a", "f", second)
    old = bounds_of("t", VERSION, manifest("f", first))[0]
    new = bounds_of("t", "1" * 16, manifest("f", second, first, qualname="g"))[1]
    assert old.id == new.id and len(old.id) == 16


def test_an_event_starts_a_function_by_the_first_trigger_that_takes_it() -> None:
    several = manifest(
        "f",
        SubjectTrigger(subject="s.*", filter="data.t > 30", key="data.user"),
        SubjectTrigger(subject="s.>"),
    )
    first, second = bounds_of("acme", VERSION, several)
    hot = event(1, "s.1", b'{"t":31,"user":"ann"}')
    cold = event(2, "s.1", b'{"t":1,"user":"ann"}')
    broken = event(3, "s.1", b"no json at all")
    assert takers([first, second], hot) == [(first, "ann")]
    assert takers([second], hot) == [], "a trigger that reads by itself leaves it to the one before"
    assert takers([first, second], cold) == takers([first, second], broken) == [(second, "")]


def test_an_event_goes_alone_while_nothing_else_is_under_way() -> None:
    rig = Rig(bound("one", "s"), bound("two", "s"))
    rig.arrive(event(1))
    assert rig.lone() == [("one", 1), ("two", 1)]
    rig.arrive(event(2))
    starts = rig.router.lones(0.0)
    rig.arrive(event(3))
    assert rig.router.lones(0.0) == [] and rig.batch() is None, "the call before it is still under way"
    for start in starts:
        rig.router.lone_stored(start)
    assert rig.lone() == [("one", 3), ("two", 3)]
    assert rig.batch() is None
    rig.now_s = CURSOR_S
    batch = rig.batch()
    assert rig.stored(batch) == [] and rig.router.durable.seq == 3, "the cursor follows"


def test_events_that_wait_go_in_chunks_of_the_same_key_and_hops() -> None:
    rig = Rig(bound("one", "s", key="data"), bound("two", "s"))
    rig.arrive(*(event(seq, data=b'"a"' if seq % 2 else b'"b"', hops=seq // 6) for seq in range(1, 8)))
    assert rig.router.lones(0.0) == []
    calls = rig.stored(rig.batch())
    assert [seqs for function, seqs in calls if function == "two"] == [[1, 2, 3], [4, 5], [6, 7]]
    assert [seqs for function, seqs in calls if function == "one"] == [[1, 3, 5], [2, 4], [6], [7]]
    assert rig.router.durable.seq == 7


def test_a_chunk_is_no_larger_than_the_queue_takes_inline() -> None:
    rig = Rig(bound("one", "s"))
    rig.arrive(event(1, data=BIG), event(2, data=BIG), event(3), event(4, data=2 * BIG))
    assert rig.stored(rig.batch()) == [("one", [1]), ("one", [2, 3]), ("one", [4])]
    rig.arrive(event(5, data=2 * BIG))
    assert rig.router.lones(0.0) == [], "its blob is put first"
    assert rig.stored(rig.batch()) == [("one", [5])]


def test_events_of_before_are_looked_up_before_they_go() -> None:
    rig = Rig(bound("one", "s"), bound("two", "s"), check_upto=2)
    rig.arrive(event(1), event(2), event(3))
    assert rig.router.lones(0.0) == [] and rig.batch() is None
    looked_up = rig.router.unchecked()
    assert len(looked_up) == 4
    rig.router.checked(looked_up, {looked_up[0][3]})
    assert rig.stored(rig.batch()) == [("two", [1, 2, 3]), ("one", [2, 3])]


def test_what_nobody_takes_any_more_is_not_waited_for() -> None:
    rig = Rig(bound("one", "s"), check_upto=1)
    rig.arrive(event(1), event(2))
    rig.router.replace("acme", "shop", [])
    assert rig.router.unchecked() == []
    rig.now_s = CURSOR_S
    assert rig.stored(rig.batch()) == [] and rig.router.durable.seq == 2


def test_an_event_may_have_more_takers_than_a_batch_has_room_for() -> None:
    functions = [f"f{number}" for number in range(1500)]
    rig = Rig(*(bound(function, "s") for function in functions))
    rig.arrive(event(1), event(2))
    found: list[tuple[str, list[int]]] = []
    while rig.router.durable.lagging or not found:
        for fetch in rig.router.fetches(rig.now_s):
            rig.router.fetched(fetch, [event(1), event(2)][fetch.seq - 1 :], complete=True)
        batch = rig.batch()
        assert batch is not None and len(batch.starts) <= 2 * CALLS_MAX
        found += rig.stored(batch)
        rig.now_s += RETRY_S
    started = [(function, seq) for function, seqs in found for seq in seqs]
    assert sorted(started) == sorted((function, seq) for function in functions for seq in (1, 2))


def test_who_may_not_store_lags_and_holds_nobody_up() -> None:
    rig = Rig(bound("one", "s"))
    rig.may = False
    rig.arrive(event(1), event(2))
    assert rig.batch() is None
    rig.now_s = CURSOR_S
    rig.router.skip(3, rig.now_s)
    batch = rig.batch()
    assert rig.stored(batch) == []
    assert rig.router.durable.seq == 3
    (state,) = rig.router.durable.lagging.values()
    assert state.upto == 0 and state.function == "one"
    assert rig.router.fetches(rig.now_s) == []
    rig.may = True
    rig.now_s += RETRY_S
    (fetch,) = rig.router.fetches(rig.now_s)
    assert fetch.seq == 1
    rig.arrive(event(4))
    assert rig.router.lones(rig.now_s) == []
    rig.router.fetched(fetch, [event(1), event(2)], complete=True)
    assert rig.stored(rig.batch()) == [("one", [1, 2])]
    assert rig.router.fetches(rig.now_s) == [], "what came meanwhile is at hand"
    assert rig.stored(rig.batch()) == [("one", [4])] and not rig.router.durable.lagging


def test_triggers_that_lag_leave_room_for_the_others_and_take_turns() -> None:
    behind = [bound(f"f{number}", "s") for number in range(CALLS_MAX)]
    cursor = Cursor(seq=2, lagging={one.id: Lane(one).state().model_copy(update={"upto": 0}) for one in behind})
    rig = Rig(*behind, bound("steady", "t"), cursor=cursor)
    asked = 0
    while fetches := rig.router.fetches(0.0):
        assert len(fetches) <= FETCHES_MAX
        asked += len(fetches)
        for fetch in fetches:
            rig.router.fetched(fetch, [event(1), event(2, hops=1)], complete=True)
    assert asked == len(behind)
    rig.arrive(event(3, "t"))
    assert ("steady", [3]) in rig.stored(rig.batch())
    seen = {function for _ in range(3) for function, _ in rig.stored(rig.batch())}
    assert len(seen) > CALLS_MAX // 2, "all of them get on"


def test_a_trigger_that_caught_up_with_nothing_to_do_says_so_before_it_goes_on() -> None:
    behind = bound("one", "s")
    cursor = Cursor(seq=5, lagging={behind.id: Lane(behind).state().model_copy(update={"upto": 2})})
    rig = Rig(behind, cursor=cursor)
    (fetch,) = rig.router.fetches(0.0)
    rig.router.fetched(fetch, [event(3, "other")], complete=True)
    rig.arrive(event(6))
    assert rig.router.lones(0.0) == [], "after a crash it would read 6 again, and not look it up"
    batch = rig.batch()
    assert batch is not None and not batch.cursor.lagging
    assert rig.stored(batch) == [("one", [6])]


def test_what_all_triggers_hold_back_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "HELD_ALL_MAX", 6)
    monkeypatch.setattr(lanes, "HELD_LEAST", 2)
    rig = Rig(*(bound(function, "s", debounce_s=1.0, key="data") for function in ("one", "two", "three")))
    events = [event(seq, data=f'"{seq}"'.encode()) for seq in range(1, 21)]
    rig.arrive(*events)
    found: dict[str, list[int]] = {}
    for _ in range(100):
        for fetch in rig.router.fetches(rig.now_s):
            rig.router.fetched(fetch, events[fetch.seq - 1 :], complete=True)
        if (batch := rig.batch()) is not None:
            for function, seqs in rig.stored(batch):
                found.setdefault(function, []).extend(seqs)
        assert sum(lane.shaper.count for lane in rig.router.lanes.values() if lane.shaper) <= 10
        rig.now_s += 0.5
    assert sorted(found) == ["one", "three", "two"]
    assert all(sorted(seqs) == list(range(1, 21)) for seqs in found.values())


def test_triggers_change_in_one_step() -> None:
    stays, goes = bound("one", "s"), bound("two", "s")
    rig = Rig(stays, goes, bound("three", "s"))
    rig.may = False
    rig.arrive(event(1))
    assert rig.batch() is None  # all lag
    rig.may = True
    rig.arrive(event(2), event(3))
    new = bounds_of("acme", "1" * 16, manifest("one", SubjectTrigger(subject="s"), qualname="g"))[0]
    changed = bound("two", "s.other")
    rig.table.replace("acme", "shop", [new, changed])
    rig.router.replace("acme", "shop", [new, changed])
    rig.now_s = RETRY_S
    fetches = rig.router.fetches(rig.now_s)
    assert sorted(fetch.lane.bound.function for fetch in fetches) == ["one", "two"], "what was deleted starts nothing"
    for fetch in fetches:
        rig.router.fetched(fetch, [event(1)], complete=True)
    batch = rig.batch()
    assert batch is not None
    assert {start.bound.version for start in batch.starts if start.bound.function == "one"} == {"1" * 16}
    assert rig.stored(batch) == [("one", [1]), ("two", [1])]
    rig.arrive(event(4), event(5, "s.other"))
    for _ in range(3):
        for fetch in rig.router.fetches(rig.now_s):
            rig.router.fetched(
                fetch, [one for one in (event(2), event(3), event(4)) if one.seq >= fetch.seq], complete=True
            )
        if (batch := rig.batch()) is not None:
            seen = rig.stored(batch)
            assert ("three", [2]) not in seen
    assert rig.router.popped == 5
    assert {lane.bound.id for lane in rig.router.lanes.values()} == {new.id, changed.id}, "the old one is done"


def test_a_changed_trigger_goes_on_under_the_next_leader_until_it_is_done() -> None:
    old, new = bound("one", "s"), bound("one", "other")
    cursor = Cursor(seq=5, lagging={old.id: Lane(old).state().model_copy(update={"upto": 2})})
    lanes = lanes_of(cursor, [new], {old.id: old})
    assert sorted((lane.bound.id == old.id, lane.until) for lane in lanes.values()) == [(False, None), (True, 5)]


def test_invocations_carry_what_they_are_about() -> None:
    one = bound("one", "s", key="data")
    single = invocation_of(one, [event(7, data=b'"k"', hops=2)], 10.0, key="k")
    assert (single.state.trigger, single.state.order, single.state.hops, single.state.inbox) == ("subject", 7, 2, "")
    assert single.state.key and single.state.items is None and not single.state.blob
    chunk = invocation_of(one, [event(8), event(9)], 10.0)
    assert chunk.state.items == 2 and chunk.state.pending == [(0, 1)] and chunk.state.key == ""
    assert chunk.state.call == invocation_of(one, [event(8)], 11.0).state.call
    large = invocation_of(one, [event(8, data=2 * BIG)], 10.0)
    assert large.state.blob
    again, _ = frames.unpack(frames.pack(large.state), InvocationState)
    assert again == large.state


def test_chunks_take_about_as_long_as_a_beat_of_work() -> None:
    assert chunk_max(0.001) == 50 and chunk_max(10.0) == 1 and chunk_max(0.0) == 256
    assert chunk_max(None) == 8


def test_what_has_no_room_at_hand_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "CAUGHT_MAX", 1)
    rig = Rig(bound("one", "s"))
    rig.may = False
    rig.arrive(event(1))
    assert rig.batch() is None
    rig.may, rig.now_s = True, RETRY_S
    (fetch,) = rig.router.fetches(rig.now_s)
    rig.router.fetched(fetch, [event(1)], complete=True)
    rig.may = False
    rig.arrive(event(2))
    assert rig.batch() is None  # 1 is at hand: 2 finds no room
    rig.may, rig.now_s = True, 2 * RETRY_S
    assert rig.stored(rig.batch()) == [("one", [1])]
    (fetch,) = rig.router.fetches(rig.now_s)
    assert fetch.seq == 2
    rig.router.fetched(fetch, [event(2)], complete=True)
    assert rig.stored(rig.batch()) == [("one", [2])] and not rig.router.durable.lagging
