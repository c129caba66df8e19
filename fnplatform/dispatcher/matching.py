"""Which car can run which call. Pure: the matcher and ``explain`` ask the very same conditions.

A call asks for a ``Need``; a car's offer is one of few ``OfferClass`` values. Both are small and hashable, so matching
looks at kinds of cars and kinds of calls instead of every car and every call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fleet.protocol.lanes import JAX_GPU, WASM, Reader, Wanted, holds, readers_of, reads, wanted_by
from fleet.protocol.limits import MIB
from fleet.protocol.messages import Condition, Manifest, Offer, Standing

DEVICE_STEP_BYTES = 1024 * MIB
"""Memory of graphics cards is compared in steps of this: cars with the same card are of one kind."""
LARGE_WEIGHTS_BYTES = 64 * MIB
LARGE_MEMORY_BYTES = 1024 * MIB
"""From either of these up a program looks for a graphics card first."""
FITS_MAX = 4096
"""Pairs of a need and a kind of car whose answer is remembered."""


class Need(NamedTuple):
    """What a call asks of a car: one of these lanes, the rest in any case."""

    lanes: tuple[Wanted, ...]
    memory_bytes: int
    region: str | None
    weights_bytes: int = 0

    @property
    def is_large(self) -> bool:
        """Whether it is worth a graphics card if one is free."""
        large = self.weights_bytes >= LARGE_WEIGHTS_BYTES or self.memory_bytes >= LARGE_MEMORY_BYTES
        return large and any(wanted.lane == JAX_GPU for wanted in self.lanes)


class OfferClass(NamedTuple):
    """What a car offers, without how much of it is taken, and without the names of its devices."""

    readers: tuple[Reader, ...]
    memory_bytes: int
    region: str


class CarView(Protocol):
    """What the conditions ask of a car."""

    @property
    def online(self) -> bool: ...
    @property
    def standing(self) -> Standing: ...
    @property
    def offer_class(self) -> OfferClass: ...
    @property
    def has_place(self) -> bool: ...
    def avoids(self, version: str) -> bool:
        """Whether it failed to start this version a moment ago."""
        ...


def need_of(manifest: Manifest) -> Need:
    """What calls of this version ask for."""
    program = manifest.program
    weights_bytes = program.jax.weights_bytes if program.jax is not None else 0
    return Need(wanted_by(program), program.memory_bytes, manifest.requires.region, weights_bytes)


def class_of(offer: Offer) -> OfferClass:
    """The kind of car that makes this offer."""
    readers = tuple(
        reader._replace(memory_bytes=reader.memory_bytes // DEVICE_STEP_BYTES * DEVICE_STEP_BYTES)
        for reader in readers_of(offer)
    )
    return OfferClass(readers, offer.memory_bytes, offer.region)


def has_lane(need: Need, offer: OfferClass) -> bool:
    """The car runs this kind of program."""
    return any(reader.lane == wanted.lane for reader in offer.readers for wanted in need.lanes)


def reads_it(need: Need, offer: OfferClass) -> bool:
    """What it runs such programs with is new enough for this one, and old enough."""
    return any(reads(reader, wanted) for reader in offer.readers for wanted in need.lanes)


def has_memory(need: Need, offer: OfferClass) -> bool:
    """The car grants this much memory to one call, in a lane that reads it."""
    return any(
        reads(reader, wanted) and holds(reader, need.memory_bytes, need.weights_bytes, offer.memory_bytes)
        for reader in offer.readers
        for wanted in need.lanes
    )


def in_region(need: Need, offer: OfferClass) -> bool:
    """The car is where the call must run."""
    return need.region is None or need.region == offer.region


OFFER_CONDITIONS: tuple[tuple[str, Callable[[Need, OfferClass], bool]], ...] = (
    ("lane", has_lane),
    ("reads", reads_it),
    ("memory", has_memory),
    ("region", in_region),
)


@functools.lru_cache(maxsize=FITS_MAX)
def fits(need: Need, offer: OfferClass) -> bool:
    """Whether a car of this kind, with a free place, may run a call of this kind."""
    return all(condition(need, offer) for _, condition in OFFER_CONDITIONS)


def ranked(need: Need, kinds: Iterable[OfferClass]) -> Iterator[OfferClass]:
    """The kinds of cars that may run such a call: those that do it on a graphics card first, if it is large."""
    if not need.is_large:
        yield from (kind for kind in kinds if fits(need, kind))
        return
    on_card = need._replace(lanes=tuple(wanted for wanted in need.lanes if wanted.lane == JAX_GPU))
    yield from sorted((kind for kind in kinds if fits(need, kind)), key=lambda kind: not fits(on_card, kind))


REASONS: dict[str, str] = {
    "not_opted_in": "opted in by its owner",
    "stopping": "not shutting down",
    "signals_stale": "heard by its signals",
    "paused": "not paused by its owner",
    "not_parked": "parked",
    "not_plugged_in": "plugged in",
    "departing": "staying",
    "soc_below_floor": "charged above its owner's floor",
    "fast_charging": "not fast charging",
    "battery_temperature": "at a battery temperature its owner allows",
    "cabin_temperature": "at a cabin temperature its owner allows",
    "outside_hours": "inside its owner's hours",
    "not_on_wifi": "on Wi-Fi",
    "coming_back": "back for long enough",
}
"""What a car must be instead, for each reason of its standing, in the order that ``explain`` asks them."""


@dataclass(slots=True)
class _Sieve:
    """Cars that pass so far, and what each condition left of them."""

    cars: list[CarView]
    total: int
    conditions: list[Condition]

    def ask(self, name: str, text: str, passes: Callable[[CarView], bool]) -> None:
        self.cars = [car for car in self.cars if passes(car)]
        self.conditions.append(Condition(name=name, text=text, passing=len(self.cars), of=self.total))


def conditions(need: Need, version: str, cars: Sequence[CarView]) -> list[Condition]:
    """Every condition in the matcher's order, with the number of cars that pass it and all before it."""
    sieve = _Sieve(list(cars), len(cars), [])
    sieve.ask("online", "online", lambda car: car.online)
    for code in _reasons(sieve.cars):
        sieve.ask(code, REASONS.get(code, f"without {code}"), lambda car, code=code: code not in car.standing.reasons)  # type: ignore[misc]
    sieve.ask("eligible", "allowed to work", lambda car: car.standing.eligible)
    for name, condition in OFFER_CONDITIONS:
        if name != "reads" or any(wanted.lane != WASM for wanted in need.lanes):
            text = _TEXTS[name](need, [car.offer_class for car in sieve.cars])
            sieve.ask(name, text, lambda car, condition=condition: condition(need, car.offer_class))  # type: ignore[misc]
    sieve.ask("able", "able to start this version", lambda car: not car.avoids(version))
    sieve.ask("place", "with a free slot", lambda car: car.has_place)
    return sieve.conditions


def _lane_text(need: Need, _: Sequence[OfferClass]) -> str:
    lanes = sorted({wanted.lane for wanted in need.lanes})
    return f"with the {' or '.join(lanes)} lane" if lanes else "with a lane that this program was exported for"


def _reads_text(need: Need, offers: Sequence[OfferClass]) -> str:
    """What the program needs, and how near the cars come that have its lane."""
    lanes = {wanted.lane for wanted in need.lanes}
    readers = [reader for offer in offers for reader in offer.readers if reader.lane in lanes]
    text = "with a jax that reads this program"
    if not readers or not need.lanes:
        return text
    newest, oldest = max(reader[3] for reader in readers), min(reader[2] for reader in readers)
    version = min(wanted.calling_convention for wanted in need.lanes)
    if version > newest:
        return f"{text} (needs calling convention {version}; newest seen {newest})"
    if version < oldest:
        return f"{text} (has calling convention {version}; oldest still read {oldest}: deploy it anew)"
    stablehlo = min(wanted.stablehlo for wanted in need.lanes)
    best = max(reader.stablehlo for reader in readers)
    if stablehlo > best:
        return f"{text} (needs StableHLO {_dotted(stablehlo)}; newest seen {_dotted(best)})"
    return text


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version)) or "none"


def _memory_text(need: Need, _: Sequence[OfferClass]) -> str:
    if need.lanes and all(wanted.lane == JAX_GPU for wanted in need.lanes):
        return f"with {(need.memory_bytes + need.weights_bytes) >> 20} MiB on its graphics card"
    return f"with {need.memory_bytes >> 20} MiB for one call"


_TEXTS: dict[str, Callable[[Need, Sequence[OfferClass]], str]] = {
    "lane": _lane_text,
    "reads": _reads_text,
    "memory": _memory_text,
    "region": lambda need, _: f"in region {need.region or 'any'}",
}


def _reasons(cars: Iterable[CarView]) -> list[str]:
    """Reasons that any of the cars gives: known ones in their order, then others by name."""
    given = {reason for car in cars for reason in car.standing.reasons}
    known = [code for code in REASONS if code in given]
    return known + sorted(given - set(known))


def sentence(conditions: Sequence[Condition]) -> str:
    """Why a call waits: the first condition that no car passes, and how many pass the ones before it."""
    total = conditions[0].of if conditions else 0
    if total == 0:
        return "waits because no car is known to the platform"
    passed: list[str] = []
    for condition in conditions:
        if condition.passing == 0:
            noun = "car" if total == 1 else "cars"
            counts = ", ".join([f"{total} {noun} known", *passed, f"0 {condition.text}"])
            return f"waits because no car is {condition.text}: {counts}"
        if condition.passing < condition.of or condition.name == "online":
            passed.append(f"{condition.passing} {condition.text}")
    return "waits for its turn: a car with a free slot is there"
