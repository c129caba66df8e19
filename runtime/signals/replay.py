"""Signals replayed from recorded charging sessions: when real cars came and left.

Records:  CSV (or .csv.gz) with ``station_id`` or ``user_id``, ``arrival_utc``, ``departure_utc`` (RFC 3339) and, where
          there is one, ``delivered_kwh``; ACN-Data and the Norwegian home sessions have these. One station (or user)
          is one car. Sessions that overlap are one stay.
Added:    the records say when a car was plugged in and how much it took, nothing else. What we make up beside that
          is in functions named ``simulated_*`` and in ``Signals.simulated``.
Time:     the record runs ``speed`` times faster than the clock, from ``start_unix_s`` on, and begins anew at its end.
          Without ``start_unix_s`` it starts where most of the file's cars are plugged in at once.
"""

from __future__ import annotations

import csv
import gzip
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fleet.protocol.errors import InvalidOption
from runtime.signals.manual import Simulated
from runtime.signals.model import Charging, Clock, Gear, Signals

WEEK_S = 7 * 86400.0
SIMULATED_BATTERY_KWH = 60.0
SIMULATED_SOC_AT_DEPARTURE_PCT = 80.0
SIMULATED_SOC_MIN_PCT = 10.0


@dataclass(frozen=True, slots=True)
class Stay:
    """One time that a car stood plugged in."""

    arrival_unix_s: float
    departure_unix_s: float
    delivered_kwh: float


@dataclass(frozen=True)
class Recording:
    """All stays of a file, by station or user."""

    stays: dict[str, list[Stay]]

    @property
    def span_unix_s(self) -> tuple[float, float]:
        """First arrival and last departure of all."""
        every = [stay for stays in self.stays.values() for stay in stays]
        return min(stay.arrival_unix_s for stay in every), max(stay.departure_unix_s for stay in every)

    @property
    def busiest_unix_s(self) -> float:
        """A moment when the most cars are plugged in at once (the first, if there are several)."""
        changes = sorted(
            change
            for stays in self.stays.values()
            for stay in stays
            for change in ((stay.arrival_unix_s, 1), (stay.departure_unix_s, -1))
        )
        best, best_unix_s, here = 0, changes[0][0], 0
        for at_unix_s, step in changes:
            here += step
            if here > best:
                best, best_unix_s = here, at_unix_s
        return best_unix_s


def read(path: Path) -> Recording:
    """The sessions of a file; InvalidOption, naming the line, where it isn't one."""
    opened = gzip.open if path.suffix == ".gz" else open
    found: dict[str, list[Stay]] = {}
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            names = rows.fieldnames or ()
            who = next((name for name in ("station_id", "user_id") if name in names), None)
            if who is None or not {"arrival_utc", "departure_utc"} <= set(names):
                raise InvalidOption(
                    f"{path} is no recording of sessions: it needs the columns station_id or user_id, arrival_utc"
                    " and departure_utc"
                )
            for row in rows:
                try:
                    stay = Stay(
                        _unix_s(row["arrival_utc"]), _unix_s(row["departure_utc"]), float(row.get("delivered_kwh") or 0)
                    )
                except (ValueError, TypeError, AttributeError) as error:
                    raise InvalidOption(f"{path} line {rows.line_num} is no session: {error}") from None
                if stay.departure_unix_s > stay.arrival_unix_s:
                    found.setdefault(row[who], []).append(stay)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidOption(f"the recorded sessions in {path} can't be read: {error}") from None
    if not found:
        raise InvalidOption(f"{path} holds no session")
    return Recording({name: merged(stays) for name, stays in found.items()})


def merged(stays: Iterable[Stay]) -> list[Stay]:
    """Stays in order, overlapping ones joined."""
    result: list[Stay] = []
    for stay in sorted(stays, key=lambda stay: stay.arrival_unix_s):
        if result and stay.arrival_unix_s <= result[-1].departure_unix_s:
            last = result[-1]
            result[-1] = Stay(
                last.arrival_unix_s,
                max(last.departure_unix_s, stay.departure_unix_s),
                last.delivered_kwh + stay.delivered_kwh,
            )
        else:
            result.append(stay)
    return result


def _unix_s(text: str) -> float:
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def simulated_soc_pct(stay: Stay, at_unix_s: float) -> float:
    """State of charge during a stay: what was delivered comes in evenly, up to a usual level at departure."""
    end = SIMULATED_SOC_AT_DEPARTURE_PCT
    start = max(SIMULATED_SOC_MIN_PCT, end - 100 * stay.delivered_kwh / SIMULATED_BATTERY_KWH)
    share = (at_unix_s - stay.arrival_unix_s) / (stay.departure_unix_s - stay.arrival_unix_s)
    return start + (end - start) * min(1.0, max(0.0, share))


class Timeline:
    """One car's stays as a function of time; they repeat after ``period_s`` (whole weeks, so weekdays stay true)."""

    def __init__(self, stays: list[Stay], span_unix_s: tuple[float, float]) -> None:
        assert stays, "a car without stays"
        self._stays = stays
        self._arrivals = [stay.arrival_unix_s for stay in stays]
        self._first_unix_s = span_unix_s[0]
        self.period_s = WEEK_S * -(-(span_unix_s[1] - span_unix_s[0]) // WEEK_S)

    def at(self, unix_s: float) -> tuple[Signals, float]:
        """The signals at that time of the record, and for how many of the record's seconds plugged_in stays as it is."""
        folded = self._first_unix_s + (unix_s - self._first_unix_s) % self.period_s
        index = bisect_right(self._arrivals, folded) - 1
        if index >= 0 and folded < self._stays[index].departure_unix_s:
            stay = self._stays[index]
            return _plugged(unix_s, simulated_soc_pct(stay, folded)), stay.departure_unix_s - folded
        if index + 1 < len(self._stays):
            next_unix_s = self._arrivals[index + 1]
        else:
            next_unix_s = self._arrivals[0] + self.period_s
        return _away(unix_s), next_unix_s - folded


_SIMULATED = frozenset(("gear", "charging", "fast_charging", "soc_pct", "battery_c", "cabin_c", "wifi"))


def _plugged(at_unix_s: float, soc_pct: float) -> Signals:
    return Signals(
        at_unix_s=at_unix_s, gear=Gear.PARK, plugged_in=True, charging=Charging.CHARGING, fast_charging=False,
        soc_pct=soc_pct, battery_c=20.0, cabin_c=20.0, wifi=True, simulated=_SIMULATED,
    )  # fmt: skip


def _away(at_unix_s: float) -> Signals:
    return Signals(
        at_unix_s=at_unix_s, gear=Gear.DRIVE, plugged_in=False, charging=Charging.DISCONNECTED, fast_charging=False,
        soc_pct=SIMULATED_SOC_AT_DEPARTURE_PCT, battery_c=20.0, cabin_c=20.0, wifi=False, simulated=_SIMULATED,
    )  # fmt: skip


class ReplaySource(Simulated):
    """One recorded car. ``station``: its name in the file, or its number by how many sessions it has (0: the most)."""

    def __init__(
        self,
        recording: Recording,
        station: str | int,
        *,
        speed: float = 1.0,
        start_unix_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        if not 0 < speed <= 1e6:
            raise InvalidOption(f"speed {speed:g} is not allowed: above 0, up to 1000000")
        name = station
        if isinstance(name, int):
            by_count = sorted(recording.stays, key=lambda name: (-len(recording.stays[name]), name))
            if not 0 <= name < len(by_count):
                raise InvalidOption(f"station {name} is not allowed: 0 to {len(by_count) - 1}")
            name = by_count[name]
        if name not in recording.stays:
            some = ", ".join(sorted(recording.stays)[:5])
            raise InvalidOption(f"the recording has no station {name!r}", hint=f"it has {some} ...")
        self.station: str = name
        self._timeline = Timeline(recording.stays[name], recording.span_unix_s)
        self._speed = speed
        self._start_unix_s = recording.busiest_unix_s if start_unix_s is None else start_unix_s
        self._started_s = self._clock.monotonic_s()

    def base(self) -> tuple[Signals, float]:
        """See Simulated."""
        at_unix_s = self._start_unix_s + (self._clock.monotonic_s() - self._started_s) * self._speed
        signals, stays_s = self._timeline.at(at_unix_s)
        return signals, stays_s / self._speed
