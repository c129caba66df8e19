"""When clocks tick: pure functions of (trigger, what is settled, now).

A cron expression has five fields (minute first), or six (second first), or is a name such as ``@daily``. ``cronsim`` reads
the five fields as Debian's cron does (day of month and day of week: either suffices, unless one begins with ``*``); a clock
ticks in each second of the field for seconds (0 without one) of each minute that the five fields name.

Where clocks are put forward or back, as Debian's cron has it:

- fields for minute and hour that both don't begin with ``*`` name a time of day: a tick in the hour that is skipped comes at
  its end (once, however many are named in it), one in the hour that is doubled comes the first time only;
- else the clock goes by elapsed time: no ticks in the skipped hour, ticks in both runs of the doubled one.

``fleet.every`` goes by elapsed time since 1970. Times are seconds since 1970; a tick's name is its time in UTC (``tick_text``).

Missed: a tick that is noticed later than TICK_GRACE_S. ``due`` never gives a tick at or before the last one it gave: a clock
that is set back repeats none, one that is set forward missed what lies between. Errors: InvalidOption.
"""

from __future__ import annotations

import difflib
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from fleet.protocol.errors import InvalidOption
from fleet.protocol.limits import EVERY_S_MIN, EXPRESSION_CHARS_MAX, TICK_GRACE_S, TICKS_MISSED_MAX
from fleet.protocol.messages import Message
from fleet.protocol.messages.triggers import AtTrigger, ClockTrigger, CronTrigger, EveryTrigger

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS = (
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31, L for the last, LW for the last weekday"),
    ("month", "1-12 or JAN-DEC"),
    ("day of week", "0-7 or SUN-SAT, 0 and 7 are Sunday, MON#2 for the second, 5L for the last Friday"),
)
SECOND = ("second", "0-59")
NOT_ZONES = frozenset({"localtime", "Factory"})
"""Mean something else on each machine, or nothing."""
REFERENCE = datetime(2024, 1, 1)
"""Days of month and week repeat every 28 years here; cronsim looks 50 years ahead for a match."""
UNIX_S_MAX = datetime(9000, 1, 1, tzinfo=UTC).timestamp()
BACK_S = 3 * 3600.0
"""Farther than any clock is put forward or back at once."""
ON_TIME_MAX = int(TICK_GRACE_S / EVERY_S_MIN) + 1
"""Ticks of one clock that can be on time at once."""


class ClockState(Message):
    """What of a clock is settled: its last tick that ran, or when it was deployed."""

    last_unix_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Due:
    """Ticks to run now, oldest first, and the state when all of them are stored.

    ``late``: how many of them, the first ones, were missed. ``cut``: more were missed than are made up for.
    """

    ticks: list[float]
    state: ClockState
    late: int = 0
    cut: bool = False


class Cron:
    """A cron expression that was read: ``after`` iterates its ticks."""

    __slots__ = ("_minutes", "_seconds", "_zone")

    def __init__(self, minutes: str, seconds: tuple[int, ...], zone: ZoneInfo) -> None:
        self._minutes = minutes
        self._seconds = seconds
        self._zone = zone

    def after(self, unix_s: float) -> Iterator[float]:
        """Ticks later than ``unix_s``, oldest first."""
        # From within a doubled hour cronsim begins with its first run: what it gives of that is passed over.
        for minute in self._walk(math.floor(unix_s / 60) * 60 - 1, reverse=False):
            for second in self._seconds:
                if minute + second > unix_s:
                    yield minute + second

    def newest(self, after_unix_s: float, upto_unix_s: float, count: int) -> list[float]:
        """The newest ``count`` ticks with ``after_unix_s < tick <= upto_unix_s``, oldest first."""
        # Backwards cronsim only finds where to begin: around a changed clock its ways forwards and back differ.
        minutes = math.ceil(count / len(self._seconds)) + 1
        begin = after_unix_s
        for minute in self._walk(math.floor(upto_unix_s / 60) * 60 + 60, reverse=True):
            minutes -= 1
            if minute - BACK_S <= after_unix_s:
                break
            if minutes == 0:
                begin = minute - BACK_S
                break
        found = takewhile(lambda tick: tick <= upto_unix_s, self.after(begin))
        return list(deque(found, count))

    def _walk(self, unix_s: float, *, reverse: bool) -> Iterator[float]:
        """Minutes that match beyond ``unix_s``, for the next 50 years."""
        start = datetime.fromtimestamp(min(max(unix_s, 0.0), UNIX_S_MAX), self._zone)
        for minute in CronSim(self._minutes, start, reverse=reverse):
            yield minute.timestamp()


@lru_cache(1024)
def parse_cron(expression: str, timezone: str = "UTC") -> Cron:
    """The expression in a time zone of the IANA base; InvalidOption names what is wrong with it."""
    zone = _zone(timezone)
    if len(expression) > EXPRESSION_CHARS_MAX:
        raise InvalidOption(f"a cron expression of {len(expression)} characters is over the limit")
    shown = f'cron "{expression}"'
    text = expression.strip()
    if text.startswith("@"):
        if text.lower() not in ALIASES:
            raise InvalidOption(f"{shown} is no name of a clock", hint=f"known are {', '.join(sorted(ALIASES))}")
        text = ALIASES[text.lower()]
    parts = text.upper().split()
    if len(parts) not in (5, 6):
        raise InvalidOption(
            f"{shown} has {len(parts)} fields, 5 or 6 are needed",
            hint='minute, hour, day of month, month, day of week, such as "*/5 * * * *"; six: second first',
        )
    names = FIELDS if len(parts) == 5 else (SECOND, *FIELDS)
    for index, ((name, allowed), part) in enumerate(zip(names, parts, strict=True)):
        alone = ["*"] * len(parts)
        alone[index] = part
        # "Day 31" alone is right in some months: the check of all fields together is the one for days.
        if _cronsim(" ".join(alone)) is None:
            raise InvalidOption(
                f'the field for the {name}, "{part}", of {shown} is not allowed',
                hint=f"{allowed}; lists 1,2, ranges 1-5 (not backwards), steps */5",
            )
    whole = _cronsim(" ".join(parts))
    if whole is None or next(whole, None) is None:
        raise InvalidOption(f"{shown} never matches: there is no such day", hint="look at day of month and month")
    return Cron(" ".join(parts[-5:]), tuple(sorted(whole.seconds)), zone)


def _cronsim(expression: str) -> CronSim | None:
    try:
        return CronSim(expression, REFERENCE)
    except CronSimError:
        return None


def _zone(name: str) -> ZoneInfo:
    known = _zones()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), [one.lower() for one in known], 1) if len(name) < 64 else []
        named = next((one for one in known if close and one.lower() == close[0]), None)
        raise InvalidOption(
            f'timezone="{name}" is not known',
            hint=f'did you mean "{named}"?' if named else 'use a name of the IANA base, such as "Europe/Berlin"',
        )
    return ZoneInfo(name)


@lru_cache(1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - NOT_ZONES


def next_tick(trigger: ClockTrigger, after_unix_s: float) -> float | None:
    """The first tick later than ``after_unix_s``; None if there is none."""
    if isinstance(trigger, CronTrigger):
        return next(parse_cron(trigger.expression, trigger.timezone).after(after_unix_s), None)
    if isinstance(trigger, EveryTrigger):
        return trigger.every_s * (_periods(trigger.every_s, after_unix_s) + 1)
    return trigger.at_unix_s if trigger.at_unix_s > after_unix_s else None


def due(trigger: ClockTrigger, state: ClockState, now_unix_s: float) -> Due:
    """What of ``trigger`` is to run at ``now_unix_s``: what is on time, and of what was missed what its policy says."""
    if trigger.missed == "all":
        count = TICKS_MISSED_MAX + 1
    else:
        count = 1 if trigger.missed == "one" else 0
    ticks = _newest(trigger, state.last_unix_s, now_unix_s, count + ON_TIME_MAX)
    edge_unix_s = now_unix_s - TICK_GRACE_S
    on_time = [tick for tick in ticks if tick >= edge_unix_s]
    missed = [tick for tick in ticks if tick < edge_unix_s]
    kept = missed[len(missed) - min(len(missed), count, TICKS_MISSED_MAX) :]
    run = kept + on_time
    cut = trigger.missed == "all" and len(missed) > len(kept)
    return Due(run, ClockState(last_unix_s=run[-1]) if run else state, late=len(kept), cut=cut)


def _newest(trigger: ClockTrigger, after_unix_s: float, upto_unix_s: float, count: int) -> list[float]:
    if upto_unix_s <= after_unix_s:
        return []
    if isinstance(trigger, AtTrigger):
        return [trigger.at_unix_s] if after_unix_s < trigger.at_unix_s <= upto_unix_s else []
    if isinstance(trigger, EveryTrigger):
        last = _periods(trigger.every_s, upto_unix_s)
        first = max(_periods(trigger.every_s, after_unix_s), last - count)
        return [trigger.every_s * number for number in range(first + 1, last + 1)]
    return parse_cron(trigger.expression, trigger.timezone).newest(after_unix_s, upto_unix_s, count)


def _periods(every_s: float, unix_s: float) -> int:
    """How many whole periods lie between 1970 and ``unix_s``: the number of the newest tick at or before it."""
    number = math.floor(unix_s / every_s)
    # Division and multiplication round differently.
    while every_s * (number + 1) <= unix_s:
        number += 1
    while every_s * number > unix_s:
        number -= 1
    return number


def tick_text(unix_s: float) -> str:
    """The time of a tick as RFC 3339 in UTC, to the microsecond where it has a fraction: what its ids are made of."""
    return datetime.fromtimestamp(round(unix_s, 6), UTC).isoformat().replace("+00:00", "Z")
