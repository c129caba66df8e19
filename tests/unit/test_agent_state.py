"""The agent's core in virtual time: grants, departure, beats, the fence, tenants."""

from __future__ import annotations

import pytest

from fleet.protocol.frames import pack_items
from fleet.protocol.limits import BEAT_S, LEASE_S, MIB, OUTCOME_RESEND_S, SIGNAL_STALE_S
from fleet.protocol.messages import RunStatus
from runtime import agent_types as t
from runtime.agent_jobs import HELD_BYTES_MAX
from runtime.agent_placing import CANCEL_GRACE_S
from runtime.signals.model import Signals
from runtime.standing import Reason
from tests.unit.agent_rig import UNIX_S, Car, job, names, of, outcomes

# --- grants ----------------------------------------------------------------------------------------------------------


def test_a_grant_is_on_its_slot_before_it_is_accepted_and_its_outcome_goes_at_once() -> None:
    car = Car().up()
    one = job(1)
    did = car.grant(one)
    assert names(did) == ["RunJob", "ReplyGrant"]
    assert of(did, t.ReplyGrant)[0].accepted == (1,)
    did = car.done(one)
    assert names(did) == ["SendReport"]
    report = of(did, t.SendReport)[0]
    assert (report.outcomes[0].status, report.parts) == (RunStatus.OK, (b"\x00r",))
    assert not car.core.settled
    car.commit()
    assert len(car.core.work.outbox) == 0 and not car.core.work.jobs


def test_slots_are_started_ahead_and_none_exist_while_not_eligible() -> None:
    car = Car(slots=2)
    car.tell(t.Connected(), t.HelloAnswered(1))
    assert car.alive == []
    car.hear()
    assert len(car.alive) == 3, "two slots and a spare"
    car.hear(plugged_in=False)
    assert car.alive == []
    car.hear()
    assert len(car.alive) == 3


def test_refuses_when_not_eligible_full_stale_or_misaddressed() -> None:
    car = Car(ahead=1).up()
    assert of(car.grant(job(1, car="car-2")), t.ReplyGrant)[0].accepted == ()
    assert of(car.grant(job(1, memory=4000 * MIB)), t.ReplyGrant)[0].accepted == ()
    reply = of(car.grant(job(1), job(2), job(3)), t.ReplyGrant)[0]
    assert (reply.accepted, reply.reason) == ((1, 2), "no room")
    car.tell(t.HelloAnswered(5))
    reply = of(car.grant(job(4), epoch=4), t.ReplyGrant)[0]
    assert (reply.accepted, reply.reason) == ((), "a newer leader was heard")
    car.hear(plugged_in=False)
    assert "not_plugged_in" in of(car.grant(job(5), epoch=5), t.ReplyGrant)[0].reason


def test_a_refusal_for_lack_of_room_is_followed_by_an_offer_when_there_is_room() -> None:
    car = Car(ahead=0).up()
    one = job(1)
    assert of(car.grant(one, job(2)), t.SendOffer) == []
    assert [offer.offer.slots for offer in of(car.done(one), t.SendOffer)] == [1]


def test_leases_with_much_to_hold_in_memory_are_taken_until_it_is_enough() -> None:
    car = Car(ahead=9).up()
    heavy = [job(number, refs_bytes=HELD_BYTES_MAX // 2) for number in range(1, 5)]
    reply = of(car.grant(*heavy), t.ReplyGrant)[0]
    assert (reply.accepted, reply.reason) == ((1, 2, 3), "no room")
    assert [offer.offer.slots for offer in of(car.done(heavy[0]), t.SendOffer)] == [1], "there is room again"
    assert of(car.grant(heavy[3]), t.ReplyGrant)[0].accepted == (4,)
    assert of(car.grant(job(5)), t.ReplyGrant)[0].accepted == ()
    car.hear(plugged_in=False)
    assert car.core.work.held_bytes == 0
    car.hear()
    car.ready()
    assert of(car.grant(*(job(number) for number in range(6, 12))), t.ReplyGrant)[0].accepted == (6, 7, 8, 9, 10, 11)


def test_the_same_grant_twice_runs_once() -> None:
    car = Car().up()
    car.grant(job(1))
    did = car.grant(job(1))
    assert names(did) == ["ReplyGrant"] and of(did, t.ReplyGrant)[0].accepted == (1,)


def test_a_newer_lease_of_the_same_call_ends_the_older_run() -> None:
    car = Car().up()
    old = job(1, call="same")
    car.grant(old)
    slot = old.slot
    did = car.grant(job(2, call="same"))
    assert of(did, t.KillSlots)[0].slots == (slot,)
    assert list(car.core.work.jobs) == [(1, 2)] and outcomes(did) == []


def test_jobs_run_ahead_in_order_and_what_cannot_waits() -> None:
    car = Car(slots=1, ahead=8).up()
    jobs = [job(n) for n in range(1, 8)]
    did = car.grant(*jobs)
    assert [run.job.lease.counter for run in of(did, t.RunJob)] == [1, 2, 3, 4]
    assert [run.job.lease.counter for run in of(car.done(jobs[0]), t.RunJob)] == [5]


def test_missing_bundles_are_fetched_under_the_lease_and_failures_abandon() -> None:
    car = Car().up()
    one, two = job(1, complete=False), job(2, complete=False)
    did = car.grant(one, two)
    assert names(did) == ["FetchJob", "FetchJob", "ReplyGrant"]
    assert of(car.tell(t.Fetched(one, b"bundle", b"args")), t.RunJob)[0].job is one
    assert outcomes(car.tell(t.FetchFailed(two, "gone"))) == [(2, RunStatus.ABANDONED)]
    car.core.work.drop([1])
    assert car.tell(t.Fetched(one, b"bundle", b"args")) == [], "dropped meanwhile"


# --- tenants and programs --------------------------------------------------------------------------------------------


def test_a_slot_never_serves_two_tenants() -> None:
    car = Car().up()
    one = job(1, tenant="a")
    car.grant(one)
    slot = one.slot
    car.done(one)
    two = job(2, tenant="b")
    did = car.grant(two)
    assert names(did) == ["KillSlots", "StartSlot", "RunJob", "ReplyGrant"]
    assert of(did, t.KillSlots)[0].slots == (slot,) and two.slot != slot


def test_without_a_spare_another_tenant_waits_for_a_fresh_process() -> None:
    car = Car(spares=0).up()
    one, two = job(1, tenant="a"), job(2, tenant="b")
    car.grant(one)
    did = car.grant(two)
    assert of(did, t.KillSlots) == [] and two.slot is None, "the running one is not disturbed"
    did = car.done(one)
    assert names(did)[:2] == ["KillSlots", "StartSlot"]
    assert [run.job for run in of(car.ready(), t.RunJob)] == [two]


def test_programs_of_a_tenant_share_a_slot_and_prefer_a_warm_one() -> None:
    car = Car(slots=2).up()
    first, second = job(1, program="a"), job(2, program="b")
    car.grant(first, second)
    assert first.slot != second.slot
    a_slot, b_slot = first.slot, second.slot
    car.done(first), car.done(second)
    again, third = job(3, program="b"), job(4, program="c")
    car.grant(again, third)
    assert again.slot == b_slot and third.slot == a_slot


# --- departure -------------------------------------------------------------------------------------------------------


def test_departure_kills_running_slots_first_then_reports_then_releases_once() -> None:
    car = Car(slots=2).up()
    chunk = job(1, items=[(10, 19)])
    car.grant(chunk)
    running = chunk.slot
    assert running is not None
    car.tell(t.SlotItems(running, chunk.run, 0, pack_items([b"x", b"y"])))
    slots = list(car.alive)
    did = car.hear(plugged_in=False)
    assert names(did) == ["KillSlots", "SendReport", "SendRelease"]
    kill, report, release = did
    assert isinstance(kill, t.KillSlots) and isinstance(report, t.SendReport) and isinstance(release, t.SendRelease)
    assert kill.departure and kill.slots[0] == running and set(kill.slots) == set(slots)
    assert (report.outcomes[0].status, report.outcomes[0].done) == (RunStatus.PARTIAL, [(10, 11)])
    assert [one.counter for one in release.leases] == [1] and release.reason == Reason.NOT_PLUGGED_IN
    assert release.signal_unix_s == UNIX_S + car.now_s and not release.standing.eligible
    run_done = t.SlotDone(running, 1, pack_items([b"z"] * 8), 2)
    assert car.tell(run_done) == [], "what a killed slot had written counts no more"
    car.now_s += 0.004
    assert of(car.tell(*(t.SlotExited(slot) for slot in kill.slots[:-1])), t.SendRelease) == []
    last = of(car.tell(t.SlotExited(kill.slots[-1])), t.SendRelease)[0]
    assert last.reaped_s == pytest.approx(0.004)


def test_finished_items_leave_before_the_release_even_when_a_report_is_on_its_way() -> None:
    car = Car(ahead=4).up()
    one, chunk = job(1), job(2, items=[(0, 9)])
    car.grant(one, chunk)
    car.done(one)  # its report isn't answered yet
    assert chunk.slot is not None
    car.tell(t.SlotItems(chunk.slot, chunk.run, 0, pack_items([b"x"])))
    assert names(car.hear(plugged_in=False)) == ["KillSlots", "SendReport", "SendRelease"]


def test_outcomes_and_release_are_repeated_until_answered_also_after_departure() -> None:
    car = Car(ahead=4).up()
    one, two = job(1), job(2)
    car.grant(one, two)
    car.done(one)
    car.hear(plugged_in=False)
    did = car.wait(OUTCOME_RESEND_S)
    assert outcomes(did) == [(1, RunStatus.OK)]
    assert [[x.counter for x in r.leases] for r in of(did, t.SendRelease)] == [[2]]
    car.tell(t.ReleaseAnswered(1))
    car.commit()
    did = car.wait(3)
    assert outcomes(did) == [] and of(did, t.SendRelease) == []


def test_an_announced_departure_sets_the_flag_and_takes_nothing_new() -> None:
    car = Car().up()
    one = job(1)
    car.grant(one)
    did = car.hear(departing=True)
    assert of(did, t.SetDeparting)[0].departing and of(did, t.KillSlots) == []
    assert [offer.slots for beat in of(did, t.SendBeat) for offer in [beat.offer]] == [0]
    assert of(car.grant(job(2)), t.ReplyGrant)[0].accepted == ()
    assert outcomes(car.done(one)) == [(1, RunStatus.OK)], "what ran may finish"
    assert of(car.hear(), t.SetDeparting)[0].departing is False
    car.hear(departing=True)
    assert of(car.hear(plugged_in=False), t.KillSlots)


def test_silence_of_the_signals_is_a_departure() -> None:
    car = Car().up()
    car.grant(job(1))
    did = car.wait(SIGNAL_STALE_S)
    assert of(did, t.KillSlots)[0].departure
    assert of(did, t.SendRelease)[0].reason == Reason.SIGNALS_STALE


def test_stop_gives_everything_back_and_settles_when_all_is_answered() -> None:
    car = Car(ahead=3).up()
    one, two = job(1), job(2)
    car.grant(one, two)
    car.done(one)
    did = car.tell(t.Stop())
    assert of(did, t.SendRelease)[0].reason == Reason.STOPPING
    car.tell(*(t.SlotExited(slot) for slot in car.killed))
    assert not car.core.settled
    car.commit()
    release = car.core._release
    assert release is not None
    car.tell(t.ReleaseAnswered(release.number))
    assert car.core.settled and car.alive == []


# --- beats and the fence ---------------------------------------------------------------------------------------------


def test_one_beat_tells_every_lease_also_those_whose_outcome_waits() -> None:
    car = Car(ahead=4).up()
    one, two = job(1), job(2)
    car.grant(one, two)
    car.done(one)
    beats = of(car.wait(BEAT_S), t.SendBeat)
    assert len(beats) == 1 and sorted(x.counter for x in beats[0].leases) == [1, 2]
    assert [view.state for view in beats[0].slots] == ["running", "spare"]


def test_an_unanswered_beat_is_repeated_soon_until_a_leader_hears_it() -> None:
    """A leader that is killed is replaced after LEADER_TTL_S: the next one must hear of leases before they are fenced."""
    car = Car().up()
    car.grant(job(1))
    car.wait(BEAT_S)
    beats = of(car.wait(LEASE_S - BEAT_S - 0.1, beats=False), t.SendBeat)
    assert len(beats) > 8, "every quarter of a second once one was not answered"
    assert of(car.wait(BEAT_S - 0.01), t.KillSlots) == []


def test_unanswered_beats_fence_the_car_before_the_lease_lapses() -> None:
    car = Car().up()
    one = job(1)
    car.grant(one)
    slot = one.slot
    did = car.wait(LEASE_S - 0.01, beats=False)
    assert of(did, t.KillSlots) == []
    did = car.wait(0.01, beats=False)
    assert of(did, t.KillSlots)[0].slots == (slot,)
    assert not car.core.work.jobs and car.core.work.fenced == 1
    assert outcomes(did) == [] and of(did, t.SendRelease) == []


def test_the_fence_counts_from_when_the_answered_beat_was_sent() -> None:
    car = Car().up()
    car.grant(job(1))
    sent_s = car.now_s
    car.now_s += 5.0
    car.tell(t.BeatAnswered(sent_s + 2.0, 1))
    assert of(car.wait(2.99, beats=False), t.KillSlots) == []
    assert of(car.wait(0.01, beats=False), t.KillSlots)


def test_after_a_freeze_the_fence_comes_before_any_queued_event() -> None:
    for event in ("done", "beat", "grant", "signal"):
        car = Car().up()
        one = job(1)
        car.grant(one)
        slot, run = one.slot, one.run
        assert slot is not None
        sent_s = car.now_s
        car.now_s += 20.0
        queued: dict[str, t.Event] = {
            "done": t.SlotDone(slot, run, b"\x00late"), "beat": t.BeatAnswered(sent_s, 1),
            "grant": t.Granted(1, "r", (job(2),)), "signal": t.SignalHeard(car.core.signals or Signals(0)),
        }  # fmt: skip
        did = car.tell(queued[event])
        assert names(did)[0] == "KillSlots", event
        assert outcomes(did) == [] and (1, 1) not in car.core.work.jobs


def test_drop_and_cancel_kill_what_runs_and_spare_what_waits_behind_it() -> None:
    car = Car(ahead=4).up()
    one, two = job(1), job(2)
    car.grant(one, two)
    slot = one.slot
    did = car.tell(t.BeatAnswered(car.now_s, 1, drop=(1,)))
    assert of(did, t.KillSlots)[0].slots == (slot,)
    assert [run.job for run in of(did, t.RunJob)] == [two] and two.slot != slot
    assert outcomes(did) == []


def test_a_cancelled_call_behind_another_is_killed_only_if_it_takes_long() -> None:
    car = Car(ahead=4).up()
    one, two, three = job(1), job(2), job(3)
    car.grant(one, two, three)
    assert car.tell(t.Dropped((2,))) == []
    assert outcomes(car.done(one)) == [(1, RunStatus.OK)]
    did = car.wait(CANCEL_GRACE_S)
    assert of(did, t.KillSlots) and [run.job for run in of(did, t.RunJob)] == [three]
    car.commit()
    assert outcomes(car.done(three)) == [(3, RunStatus.OK)]


def test_dropping_all_leases_of_a_slot_kills_it_once() -> None:
    car = Car(ahead=4).up()
    car.grant(job(1), job(2), job(3))
    assert len(of(car.tell(t.Dropped((1, 2, 3))), t.KillSlots)) == 1


def test_hello_is_repeated_until_answered_and_said_again_when_asked() -> None:
    car = Car()
    car.hear()
    assert len(of(car.tell(t.Connected()), t.SendHello)) == 1
    assert len(of(car.wait(2.5), t.SendHello)) == 2
    assert of(car.wait(5.0), t.SendBeat) == [], "no beats before hello was answered"
    car.tell(t.HelloAnswered(1))
    assert of(car.wait(3), t.SendHello) == []
    assert of(car.tell(t.BeatAnswered(car.now_s, 2, hello=True)), t.SendHello)
    assert of(car.tell(t.Disconnected(), t.Connected()), t.SendHello)


def test_nothing_is_sent_while_disconnected_and_everything_after() -> None:
    car = Car().up()
    one = job(1)
    car.grant(one)
    car.tell(t.Disconnected())
    assert names(car.done(one)) == []
    assert [name for name in names(car.wait(3.0, beats=False)) if name.startswith("Send")] == []
    did = car.tell(t.Connected())
    assert outcomes(did) == [(1, RunStatus.OK)] and of(did, t.SendHello)
