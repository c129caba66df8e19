"""Calls with a key through the dispatcher's core: one after the other, whatever happens to each of them."""

from __future__ import annotations

import itertools

import pytest

from fleet.protocol import limits
from fleet.protocol.messages import CallState, InvocationState, RunStatus
from fnplatform.dispatcher import events, keys, views
from fnplatform.dispatcher.events import Check, Commit, Requeue
from tests.unit.core_rig import Rig, manifest, retries, state


def keyed(call: str, order: int, key: str = "k", **more: object) -> InvocationState:
    return state(call, key=key, order=order, **more)


def granted(rig: Rig) -> list[str]:
    """Calls that cars were given now; they take them."""
    return [lease.call for lease in rig.accept()]


def end(rig: Rig, call: str, status: RunStatus = RunStatus.OK) -> None:
    entry = rig.board.entries["default", call]
    rig.report(entry.lease.lease, status)
    rig.store()


def test_one_key_goes_one_by_one_and_others_beside_it() -> None:
    rig = Rig()
    rig.car("car-1", slots=8)
    rig.submit(keyed("a1", 1), keyed("a2", 2), keyed("b1", 3, "other"), state("free"), keyed("a3", 4))
    assert granted(rig) == ["a1", "b1", "free"]
    end(rig, "b1")
    assert granted(rig) == []
    end(rig, "a1")
    assert granted(rig) == ["a2"]
    assert rig.board.entries["default", "a3"].phase.value == "blocked"
    why = views.explain(rig.board, "default", "a3").sentence
    assert why == "waits for an earlier event of its key: a2"
    assert views.depth(rig.board, "default") == {"app.f": 1}
    assert rig.board.calls_of == {"default": 3}
    end(rig, "a2")
    end(rig, granted(rig)[0])
    end(rig, "free")
    assert not rig.board.lines and not rig.board.entries and not rig.board.calls_of


def test_a_key_is_of_a_function_and_of_a_tenant_whatever_the_version() -> None:
    rig = Rig()
    rig.car("car-1", slots=8)
    rig.submit(
        keyed("one", 1), keyed("two", 2, function="g"), keyed("newer", 3).model_copy(update={"version": "1" * 16})
    )
    rig.submit(keyed("theirs", 4, tenant="them"))
    assert granted(rig) == ["one", "two", "theirs"]
    end(rig, "one")
    assert granted(rig) == ["newer"]


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_the_order_counts_not_the_place_in_the_stream(order: tuple[int, ...]) -> None:
    rig = Rig(adopting=True)
    rig.car("car-1", slots=8)
    rig.submit(*(keyed(f"a{number}", number) for number in order), backlog=True)
    rig.tell(events.CaughtUp())
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1")
    seen = []
    for _ in range(3):
        for check in rig.take(Check):
            rig.tell(events.Checked(check.entry, check.seq, final=False))
        rig.store()  # the requeue that voids older leases
        (call,) = granted(rig)
        seen.append(call)
        end(rig, call)
    assert seen == ["a1", "a2", "a3"]


def test_nothing_of_a_key_goes_before_the_backlog_is_known() -> None:
    """A call that came after this leader led may be behind one that it hasn't been told of yet."""
    rig = Rig(adopting=True)
    rig.car("car-1", slots=8)
    rig.submit(keyed("a2", 2), state("free"))
    assert granted(rig) == ["free"]
    rig.submit(keyed("a1", 1), backlog=True)
    rig.tell(events.CaughtUp())
    assert granted(rig) == [], "a1 is held: a car may be running it"
    rig.submit(keyed("b1", 3, "other"))
    assert granted(rig) == ["b1"], "of this key nothing was there before"
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1")
    (check,) = rig.take(Check)
    rig.tell(events.Checked(check.entry, check.seq, final=True))
    assert granted(rig) == ["a2"]


def test_a_new_leader_goes_on_behind_the_call_that_a_car_shows() -> None:
    first = Rig()
    first.car("car-1", slots=4)
    first.submit(keyed("a1", 1), keyed("a2", 2))
    (lease,) = first.accept()
    second = Rig(epoch=2, adopting=True)
    second.car("car-1", slots=4)
    second.submit(keyed("a2", 2), backlog=True)  # delivered first
    second.seq = 0
    second.submit(keyed("a1", 1), backlog=True)
    second.tell(events.CaughtUp())
    second.beat("car-1", [lease])
    assert second.board.counters.adopted == 1
    for check in second.take(Check):
        second.tell(events.Checked(check.entry, check.seq, final=False))
    second.pass_s(limits.ADOPTION_S + 0.1, "car-1")
    assert granted(second) == [] and not second.take(Check)
    end(second, "a1")
    (check,) = second.take(Check)
    second.tell(events.Checked(check.entry, check.seq, final=False))
    second.store()
    assert granted(second) == ["a2"]


def test_a_retry_holds_up_its_key_alone() -> None:
    rig = Rig()
    rig.car("car-1", slots=8)
    of = manifest(retries=retries(2, 5.0))
    rig.submit(keyed("a1", 1), keyed("a2", 2), keyed("b1", 3, "other"), of=of)
    assert granted(rig) == ["a1", "b1"]
    end(rig, "a1", RunStatus.TRAP)
    rig.submit(keyed("c1", 4, "third"), of=of)
    assert granted(rig) == ["c1"]
    rig.pass_s(4.0, "car-1")
    assert granted(rig) == []
    rig.pass_s(1.5, "car-1")
    assert granted(rig) == ["a1"]
    end(rig, "a1", RunStatus.TRAP)
    assert granted(rig) == ["a2"], "out of attempts: the next one goes"


def test_whatever_ends_a_call_lets_the_next_one_go() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(keyed("a1", 1), keyed("a2", 2), keyed("a3", 3), keyed("a4", 4, expires_unix_s=rig.unix_s + 1))
    rig.submit(keyed("a5", 5))
    assert granted(rig) == ["a1"]
    rig.tell(events.CancelWritten("default", "a2"))
    rig.pass_s(2.0, "car-1")
    (expired,) = rig.take(Commit)
    assert expired.record.call == "a4" and expired.record.state is CallState.EXPIRED
    rig.tell(events.Stored(expired))
    rig.tell(events.CancelWritten("default", "a1"))
    assert granted(rig) == ["a3"]
    a3 = rig.board.entries["default", "a3"]
    rig.tell(events.Vanished(a3, a3.seq))
    assert granted(rig) == ["a5"]


def test_a_departure_gives_nobody_else_its_turn() -> None:
    rig = Rig()
    rig.car("car-1", slots=4)
    rig.submit(keyed("a1", 1), keyed("a2", 2))
    (lease,) = rig.accept()
    rig.car("car-2", slots=4)
    rig.leave("car-1", lease)
    rig.store()
    assert granted(rig) == ["a1"]


def test_who_comes_late_goes_next() -> None:
    """A lower order while a later call waits, backs off, or runs."""
    for slots, expected in ((0, ["a1", "a2"]), (1, ["a2", "a1"])):
        rig = Rig()
        if slots:
            rig.car("car-1", slots=4)
        rig.submit(keyed("a2", 2), of=manifest(retries=retries(3)))
        seen = granted(rig)
        rig.submit(keyed("a1", 1), keyed("a3", 3), of=manifest(retries=retries(3)))
        if not slots:
            rig.car("car-1", slots=4)
        seen += granted(rig)
        end(rig, seen[-1])
        seen += granted(rig)
        assert seen == expected
        end(rig, seen[-1])
        assert granted(rig) == ["a3"]


def test_a_later_call_that_must_run_again_lets_an_earlier_one_pass() -> None:
    rig = Rig()
    rig.car("car-1", slots=4)
    of = manifest(retries=retries(3))
    rig.submit(keyed("a2", 2), of=of)
    assert granted(rig) == ["a2"]
    rig.submit(keyed("a1", 1), of=of)
    end(rig, "a2", RunStatus.TRAP)
    assert granted(rig) == ["a1"]
    end(rig, "a1")
    assert granted(rig) == ["a2"]


def test_the_functions_limit_holds_over_all_keys() -> None:
    rig = Rig()
    rig.car("car-1", slots=8)
    of = manifest(max_concurrency=2)
    rig.submit(*(keyed(f"{key}{number}", number, key) for number in (1, 2) for key in "abcd"), of=of)
    seen: list[str] = []
    while now := granted(rig):
        assert sum(entry.lease is not None for entry in rig.board.entries.values()) <= 2
        seen += now
        end(rig, next(call for call in seen if ("default", call) in rig.board.entries))
    while rig.board.entries:
        end(rig, next(call for (_, call), entry in rig.board.entries.items() if entry.lease))
        seen += granted(rig)
    assert sorted(seen) == sorted(f"{key}{number}" for number in (1, 2) for key in "abcd")
    for key in "abcd":
        assert seen.index(f"{key}1") < seen.index(f"{key}2")


def test_the_items_of_a_key_wait_for_a_retry_of_the_one_before() -> None:
    """A chunk of one key: while an item may be tried again, the next one doesn't run."""
    rig = Rig()
    rig.car("car-1", slots=4)
    rig.submit(keyed("a", 1, items=3), keyed("b", 2), of=manifest(retries=retries(2, 5.0)))
    runs = []
    for done in ([], [(0, 0)], [(1, 1)], [(2, 2)]):
        (lease,) = rig.accept()
        entry = rig.board.entries["default", "a"]
        runs.append(list(entry.lease.items))
        if done:
            rig.report(lease, done=done)
        else:
            rig.report(lease, RunStatus.TRAP, culprit=0)
        stored = rig.store()
        if not done:
            assert isinstance(stored[-1], Requeue) and stored[-1].state.not_before_unix_s > rig.unix_s + 4
            assert granted(rig) == []
            rig.pass_s(5.5, "car-1")
    assert runs == [[(0, 0)], [(0, 0)], [(1, 1)], [(2, 2)]]
    assert granted(rig) == ["b"]


def test_a_chunk_without_retries_goes_as_one() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(keyed("a", 1, items=3))
    rig.accept()
    entry = rig.board.entries["default", "a"]
    assert entry.lease.items == [(0, 2)] and not keys.one_by_one(entry)


def test_calls_without_a_key_leave_no_trace() -> None:
    rig = Rig()
    rig.submit(*(state(f"c{number}") for number in range(100)))
    assert not rig.board.lines
