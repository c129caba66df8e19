"""What happened in a run, computed from what the platform recorded of it. Pure: records in, rows out.

Units: ``*_s`` seconds, ``*_ms`` milliseconds, ``*_unix_s`` seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleet.protocol.messages import CarInfo, OutcomeRecord


@dataclass(frozen=True, slots=True)
class CarShare:
    """What one car did: ``items`` results in ``runs`` outcome records, ``run_s`` in its sandbox."""

    car: str
    items: int
    runs: int
    run_s: float


@dataclass(frozen=True, slots=True)
class Departure:
    """What it took to free one car, from its source's signal on. ``reaped_ms``: no slot process existed any more."""

    car: str
    killed_ms: float
    reaped_ms: float
    signal_unix_s: float


@dataclass(frozen=True, slots=True)
class Handover:
    """Work that a departure moved on: ``away_ms`` from the owner's signal to its start on another car."""

    call: str
    from_car: str
    to_car: str
    items: int
    away_ms: float


def items_of(record: OutcomeRecord) -> int:
    """How many results a record holds."""
    if record.indices is None:
        return 1
    return sum(last - first + 1 for first, last in record.indices)


def shares(records: Iterable[OutcomeRecord], cars: Sequence[str]) -> list[CarShare]:
    """What each of ``cars`` did, and whoever else is named in the records."""
    found = {car: [0, 0, 0.0] for car in cars}
    for record in records:
        if record.metering is None:
            continue
        row = found.setdefault(record.metering.car, [0, 0, 0.0])
        row[0] += items_of(record)
        row[1] += 1
        row[2] += record.metering.run_s
    return [CarShare(car, int(row[0]), int(row[1]), row[2]) for car, row in sorted(found.items())]


def departures(cars: Iterable[CarInfo], since_unix_s: float) -> list[Departure]:
    """The last departure of each car since the run began."""
    found = []
    for car in cars:
        last = car.last_departure
        if last.get("signal_unix_s", 0.0) >= since_unix_s:
            found.append(Departure(car.car, 1000 * last["killed_s"], 1000 * last["reaped_s"], last["signal_unix_s"]))
    return sorted(found, key=lambda departure: departure.signal_unix_s)


def handovers(records: Iterable[OutcomeRecord], left: Sequence[Departure]) -> list[Handover]:
    """Work that was under way on a car that left, and where it went on.

    A record says how often departures moved its call on, not whom it left: that is the last car whose owner came
    before the work was granted again.
    """
    found = []
    for record in records:
        metering = record.metering
        if metering is None or not metering.departures:
            continue
        before = [departure for departure in left if departure.signal_unix_s <= metering.started_unix_s]
        if before:
            away_ms = 1000 * (metering.started_unix_s - before[-1].signal_unix_s)
            found.append(Handover(record.call, before[-1].car, metering.car, items_of(record), away_ms))
    return sorted(found, key=lambda handover: handover.away_ms)


def differences(remote: Sequence[Mapping[str, object]], local: Sequence[Mapping[str, object]]) -> list[int]:
    """Numbers of the results that aren't equal (a missing one isn't equal to anything)."""
    longest = max(len(remote), len(local))
    return [
        number
        for number in range(longest)
        if number >= len(remote) or number >= len(local) or remote[number] != local[number]
    ]
