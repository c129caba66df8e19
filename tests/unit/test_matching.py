"""Conditions of the matcher, how they are explained, and turns."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fleet.protocol.lanes import Reader, Wanted, lane_for
from fleet.protocol.messages import Device, JaxModule, JaxProgram, Offer, Program, Standing
from fnplatform.dispatcher.matching import Need, OfferClass, class_of, conditions, fits, need_of, ranked, sentence
from fnplatform.dispatcher.queues import FunctionQueue, Limit, Turns
from tests.unit.core_rig import VERSION, manifest

MIB = 1 << 20
EU = OfferClass((Reader("wasm"),), 256 << 20, "eu")
CPU = Device(lane="jax-cpu", calling_convention_min=9, calling_convention_max=10, stablehlo="1.13.4", memory_bytes=MIB)
GPU = CPU.model_copy(update={"lane": "jax-gpu", "memory_bytes": 24 << 30, "kind": "a card"})


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


NEED = Need((Wanted("wasm"),), 128 << 20, None)


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (NEED, True),
        (NEED._replace(lanes=(Wanted("jax-cpu"),)), False),
        (NEED._replace(lanes=()), False),
        (NEED._replace(memory_bytes=257 << 20), False),
        (NEED._replace(region="eu"), True),
        (NEED._replace(region="us"), False),
    ],
)
def test_fits(need: Need, expected: bool) -> None:
    assert fits(need, View().offer_class) is expected


def test_classes_come_from_manifests_and_offers() -> None:
    assert need_of(manifest(region="eu", memory_bytes=5)) == Need((Wanted("wasm"),), 5, "eu")
    assert class_of(Offer(memory_bytes=7)) == OfferClass((Reader("wasm"),), 7, "")


def test_cars_with_devices_of_other_names_are_of_one_kind() -> None:
    other = GPU.model_copy(update={"kind": "another", "jaxlib": "0.0", "memory_bytes": GPU.memory_bytes + 5 * MIB})
    offers = [Offer(lanes=["wasm", "jax-gpu"], devices=[device]) for device in (GPU, other)]
    assert class_of(offers[0]) == class_of(offers[1])


def program(*modules: tuple[str, int, str], weights_mib: int = 0, memory_mib: int = 256) -> Program:
    """A jax program: a module for each (platforms, calling convention, StableHLO)."""
    made = [JaxModule(platforms=one.split(), calling_convention=v, stablehlo=hlo) for one, v, hlo in modules]
    jax = JaxProgram(modules=made, weights_bytes=weights_mib * MIB)
    return Program(
        runtime="jax", bundle="0" * 64, bundle_bytes=1, module="m", qualname="f", memory_bytes=memory_mib * MIB, jax=jax
    )


ALL = ("cpu cuda tpu", 9, "1.10.2")


def offer(*devices: Device, memory_mib: int = 1024) -> Offer:
    lanes = ["wasm", *(device.lane for device in devices)]
    return Offer(slots=1, lanes=lanes, devices=list(devices), memory_bytes=memory_mib * MIB)


@pytest.mark.parametrize(
    ("wants", "offered", "lane"),
    [
        (program(ALL), offer(), None),
        (program(ALL), offer(CPU), "jax-cpu"),
        (program(ALL), offer(CPU, GPU), "jax-gpu"),
        (program(("cuda", 9, "1.0.0")), offer(CPU), None),
        (program(("tpu", 9, "1.0.0")), offer(CPU, GPU), None),
        (program(("cpu", 9, "1.0.0"), ("cuda", 11, "1.0.0")), offer(CPU, GPU), "jax-cpu"),
        (program(("cpu", 8, "1.0.0")), offer(CPU), None),
        (program(("cpu", 11, "1.0.0")), offer(CPU), None),
        (program(("cpu", 10, "1.13.4")), offer(CPU), "jax-cpu"),
        (program(("cpu", 10, "1.13.5")), offer(CPU), None),
        (program(("cpu", 10, "1.9.9")), offer(CPU), "jax-cpu"),
        (program(ALL, memory_mib=2000), offer(CPU), None),
        (program(ALL, weights_mib=30_000), offer(CPU, GPU), "jax-cpu"),
        (program(ALL), Offer(lanes=["wasm", "jax-cpu"], devices=[]), None),
        (program(ALL), Offer(lanes=["wasm"], devices=[CPU]), None),
        (program(ALL), offer(CPU.model_copy(update={"stablehlo": "1.x" + "9" * 5000})), None),
        (Program(runtime="jax", bundle="0" * 64, bundle_bytes=1, module="m", qualname="f"), offer(CPU), None),
    ],
)
def test_a_jax_program_goes_where_a_device_reads_it(wants: Program, offered: Offer, lane: str | None) -> None:
    """And the dispatcher thinks so exactly when the car does, which names the lane."""
    assert lane_for(wants, offered) == lane
    need = need_of(manifest().model_copy(update={"program": wants}))
    assert fits(need, class_of(offered)) is (lane is not None)


@pytest.mark.parametrize(
    ("wants", "words"),
    [
        (program(("cpu", 10, "1.0.0")), "0 with the jax-cpu lane"),
        (program(ALL), "0 with the jax-cpu or jax-gpu lane"),
        (program(("tpu", 10, "1.0.0")), "0 with a lane that this program was exported for"),
    ],
)
def test_explain_names_the_lane_that_is_missing(wants: Program, words: str) -> None:
    need = need_of(manifest().model_copy(update={"program": wants}))
    assert sentence(conditions(need, VERSION, [View()])).endswith(words)


@pytest.mark.parametrize(
    ("wants", "words"),
    [
        (program(("cpu", 12, "1.0.0")), "that reads this program (needs calling convention 12; newest seen 10)"),
        (program(("cpu", 7, "1.0.0")), "(has calling convention 7; oldest still read 9: deploy it anew)"),
        (program(("cpu", 10, "2.0.0")), "(needs StableHLO 2.0.0; newest seen 1.13.4)"),
        (program(("cuda", 9, "1.0.0"), weights_mib=30_000), "0 with 30256 MiB on its graphics card"),
    ],
)
def test_explain_names_what_the_newest_car_lacks(wants: Program, words: str) -> None:
    need = need_of(manifest().model_copy(update={"program": wants}))
    old = CPU.model_copy(update={"calling_convention_max": 9, "stablehlo": "1.0.0"})
    cars = [View(), *(View(offer_class=class_of(offer(*devices))) for devices in ((CPU, GPU), (old,)))]
    assert words in sentence(conditions(need, VERSION, cars))


def test_large_programs_look_for_a_graphics_card_first() -> None:
    kinds = [class_of(offer(CPU)), class_of(offer(CPU, GPU)), class_of(offer())]
    small, large = (
        need_of(manifest().model_copy(update={"program": program(ALL, weights_mib=size)})) for size in (1, 500)
    )
    assert list(ranked(small, kinds)) == kinds[:2]
    assert list(ranked(large, kinds)) == [kinds[1], kinds[0]]


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
        turns.served(taken)
        turns.add(taken)
        served.append(taken.tenant + taken.function)
    assert served == ["af", "bf", "ag", "bf", "af", "bf", "ag", "bf"]


def test_functions_of_a_tenant_that_ask_for_different_things_have_turns() -> None:
    """Short ones beside long ones, small beside large, bound to a region or not: none waits for another's backlog to end."""
    names = ("long", "short", "large", "bound")
    long, short, large, bound = (queue("a", name) for name in names)
    short.measured(0.001)
    large.need = large.need._replace(memory_bytes=2 * large.need.memory_bytes)
    bound.need = bound.need._replace(region="eu")
    turns = Turns()
    served = []
    for _ in range(8):
        for one in (long, short, large, bound):
            turns.add(one)
        taken = turns.take(turns.asked(), lambda _: True)
        assert taken is not None
        turns.served(taken)
        served.append(taken.function)
    assert sorted(served[:4]) == sorted(names), served
    assert served[4:] == served[:4]


def test_a_queue_that_cannot_go_keeps_its_turn() -> None:
    turns = Turns()
    first, second = queue("a", "f"), queue("b", "f")
    turns.add(first)
    turns.add(second)
    assert turns.take(turns.asked(), lambda one: one is second) is second
    assert turns.take(turns.asked(), lambda _: True) is first
    assert turns.take(turns.asked(), lambda _: True) is None
    assert turns.asked() == []
