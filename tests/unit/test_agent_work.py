"""The agent's core in virtual time: deadlines, deaths, chunks, outcomes, and anything in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from fleet.protocol.frames import pack_items, unpack_items
from fleet.protocol.limits import INLINE_RESULT_BYTES_MAX, LEASE_S, MIB, OUTCOME_RESEND_S
from fleet.protocol.messages import RunStatus
from runtime import agent_types as t
from runtime.agent_jobs import count_of, cut, join_items
from runtime.agent_work import PARTIAL_S
from runtime.outbox import STALLED_S
from tests.unit.agent_rig import Car, job, of, outcomes

# --- deadlines, traps, deaths ----------------------------------------------------------------------------------------


def test_a_call_over_its_timeout_is_killed_and_the_spare_takes_over() -> None:
    car = Car(ahead=4).up()
    one, two = job(1, timeout_s=1.0), job(2)
    car.grant(one, two)
    slot = one.slot
    assert slot is not None
    assert outcomes(car.wait(0.99)) == []
    did = car.wait(0.02, {slot: t.Running(one.run, None, car.now_s - 0.99)})
    assert outcomes(did) == [(1, RunStatus.TIMEOUT)]
    assert of(did, t.KillSlots)[0].slots == (slot,)
    assert [run.job for run in of(did, t.RunJob)] == [two] and two.slot != slot


def test_the_deadline_of_a_chunk_is_each_items_own() -> None:
    car = Car().up()
    chunk = job(1, items=[(0, 9)], timeout_s=1.0)
    car.grant(chunk)
    assert chunk.slot is not None
    start_s = car.now_s
    assert outcomes(car.wait(1.5, {chunk.slot: t.Running(chunk.run, 3, start_s + 0.9)})) == []
    did = car.wait(0.5, {chunk.slot: t.Running(chunk.run, 3, start_s + 0.9)})
    assert outcomes(did) == [(1, RunStatus.TIMEOUT)]


def test_a_guest_that_claims_ever_new_items_ends_with_the_chunks_whole_time() -> None:
    car = Car().up()
    chunk = job(1, items=[(0, 2)], timeout_s=1.0)
    car.grant(chunk)
    assert chunk.slot is not None
    for _ in range(30):
        did = car.wait(0.1, {chunk.slot: t.Running(chunk.run, 1, car.now_s)})
    assert outcomes(did) == [(1, RunStatus.TIMEOUT)]


def test_the_culprit_is_named_only_when_it_is_certain() -> None:
    for exact, position, left, culprit in (
        (True, 3, 10, 13), (False, 3, 10, None), (True, None, 10, None), (True, 1, 10, None), (False, None, 1, 19),
    ):  # fmt: skip
        car = Car().up()
        chunk = job(1, items=[(10, 19)], exact=exact)
        car.grant(chunk)
        assert chunk.slot is not None
        finished = 2 if left == 10 else 9
        car.tell(t.SlotItems(chunk.slot, chunk.run, 0, pack_items([b""] * finished)))
        did = car.tell(t.SlotTrapped(chunk.slot, chunk.run, position, "dead"))
        outcome = of(did, t.SendReport)[0].outcomes[0]
        assert (outcome.status, outcome.culprit) == (RunStatus.TRAP, culprit), (exact, position)
        assert outcome.done == [(10, 10 + finished - 1)]


def test_a_process_that_dies_by_itself_is_a_trap_and_is_replaced() -> None:
    car = Car().up()
    one = job(1)
    car.grant(one)
    assert one.slot is not None
    did = car.tell(t.SlotExited(one.slot, "killed by signal 9"))
    assert outcomes(did) == [(1, RunStatus.TRAP)] and of(did, t.StartSlot)


def test_a_slot_that_breaks_the_protocol_is_killed_and_its_job_abandoned() -> None:
    for event in (
        lambda slot, run: t.SlotItems(slot, run, 5, pack_items([b"x"])),
        lambda slot, run: t.SlotItems(slot, run, 0, pack_items([b"x"] * 11)),
        lambda slot, run: t.SlotItems(slot, run, 0, b"\xff"),
        lambda slot, run: t.SlotDone(slot, run, pack_items([b"x"])),
        lambda slot, run: t.SlotDone(slot, run + 1, b""),
    ):
        car = Car().up()
        chunk = job(1, items=[(0, 9)])
        car.grant(chunk)
        assert chunk.slot is not None
        did = car.tell(event(chunk.slot, chunk.run))
        assert outcomes(did) == [(1, RunStatus.ABANDONED)] and of(did, t.KillSlots)


def test_slots_that_do_not_come_up_are_started_ever_more_slowly() -> None:
    car = Car(spares=0)
    car.hear()
    car.tell(t.Connected(), t.HelloAnswered(1))
    starts: list[float] = []
    for _ in range(4):
        slot = car.alive.pop()
        car.tell(t.SlotExited(slot, "no memory"))
        before_s = car.now_s
        while not car.alive:
            car.now_s = car.core.due_s
            car.tell(t.Tick(), t.BeatAnswered(car.now_s, 1))
        starts.append(car.now_s - before_s)
    assert starts == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_offers_follow_what_is_ready() -> None:
    car = Car(slots=2, spares=0)
    car.hear()
    car.tell(t.Connected(), t.HelloAnswered(1))
    told = [offer.offer.slots for slot in car.alive for offer in of(car.tell(t.SlotReady(slot)), t.SendOffer)]
    assert told == [1, 2]
    one = job(1)
    car.grant(one)
    assert one.slot is not None
    assert [o.offer.slots for o in of(car.tell(t.SlotTrapped(one.slot, one.run, None, "")), t.SendOffer)] == [1]


# --- chunks and outcomes ---------------------------------------------------------------------------------------------


def test_a_long_chunk_is_reported_in_parts_that_add_up() -> None:
    car = Car().up()
    chunk = job(1, items=[(0, 3), (10, 15)])
    car.grant(chunk)
    slot, run = chunk.slot, chunk.run
    assert slot is not None
    did = car.tell(t.SlotItems(slot, run, 0, pack_items([b"0", b"1"])))
    assert outcomes(did) == [], "nothing before PARTIAL_S"
    did = car.wait(PARTIAL_S)
    did += car.commit()
    did += car.tell(t.SlotItems(slot, run, 2, pack_items([b"2", b"3", b"4"])))
    did += car.tell(t.SlotItems(slot, run, 5, pack_items([b"5"])))
    did += car.tell(t.SlotDone(slot, run, pack_items([b"6", b"7", b"8", b"9"]), 6))
    reports = [(o, part) for r in of(did, t.SendReport) for o, part in zip(r.outcomes, r.parts, strict=True)]
    assert [(o.status, o.done) for o, _ in reports] == [
        (RunStatus.PARTIAL, [(0, 1)]), (RunStatus.OK, [(2, 3), (10, 15)]),
    ]  # fmt: skip
    assert [bytes(item) for _, part in reports for item in unpack_items(part, 100)] == [b"%d" % n for n in range(10)]


def test_items_over_a_mebibyte_do_not_wait() -> None:
    car = Car().up()
    chunk = job(1, items=[(0, 9)])
    car.grant(chunk)
    assert chunk.slot is not None
    assert outcomes(car.tell(t.SlotItems(chunk.slot, chunk.run, 0, pack_items([b"x" * MIB])))) == [
        (1, RunStatus.PARTIAL)
    ]


def test_small_items_do_not_end_up_in_the_blob_of_a_large_one() -> None:
    """The control plane reads no blobs, and events may stand in a small one."""
    car = Car().up()
    chunk = job(1, items=[(0, 9)])
    car.grant(chunk)
    slot, run = chunk.slot, chunk.run
    assert slot is not None
    large = bytes(INLINE_RESULT_BYTES_MAX + 1)
    did = car.tell(t.SlotItems(slot, run, 0, pack_items([b"0", b"1"])))
    did += car.tell(t.SlotItems(slot, run, 2, pack_items([large])))
    did += car.tell(t.SlotItems(slot, run, 3, pack_items([b"3"])))
    did += car.tell(t.SlotDone(slot, run, pack_items([large] + [b"x"] * 5), 4))
    puts = of(did, t.PutBlob)
    assert [len(put.data) > len(large) for put in puts] == [True, True]
    for number, put in enumerate(puts):
        did += car.tell(t.BlobStored(put.entry, "ab"[number] * 64, len(put.data)))
        did += car.commit()
    did += car.commit()
    reports = [(o, part) for r in of(did, t.SendReport) for o, part in zip(r.outcomes, r.parts, strict=True)]
    assert [(o.status, o.done, o.blob is not None) for o, _ in reports] == [
        (RunStatus.PARTIAL, [(0, 1)], False), (RunStatus.PARTIAL, [(2, 2)], True), (RunStatus.PARTIAL, [(3, 3)], False),
        (RunStatus.OK, [(4, 9)], True),
    ]  # fmt: skip


def test_refused_items_end_the_lease() -> None:
    car = Car().up()
    chunk = job(1, items=[(0, 9)])
    car.grant(chunk)
    assert chunk.slot is not None
    car.tell(t.SlotItems(chunk.slot, chunk.run, 0, pack_items([b"x"])))
    car.wait(PARTIAL_S)
    did = car.commit(but=[1])
    assert of(did, t.KillSlots) and not car.core.work.jobs


def test_outcomes_that_gather_behind_a_report_share_the_next() -> None:
    car = Car(ahead=8).up()
    jobs = [job(n) for n in range(1, 5)]
    car.grant(*jobs)
    assert outcomes(car.done(jobs[0])) == [(1, RunStatus.OK)]
    assert [outcomes(car.done(one)) for one in jobs[1:]] == [[], [], []]
    assert outcomes(car.commit()) == [(2, RunStatus.OK), (3, RunStatus.OK), (4, RunStatus.OK)]


def test_a_report_that_stays_undecided_holds_only_its_own_leases_back() -> None:
    car = Car(slots=2, ahead=8).up()
    chunk, one = job(1, items=[(0, 9)]), job(2)
    car.grant(chunk, one)
    slot = chunk.slot
    assert slot is not None and one.slot != slot
    car.tell(t.SlotItems(slot, chunk.run, 0, pack_items([b"x"])))
    assert outcomes(car.wait(PARTIAL_S)) == [(1, RunStatus.PARTIAL)]
    car.done(one)
    car.tell(t.SlotDone(slot, chunk.run, pack_items([b"x"] * 9), 1))
    did = car.wait(STALLED_S)
    assert outcomes(did) == [(2, RunStatus.OK)]
    assert outcomes(car.commit()) == [(1, RunStatus.OK)]


def test_a_large_result_is_stored_as_a_blob_before_its_outcome() -> None:
    car = Car(ahead=2).up()
    one, two = job(1), job(2)
    car.grant(one, two)
    big = b"\x00" + b"x" * INLINE_RESULT_BYTES_MAX
    did = car.done(one, big)
    put = of(did, t.PutBlob)[0]
    assert outcomes(did) == [] and put.data == big and put.lease.counter == 1
    assert outcomes(car.done(two)) == [(2, RunStatus.OK)], "others don't wait for it"
    car.commit()
    report = of(car.tell(t.BlobStored(put.entry, "d" * 64, len(big))), t.SendReport)[0]
    assert (report.outcomes[0].blob, report.outcomes[0].blob_bytes, report.parts) == ("d" * 64, len(big), (b"",))
    three = job(3)
    car.commit()
    car.grant(three)
    put = of(car.done(three, big), t.PutBlob)[0]
    assert outcomes(car.tell(t.BlobRefused(put.entry, "no"))) == [(3, RunStatus.ABANDONED)]


def test_answers_that_do_not_fit_are_no_verdicts() -> None:
    car = Car().up()
    one = job(1)
    car.grant(one)
    number = of(car.done(one), t.SendReport)[0].number
    car.tell(t.Verdicts(number, ()), t.Verdicts(number + 1, (True,)), t.Verdicts(number, (True, True)))
    assert len(car.core.work.outbox) == 1
    assert outcomes(car.wait(OUTCOME_RESEND_S)) == [(1, RunStatus.OK)]


def test_ranges() -> None:
    ranges = [(3, 5), (10, 10), (20, 29)]
    flat = [n for first, last in ranges for n in range(first, last + 1)]
    assert count_of(ranges) == len(flat) == 14
    for position in range(15):
        for count in range(15 - position):
            numbers = [n for first, last in cut(ranges, position, count) for n in range(first, last + 1)]
            assert numbers == flat[position : position + count]
    lists = [[b"a", b"bb"], [], [b"", b"ccc"]]
    joined = unpack_items(join_items([pack_items(one) for one in lists]), 10)
    assert [bytes(item) for item in joined] == [b"a", b"bb", b"", b"ccc"]


# --- anything, in any order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_the_rules_hold(seed: int) -> None:
    """Random events. Held: no job and no slot while not eligible, none under a lapsed lease, one last outcome per lease,
    no slot with two tenants, the core never due for ever, and everything settles in the end."""
    rng = random.Random(seed)
    car = Car(slots=rng.choice([1, 2, 3]), spares=rng.choice([0, 1]), ahead=rng.choice([0, 2, 6]), come_back_s=0.5).up()
    core, work = car.core, car.core.work
    counter = 0
    tenants: dict[str, str] = {}
    finals: set[tuple[int, int]] = set()

    def note(actions: Sequence[t.Action]) -> None:
        for action in actions:
            if isinstance(action, t.RunJob):
                assert tenants.setdefault(action.slot, action.job.grant.tenant) == action.job.grant.tenant
                assert action.job.key not in finals
        for entry in list(work.outbox._waiting.values()) + [e for r in work.outbox._flying.values() for e in r.entries]:
            if entry.final:
                finals.add(entry.key)
                assert entry.key not in work.jobs

    for _ in range(300):
        heads = [slot.jobs[0] for slot in work.pool.slots.values() if slot.jobs]
        head = rng.choice(heads) if heads else None
        match rng.randrange(13):
            case 0 | 1 | 2:
                counter += 1
                items = rng.choice([None, [(0, rng.randrange(5))]])
                tenant = rng.choice(["a", "a", "b"])
                note(
                    car.grant(job(counter, items=items, tenant=tenant, timeout_s=rng.choice([0.5, 60]), program=tenant))
                )
            case 3 | 4 if head is not None and head.slot is not None:
                if head.items is None:
                    note(car.done(head))
                else:
                    rest = pack_items([b"r"] * (head.items - head.finished))
                    note(car.tell(t.SlotDone(head.slot, head.run, rest, head.finished)))
            case 5 if (
                head is not None and head.slot is not None and head.items is not None and head.items > head.finished
            ):
                note(car.tell(t.SlotItems(head.slot, head.run, head.finished, pack_items([b"r"]))))
            case 6 if head is not None and head.slot is not None:
                note(car.tell(t.SlotTrapped(head.slot, head.run, None, "x")))
            case 7:
                note(car.hear(plugged_in=rng.random() < 0.7))
            case 8:
                note(car.tell(t.Disconnected() if rng.random() < 0.5 else t.Connected()))
            case 9:
                note(car.tell(t.HelloAnswered(1)))
            case 10:
                note(car.wait(rng.choice([0.1, 0.6, 3.0]), beats=work.connected and rng.random() < 0.8))
            case 11:
                note(car.commit())
            case _:
                # A new leader ends the leases of several slots at once.
                ended = [one.lease.counter for one in work.jobs.values() if rng.random() < 0.5]
                note(
                    car.tell(
                        t.Dropped((*ended, rng.randrange(counter + 1)) if rng.random() < 0.3 else tuple(ended[:1]))
                    )
                )
        if car.killed and rng.random() < 0.7:
            note(car.tell(*(t.SlotExited(slot) for slot in car.killed)))
            car.killed.clear()
        if rng.random() < 0.5:
            note(car.ready())
        if not core.state.eligible:
            assert not work.jobs and not work.pool.slots
        assert all(car.now_s < max(work.beat_ok_s, one.received_s) + LEASE_S for one in list(work.jobs.values())[:1])
        assert len(work.pool.slots) <= work.pool.processes_max
        on_slots = [one for slot in work.pool.slots.values() for one in slot.jobs if not one.cancelled]
        assert len(on_slots) + len(work.waiting) == len(work.jobs)
        if work.pool.places == work.pool.processes_max and work.waiting:
            assert heads or on_slots, "a job waits although nothing runs"
    car.tell(t.Connected(), t.HelloAnswered(1), t.Stop())
    car.tell(*(t.SlotExited(slot) for slot in list(work.placing.dying)))
    while len(work.outbox):
        car.commit()
    assert core._release is None or car.tell(t.ReleaseAnswered(core._release.number)) == []
    assert core.settled
