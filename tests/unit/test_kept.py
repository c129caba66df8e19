"""Where values are that stay on a device: what the dispatcher makes of it."""

from __future__ import annotations

from fleet.protocol.messages import BlobRef
from fnplatform.dispatcher import events
from fnplatform.dispatcher.kept import KeptOnCars
from tests.unit.core_rig import Rig, manifest, state


def ref(letter: str, size_bytes: int = 10) -> BlobRef:
    return BlobRef(digest=letter * 64, size_bytes=size_bytes)


def test_the_newest_car_counts_the_largest_value_comes_first_and_tenants_are_apart() -> None:
    kept = KeptOnCars()
    kept.note("t", [ref("a"), ref("b", 20)], "car-1")
    kept.note("t", [ref("a")], "car-2")
    assert list(kept.cars_with("t", [ref("a"), ref("b", 20), ref("c")])) == ["car-1", "car-2"]
    assert list(kept.cars_with("other", [ref("a")])) == []


def test_what_was_not_asked_for_is_forgotten_first() -> None:
    kept = KeptOnCars(values_max=2)
    kept.note("t", [ref("a"), ref("b")], "car-1")
    assert list(kept.cars_with("t", [ref("a")])) == ["car-1"]
    kept.note("t", [ref("c")], "car-2")
    assert list(kept.cars_with("t", [ref("a"), ref("b"), ref("c")])) == ["car-1", "car-2"]


def kept_on(rig: Rig, car: str) -> None:
    """A call ran on ``car`` and kept a value there."""
    rig.submit(state("first"))
    (lease,) = rig.accept()
    assert lease.car == car
    rig.report(lease, kept=[ref("a")])
    rig.store()


def test_the_next_call_goes_where_its_state_is() -> None:
    rig = Rig()
    rig.car("car-1")
    kept_on(rig, "car-1")
    for name in ("car-2", "car-3"):
        rig.car(name)
    rig.submit(state("x", function="g"))  # another function: car-1 is as good as any
    (lease,) = rig.accept()
    rig.report(lease)
    rig.store()
    for number in range(4):
        rig.submit(state(f"n{number}", function=f"h{number}", refs=[ref("a")]))
        (lease,) = rig.accept()
        assert lease.car == "car-1"
        rig.report(lease)
        rig.store()


def test_it_does_not_wait_for_that_car() -> None:
    rig = Rig()
    rig.car("car-1")
    kept_on(rig, "car-1")
    rig.car("car-2")
    rig.submit(state("busy", refs=[ref("a")]), state("next", refs=[ref("a")]))
    assert [lease.car for lease in rig.accept()] == ["car-1", "car-2"]


def test_nor_for_one_that_left_or_cannot_run_it() -> None:
    rig = Rig()
    rig.car("car-1")
    kept_on(rig, "car-1")
    rig.car("car-2", region="eu")
    rig.submit(state("there", function="g", refs=[ref("a")]), of=manifest("g", region="eu"))
    (lease,) = rig.accept()
    assert lease.car == "car-2"
    rig.report(lease)
    rig.store()
    rig.leave("car-1")
    rig.submit(state("next", refs=[ref("a")]))
    assert [lease.car for lease in rig.accept()] == ["car-2"]


def test_a_call_that_had_to_wait_goes_there_as_well() -> None:
    rig = Rig()
    rig.car("car-1")
    kept_on(rig, "car-1")
    rig.submit(state("other", function="o"))
    (other,) = rig.accept()
    rig.car("car-2")
    one_at_a_time = manifest("k", max_concurrency=1)
    rig.submit(state("a", function="k"), of=one_at_a_time)
    (first,) = rig.accept()
    assert (other.car, first.car) == ("car-1", "car-2")
    rig.submit(state("b", function="k", refs=[ref("a")]), of=one_at_a_time)
    rig.report(other)
    rig.store()
    assert rig.accept() == []
    rig.report(first)
    rig.store()
    assert [lease.car for lease in rig.accept()] == ["car-1"]


def test_the_record_names_what_is_kept() -> None:
    rig = Rig()
    rig.car("car-1")
    kept_on(rig, "car-1")
    commits = [op for op in rig.done if isinstance(op, events.Commit)]
    assert commits[-1].record.kept == [ref("a")]
