"""Chunks through the dispatcher's core: parts, failing items, culprits, departures in the middle."""

from __future__ import annotations

from fleet.protocol import limits
from fleet.protocol.messages import CallState, RunStatus
from fnplatform.dispatcher import chunks, events
from fnplatform.dispatcher.events import Check, Commit, Grant, Requeue
from tests.unit.core_rig import Rig, manifest, retries, state


def chunk(rig: Rig, items: int = 10, attempts: int = 1, delay_s: float = 0.0) -> None:
    rig.car("car-1")
    rig.submit(state("a", items=items), of=manifest(retries=retries(attempts, delay_s)))


def test_done_in_one_go_is_one_record_as_it_came() -> None:
    rig = Rig()
    chunk(rig)
    (op,) = rig.run(done=[(0, 9)])
    assert isinstance(op, Commit)
    assert (op.record.final, op.record.part, op.record.indices, op.take) == (True, 0, [(0, 9)], None)
    assert op.record.state is CallState.SUCCEEDED


def test_parts_then_the_record_that_ends_it() -> None:
    rig = Rig()
    chunk(rig)
    (lease,) = rig.accept()
    rig.report(lease, RunStatus.PARTIAL, done=[(0, 3)])
    rig.report(lease, RunStatus.PARTIAL, done=[(4, 6)])
    rig.report(lease, done=[(7, 9)])
    assert len(rig.take(Commit)) == 1, "one after another: a part is stored before the record that ends it"
    rig = Rig()
    chunk(rig)
    (lease,) = rig.accept()
    rig.report(lease, RunStatus.PARTIAL, done=[(0, 3)])
    rig.report(lease, done=[(4, 9)])
    first, last = rig.store()
    assert isinstance(first, Commit)
    assert isinstance(last, Commit)
    assert (first.record.part, first.record.final, first.record.state) == (0, False, CallState.RUNNING)
    assert (last.record.part, last.record.final, last.record.indices) == (1, True, [(4, 9)])


def test_resent_part_is_committed_once() -> None:
    rig = Rig()
    chunk(rig)
    (lease,) = rig.accept()
    rig.report(lease, RunStatus.PARTIAL, done=[(0, 3)])
    assert rig.report(lease, RunStatus.PARTIAL, done=[(0, 3)]) is None, "not stored yet"
    rig.store()
    rig.verdicts()
    assert rig.report(lease, RunStatus.PARTIAL, done=[(0, 3)]) == ["committed"]
    assert not rig.take(Commit)


def test_departure_goes_on_with_the_rest_without_a_word_to_the_stream() -> None:
    rig = Rig()
    chunk(rig)
    (lease,) = rig.accept()
    rig.report(lease, RunStatus.PARTIAL, done=[(0, 3)])
    rig.car("car-2")
    rig.leave("car-1", lease)
    (grant,) = rig.take(Grant)
    assert grant.entries[0].lease is not None
    assert grant.entries[0].lease.items == [(4, 9)]
    assert not rig.take(Requeue)
    (part,) = rig.store()
    rig.tell(events.GrantAnswered(grant, grant.counters))
    rig.report(grant.entries[0].lease.lease, done=[(4, 9)])
    (last,) = rig.store()
    assert isinstance(part, Commit)
    assert isinstance(last, Commit)
    assert (part.record.part, last.record.part, last.record.final) == (0, 1, True)


def test_failing_item_goes_again_alone_after_its_pause() -> None:
    rig = Rig()
    chunk(rig, attempts=2, delay_s=5.0)
    first, again = rig.run(done=[(0, 9)], failed=[4])
    assert isinstance(first, Commit)
    assert isinstance(again, Requeue)
    assert first.take == [(0, 3), (5, 9)]
    assert (again.take, again.state.pending, again.state.item_attempts) == ([(4, 4)], [(4, 4)], {4: 1})
    assert again.state.not_before_unix_s == rig.unix_s + 5.0
    rig.pass_s(5.1, "car-1")
    (lease,) = rig.accept()
    rig.report(lease, done=[(4, 4)], failed=[4])
    (last,) = rig.store()
    assert isinstance(last, Commit)
    assert (last.record.final, last.record.indices, last.record.state) == (True, [(4, 4)], CallState.FAILED)
    assert last.dead_items == [(4, 4)]


def test_failed_items_wait_while_others_go_on() -> None:
    rig = Rig()
    chunk(rig, attempts=2, delay_s=5.0)
    (lease,) = rig.accept()
    rig.report(lease, RunStatus.PARTIAL, done=[(0, 4)], failed=[2])
    rig.report(lease, RunStatus.TRAP, culprit=5)
    rig.store()
    (grant,) = rig.take(Grant)
    assert grant.entries[0].lease is not None
    assert grant.entries[0].lease.items == [(6, 9)], "2 and 5 wait out their pause"
    rig.tell(events.GrantAnswered(grant, grant.counters))
    rig.report(grant.entries[0].lease.lease, done=[(6, 9)])
    rig.store()
    assert not rig.take(Grant)
    rig.pass_s(5.1, "car-1")
    (grant,) = rig.take(Grant)
    assert grant.entries[0].lease is not None
    assert grant.entries[0].lease.items == [(2, 2), (5, 5)]


def test_culprit_out_of_attempts_ends_with_an_error_of_the_platform() -> None:
    rig = Rig()
    chunk(rig)
    (lease,) = rig.accept()
    rig.report(lease, RunStatus.TIMEOUT, done=[(0, 3)], culprit=4)
    commit, again = rig.store()
    assert isinstance(commit, Commit)
    assert isinstance(again, Requeue)
    assert commit.record.indices == [(0, 4)]
    assert commit.take == [(0, 3)]
    assert commit.ended[4].code == "call_timeout"
    assert again.state.pending == [(5, 9)]
    assert again.state.next_part == 1


def test_unknown_culprit_asks_for_exact_reports_and_is_bounded() -> None:
    rig = Rig()
    chunk(rig)
    (again,) = rig.run(RunStatus.TRAP)
    assert isinstance(again, Requeue)
    assert again.state.exact
    assert (again.state.item_attempts, again.state.losses) == ({}, 0)
    for _ in range(limits.CAR_LOSSES_MAX):
        (op,) = rig.run(RunStatus.TRAP)
    assert isinstance(op, Commit)
    assert op.record.error is not None
    assert op.record.error.code == "car_lost"
    assert op.record.indices == [(0, 9)]


def test_ok_without_everything_is_the_cars_loss() -> None:
    rig = Rig()
    chunk(rig)
    first, again = rig.run(done=[(0, 3)])
    assert isinstance(first, Commit)
    assert not first.record.final
    assert isinstance(again, Requeue)
    assert (again.state.losses, again.state.pending) == (1, [(4, 9)])


def test_next_leader_finds_the_parts_that_were_stored() -> None:
    rig = Rig(epoch=7, adopting=True, seq=1)
    rig.tell(events.Queued([events.NewCall(state("a", items=10), 1, manifest(), True)]))
    rig.tell(events.CaughtUp())
    rig.car("car-1")
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1")
    (check,) = rig.take(Check)
    rig.tell(events.Checked(check.entry, check.seq, False, [(0, [(0, 3)]), (1, [(6, 6)])]))
    rig.store()
    (lease,) = rig.accept()
    held = rig.board.by_seq[lease.seq].lease
    assert held is not None
    assert held.items == [(4, 5), (7, 9)]
    rig.report(lease, done=[(4, 5), (7, 9)])
    (op,) = rig.store()
    assert isinstance(op, Commit)
    assert (op.record.part, op.record.final) == (2, True)


def test_part_stored_by_somebody_else_is_looked_at_before_going_on() -> None:
    rig = Rig()
    chunk(rig)
    (lease,) = rig.accept()
    rig.report(lease, RunStatus.PARTIAL, done=[(0, 3)])
    (op,) = rig.take(Commit)
    rig.tell(events.NotStored(op))
    assert rig.verdicts() == ["refused"]
    (check,) = rig.take(Check)
    rig.tell(events.Checked(check.entry, check.seq, False, [(0, [(0, 5)])]))
    rig.store()
    (grant,) = rig.take(Grant)
    assert grant.entries[0].lease is not None
    assert grant.entries[0].lease.items == [(6, 9)]


def test_every_item_gets_one_result_whatever_happens() -> None:
    rig = Rig()
    for name in ("car-1", "car-2"):
        rig.car(name)
    rig.submit(state("a", items=40), of=manifest(retries=retries(2)))
    results: list[int] = []
    for step in range(200):
        for lease in rig.accept():
            entry = rig.board.by_seq[lease.seq]
            items = list(chunks.numbers(entry.lease.items))
            half = chunks.of(items[: max(1, len(items) // 3)])
            match step % 4:
                case 0:
                    rig.report(lease, RunStatus.PARTIAL, done=half, failed=[items[0]])
                    rig.leave(lease.car, lease)
                    rig.car(lease.car)
                case 1:
                    rig.report(lease, RunStatus.TRAP, done=half, culprit=None)
                case 2:
                    rig.report(lease, RunStatus.TIMEOUT, done=half, culprit=items[-1])
                case _:
                    rig.report(lease, done=chunks.of(items), failed=items[:2])
        for op in rig.store():
            if isinstance(op, Commit):
                results += chunks.numbers(op.record.indices or [])
        if not rig.board.entries:
            break
    assert sorted(results) == list(range(40))
