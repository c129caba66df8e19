"""Which car can run which call. Pure: the matcher and ``explain`` ask the very same conditions.

A call asks for a ``Need``; a car's offer is one of few ``OfferClass`` values. Both are small and hashable, so matching
looks at kinds of cars and kinds of calls instead of every car and every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fleet.protocol.messages import Condition, Manifest, Offer, Standing


class Need(NamedTuple):
    """What a call asks of a car."""

    lane: str
    memory_bytes: int
    region: str | None


class OfferClass(NamedTuple):
    """What a car offers, without how much of it is taken."""

    lanes: tuple[str, ...]
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
    return Need(manifest.program.runtime, manifest.program.memory_bytes, manifest.requires.region)


def class_of(offer: Offer) -> OfferClass:
    """The kind of car that makes this offer."""
    return OfferClass(tuple(sorted(offer.lanes)), offer.memory_bytes, offer.region)


def has_lane(need: Need, offer: OfferClass) -> bool:
    """The car runs this kind of program."""
    return need.lane in offer.lanes


def has_memory(need: Need, offer: OfferClass) -> bool:
    """The car grants this much memory to one call."""
    return need.memory_bytes <= offer.memory_bytes


def in_region(need: Need, offer: OfferClass) -> bool:
    """The car is where the call must run."""
    return need.region is None or need.region == offer.region


OFFER_CONDITIONS: tuple[tuple[str, Callable[[Need, OfferClass], bool]], ...] = (
    ("lane", has_lane),
    ("memory", has_memory),
    ("region", in_region),
)


def fits(need: Need, offer: OfferClass) -> bool:
    """Whether a car of this kind, with a free place, may run a call of this kind."""
    return all(condition(need, offer) for _, condition in OFFER_CONDITIONS)


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
    texts = {
        "lane": f"with the {need.lane} lane",
        "memory": f"with {need.memory_bytes >> 20} MiB for one call",
        "region": f"in region {need.region or 'any'}",
    }
    for name, condition in OFFER_CONDITIONS:
        sieve.ask(name, texts[name], lambda car, condition=condition: condition(need, car.offer_class))  # type: ignore[misc]
    sieve.ask("able", "able to start this version", lambda car: not car.avoids(version))
    sieve.ask("place", "with a free slot", lambda car: car.has_place)
    return sieve.conditions


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
