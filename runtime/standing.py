"""Whether the owner's rules let the car work right now: a pure function of (policy, state, signals, time).

All conditions must hold to start, one that fails stops at once, what isn't known doesn't hold. After a stop the car
comes back only when all have held for ``come_back_s``, so that a loose plug doesn't make it flap.
Constraints are declared in the manner of Android's WorkManager, preferences named after BOINC's.

Units:    ``*_s`` seconds, ``*_pct`` percent, ``*_c`` degrees Celsius. ``now_s`` is monotonic, ``unix_s`` since 1970.
Errors:   a policy out of range is an InvalidOption. ``evaluate`` raises nothing.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo

from fleet.protocol.errors import InvalidOption
from fleet.protocol.limits import SIGNAL_STALE_S
from fleet.protocol.messages import Standing
from runtime.signals.model import Gear, Signals

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MIN = 24 * 60
COME_BACK_S_DEFAULT = 30.0


class Reason(enum.StrEnum):
    """Why a car does not work; in the order in which they are told."""

    NOT_OPTED_IN = "not_opted_in"
    STOPPING = "stopping"
    SIGNALS_STALE = "signals_stale"
    PAUSED = "paused"
    NOT_PARKED = "not_parked"
    NOT_PLUGGED_IN = "not_plugged_in"
    DEPARTING = "departing"
    SOC_BELOW_FLOOR = "soc_below_floor"
    FAST_CHARGING = "fast_charging"
    BATTERY_TEMPERATURE = "battery_temperature"
    CABIN_TEMPERATURE = "cabin_temperature"
    OUTSIDE_HOURS = "outside_hours"
    NOT_ON_WIFI = "not_on_wifi"
    COMING_BACK = "coming_back"

    @property
    def for_owner(self) -> str:
        """One line for the owner of the car."""
        return _LINES[self][0]

    @property
    def for_operator(self) -> str:
        """One line for whoever runs the fleet."""
        return _LINES[self][1]


_LINES: dict[Reason, tuple[str, str]] = {
    Reason.NOT_OPTED_IN: ("You haven't allowed your car to work yet.", "owner has not opted in"),
    Reason.STOPPING: ("Your car's computer is shutting the program down.", "agent is stopping"),
    Reason.SIGNALS_STALE: (
        "Your car hasn't told how it is for a while.",
        f"no signals for {SIGNAL_STALE_S:.0f} s (fails closed)",
    ),
    Reason.PAUSED: ("You paused it.", "paused by the owner"),
    Reason.NOT_PARKED: ("Your car is being driven.", "gear is not P"),
    Reason.NOT_PLUGGED_IN: ("Your car is not plugged in.", "not plugged in"),
    Reason.DEPARTING: ("You are about to leave.", "departure announced: running work goes on, nothing new"),
    Reason.SOC_BELOW_FLOOR: ("The battery is below the level you set.", "state of charge below the owner's floor"),
    Reason.FAST_CHARGING: ("Your car is fast charging.", "DC fast charging"),
    Reason.BATTERY_TEMPERATURE: ("The battery is too hot or too cold.", "battery temperature out of the owner's range"),
    Reason.CABIN_TEMPERATURE: ("The cabin is too hot.", "cabin temperature over the owner's limit"),
    Reason.OUTSIDE_HOURS: ("It is outside the hours you set.", "outside the owner's hours"),
    Reason.NOT_ON_WIFI: ("Your car is not on Wi-Fi.", "not on Wi-Fi, which the owner requires"),
    Reason.COMING_BACK: ("Your car starts working again in a moment.", "waits out its back-off after a stop"),
}
assert set(_LINES) == set(Reason)

_WINDOW = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)\Z")


@dataclass(frozen=True, slots=True)
class Hours:
    """One window of the week. ``end_min`` <= ``start_min`` reaches into the next day; minutes count from midnight."""

    days: frozenset[int]
    start_min: int
    end_min: int

    @classmethod
    def parse(cls, text: str) -> Hours:
        """From ``mon-fri 22:00-06:00``, ``sat 08:00-12:00`` or ``22:00-06:00``; else InvalidOption."""
        found = _WINDOW.match(text.strip().lower())
        if found is None:
            raise InvalidOption(f"hours {text!r} are not allowed: write 'mon-fri 22:00-06:00' or '22:00-06:00'")
        first, last = found[1] or "mon", found[2] or found[1] or "sun"
        start_min, end_min = int(found[3]) * 60 + int(found[4]), int(found[5]) * 60 + int(found[6])
        if first not in DAYS or last not in DAYS or max(start_min, end_min) > DAY_MIN or int(found[4]) > 59:
            raise InvalidOption(f"hours {text!r} are not allowed: days are {' '.join(DAYS)}, times 00:00 to 24:00")
        count = (DAYS.index(last) - DAYS.index(first)) % 7 + 1
        return cls(frozenset((DAYS.index(first) + step) % 7 for step in range(count)), start_min, end_min)

    def holds(self, weekday: int, minute: int) -> bool:
        """Whether that minute of that day (0 Monday) lies inside."""
        if self.start_min < self.end_min:
            return weekday in self.days and self.start_min <= minute < self.end_min
        late = weekday in self.days and minute >= self.start_min
        early = (weekday - 1) % 7 in self.days and minute < self.end_min
        return late or early


@dataclass(frozen=True, slots=True)
class OwnerPolicy:
    """What the owner allows. Checked when made: InvalidOption says the allowed range."""

    opted_in: bool = True
    soc_floor_pct: float = 20.0
    soc_hysteresis_pct: float = 5.0
    """After falling below the floor the charge must rise this far above it."""
    hours: tuple[Hours, ...] = ()
    """Windows of the week when the car may work; none: always."""
    timezone: str = "UTC"
    wifi_only: bool = False
    allow_fast_charging: bool = False
    battery_c_min: float | None = None
    battery_c_max: float | None = None
    cabin_c_max: float | None = None
    come_back_s: float = COME_BACK_S_DEFAULT
    zone: tzinfo = field(init=False, repr=False, compare=False, default=UTC)

    def __post_init__(self) -> None:
        if not 0 <= self.soc_floor_pct <= 100:
            raise InvalidOption(f"soc_floor_pct={self.soc_floor_pct:g} is not allowed: 0 to 100")
        if not 0 <= self.soc_hysteresis_pct <= 100 - self.soc_floor_pct:
            raise InvalidOption(
                f"soc_hysteresis_pct={self.soc_hysteresis_pct:g} is not allowed: 0 to 100 less the floor"
            )
        if not 0 <= self.come_back_s <= 3600:
            raise InvalidOption(f"come_back_s={self.come_back_s:g} is not allowed: 0 to 3600")
        for name in ("battery_c_min", "battery_c_max", "cabin_c_max"):
            value = getattr(self, name)
            if value is not None and not -60 <= value <= 100:
                raise InvalidOption(f"{name}={value:g} is not allowed: -60 to 100")
        if self.timezone != "UTC":
            object.__setattr__(self, "zone", _zone(self.timezone))


def _zone(name: str) -> tzinfo:
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidOption(f"timezone={name!r} is not allowed: use an IANA name such as Europe/Oslo") from None


@dataclass(frozen=True, slots=True)
class StandingState:
    """What the function remembers between two calls."""

    eligible: bool = False
    reasons: tuple[Reason, ...] = (Reason.SIGNALS_STALE,)
    since_unix_s: float = 0.0
    soc_low: bool = False
    stopped: bool = False
    """It was eligible and had to stop: coming back takes ``come_back_s``."""
    clear_since_s: float | None = None
    """Since when every condition holds."""
    due_s: float = float("inf")
    """Evaluate again at this time at the latest, even if nothing is heard."""

    @property
    def may_finish(self) -> bool:
        """Whether what runs may go on although nothing new may start: a departure is announced, nothing else."""
        return self.reasons == (Reason.DEPARTING,)

    @property
    def standing(self) -> Standing:
        """As it is told to the control plane."""
        return Standing(
            eligible=self.eligible, reasons=[reason.value for reason in self.reasons], since_unix_s=self.since_unix_s
        )


def evaluate(
    policy: OwnerPolicy,
    state: StandingState,
    signals: Signals | None,
    *,
    heard_s: float,
    now_s: float,
    unix_s: float,
    stopping: bool = False,
) -> StandingState:
    """The state after now. ``signals`` are the newest, heard at ``heard_s``; None: never heard any."""
    soc_low = state.soc_low
    stale_s = heard_s + SIGNAL_STALE_S
    reasons: list[Reason] = [Reason.STOPPING] if stopping else []
    if not policy.opted_in:
        reasons.append(Reason.NOT_OPTED_IN)
    if signals is None or now_s >= stale_s:
        reasons.append(Reason.SIGNALS_STALE)
    else:
        soc_low = _soc_low(policy, soc_low, signals.soc_pct)
        reasons += _failing(policy, signals, soc_low)
    due_s = stale_s if signals is not None and now_s < stale_s else float("inf")

    clear_since_s, stopped = state.clear_since_s, state.stopped
    if reasons:
        clear_since_s = None
        # An announced departure ends no work, but coming back from it is a come-back like any other.
        stopped = stopped or state.eligible
    else:
        clear_since_s = now_s if clear_since_s is None else clear_since_s
        if stopped and now_s < clear_since_s + policy.come_back_s:
            reasons.append(Reason.COMING_BACK)
            due_s = min(due_s, clear_since_s + policy.come_back_s)
        else:
            stopped = False
    changed = (not reasons) != state.eligible or tuple(reasons) != state.reasons or not state.since_unix_s
    return replace(
        state, eligible=not reasons, reasons=tuple(reasons), since_unix_s=unix_s if changed else state.since_unix_s,
        soc_low=soc_low, stopped=stopped, clear_since_s=clear_since_s, due_s=due_s,
    )  # fmt: skip


def _soc_low(policy: OwnerPolicy, was_low: bool, soc_pct: float | None) -> bool:
    if soc_pct is None:
        return was_low
    return soc_pct < policy.soc_floor_pct + (policy.soc_hysteresis_pct if was_low else 0.0)


def _failing(policy: OwnerPolicy, signals: Signals, soc_low: bool) -> list[Reason]:
    """Conditions that don't hold, in the order of Reason."""
    failing = []
    if signals.paused:
        failing.append(Reason.PAUSED)
    if signals.gear is not Gear.PARK:
        failing.append(Reason.NOT_PARKED)
    if signals.plugged_in is not True:
        failing.append(Reason.NOT_PLUGGED_IN)
    if signals.departing:
        failing.append(Reason.DEPARTING)
    if soc_low or (policy.soc_floor_pct > 0 and signals.soc_pct is None):
        failing.append(Reason.SOC_BELOW_FLOOR)
    if not policy.allow_fast_charging and signals.fast_charging is not False:
        failing.append(Reason.FAST_CHARGING)
    if not _within(signals.battery_c, policy.battery_c_min, policy.battery_c_max):
        failing.append(Reason.BATTERY_TEMPERATURE)
    if not _within(signals.cabin_c, None, policy.cabin_c_max):
        failing.append(Reason.CABIN_TEMPERATURE)
    if policy.hours:
        local = datetime.fromtimestamp(signals.at_unix_s, policy.zone)
        if not any(hours.holds(local.weekday(), local.hour * 60 + local.minute) for hours in policy.hours):
            failing.append(Reason.OUTSIDE_HOURS)
    if policy.wifi_only and signals.wifi is not True:
        failing.append(Reason.NOT_ON_WIFI)
    return failing


def _within(value: float | None, low: float | None, high: float | None) -> bool:
    if low is None and high is None:
        return True
    return value is not None and (low is None or value >= low) and (high is None or value <= high)
