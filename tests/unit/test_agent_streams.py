"""Generators in the agent's core: reports, credit, deadlines that don't run while it waits, checkpoints."""

from __future__ import annotations

import pytest

from fleet.protocol.frames import pack_items, unpack_items
from fleet.protocol.limits import STREAM_WINDOW_BYTES, STREAM_WINDOW_ITEMS
from fleet.protocol.messages import RunOutcome, RunStatus
from runtime import agent_types as t
from runtime.agent_jobs import Job
from tests.unit.agent_rig import Car, job, names, of, outcomes

WINDOW = STREAM_WINDOW_ITEMS


def begin(skip: int = 0, consumed: int = 0, timeout_s: float = 60.0) -> tuple[Car, Job]:
    car = Car().up()
    one = job(1, stream=True, skip=skip, consumed=consumed, timeout_s=timeout_s)
    car.grant(one)
    assert one.slot is not None
    return car, one


def yielded(car: Car, one: Job, first: int, count: int, size: int = 1) -> list[t.Action]:
    assert one.slot is not None
    return car.tell(t.SlotItems(one.slot, one.run, first, pack_items([bytes(size)] * count)))


def parts(did: list[t.Action]) -> list[RunOutcome]:
    return [outcome for report in of(did, t.SendReport) for outcome in report.outcomes]


def credit(car: Car, consumed: int) -> list[t.Action]:
    return car.tell(t.Credited({1: consumed}))


def test_the_first_item_goes_at_once_and_what_gathers_shares_the_next_report() -> None:
    car, one = begin(skip=5, consumed=5)
    (first,) = parts(yielded(car, one, 0, 1))
    assert (first.status, first.done) == (RunStatus.PARTIAL, [(5, 5)])
    assert not parts(yielded(car, one, 1, 2)) and not parts(yielded(car, one, 3, 1))
    did = car.commit()
    (second,) = parts(did)
    assert second.done == [(6, 8)]
    assert len(unpack_items(of(did, t.SendReport)[0].parts[0], 10)) == 3
    assert one.slot is not None
    car.tell(t.SlotDone(one.slot, one.run, b"\0N"))
    (last,) = parts(car.commit())
    assert (last.status, last.done, last.items) == (RunStatus.OK, None, 9)
    car.commit()
    assert not car.core.work.jobs and not len(car.core.work.outbox)


def test_items_that_are_left_go_before_the_end() -> None:
    car, one = begin()
    yielded(car, one, 0, 1)
    yielded(car, one, 1, 2)
    assert one.slot is not None
    car.tell(t.SlotTrapped(one.slot, one.run, None, "dead"))
    items, last = parts(car.commit())
    assert (items.done, last.status, last.items) == ([(1, 2)], RunStatus.TRAP, 3)


def test_credit_is_passed_on_when_it_is_news() -> None:
    car, one = begin(consumed=3)
    assert [action.consumed for action in of(credit(car, 5), t.GiveCredit)] == [5]
    assert names(credit(car, 5)) == [] and names(credit(car, 4)) == []
    assert names(car.tell(t.Credited({2: 9}))) == []
    waiting = Car()
    waiting.hear()
    waiting.tell(t.Connected(), t.HelloAnswered(1))
    late = job(1, stream=True)
    waiting.core.work.take(late)
    assert names(credit(waiting, 7)) == [], "no slot yet"
    assert late.window is not None and late.window.consumed == 7, "it begins with that"
    assert one.window is not None and one.window.consumed == 5


@pytest.mark.parametrize(("count", "size"), [(WINDOW, 1), (4, STREAM_WINDOW_BYTES // 4)], ids=["items", "bytes"])
def test_time_stands_still_while_it_waits_for_its_consumer(count: int, size: int) -> None:
    car, one = begin(timeout_s=1.0)
    for first in (0, count // 2):
        yielded(car, one, first, count // 2, size)
        car.commit()
    assert RunStatus.TIMEOUT not in [status for _, status in outcomes(car.wait(15.0))]
    credit(car, 1)
    assert outcomes(car.wait(0.9)) == []
    assert outcomes(car.wait(0.2)) == [(1, RunStatus.TIMEOUT)]


def test_a_run_that_waits_from_the_beginning_says_so() -> None:
    car, one = begin(skip=2 * WINDOW, consumed=WINDOW, timeout_s=1.0)
    assert outcomes(car.wait(0.5)) == [], "it runs again what is stored"
    yielded(car, one, 0, 0)
    assert outcomes(car.wait(15.0)) == []
    credit(car, WINDOW + 1)
    assert outcomes(car.wait(0.6)) == [(1, RunStatus.TIMEOUT)]


def test_one_that_runs_ahead_of_its_consumer_is_killed() -> None:
    for first, count, size in ((0, WINDOW + 1, 1), (0, 5, STREAM_WINDOW_BYTES // 4)):
        car, one = begin()
        for at in (first, count // 2):
            yielded(car, one, at, count // 2, size)
            car.commit()
        did = yielded(car, one, count - 1, 1)
        assert of(did, t.KillSlots), (count, size)
        assert outcomes(did) == [(1, RunStatus.ABANDONED)]
    car, one = begin()
    assert of(yielded(car, one, 1, 1), t.KillSlots), "a gap"
    car, one = begin()
    assert one.slot is not None
    assert of(car.tell(t.SlotItems(one.slot, one.run, 0, pack_items([b"xx"])[:-1])), t.KillSlots)


def test_a_checkpoint_waits_until_the_items_before_it_are_stored() -> None:
    car, one = begin(skip=4)
    assert one.slot is not None
    assert of(car.tell(t.SlotSaved(one.slot, one.run, b"at 4")), t.SendCheckpoint), "nothing new before it"
    yielded(car, one, 0, 1)
    yielded(car, one, 1, 2)
    assert names(car.tell(t.SlotSaved(one.slot, one.run, b"at 7"))) == []
    assert not of(car.commit(), t.SendCheckpoint), "only the first item is stored"
    assert [action.state for action in of(car.commit(), t.SendCheckpoint)] == [b"at 7"]
    assert not of(car.commit(), t.SendCheckpoint)
    car.tell(t.SlotSaved(one.slot, one.run, b"of a lease that is over"))
    yielded(car, one, 3, 1)
    car.tell(t.Dropped((1,)))
    assert not of(car.tell(t.SlotSaved(one.slot, one.run, b"late")), t.SendCheckpoint)


def test_a_departure_reports_items_then_the_checkpoint_then_gives_the_lease_back() -> None:
    car, one = begin()
    yielded(car, one, 0, 1)
    yielded(car, one, 1, 2)
    assert one.slot is not None
    car.tell(t.SlotSaved(one.slot, one.run, b"at 3"))
    did = car.hear(plugged_in=False)
    order = [name for name in names(did) if name in ("KillSlots", "SendReport", "SendCheckpoint", "SendRelease")]
    assert order == ["KillSlots", "SendReport", "SendCheckpoint", "SendRelease"]
    assert [outcome.done for outcome in parts(did)] == [[(1, 2)]]


def test_a_failure_sends_the_checkpoint_that_waits() -> None:
    car, one = begin()
    yielded(car, one, 0, 1)
    assert one.slot is not None
    car.tell(t.SlotSaved(one.slot, one.run, b"at 1"))
    assert of(car.tell(t.SlotDone(one.slot, one.run, b"\1raised")), t.SendCheckpoint)
