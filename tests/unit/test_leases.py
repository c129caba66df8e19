"""Leases: their order, their signature."""

from __future__ import annotations

import pytest

from fnplatform.dispatcher import leases
from fnplatform.dispatcher.leases import first_counter, genuine, order, sign

KEY = b"k" * 32


def test_a_lease_is_genuine_for_its_car_only() -> None:
    lease = sign(KEY, "call", 7, 1, 2, "car-1")
    assert genuine(KEY, lease, "car-1")
    assert not genuine(KEY, lease, "car-2")
    assert not genuine(b"x" * 32, lease, "car-1")


@pytest.mark.parametrize("change", [{"call": "other"}, {"seq": 8}, {"epoch": 2}, {"counter": 3}, {"mac": "0" * 32}])
def test_nothing_in_a_lease_can_be_changed(change: dict[str, object]) -> None:
    lease = sign(KEY, "call", 7, 1, 2, "car-1")
    assert not genuine(KEY, lease.model_copy(update=change), "car-1")


def test_a_car_can_not_make_anothers_lease_its_own() -> None:
    lease = sign(KEY, "call", 7, 1, 2, "car-1").model_copy(update={"car": "car-2"})
    assert not genuine(KEY, lease, "car-2")


def test_fields_do_not_run_into_each_other() -> None:
    assert leases.mac_of(KEY, "a", 1, 11, 1, "c") != leases.mac_of(KEY, "a", 11, 1, 1, "c")


def test_newer_is_a_later_epoch_then_a_later_counter() -> None:
    older = sign(KEY, "call", 7, 1, first_counter(1) + 99, "car-1")
    newer = sign(KEY, "call", 7, 2, first_counter(2) + 1, "car-1")
    assert order(older) < order(newer)
    assert older.counter < newer.counter, "a counter alone names a lease, whatever its epoch"
