"""Values that a slot keeps (``fleet.keep``), in the agent's core: stored before the outcome, and a reason for that slot."""

from __future__ import annotations

import pytest

from fleet.protocol.limits import INLINE_RESULT_BYTES_MAX, KEPT_MAX
from fleet.protocol.messages import BlobRef, RunStatus
from runtime import agent_types as t
from runtime.agent_jobs import Job
from runtime.held_values import HeldValues
from tests.unit.agent_rig import Car, job, of, outcomes

LANES = ("wasm", "jax-cpu")
A, B = "a" * 64, "b" * 64


def jax(counter: int, *, digest: str = "", **more: object) -> Job:
    made = job(counter, program="j", jax="cpu", **more)  # type: ignore[arg-type]
    if digest:
        made.grant = made.grant.model_copy(update={"refs": [BlobRef(digest=digest, size_bytes=3)]})
    return made


def keep(car: Car, given: Job, digest: str, data: bytes = b"abc") -> list[t.Action]:
    assert given.slot is not None
    return car.tell(t.SlotKept(given.slot, given.run, digest, data))


def running(*jobs: Job, slots: int = 1) -> Car:
    car = Car(slots=slots, lanes=LANES).up()
    car.grant(*jobs)
    car.ready()
    return car


def test_the_outcome_waits_for_the_copies_and_names_them() -> None:
    given = jax(1)
    car = running(given)
    keep(car, given, A)
    keep(car, given, B, b"xy")
    keep(car, given, A)  # told twice, the same value twice in one result
    did = car.done(given)
    puts = of(did, t.PutBlob)
    assert [(put.kept, bytes(put.data)) for put in puts] == [(A, b"abc"), (B, b"xy")] and not outcomes(did)
    assert not outcomes(car.tell(t.BlobStored(puts[0].entry, A, 3, kept=True)))
    did = car.tell(t.BlobStored(puts[1].entry, B, 2, kept=True))
    (report,) = of(did, t.SendReport)
    assert report.outcomes[0].status is RunStatus.OK and bytes(report.parts[0]) == b"\x00r"
    assert report.outcomes[0].kept == [BlobRef(digest=A, size_bytes=3), BlobRef(digest=B, size_bytes=2)]
    car.commit()
    assert car.core.work.outbox.bytes == 0


def test_a_large_result_and_a_kept_value_are_both_waited_for() -> None:
    given = jax(1)
    car = running(given)
    keep(car, given, A)
    result = b"\x00" + bytes(INLINE_RESULT_BYTES_MAX)
    puts = of(car.done(given, result), t.PutBlob)
    assert [put.kept for put in puts] == [None, A]
    assert not outcomes(car.tell(t.BlobStored(puts[0].entry, "c" * 64, len(result))))
    did = car.tell(t.BlobStored(puts[0].entry, A, 3, kept=True))
    (outcome,) = of(did, t.SendReport)[0].outcomes
    assert outcome.blob == "c" * 64 and [one.digest for one in outcome.kept] == [A]
    assert car.core.work.outbox.bytes == 0


def test_a_copy_that_cannot_be_stored_gives_the_call_to_another_car() -> None:
    given = jax(1)
    car = running(given)
    keep(car, given, A)
    keep(car, given, B)
    puts = of(car.done(given), t.PutBlob)
    did = car.tell(t.BlobRefused(puts[0].entry, "under another digest"))
    assert outcomes(did) == [(1, RunStatus.ABANDONED)]
    assert not outcomes(car.tell(t.BlobStored(puts[1].entry, B, 3, kept=True)))
    assert of(did, t.SendReport)[0].outcomes[0].kept == []
    car.commit()
    assert car.core.work.outbox.bytes == 0


@pytest.mark.parametrize("what", ["many", "of another job"])
def test_a_slot_that_keeps_too_much_or_for_nobody_is_replaced(what: str) -> None:
    given = jax(1)
    car = running(given)
    assert given.slot is not None
    if what == "many":
        for number in range(KEPT_MAX):
            keep(car, given, f"{number:064x}")
        did = keep(car, given, A)
    else:
        did = car.tell(t.SlotKept(given.slot, given.run + 1, A, b""))
    assert of(did, t.KillSlots) and outcomes(did) == [(1, RunStatus.ABANDONED)]


def test_what_was_kept_before_a_trap_is_nobodys() -> None:
    given = jax(1)
    car = running(given)
    assert given.slot is not None
    keep(car, given, A)
    did = car.tell(t.SlotTrapped(given.slot, given.run, None, "oh"))
    assert outcomes(did) == [(1, RunStatus.TRAP)] and not of(did, t.PutBlob)


def test_a_job_goes_to_the_slot_that_has_what_it_takes() -> None:
    first, second = jax(1), jax(2)
    car = running(first, second, slots=2)
    keep(car, second, A)
    for one in (first, second):
        car.done(one)
    for _ in range(2):
        following = jax(3, digest=A)
        car.grant(following)
        assert following.slot == second.slot
        car.done(following)
        car.core.work.jobs.clear()


def test_it_does_not_wait_for_that_slot() -> None:
    first, second = jax(1), jax(2)
    car = running(first, second, slots=2)
    keep(car, second, A)
    car.done(first)
    following = jax(3, digest=A)
    car.grant(following)
    assert following.slot == first.slot


def test_what_a_slot_keeps_takes_the_room_of_what_was_used_longest_ago() -> None:
    held = HeldValues()
    held.use({"x": 4, "y": 4}, 10)
    assert held.keep("z", 4, 10) == ["x"]
    assert held.keep("z", 4, 10) == [] and held.total_bytes == 8
    assert held.keep("huge", 20, 10) == ["y", "z"]
    assert held.use({"huge": 20}, 10) == ([], [])
