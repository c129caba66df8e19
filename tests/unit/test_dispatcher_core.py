"""The dispatcher's core in virtual time: every rule of DESIGN.md 3 that it keeps."""

from __future__ import annotations

from fleet.protocol import limits
from fleet.protocol.messages import CallsRequest, CallState, RunStatus
from fnplatform.dispatcher import events, leases, views
from fnplatform.dispatcher.events import Check, Commit, Drop, Grant, Remove, Requeue
from fnplatform.dispatcher.state import Phase
from tests.unit.core_rig import KEY, Rig, manifest, retries, state


def test_call_is_granted_run_and_committed() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    assert (lease.call, lease.car, lease.seq) == ("a", "car-1", 1)
    assert leases.genuine(KEY, lease, "car-1")
    assert rig.report(lease) is None, "no verdict before the outcome is durable"
    (op,) = rig.store()
    assert isinstance(op, Commit)
    assert op.record.state is CallState.SUCCEEDED
    assert rig.verdicts() == ["committed"]
    assert [action.seq for action in rig.take(Remove)] == [1]
    assert not rig.board.entries
    assert rig.board.cars["car-1"].has_place


def test_same_sequence_twice_is_one_call() -> None:
    rig = Rig()
    call = state("a")
    rig.submit(call)
    rig.tell(events.Queued([events.NewCall(call, 1, manifest())]))
    rig.car("car-1", slots=2)
    assert len(rig.accept()) == 1


def test_resend_after_the_verdict_is_committed_and_stale_is_refused() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (first,) = rig.accept()
    rig.leave("car-1", first)
    rig.car("car-2")
    (second,) = rig.accept()
    assert leases.order(second) > leases.order(first)
    assert rig.report(first) == ["refused"]
    assert rig.board.counters.refused == 1
    rig.report(second)
    rig.store()
    assert rig.verdicts() == ["committed"]
    assert rig.report(second) == ["committed"]
    assert rig.report(first) == ["refused"]


def test_forged_leases_are_refused() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.car("car-2")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    assert rig.report(lease.model_copy(update={"mac": "0" * 32})) == ["refused"]
    assert rig.report(lease.model_copy(update={"car": "car-2"})) == ["refused"]
    assert rig.board.counters.forged == 2
    assert rig.board.by_seq[lease.seq].lease is not None


def test_departure_moves_the_call_on_at_once_and_counts_nothing() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    rig.car("car-2")
    rig.leave("car-1", lease)
    (grant,) = rig.take(Grant)
    entry = grant.entries[0]
    assert grant.car == "car-2"
    assert (entry.attempts, entry.losses, entry.departures) == (0, 0, 1)
    assert not rig.store(), "a departure needs no word to the stream"


def test_vanished_car_counts_a_loss_durably_before_the_next_grant() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    rig.accept()
    rig.car("car-2")
    rig.pass_s(limits.LEASE_S, "car-2")
    assert not rig.take(Requeue), "one lost beat is no loss"
    rig.pass_s(limits.LEASE_GRACE_S + 0.1, "car-2")
    assert not rig.take(Grant)
    (op,) = rig.store()
    assert isinstance(op, Requeue)
    assert op.state.losses == 1
    (grant,) = rig.take(Grant)
    assert grant.car == "car-2"
    assert grant.entries[0].seq == 2


def test_five_cars_lost_in_a_row_end_the_call() -> None:
    rig = Rig()
    rig.submit(state("a"))
    for number in range(limits.CAR_LOSSES_MAX):
        rig.car(f"car-{number}")
        rig.accept()
        rig.pass_s(limits.LEASE_S + 1)
        ops = rig.store()
    (op,) = ops
    assert isinstance(op, Commit)
    assert op.record.error is not None
    assert op.record.error.code == "car_lost"
    assert op.dead


def test_new_boot_of_a_car_loses_what_it_held() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    boot = rig.board.cars["car-1"].hello.model_copy(update={"boot": "other"})
    rig.tell(events.HelloSaid("car-1", boot))
    (op,) = rig.store()
    assert isinstance(op, Requeue)
    assert op.state.losses == 1
    (grant,) = rig.take(Grant)
    assert grant.counters[0] > lease.counter


def test_refused_grant_voids_lease_and_offer_until_the_next_offer() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (grant,) = rig.take(Grant)
    rig.tell(events.GrantAnswered(grant, []))
    assert not rig.take(Grant)
    assert rig.board.entries["default", "a"].phase is Phase.WAITING
    rig.tell(events.Offered("car-1", rig.board.cars["car-1"].offer))
    (again,) = rig.take(Grant)
    assert again.counters > grant.counters


def test_unanswered_grant_goes_elsewhere_and_is_dropped_there() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (grant,) = rig.take(Grant)
    rig.car("car-2")
    rig.tell(events.GrantAnswered(grant, None))
    (drop,) = rig.take(Drop)
    assert (drop.car, drop.counters) == ("car-1", grant.counters)
    assert not rig.take(Grant), "the car may have taken it: that lease must be void for good first"
    (op,) = rig.store()
    assert isinstance(op, Requeue)
    assert (op.state.attempts, op.state.losses) == (0, 0)
    (again,) = rig.take(Grant)
    assert again.car == "car-2"


def test_a_call_that_an_owner_gave_back_goes_before_those_submitted_with_it() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"), state("b"), state("c"))
    (lease,) = rig.accept()
    assert lease.call == "a"
    rig.leave("car-1", lease)
    rig.car("car-2")
    assert [granted.call for granted in rig.accept()] == ["a"]


def test_beat_tells_the_car_to_drop_what_does_not_hold() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    old = leases.sign(KEY, "a", lease.seq, lease.epoch, lease.counter - 1, "car-1")
    assert rig.beat("car-1", [lease, old]).drop == [old.counter]


def test_lease_missing_in_beats_lapses() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    rig.accept()
    for _ in range(8):
        rig.now_s += 1
        rig.beat("car-1", [])
    (op,) = rig.store()
    assert isinstance(op, Requeue)


def test_exception_is_retried_with_backoff_then_fails_and_is_dead() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"), of=manifest(retries=retries(3, 1.0)))
    for attempt, delay_s in ((1, 1.0), (2, 2.0)):
        (op,) = rig.run(byte=1)
        assert isinstance(op, Requeue)
        assert op.state.attempts == attempt
        assert op.state.not_before_unix_s == rig.unix_s + delay_s
        assert not rig.take(Grant)
        rig.pass_s(delay_s - 0.1, "car-1")
        assert not rig.take(Grant)
        rig.pass_s(0.2, "car-1")
    (op,) = rig.run(byte=1)
    assert isinstance(op, Commit)
    assert op.record.state is CallState.FAILED
    assert op.record.error is None
    assert op.dead.startswith("failed 3 of 3 times")


def test_timeout_and_trap_are_typed_errors() -> None:
    for status, code in ((RunStatus.TIMEOUT, "call_timeout"), (RunStatus.TRAP, "sandbox_trap")):
        rig = Rig()
        rig.car("car-1")
        rig.submit(state("a"))
        (op,) = rig.run(status)
        assert isinstance(op, Commit)
        assert op.record.error is not None
        assert op.record.error.code == code


def test_abandoned_call_goes_elsewhere_and_avoids_the_car_for_a_while() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (op,) = rig.run(RunStatus.ABANDONED, message="bundle damaged")
    assert isinstance(op, Requeue)
    assert op.state.losses == 1
    assert not rig.take(Grant)
    assert "able to start" in views.explain(rig.board, "default", "a").sentence
    rig.pass_s(11, "car-1")
    assert rig.take(Grant)


def test_queue_timeout_ends_only_what_never_ran() -> None:
    rig = Rig()
    rig.submit(state("a", expires_unix_s=rig.unix_s + 5), state("b", at=1.0, expires_unix_s=rig.unix_s + 5))
    rig.car("car-1")
    (lease,) = rig.accept()
    assert lease.call == "a"
    rig.pass_s(6, "car-1")
    (op,) = rig.store()
    assert isinstance(op, Commit)
    assert (op.record.call, op.record.state) == ("b", CallState.EXPIRED)
    rig.leave("car-1", lease)
    rig.pass_s(1)
    assert not rig.store(), "it ran once: an owner leaving is no reason to expire"


def test_max_concurrency_holds_over_all_cars() -> None:
    rig = Rig()
    rig.car("car-1", slots=4)
    rig.submit(*(state(f"c{n}") for n in range(5)), of=manifest(max_concurrency=2))
    first = rig.accept()
    assert len(first) == 2
    assert "max_concurrency=2" in views.explain(rig.board, "default", "c4").sentence
    rig.report(first[0])
    rig.store()
    assert len(rig.accept()) == 1


def test_turns_between_tenants_and_functions() -> None:
    rig = Rig()
    rig.submit(*(state(f"a{n}", tenant="ant") for n in range(6)))
    rig.submit(*(state(f"b{n}", tenant="bee") for n in range(3)))
    rig.submit(*(state(f"d{n}", tenant="bee", function="g") for n in range(3)))
    rig.car("car-1")
    order = []
    for _ in range(8):
        (lease,) = rig.accept()
        order.append(lease.call)
        rig.report(lease)
        rig.store()
    assert order == ["a0", "b0", "a1", "d0", "a2", "b1", "a3", "d1"]


def test_first_in_first_out_and_requeued_goes_first() -> None:
    rig = Rig()
    rig.submit(*(state(f"c{n}", at=float(n)) for n in range(3)))
    rig.car("car-1")
    (lease,) = rig.accept()
    rig.leave("car-1", lease)
    rig.car("car-1")
    assert [lease.call for lease in rig.accept()] == ["c0"]


def test_slots_of_all_cars_before_room_behind_busy_ones() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("warm"))
    rig.run(run_s=0.001)
    rig.car("car-2", slots=2)
    rig.submit(*(state(f"c{n}") for n in range(3)))
    assert sorted(lease.car for lease in rig.accept()) == ["car-1", "car-2", "car-2"]
    rig.submit(*(state(f"d{n}") for n in range(4)))
    assert sorted(lease.car for lease in rig.accept()) == ["car-1", "car-2", "car-2"], "one more behind each slot"


def test_long_calls_never_wait_behind_a_busy_slot() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("warm"))
    rig.run(run_s=5.0)
    rig.submit(state("a"), state("b"))
    assert [lease.call for lease in rig.accept()] == ["a"]
    rig.submit(state("fast", function="g"))
    assert not rig.take(Grant), "not measured: not known to be short"


def test_one_message_for_several_leases_of_a_car() -> None:
    rig = Rig()
    rig.car("car-1", slots=3)
    rig.submit(*(state(f"c{n}") for n in range(3)))
    (grant,) = rig.take(Grant)
    assert len(grant.counters) == 3


def test_requirements_keep_calls_from_cars_and_do_not_block_others() -> None:
    rig = Rig()
    rig.car("car-1", region="eu", memory_bytes=512 << 20)
    rig.submit(state("far", function="g"), of=manifest("g", region="us"))
    rig.submit(state("big", function="h"), of=manifest("h", memory_bytes=1 << 30))
    rig.submit(state("a"))
    assert [lease.call for lease in rig.accept()] == ["a"]
    assert "in region us" in views.explain(rig.board, "default", "far").sentence
    assert "1024 MiB" in views.explain(rig.board, "default", "big").sentence
    rig.car("car-2", region="us", memory_bytes=2 << 30)
    assert {lease.call for lease in rig.accept()} == {"far"}


def test_cancel_drops_the_lease_and_refuses_the_late_outcome() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"), state("b", group="g"))
    (lease,) = rig.accept()
    for call in ("b", "a", "unknown"):
        rig.tell(events.CancelWritten("default", call))
    (drop,) = rig.take(Drop)
    assert drop.counters == [lease.counter]
    assert sorted(action.seq for action in rig.take(Remove)) == [1, 2]
    assert rig.report(lease) == ["refused"]
    assert not rig.board.entries
    assert not rig.board.groups
    assert not rig.take(Grant)


def test_outcome_exists_already_refuses_and_forgets() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    rig.report(lease)
    (op,) = rig.take(Commit)
    rig.tell(events.NotStored(op))
    assert rig.verdicts() == ["refused"]
    assert not rig.board.entries


def test_cancel_while_an_outcome_is_on_its_way() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    rig.report(lease)
    (op,) = rig.take(Commit)
    rig.tell(events.CancelWritten("default", "a"))
    assert rig.verdicts() == ["refused"]
    rig.tell(events.NotStored(op))
    assert rig.verdicts() is None


def test_resend_while_the_outcome_is_on_its_way_is_answered_once() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    rig.report(lease)
    assert rig.report(lease) is None
    assert len(rig.take(Commit)) == 1


def test_requeue_delivered_before_its_acknowledgement() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"), of=manifest(retries=retries(2)))
    (lease,) = rig.accept()
    rig.report(lease, byte=1)
    (op,) = rig.take(Requeue)
    rig.tell(events.Queued([events.NewCall(op.state, 2, manifest(retries=retries(2)))]))
    (again,) = rig.accept()
    assert again.seq == 2
    rig.tell(events.Stored(op, 2))
    assert not rig.take(Grant)
    assert rig.board.by_seq[2].lease.lease == again


def test_new_leader_waits_then_adopts_and_never_starts_again() -> None:
    old = Rig()
    old.car("car-1")
    old.submit(state("a"), state("b", at=1.0))
    (lease,) = old.accept()
    rig = Rig(epoch=7, adopting=True, seq=2)
    rig.car("car-2")
    rig.tell(
        events.Queued(
            [events.NewCall(state("a"), 1, manifest(), True), events.NewCall(state("b"), 2, manifest(), True)]
        )
    )
    rig.tell(events.CaughtUp())
    answer = rig.beat("car-1", [lease])
    assert answer.drop == []
    assert answer.hello
    assert not rig.take(Grant)
    for check in rig.take(Check):
        rig.tell(events.Checked(check.entry, check.seq, False))
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1", "car-2")
    (check,) = rig.take(Check)
    assert check.entry.state.call == "b"
    rig.tell(events.Checked(check.entry, check.seq, False))
    assert not rig.take(Grant), "a lease of an earlier leader must be void for good before anybody else gets one"
    rig.store()
    assert [granted.call for granted in rig.accept()] == ["b"]
    rig.report(lease)
    rig.store()
    assert rig.verdicts() == ["committed"]


def test_new_leader_holds_outcomes_back_until_every_car_was_heard() -> None:
    old = Rig()
    old.car("car-1")
    old.submit(state("a"))
    (first,) = old.accept()
    old.leave("car-1", first)
    old.car("car-2")
    (second,) = old.accept()
    rig = Rig(epoch=7, adopting=True, seq=1)
    rig.tell(events.Queued([events.NewCall(state("a"), 1, manifest(), True)]))
    rig.tell(events.CaughtUp())
    rig.beat("car-1", [])
    assert rig.report(first) is None, "a newer lease may exist"
    for check in rig.take(Check):
        rig.tell(events.Checked(check.entry, check.seq, False))
    assert rig.beat("car-2", [second]).drop == []
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1", "car-2")
    assert rig.report(first) == ["refused"]
    rig.report(second)
    rig.store()
    assert rig.verdicts() == ["committed"]


def test_leases_of_calls_not_told_yet_are_adopted_when_they_are() -> None:
    old = Rig()
    old.car("car-1")
    old.submit(state("a"))
    (lease,) = old.accept()
    rig = Rig(epoch=7, adopting=True, seq=1)
    assert rig.beat("car-1", [lease]).drop == []
    rig.tell(events.Queued([events.NewCall(state("a"), 1, manifest(), True)]))
    assert rig.board.by_seq[1].lease.lease == lease


def test_lease_of_a_replaced_message_is_dropped() -> None:
    old = Rig()
    old.car("car-1")
    old.submit(state("a"))
    (lease,) = old.accept()
    rig = Rig(epoch=7, adopting=True, seq=2)
    rig.tell(events.Queued([events.NewCall(state("a", losses=1), 2, manifest(), True)]))
    rig.tell(events.CaughtUp())
    rig.pass_s(limits.ADOPTION_S + 0.1)
    assert rig.beat("car-1", [lease]).drop == [lease.counter]


def test_redelivered_call_with_an_outcome_is_removed_not_run() -> None:
    rig = Rig(epoch=7, adopting=True, seq=1)
    rig.tell(events.Queued([events.NewCall(state("a"), 1, manifest(), True)]))
    rig.tell(events.CaughtUp())
    rig.car("car-1")
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1")
    (check,) = rig.take(Check)
    rig.tell(events.Checked(check.entry, check.seq, True))
    assert [action.seq for action in rig.take(Remove)] == [1]
    assert not rig.take(Grant)


def test_calls_submitted_to_a_new_leader_go_at_once() -> None:
    rig = Rig(epoch=7, adopting=True, seq=1)
    rig.car("car-1")
    rig.submit(state("new"))
    assert [lease.call for lease in rig.accept()] == ["new"]


def test_large_backlog_is_looked_up_in_bounded_steps_and_all_of_it_runs() -> None:
    rig = Rig(epoch=7, adopting=True)
    new = [events.NewCall(state(f"c{n}"), n + 1, manifest(), True) for n in range(300)]
    rig.seq = 300
    rig.tell(events.Queued(new))
    rig.tell(events.CaughtUp())
    rig.car("car-1", slots=8)
    rig.pass_s(limits.ADOPTION_S + 0.1, "car-1")
    ran = 0
    for _ in range(1000):
        checks = rig.take(Check)
        assert len(checks) <= 64
        for check in checks:
            rig.tell(events.Checked(check.entry, check.seq, False))
        ran += sum(isinstance(op, Commit) for op in [*rig.store(), *rig.run()])
    assert ran == 300
    assert not rig.board.entries


def test_second_function_with_the_same_call_id_is_refused_alone() -> None:
    rig = Rig()
    rig.submit(state("a"))
    rig.submit(state("a", function="g"))
    (op,) = rig.store()
    assert isinstance(op, Commit)
    assert (op.record.function, op.record.state) == ("g", CallState.FAILED)
    rig.car("car-1")
    assert [lease.seq for lease in rig.accept()] == [1]


def test_lists_and_counts() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(*(state(f"c{n}", at=float(n)) for n in range(3)))
    rig.accept()
    rows = views.calls(rig.board, "default", CallsRequest(limit=2))
    assert [row.call for row in rows] == ["c2", "c1"]
    assert views.depth(rig.board, "default") == {"app.f": 2}
    assert views.depth(rig.board, "other") == {}
    (known, unknown) = views.status(rig.board, "default", ["c0", "nope"])
    assert (known.state, known.car, unknown.state) == (CallState.RUNNING, "car-1", None)
    assert views.explain(rig.board, "other", "c1").state is None
    assert views.cars(rig.board)[0].running == ["c0"]


def test_no_place_is_lost_or_counted_twice() -> None:
    """Whatever happened, an idle fleet has all its places again."""
    rig = Rig()
    rig.car("car-1", slots=2)
    rig.submit(*(state(f"c{n}") for n in range(20)), of=manifest(retries=retries(2), max_concurrency=3))
    for step in range(60):
        for lease in rig.accept():
            rig.report(lease, (RunStatus.OK, RunStatus.TRAP, RunStatus.OK)[step % 3], byte=step % 2)
        rig.store()
    car = rig.board.cars["car-1"]
    assert not rig.board.entries
    assert not car.leases
    assert car.load_s == 0.0
    assert all(limit.running == 0 for limit in rig.board.limits.values())
    assert all(queue.waiting == 0 and queue.calls == 0 for queue in rig.board.queues.values())
