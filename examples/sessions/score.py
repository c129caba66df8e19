"""Clean and score recorded charging sessions: how good is each as an hour of computing in a parked car?

    fleet dev &
    python examples/sessions/score.py

One batch holds the sessions of one station. A batch becomes its rejected rows by reason, a score per session, the
load it makes by quarter-hour, and a bootstrap interval for how long its cars stand plugged in after they are full.

All sums are of integers (Wh, minutes, thousandths): the result is the same to the last digit in every Python.

Units: ``*_wh`` watt hours, ``*_min`` minutes, ``*_permille`` thousandths.
"""

from __future__ import annotations

import csv
import gzip
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fleet

COLUMNS = (
    "site", "station_id", "session_id", "arrival_utc", "departure_utc", "declared_departure_utc",
    "requested_kwh", "delivered_kwh", "claimed",
)  # fmt: skip
BATCH_ROWS = 200
STATION_W = 6600
"""What these stations deliver: 32 A at 208 V."""
POWER_W_MAX = 7500
STAY_MIN_MIN = 10
STAY_MIN_MAX = 4 * 24 * 60
QUARTERS = 96
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """One plausible session."""

    session_id: str
    arrival: datetime
    stay_min: int
    declared_min: int
    delivered_wh: int

    @property
    def idle_permille(self) -> int:
        """Share of the stay that the car was full, had it charged at once."""
        need_min = -(-self.delivered_wh * 60 // STATION_W)
        return 1000 * max(0, self.stay_min - need_min) // self.stay_min

    @property
    def score(self) -> int:
        """0 to 1000: long stays, full early, drivers whose declared departure holds."""
        length = min(1000, 1000 * self.stay_min // 480)
        honesty = max(0, 1000 - 1000 * abs(self.declared_min - self.stay_min) // 180)
        return (4 * length + 4 * self.idle_permille + 2 * honesty) // 10


def parse(row: list[str]) -> Session | str:
    """The session of a row, or why it is rejected."""
    if len(row) != len(COLUMNS):
        return "wrong number of columns"
    field = dict(zip(COLUMNS, row, strict=True))
    try:
        arrival = datetime.fromisoformat(field["arrival_utc"])
        departure = datetime.fromisoformat(field["departure_utc"])
        declared = datetime.fromisoformat(field["declared_departure_utc"])
        delivered_wh = round(float(field["delivered_kwh"]) * 1000)
        requested_wh = round(float(field["requested_kwh"]) * 1000)
    except (ValueError, OverflowError):
        return "unreadable value"
    stay_min = (departure - arrival) // timedelta(minutes=1)
    if stay_min < STAY_MIN_MIN:
        return f"shorter than {STAY_MIN_MIN} minutes"
    if stay_min > STAY_MIN_MAX:
        return "longer than four days"
    if delivered_wh * 60 > POWER_W_MAX * stay_min:
        return "more power than the station has"
    if field["claimed"] == "True" and requested_wh <= 0:
        return "claimed, but nothing requested"
    return Session(field["session_id"], arrival, stay_min, (declared - arrival) // timedelta(minutes=1), delivered_wh)


def add_load(profile_wh: list[int], session: Session, power_w: int) -> None:
    """Spread what the session got over the quarter-hours of the day, charging with ``power_w`` from its arrival on."""
    quarter = (session.arrival.hour * 60 + session.arrival.minute) // 15
    left_wh = session.delivered_wh
    per_quarter_wh = max(1, power_w // 4)
    while left_wh > 0:
        took_wh = min(left_wh, per_quarter_wh)
        profile_wh[quarter % QUARTERS] += took_wh
        left_wh -= took_wh
        quarter += 1


def interval_of_median(values: list[int], seed: int) -> tuple[int, int]:
    """Bootstrap 90 % interval of the median."""
    if not values:
        return (0, 0)
    generator = random.Random(seed)
    middle = len(values) // 2
    medians = sorted(sorted(generator.choices(values, k=len(values)))[middle] for _ in range(RESAMPLES))
    return (medians[RESAMPLES // 20], medians[-1 - RESAMPLES // 20])


@fleet.function(timeout=60.0)
def score_batch(lines: list[str]) -> dict[str, Any]:
    """Clean and score the sessions of one station."""
    rejected: Counter[str] = Counter()
    sessions: list[Session] = []
    for row in csv.reader(lines):
        found = parse(row)
        if isinstance(found, str):
            rejected[found] += 1
        else:
            sessions.append(found)
    at_once_wh, spread_wh = [0] * QUARTERS, [0] * QUARTERS
    for session in sessions:
        add_load(at_once_wh, session, STATION_W)
        add_load(spread_wh, session, session.delivered_wh * 60 // session.stay_min)
    idle = [session.idle_permille for session in sessions]
    return {
        "station": lines[0].split(",", 2)[1],
        "read": len(lines),
        "rejected": dict(rejected),
        "scores": [(session.session_id, session.score) for session in sessions],
        "delivered_wh": sum(session.delivered_wh for session in sessions),
        "stay_min": sum(session.stay_min for session in sessions),
        "idle_permille_90": interval_of_median(idle, zlib.crc32(lines[0].encode())),
        "at_once_wh": at_once_wh,
        "spread_wh": spread_wh,
    }


def data_file() -> Path:
    """The recorded sessions that come with the examples."""
    return Path(__file__).resolve().parents[1] / "data" / "acn_workplace_sessions.csv.gz"


def batches(path: Path) -> Iterator[list[str]]:
    """The file's rows by station, at most BATCH_ROWS each, in a fixed order."""
    by_station: dict[str, list[str]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            by_station[line.split(",", 2)[1]].append(line.rstrip("\n"))
    for _, rows in sorted(by_station.items()):
        for first in range(0, len(rows), BATCH_ROWS):
            yield rows[first : first + BATCH_ROWS]


def summary(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """All batches together."""
    rejected: Counter[str] = Counter()
    stations: defaultdict[str, list[int]] = defaultdict(list)
    at_once_wh, spread_wh = [0] * QUARTERS, [0] * QUARTERS
    read = delivered_wh = stay_min = 0
    for result in results:
        read += result["read"]
        delivered_wh += result["delivered_wh"]
        stay_min += result["stay_min"]
        rejected.update(result["rejected"])
        stations[result["station"]] += [score for _, score in result["scores"]]
        at_once_wh = [a + b for a, b in zip(at_once_wh, result["at_once_wh"], strict=True)]
        spread_wh = [a + b for a, b in zip(spread_wh, result["spread_wh"], strict=True)]
    scored = {name: scores for name, scores in stations.items() if len(scores) >= 30}
    best = max(scored, key=lambda name: (sum(scored[name]) / len(scored[name]), name))
    return {
        "sessions read": read,
        **{f"rejected, {reason}": count for reason, count in sorted(rejected.items())},
        "stations": len(stations),
        "energy, MWh": delivered_wh // 100_000 / 10,
        "hours plugged in": stay_min // 60,
        "peak load if charging is spread over the stay, %": 100 * max(spread_wh) // max(at_once_wh),
        "best station for computing": f"{best} (score {sum(scored[best]) // len(scored[best])} of 1000)",
    }


def main() -> None:
    """Score all recorded sessions on the fleet and print what came of it."""
    for name, value in summary(score_batch.map(batches(data_file()))).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
