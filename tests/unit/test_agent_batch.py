"""Calls that a slot runs as one: which slot they go to, how many a car takes, and what happens when such a slot dies."""

from __future__ import annotations

from fleet.protocol.messages import RunStatus
from runtime import agent_types as t
from runtime.agent_jobs import Job
from tests.unit.agent_rig import Car, job, of, outcomes
from tests.unit.test_agent_lanes import ran

BOTH = ("wasm", "jax-cpu")


def part(counter: int, size: int = 8, wait_s: float = 0.005, **more: object) -> Job:
    return job(counter, program="j", jax="cpu", batch=(size, wait_s), **more)  # type: ignore[arg-type]


def warm_car(slots: int = 1, ahead: int = 2) -> Car:
    """A car with as many jax slots as places, all idle."""
    car = Car(slots=slots, ahead=ahead, lanes=BOTH).up()
    first = [job(900 + n, program="j", jax="cpu") for n in range(slots)]
    car.grant(*first)
    car.ready()
    for one in first:
        car.done(one)
    car.commit()
    return car


def test_a_batch_goes_to_one_slot_and_counts_as_one_lease() -> None:
    car = warm_car(slots=2, ahead=0)
    jobs = [part(n) for n in range(1, 9)]
    assert ran(car.grant(*jobs)) == list(range(1, 9))
    assert len({one.slot for one in jobs}) == 1
    other = part(9)
    assert ran(car.grant(other)) == [9] and other.slot != jobs[0].slot  # the first batch is full
    assert ran(car.grant(joined := part(10))) == [10] and joined.slot == other.slot
    assert not ran(car.grant(job(11))) and car.core.work.room == 0


def test_what_comes_too_late_opens_a_batch_of_its_own() -> None:
    car = warm_car(slots=2)
    car.grant(first := part(1))
    car.wait(0.01)
    car.grant(late := part(2))
    assert late.slot != first.slot


def test_the_next_batch_is_sent_behind_the_one_that_runs() -> None:
    car = warm_car()
    jobs = [part(n, size=8) for n in range(1, 17)]
    assert len(ran(car.grant(*jobs))) == 16
    assert not ran(car.grant(part(17)))


def test_a_chunk_joins_nothing() -> None:
    car = warm_car(slots=2)
    car.grant(first := part(1), chunk := part(2, items=[(0, 3)]))
    assert first.slot != chunk.slot


def test_a_slot_that_dies_with_a_batch_has_each_call_run_by_itself() -> None:
    car = warm_car()
    jobs = [part(n) for n in range(1, 5)]
    car.grant(*jobs)
    slot = jobs[0].slot
    assert slot is not None
    car.alive.remove(slot)
    did = car.tell(t.SlotExited(slot, "killed", together=3))
    assert not outcomes(did)
    did = car.ready()
    assert ran(did)[:3] == [1, 2, 3] and [one.alone for one in jobs] == [True] * 3 + [False]
    assert jobs[0].slot is not None
    did = car.tell(t.SlotExited(jobs[0].slot, "killed", together=None))
    assert outcomes(did) == [(1, RunStatus.TRAP)]


def test_a_batch_that_takes_too_long_is_run_again_one_by_one() -> None:
    car = warm_car()
    jobs = [part(n, timeout_s=2.0) for n in range(1, 4)]
    car.grant(*jobs)
    slot, began_s = jobs[0].slot, car.now_s
    assert slot is not None
    did = car.wait(3.0, {slot: t.Running(jobs[0].run, 3, began_s)})
    assert of(did, t.KillSlots) and not outcomes(did) and all(one.alone for one in jobs)


def test_cancelling_one_call_leaves_those_that_run_with_it() -> None:
    car = warm_car()
    jobs = [part(n) for n in range(1, 4)]
    car.grant(*jobs)
    assert not of(car.tell(t.Dropped((1,))), t.KillSlots)
    did = [action for given in jobs for action in car.done(given)]
    done = outcomes([*did, *car.commit()])
    assert [counter for counter, _ in done] == [2, 3]
