"""Slots of several lanes on one car: when they exist, and that none starves another."""

from __future__ import annotations

import pytest

from fleet.protocol.errors import InvalidOption
from fleet.protocol.messages import Device, RunStatus
from runtime import agent_types as t
from runtime.agent_jobs import Job
from runtime.devices import lanes_of
from tests.unit.agent_rig import DEVICES, Car, job, of, outcomes

BOTH = ("wasm", "jax-cpu")


def jax(counter: int, **more: object) -> Job:
    return job(counter, program="j", jax="cpu", **more)  # type: ignore[arg-type]


def started(actions: list[t.Action]) -> list[str]:
    return [action.lane for action in of(actions, t.StartSlot)]


def ran(actions: list[t.Action]) -> list[int]:
    return [action.job.lease.counter for action in of(actions, t.RunJob)]


def slot_of(car: Car, lane: str) -> str:
    return next(slot.id for slot in car.core.work.pool.slots.values() if slot.lane == lane)


def test_a_jax_slot_is_started_by_the_first_job_and_kept() -> None:
    car = Car(lanes=BOTH).up()
    assert started(car.did) == ["wasm", "wasm"]
    first = jax(1)
    did = car.grant(first)
    assert started(did) == ["jax-cpu"] and not ran(did)
    assert ran(car.ready()) == [1]
    assert not started(car.done(first))
    second = jax(2)
    did = car.grant(second)
    assert ran(did) == [2] and not started(did)


def test_after_a_departure_as_many_are_started_ahead_as_were_there() -> None:
    car = Car(slots=2, lanes=BOTH).up()
    car.grant(jax(1), jax(2), jax(3))
    car.hear(plugged_in=False)
    assert not car.alive
    did = car.hear()
    assert started(did) == ["wasm"] * 3 + ["jax-cpu"] * 2
    assert not ran(did) and not ran(car.ready())


def test_a_job_of_another_lane_passes_one_whose_slot_is_starting() -> None:
    car = Car(lanes=BOTH).up()
    car.grant(jax(1))
    python = job(2)
    assert ran(car.grant(python)) == [2]
    assert ran(car.ready()) == []  # one place, and it is taken
    assert ran(car.done(python)) == [1]


def test_jobs_of_both_lanes_together_are_no_more_than_slots() -> None:
    car = Car(slots=2, ahead=4, lanes=BOTH).up()
    jobs = [jax(1), job(2), jax(3), job(4, program="b"), jax(5)]
    car.grant(*jobs)
    car.ready()
    work = car.core.work
    assert sum(bool(slot.jobs) for slot in work.pool.slots.values()) == 2


def test_a_stream_of_short_jobs_does_not_starve_the_other_lane() -> None:
    car = Car(ahead=15, lanes=BOTH).up()
    car.grant(warm := jax(1))
    car.ready()
    car.done(warm)
    running = [job(n) for n in range(2, 6)]
    car.grant(*running)
    car.grant(waiting := jax(6))
    later = [job(n) for n in range(7, 12)]
    assert ran(car.grant(*later)) == []  # there is room behind the running one, but another lane is next
    for one in running[:-1]:
        assert ran(car.done(one)) == []
    assert ran(car.done(running[-1])) == [6]
    assert ran(car.done(waiting)) == [7, 8, 9, 10]


def test_a_jax_slot_serves_one_tenant() -> None:
    car = Car(lanes=BOTH).up()
    car.grant(mine := jax(1))
    car.ready()
    car.done(mine)
    used = slot_of(car, "jax-cpu")
    did = car.grant(jax(2, tenant="other"))
    assert of(did, t.KillSlots)[0].slots == (used,) and started(did) == ["jax-cpu"] and not ran(did)
    assert ran(car.ready()) == [2]


def test_a_jax_slot_that_dies_is_started_again_by_the_next_job_alone() -> None:
    car = Car(lanes=BOTH).up()
    car.grant(jax(1))
    car.ready()
    did = car.tell(t.SlotExited(slot_of(car, "jax-cpu"), "oh"))
    assert outcomes(did) == [(1, RunStatus.TRAP)] and not started(did)
    assert not started(car.wait(10))
    assert started(car.grant(jax(2))) == ["jax-cpu"]


def test_a_jax_slot_that_runs_too_long_is_killed_and_replaced() -> None:
    car = Car(lanes=BOTH).up()
    car.grant(jax(1, timeout_s=1.0))
    car.ready()
    did = car.wait(1.1)
    assert (1, RunStatus.TIMEOUT) in outcomes(did) and started(did) == ["jax-cpu"]


def test_a_lane_that_does_not_come_up_gives_its_jobs_away_and_leaves_the_other_alone() -> None:
    car = Car(lanes=BOTH).up()
    car.grant(jax(1))
    did = car.tell(t.SlotExited(slot_of(car, "jax-cpu"), "no memory"))
    assert outcomes(did) == [(1, RunStatus.ABANDONED)]
    assert not started(car.wait(10))
    python = job(2)
    assert ran(car.grant(python)) == [2]
    car.done(python)
    did = car.grant(jax(3))
    assert started(did) == ["jax-cpu"]


def test_a_job_waits_out_the_pause_after_a_failed_start() -> None:
    car = Car(lanes=BOTH).up()
    car.grant(jax(1))
    car.tell(t.SlotExited(slot_of(car, "jax-cpu"), "no memory"))
    assert not started(car.grant(jax(2)))
    assert started(car.wait(0.2)) == ["jax-cpu"]


def test_a_car_with_two_devices_runs_a_program_where_it_can() -> None:
    car = Car(lanes=("wasm", "jax-cpu", "jax-gpu")).up()
    assert started(car.grant(job(1, jax="cuda"))) == ["jax-gpu"]
    assert started(car.grant(job(2, jax="cpu"))) == ["jax-cpu"]


@pytest.mark.parametrize(("lanes", "given"), [(("wasm",), {"jax": "cpu"}), (("jax-cpu",), {}), (BOTH, {"jax": "cuda"})])
def test_a_program_without_a_lane_here_is_refused(lanes: tuple[str, ...], given: dict[str, str]) -> None:
    car = Car(lanes=lanes).up()
    did = car.grant(job(1, **given))  # type: ignore[arg-type]
    reply = of(did, t.ReplyGrant)[0]
    assert reply.accepted == () and "no lane" in reply.reason


def test_the_offer_names_lanes_and_devices_and_has_places_without_wasm() -> None:
    car = Car(slots=2, lanes=("jax-cpu",)).up()
    offer = of(car.did, t.SendBeat)[-1].offer
    assert (offer.slots, offer.lanes, offer.devices) == (2, ["jax-cpu"], [DEVICES["jax-cpu"]])
    assert not started(car.did)


def test_isolation_that_any_slot_lacks_is_told_as_missing() -> None:
    car = Car(lanes=BOTH).up()
    car.grant(jax(1))
    wasm, other = slot_of(car, "wasm"), slot_of(car, "jax-cpu")
    car.tell(t.SlotExited(wasm))
    car.tell(t.SlotReady(slot_of(car, "wasm"), ("seccomp", "landlock"), ()))
    did = car.tell(t.SlotReady(other, ("seccomp",), ("landlock",)))
    hello = of(did, t.SendHello)[0]
    assert (hello.held, hello.missing) == (("seccomp",), ("landlock",))


def test_lanes_are_what_is_found_or_what_is_asked_for() -> None:
    cpu: Device = DEVICES["jax-cpu"]
    assert lanes_of(None, ()) == (("wasm",), ())
    assert lanes_of(None, (cpu,)) == (BOTH, (cpu,))
    assert lanes_of(("wasm",), (cpu,)) == (("wasm",), ())
    with pytest.raises(InvalidOption, match="jax is not installed"):
        lanes_of(("jax-cpu",), ())
    with pytest.raises(InvalidOption, match="no graphics card"):
        lanes_of(("jax-gpu",), (cpu,))
