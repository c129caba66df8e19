"""Every night: what the chargers of two sites did on the day before, from recorded sessions.

    fleet dev &
    fleet deploy examples/nightly/report.py
    fleet logs report.nightly -f

The recording (``examples/data``, ACN-Data) stands in for the meters: its 34 whole weeks from May to December 2019, over and
over. A report over a day of this year reads the recorded day a whole number of 34 weeks before, which is the same day of the
week. The file travels with the function.

``missed="all"``: nights on which the platform was down are reported, too, once it is back.

Units: ``*_wh`` watt hours, ``*_w`` watts, ``*_min`` minutes.
"""

from __future__ import annotations

import csv
import gzip
import importlib.resources
import io
from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import fleet
from examples.sessions.score import COLUMNS, QUARTERS, STATION_W, Session, add_load, parse

HERE = ZoneInfo("America/Los_Angeles")
"""Where the sites are."""
LAST_RECORDED = date(2019, 12, 29)
RECORDED = timedelta(weeks=34)


@fleet.function(
    on=[fleet.cron("15 3 * * *", timezone="America/Los_Angeles", missed="all")],
    include=["examples/data/acn_workplace_sessions.csv.gz"],
    timeout="2m",
    retries=2,
)
def nightly(event: fleet.Event) -> dict[str, Any]:
    """Report the day before ``event.time``, the time it was due."""
    assert event.time is not None, "clocks say when"
    day = recorded_day(event.time.astimezone(HERE).date() - timedelta(days=1))
    found = report(day, sessions_of(day))
    for site, told in found["sites"].items():
        print(f"{day} {site}: {told['sessions']} sessions, {told['delivered_wh'] / 1000:.1f} kWh")
    return found


def recorded_day(day: date) -> date:
    """The recorded day that stands for ``day``."""
    past = max(timedelta(0), day - LAST_RECORDED)
    return day - RECORDED * -(-past // RECORDED)


def sessions_of(day: date) -> list[tuple[str, str, Session]]:
    """The plausible sessions that began on ``day``, each with its site and its station."""
    found: list[tuple[str, str, Session]] = []
    # Local days reach into the next day of UTC: compare texts first, read the times of those few alone.
    days = {day.isoformat(), (day + timedelta(days=1)).isoformat()}
    at = COLUMNS.index("arrival_utc")
    # As a resource of the package it is found on a car, too, where no file system holds it.
    packed = importlib.resources.files("examples").joinpath("data/acn_workplace_sessions.csv.gz").read_bytes()
    for row in csv.reader(io.StringIO(gzip.decompress(packed).decode(), newline="")):
        if row[at][:10] in days:
            session = parse(row)
            if isinstance(session, Session) and session.arrival.astimezone(HERE).date() == day:
                found.append((row[0], row[1], session))
    return found


def report(day: date, sessions: Iterable[tuple[str, str, Session]]) -> dict[str, Any]:
    """Sessions, energy, the peak by quarter-hour (UTC), and how long cars stood full, by site."""
    by_site: defaultdict[str, list[Session]] = defaultdict(list)
    for site, _, session in sessions:
        by_site[site].append(session)
    return {"day": day.isoformat(), "sites": {site: _site(found) for site, found in sorted(by_site.items())}}


def _site(sessions: list[Session]) -> dict[str, Any]:
    load_wh = [0] * QUARTERS
    for session in sessions:
        add_load(load_wh, session, STATION_W)
    peak = max(range(QUARTERS), key=lambda quarter: (load_wh[quarter], -quarter))
    return {
        "sessions": len(sessions),
        "delivered_wh": sum(one.delivered_wh for one in sessions),
        "peak_w": load_wh[peak] * 4,
        "peak_at": f"{peak // 4:02d}:{peak % 4 * 15:02d}Z",
        "idle_min": sum(one.stay_min * one.idle_permille // 1000 for one in sessions),
    }


def due(text: str) -> fleet.Event:
    """The event of a tick, made by hand: ``nightly(due("2026-03-02T11:15:00+00:00"))`` is a report right here."""
    return fleet.Event(type="fleet.cron", time=datetime.fromisoformat(text))
