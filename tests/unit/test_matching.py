"""Conditions of the matcher, how they are explained, and turns."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fleet.protocol.messages import Offer, Standing
from fnplatform.dispatcher.matching import Need, OfferClass, class_of, conditions, fits, need_of, sentence
from fnplatform.dispatcher.queues import FunctionQueue, Limit, Turns
from tests.unit.core_rig import VERSION, manifest

EU = OfferClass(("wasm",), 256 << 20, "eu")


@dataclass
class View:
    online: bool = True
    reasons: list[str] = field(default_factory=list)
    offer_class: OfferClass = EU
    has_place: bool = True
    avoided: bool = False

    @property
    def standing(self) -> Standing:
        return Standing(eligible=not self.reasons, reasons=self.reasons)

    def avoids(self, version: str) -> bool:
        return self.avoided


NEED = Need("wasm", 128 << 20, None)


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (NEED, True),
        (NEED._replace(lane="jax"), False),
        (NEED._replace(memory_bytes=257 << 20), False),
        (NEED._replace(region="eu"), True),
        (NEED._replace(region="us"), False),
    ],
)
def test_fits(need: Need, expected: bool) -> None:
    assert fits(need, View().offer_class) is expected


def test_classes_come_from_manifests_and_offers() -> None:
    assert need_of(manifest(region="eu", memory_bytes=5)) == Need("wasm", 5, "eu")
    assert class_of(Offer(lanes=["wasm", "jax-cpu"], memory_bytes=7)) == OfferClass(("jax-cpu", "wasm"), 7, "")


def test_sentence_names_the_blocking_condition_and_counts() -> None:
    cars = (
        [View(reasons=["not_plugged_in"])] * 3 + [View(reasons=["not_parked", "not_plugged_in"])] + [View(online=False)]
    )
    found = conditions(NEED, VERSION, cars)
    assert sentence(found) == ("waits because no car is plugged in: 5 cars known, 4 online, 3 parked, 0 plugged in")


@pytest.mark.parametrize(
    ("cars", "names"),
    [
        ([], "no car is known"),
        ([View(online=False)], "0 online"),
        ([View(reasons=["something_new"])], "without something_new"),
        ([View(offer_class=OfferClass((), 1 << 40, ""))], "wasm lane"),
        ([View(avoided=True)], "able to start this version"),
        ([View(has_place=False)], "with a free slot: 1 car known, 1 online, 0 with a free slot"),
        ([View()], "waits for its turn"),
    ],
)
def test_every_condition_has_words(cars: list[View], names: str) -> None:
    assert names in sentence(conditions(NEED, VERSION, cars))


def test_explain_and_match_ask_the_same() -> None:
    """A car passes every condition exactly when the matcher would take it."""
    for view in (View(), View(online=False), View(reasons=["paused"]), View(has_place=False), View(avoided=True)):
        passes = conditions(NEED, VERSION, [view])[-1].passing == 1
        taken = view.online and view.standing.eligible and fits(NEED, view.offer_class)
        assert passes is (taken and view.has_place and not view.avoided)


def queue(tenant: str, function: str) -> FunctionQueue:
    return FunctionQueue(tenant, function, VERSION, manifest(function), Limit())


def test_turns_go_to_the_tenant_served_longest_ago_then_its_functions() -> None:
    turns = Turns()
    queues = [queue("a", "f"), queue("a", "g"), queue("b", "f")]
    for one in queues:
        turns.add(one)
    served = []
    for _ in range(8):
        taken = turns.take(turns.asked(), lambda _: True)
        assert taken is not None
        turns.served(taken.tenant)
        turns.add(taken)
        served.append(taken.tenant + taken.function)
    assert served == ["af", "bf", "ag", "bf", "af", "bf", "ag", "bf"]


def test_a_queue_that_cannot_go_keeps_its_turn() -> None:
    turns = Turns()
    first, second = queue("a", "f"), queue("b", "f")
    turns.add(first)
    turns.add(second)
    assert turns.take(turns.asked(), lambda one: one is second) is second
    assert turns.take(turns.asked(), lambda _: True) is first
    assert turns.take(turns.asked(), lambda _: True) is None
    assert turns.asked() == []
