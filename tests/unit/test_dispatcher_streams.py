"""Generators through the dispatcher's core: parts in order, credit, departures, retries, callers that vanish."""

from __future__ import annotations

import random

from fleet.protocol import limits
from fleet.protocol.messages import CallState, Lease, RunStatus
from fnplatform.dispatcher import events, streams, views
from fnplatform.dispatcher.events import Check, Commit, Credit, Discard, Drop, Grant, Requeue
from fnplatform.dispatcher.state import Entry
from tests.unit.core_rig import Rig, manifest, retries, state


def generator(rig: Rig, attempts: int = 1) -> Lease:
    rig.car("car-1")
    rig.submit(state("a", stream=True), of=manifest(retries=retries(attempts)))
    (lease,) = rig.accept()
    return lease


def entry_of(rig: Rig) -> Entry:
    (entry,) = rig.board.entries.values()
    assert isinstance(entry, Entry)
    return entry


def yields(rig: Rig, lease: Lease, first: int, last: int) -> list[str] | None:
    return rig.report(lease, RunStatus.PARTIAL, done=[(first, last)])


def take(rig: Rig, items: int, part: int = 0) -> list[Credit]:
    rig.tell(events.Consumed("default", "a", items, 0, part))
    return rig.take(Credit)


def test_parts_in_order_then_the_end() -> None:
    rig = Rig()
    lease = generator(rig)
    yields(rig, lease, 0, 4)
    rig.store()
    yields(rig, lease, 5, 5)
    rig.store()
    assert views.row_of(entry_of(rig)).items_done == 6
    rig.report(lease, items=6)
    rig.store()
    first, second, last = (op.record for op in rig.done if isinstance(op, Commit))
    assert (first.part, first.indices, first.final, first.state) == (0, [(0, 4)], False, CallState.RUNNING)
    assert (second.part, second.indices, second.final) == (1, [(5, 5)], False)
    assert (last.part, last.indices, last.final, last.state, last.items) == (2, None, True, CallState.SUCCEEDED, 6)
    assert not rig.board.streams and not rig.board.entries


def test_a_part_that_comes_twice_is_stored_once() -> None:
    rig = Rig()
    lease = generator(rig)
    yields(rig, lease, 0, 4)
    assert yields(rig, lease, 0, 4) is None, "its first copy isn't stored yet"
    rig.store()
    assert yields(rig, lease, 0, 4) == ["committed"]
    assert len(rig.done) == 1


def test_what_overtook_its_items_is_told_again() -> None:
    rig = Rig()
    lease = generator(rig)
    assert yields(rig, lease, 5, 9) is None
    assert rig.report(lease, items=10) is None, "the end must not come before the items"
    assert not rig.store() and entry_of(rig).lease is not None
    yields(rig, lease, 0, 4)
    yields(rig, lease, 5, 9)
    rig.report(lease, items=10)
    assert [op.record.final for op in rig.store() if isinstance(op, Commit)] == [False, False, True]


def test_items_that_neither_follow_nor_repeat_cost_the_lease() -> None:
    rig = Rig()
    lease = generator(rig)
    yields(rig, lease, 0, 4)
    yields(rig, lease, 3, 6)
    first, again = rig.store()
    assert isinstance(first, Commit)
    assert isinstance(again, Requeue)
    assert (again.state.delivered, again.state.next_part, again.state.losses) == (5, 1, 1)


def test_departure_goes_on_behind_what_was_reported() -> None:
    rig = Rig()
    lease = generator(rig)
    take(rig, 0)
    yields(rig, lease, 0, 4)
    rig.car("car-2")
    rig.leave("car-1", lease)
    (grant,) = rig.take(Grant)
    assert entry_of(rig).delivered == 5
    assert not rig.take(Requeue), "without a word to the stream"
    rig.tell(events.GrantAnswered(grant, grant.counters))
    second = entry_of(rig).lease
    assert second is not None
    rig.store()
    assert yields(rig, lease, 5, 6) == ["refused"], "the old lease is over"
    yields(rig, second.lease, 5, 9)
    rig.report(second.lease, items=10)
    rig.store()
    assert [op.record.indices for op in rig.done if isinstance(op, Commit)] == [[(0, 4)], [(5, 9)], None]


def test_failure_is_tried_again_behind_what_was_delivered() -> None:
    rig = Rig()
    lease = generator(rig, attempts=2)
    yields(rig, lease, 0, 4)
    rig.report(lease, byte=1, items=5, summary="ValueError: bad")
    part, again = rig.store()
    assert isinstance(part, Commit)
    assert isinstance(again, Requeue)
    assert (again.state.delivered, again.state.attempts, again.state.next_part) == (5, 1, 1)
    (second,) = rig.accept()
    rig.report(second, byte=1, items=5, summary="ValueError: bad")
    (last,) = rig.store()
    assert isinstance(last, Commit)
    assert (last.record.state, last.record.part, last.dead) == (CallState.FAILED, 1, "")
    assert bytes(last.part) == b"\x01", "what it raised"


def test_credit_goes_to_the_car_again_and_again() -> None:
    rig = Rig()
    lease = generator(rig)
    yields(rig, lease, 0, 9)
    assert [(credit.counter, credit.consumed) for credit in take(rig, 4)] == [(lease.counter, 4)]
    assert [credit.consumed for credit in take(rig, 2)] == [4], "an old position, but the last credit may be lost"
    assert [credit.consumed for credit in take(rig, 99)] == [10], "nobody has taken what wasn't delivered"
    rig.tell(events.Consumed("somebody", "a", 5))
    assert not rig.take(Credit)
    rig.leave("car-1", lease)
    assert not take(rig, 10), "nobody runs it"
    rig.car("car-2")
    rig.accept()
    assert [credit.car for credit in take(rig, 10)] == ["car-2"]


def test_a_caller_that_vanished_ends_it() -> None:
    rig = Rig()
    lease = generator(rig)
    rig.pass_s(limits.STREAM_IDLE_S - 5, "car-1")
    take(rig, 0)
    rig.pass_s(limits.STREAM_IDLE_S - 5, "car-1")
    assert entry_of(rig).lease is not None
    rig.pass_s(6, "car-1")
    assert [drop.counters for drop in rig.take(Drop)] == [[lease.counter]]
    (last,) = rig.store()
    assert isinstance(last, Commit)
    assert last.record.state is CallState.CANCELLED
    assert last.record.error is not None and "nobody iterated" in last.record.error.message
    assert not rig.board.streams


def test_one_that_waits_for_a_car_ends_with_its_caller_too() -> None:
    rig = Rig()
    rig.submit(state("a", stream=True))
    rig.pass_s(limits.STREAM_IDLE_S + 1)
    (last,) = rig.store()
    assert isinstance(last, Commit)
    assert last.record.state is CallState.CANCELLED


def test_parts_that_the_caller_has_are_let_go_of_but_for_the_newest() -> None:
    rig = Rig()
    lease = generator(rig)
    count = streams.DISCARD_PARTS + 10
    for part in range(count):
        yields(rig, lease, part, part)
        rig.store()
    seqs = [seq for _, seq, _ in entry_of(rig).parts]
    take(rig, 5, part=5)
    assert not rig.take(Discard)
    take(rig, count, part=count - 2)
    assert [(one.entry, one.seq) for one in rig.take(Discard)] == [(entry_of(rig), seqs[count - 2])]
    take(rig, count, part=count + streams.DISCARD_PARTS)
    assert not rig.take(Discard)
    assert [part for part, _, _ in entry_of(rig).parts] == [count - 2, count - 1]


def test_next_leader_goes_on_behind_the_newest_part() -> None:
    rig = Rig(epoch=7, adopting=True, seq=1)
    rig.tell(events.Queued([events.NewCall(state("a", stream=True, delivered=3), 1, manifest(), True)]))
    rig.tell(events.CaughtUp())
    rig.car("car-1")
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1")
    (check,) = rig.take(Check)
    rig.tell(events.Checked(check.entry, check.seq, False, [(8, [(20, 24)])]))
    rig.store()
    (lease,) = rig.accept()
    assert entry_of(rig).delivered == 25
    yields(rig, lease, 25, 25)
    (op,) = rig.store()
    assert isinstance(op, Commit)
    assert op.record.part == 9


def test_next_leader_believes_the_caller_where_parts_have_expired() -> None:
    rig = Rig(epoch=7, adopting=True, seq=1)
    rig.tell(events.Queued([events.NewCall(state("a", stream=True), 1, manifest(), True)]))
    rig.tell(events.CaughtUp())
    rig.car("car-1")
    rig.tell(events.Consumed("default", "a", 20, 25, 9))
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1")
    (check,) = rig.take(Check)
    rig.tell(events.Checked(check.entry, check.seq, False, []))
    rig.store()
    (lease,) = rig.accept()
    assert (entry_of(rig).delivered, entry_of(rig).next_part) == (25, 9)
    yields(rig, lease, 25, 26)
    assert [op.record.part for op in rig.store() if isinstance(op, Commit)] == [9]
    assert [credit.consumed for credit in take(rig, 20)] == [20]


def test_generators_never_wait_behind_or_before_other_calls() -> None:
    rig = Rig()
    generator(rig)
    rig.submit(state("b"))
    assert not rig.take(Grant), "nobody knows when the generator ends"


def test_every_item_once_and_in_order_whatever_happens() -> None:
    random_ = random.Random(7)
    rig = Rig()
    for name in ("car-1", "car-2"):
        rig.car(name)
    rig.submit(state("a", stream=True), of=manifest(retries=retries(100)))
    total = 60
    leases: dict[str, tuple[Lease, int]] = {}
    for _ in range(3000):
        for lease in rig.accept():
            leases[lease.car] = (lease, entry_of(rig).delivered)
        if not rig.board.entries:
            break
        if random_.random() < 0.3:
            rig.store()
            rig.verdicts()
        if not leases:
            rig.store()
            continue
        car, (lease, at) = random_.choice(list(leases.items()))
        match random_.randrange(8):
            case 0:
                rig.leave(car, lease)
                rig.car(car)
                del leases[car]
            case 1:
                rig.report(lease, RunStatus.TIMEOUT, items=at)
                rig.store()
                leases.pop(car)
            case 2 if at == total:
                rig.report(lease, items=at)
            case 3:
                rig.tell(events.Consumed("default", "a", random_.randrange(total), 0, random_.randrange(20)))
                rig.take(Credit)
            case _ if at < total:
                last = min(total - 1, at + random_.randrange(4))
                yields(rig, lease, at, last)
                if random_.random() < 0.2:
                    yields(rig, lease, at, last)
                leases[car] = (lease, last + 1)
    rig.store()
    assert not rig.board.entries
    commits = [op.record for op in rig.done if isinstance(op, Commit)]
    assert [record.part for record in commits] == list(range(len(commits)))
    taken = [item for record in commits[:-1] for first, last in record.indices or [] for item in range(first, last + 1)]
    assert taken == list(range(total))
    assert commits[-1].final and commits[-1].items == total
