"""Embed many sentences while cars leave one after another: is every embedding right, and what was computed twice?

    python -m benchmarks.leaving --sentences 5000 --cars 4 --every 5

One car leaves at a time and comes back when the next one leaves. Each embedding is compared with one made in this process.
What was computed twice is read from the metering of outcomes: a result is stored once, by one lease; a lease that ended
without one was on a car that left, and its call says so (``departures``). A car holds few leases at a time: those of the calls
that it runs, and those that wait behind them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import jax
import numpy as np

from examples.demo.records import records_of_function
from examples.embeddings import model, search, text
from examples.embeddings.text import Batch
from fleet.protocol.messages import OutcomeRecord
from fleet.testing import LocalCar, LocalFleet

SIZE = 64
"""Sentences of a batch."""


@dataclass(frozen=True, slots=True)
class Departure:
    """One car that left: when its source said so, and how many leases it can have held."""

    car: str
    signal_unix_s: float
    leases_max: int


@dataclass(frozen=True, slots=True)
class Report:
    """``vectors`` [sentences, 384], and what the platform stored about the calls that made them."""

    vectors: np.ndarray
    batches: int
    wall_s: float
    departures: list[Departure]
    records: list[OutcomeRecord]

    def moved(self) -> list[OutcomeRecord]:
        """What had begun, or waited, on a car that left."""
        return [record for record in self.records if record.metering is not None and record.metering.departures]

    def wrong(self) -> list[str]:
        """What contradicts "nothing was computed twice but what was in flight", in sentences."""
        found = []
        items = sum(sum(last - first + 1 for first, last in record.indices or [(0, 0)]) for record in self.records)
        if items != self.batches:
            found.append(f"{items} results are stored for {self.batches} batches")
        again = sum(record.metering.departures for record in self.moved() if record.metering is not None)
        held = sum(departure.leases_max for departure in self.departures)
        if again > held:
            found.append(f"{again} leases ended without a result, the cars that left held at most {held}")
        for record in self.records:
            metering = record.metering
            assert metering is not None, record
            if metering.attempt != 1:
                found.append(f"{record.call} was charged {metering.attempt} attempts")
            before = [one for one in self.departures if one.signal_unix_s < metering.started_unix_s]
            if len(before) < metering.departures:
                found.append(
                    f"{record.call} moved {metering.departures} times, with {len(before)} departures before it"
                )
        return found


def embed_while_cars_leave(fleet: LocalFleet, batches: Sequence[Batch], due: Callable[[int], bool]) -> Report:
    """Embed ``batches`` on ``fleet``; after each one that comes back, ``due(departures so far)`` may send a car away."""
    departures: list[Departure] = []
    away: LocalCar | None = None
    rows = []
    begun_s, begun_unix_s = time.monotonic(), time.time()
    # In the order of the batches: what waits behind one that moved is not asked for before it.
    for row in search.embed.starmap([(batch.ids, batch.lengths) for batch in batches], chunksize=1):
        rows.append(np.asarray(row))
        if len(rows) < len(batches) and due(len(departures)):
            leaves = fleet.cars[len(departures) % len(fleet.cars)]
            if away is not None:
                away.park()
            departures.append(_departure(leaves))
            away = leaves
    wall_s = time.monotonic() - begun_s
    if away is not None:
        away.park()
    app, name = search.embed.app_name, search.embed.name
    records = [
        record
        for record in anyio.run(records_of_function, fleet.url, app, name)
        if record.metering is not None and record.metering.submitted_unix_s >= begun_unix_s
    ]
    return Report(text.joined(list(zip(batches, rows, strict=True))), len(batches), wall_s, departures, records)


def _departure(car: LocalCar) -> Departure:
    offer = car.info().offer
    before = car.info().last_departure.get("signal_unix_s", 0.0)
    car.drive_away()
    signal_unix_s = car.info().last_departure["signal_unix_s"]
    assert signal_unix_s > before, f"{car.name} told nothing of its departure"
    return Departure(car.name, signal_unix_s, offer.slots * (1 + offer.ahead))


def cosines(vectors: np.ndarray, batches: Sequence[Batch]) -> np.ndarray:
    """The cosine of each vector with that of an embedding made in this process."""
    params = jax.device_put(model.load())
    run = jax.jit(model.embed)
    here = text.joined([(one, np.asarray(run(params, one.ids, one.lengths))) for one in batches])
    lengths = np.linalg.norm(here, axis=1) * np.linalg.norm(vectors, axis=1)
    found: np.ndarray = (here * vectors).sum(axis=1) / lengths
    return found


def every(seconds: float) -> Callable[[int], bool]:
    """True once in so many seconds."""
    begun_s = time.monotonic()
    return lambda departures: time.monotonic() - begun_s >= seconds * (departures + 1)


def main() -> None:
    """Measure with the given sizes, and print what came of it; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=5000)
    parser.add_argument("--cars", type=int, default=4)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS")
    given = parser.parse_args()
    batches = text.batches(text.library_sentences(given.sentences), SIZE)
    with LocalFleet(cars=given.cars) as fleet:
        list(search.embed.starmap([(batches[0].ids, batches[0].lengths)]))  # program and weights are uploaded
        report = embed_while_cars_leave(fleet, batches, every(given.every))
    least = cosines(report.vectors, batches).min()
    wrong = report.wrong()
    print(f"{given.sentences} sentences in {report.wall_s:.1f} s on {given.cars} cars: {report.batches} batches")
    print(f"departures: {len(report.departures)}, batches begun again elsewhere, at most: {len(report.moved())}")
    print(f"least cosine with the embedding made here: {least:.7f}")
    print("\n".join(wrong) or "nothing was computed twice but what was in flight")
    raise SystemExit(int(bool(wrong) or least < 1 - 1e-4))


if __name__ == "__main__":
    main()
