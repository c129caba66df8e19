"""What starts a function by itself: ``on=[fleet.cron("0 2 * * *"), fleet.subject("sensors.*.t"), ...]``.

Small frozen values, checked lightly where they are written, so that a slip shows on its line; the control plane checks the
rest (the fields of a cron expression, filters) when they are deployed. Standard library only: runs in the wasm guest, too,
where a module with triggers is imported.

Triggers work for deployed functions alone: ``fleet run``, and calls of functions that were never deployed, ignore them.

Units: ``*_s`` seconds, ``*_unix_s`` seconds since 1970. Errors: InvalidOption that names the argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption
from fleet.protocol.units import format_seconds, parse_seconds

Missed = Literal["skip", "one", "all"]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Duration = float | str
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_POLICIES = ("skip", "one", "all")
_PER_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"\s*(\d{1,7})\s*/\s*([smhd])\s*\Z")
_RATE_COUNT_MAX = 1_000_000
_HINT = 'as in on=[fleet.cron("0 2 * * *"), fleet.subject("sensors.*.t")]'


@dataclass(frozen=True, slots=True)
class Cron:
    """See ``fleet.cron``."""

    expression: str
    timezone: str
    missed: Missed

    def __str__(self) -> str:
        return f"cron {self.expression} {self.timezone}"


@dataclass(frozen=True, slots=True)
class Every:
    """See ``fleet.every``."""

    every_s: float
    missed: Missed

    def __str__(self) -> str:
        return f"every {format_seconds(self.every_s)}"


@dataclass(frozen=True, slots=True)
class At:
    """See ``fleet.at``."""

    at_unix_s: float
    missed: Missed

    def __str__(self) -> str:
        return f"at {datetime.fromtimestamp(self.at_unix_s, UTC).isoformat().replace('+00:00', 'Z')}"


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events that start a function together: it gets a list of them.

    It starts with ``max_size`` events (1 to 10,000; 16 MiB together), or with fewer once the oldest has waited ``max_wait``
    (seconds, or a text like ``"1s"``; at most a day).
    """

    max_size: int = 100
    max_wait: Duration = "1s"

    def __post_init__(self) -> None:
        size = self.max_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= limits.EVENT_BATCH_MAX:
            raise InvalidOption(f"max_size={size!r} is out of range: allowed is 1 to {limits.EVENT_BATCH_MAX}")
        parse_seconds(self.max_wait, "max_wait", 0.0, limits.EVENT_WAIT_S_MAX)

    @property
    def max_wait_s(self) -> float:
        """``max_wait`` in seconds."""
        return parse_seconds(self.max_wait, "max_wait", 0.0, limits.EVENT_WAIT_S_MAX)


@dataclass(frozen=True, slots=True)
class Subject:
    """See ``fleet.subject``. ``rate`` is a number of starts, and in how many seconds."""

    subject: str
    filter: str | None = None
    batch: EventBatch | None = None
    debounce_s: float | None = None
    key: str | None = None
    rate: tuple[int, float] | None = None

    def __str__(self) -> str:
        return f"subject {self.subject}"


@dataclass(frozen=True, slots=True)
class Http:
    """See ``fleet.http``."""

    method: Method
    path: str

    def __str__(self) -> str:
        return f"http {self.method} {self.path}"


Trigger = Cron | Every | At | Subject | Http


def cron(expression: str, *, timezone: str = "UTC", missed: Missed = "one") -> Cron:
    """Start at the times of a cron expression: ``fleet.cron("*/5 * * * *", timezone="Europe/Berlin")``.

    Five fields (minute, hour, day of the month, month, day of the week), six with the second first, or ``@hourly``,
    ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``; in a time zone of the IANA data base. ``missed`` says what becomes
    of times at which the platform was down: ``"skip"`` none of them runs, ``"one"`` the newest, ``"all"`` each. The
    function gets a ``fleet.Event`` whose ``time`` is the time it was due, or nothing if it takes no argument.
    """
    _need_text(
        expression, "the expression of fleet.cron", 'as in fleet.cron("*/5 * * * *")', limits.EXPRESSION_CHARS_MAX
    )
    _need_text(timezone, "timezone", 'give a name such as "Europe/Berlin"')
    return Cron(" ".join(expression.split()), timezone, _policy(missed))


def every(period: Duration, *, missed: Missed = "one") -> Every:
    """Start once in every ``period``: ``fleet.every("30s")``; seconds, or a text, from one second to a year.

    At whole multiples of it since 1970 (UTC), whenever it was deployed: ``"1h"`` is on the hour. ``missed`` as for
    ``fleet.cron``.
    """
    return Every(parse_seconds(period, "every", limits.EVERY_S_MIN, limits.EVERY_S_MAX), _policy(missed))


def at(time: datetime, *, missed: Missed = "one") -> At:
    """Start once: ``fleet.at(datetime(2027, 1, 1, tzinfo=UTC))``. Without a time zone it is refused.

    ``missed``: whether it is made up for (``"one"``, ``"all"``) or not (``"skip"``) if the platform was down then.
    """
    if not isinstance(time, datetime):
        raise InvalidOption(f"fleet.at takes a datetime, not {time!r}", hint="datetime.fromisoformat reads texts")
    if time.utcoffset() is None:
        raise InvalidOption(
            f"fleet.at({time}) has no time zone",
            hint='give it one: datetime(..., tzinfo=datetime.UTC), or tzinfo=ZoneInfo("Europe/Berlin")',
        )
    return At(time.timestamp(), _policy(missed))


def subject(
    subject: str,
    *,
    filter: str | None = None,
    batch: EventBatch | None = None,
    debounce: Duration | None = None,
    key: str | None = None,
    rate_limit: str | None = None,
) -> Subject:
    """Start for each event on ``subject``: ``fleet.subject("sensors.*.temperature", filter="data.celsius > 30")``.

    Subjects are words with dots between them; ``*`` stands for one word, ``>``, at the end, for one or more. Of the copies
    of one event (same source and id) one starts the function.

    ``filter``: a CEL expression over the event (``data``, ``subject``, ``type``, ``source``, ``id``, ``time``); others don't
    start it. ``batch``: ``fleet.EventBatch``; the function then gets a list. ``debounce``: only the newest event starts it,
    once none came for so long (``"5s"``). ``key``: a CEL expression; events of one key run one after the other, in order.
    ``rate_limit``: starts in a second, minute, hour or day (``"10/s"``, ``"100/m"``, ``"5/h"``, ``"1/d"``); others wait.
    """
    _check_subject(subject)
    for name, value in (("filter", filter), ("key", key)):
        if value is not None:
            _need_text(value, name, f'give a CEL expression such as {name}="{_CEL[name]}"', limits.EXPRESSION_CHARS_MAX)
    if batch is not None and not isinstance(batch, EventBatch):
        raise InvalidOption(f'batch={batch!r} is not allowed: give fleet.EventBatch(max_size=100, max_wait="1s")')
    debounce_s = None if debounce is None else parse_seconds(debounce, "debounce", 0.001, limits.EVENT_WAIT_S_MAX)
    return Subject(subject, filter, batch, debounce_s, key, None if rate_limit is None else _rate(rate_limit))


_CEL = {"filter": "data.celsius > 30", "key": "data.user"}


def http(method: Method, path: str) -> Http:
    """Start for requests: ``fleet.http("POST", "/resize/{size}")`` is ``POST /u/<tenant>/resize/...`` of the gateway.

    ``{size}`` is one segment of the path, ``{rest:path}``, at the end, any number of them. The function gets a
    ``fleet.Event`` with the request as ``event.http``, and answers with what it returns: a ``fleet.Response``, or anything
    that JSON can say.
    """
    known = method.upper() if isinstance(method, str) else ""
    if known not in METHODS:
        raise InvalidOption(f"method={method!r} of fleet.http is not allowed: there are {', '.join(METHODS)}")
    _need_text(path, "the path of fleet.http", 'as in fleet.http("POST", "/resize")', limits.HTTP_PATH_CHARS_MAX)
    if not path.startswith("/") or any(sign in path for sign in "?# \\") or not path.isprintable():
        raise InvalidOption(
            f"path={path!r} of fleet.http is not allowed", hint="start with /, and leave out ?, # and spaces"
        )
    return Http(known, path)  # type: ignore[arg-type]


def check_on(value: Any) -> tuple[Trigger, ...]:
    """The value of ``on=``, checked."""
    if value is None:
        return ()
    if isinstance(value, Trigger | str) or not isinstance(value, Iterable):
        raise InvalidOption(f"on={value!r} is no list", hint=f"give a list of triggers, {_HINT}")
    found = tuple(value)
    for one in found:
        if not isinstance(one, Trigger):
            raise InvalidOption(f"{one!r} in on= is no trigger", hint=_HINT)
    if len(found) > limits.TRIGGERS_MAX:
        raise InvalidOption(f"on= names {len(found)} triggers: allowed are {limits.TRIGGERS_MAX}")
    double = next((one for at, one in enumerate(found) if one in found[:at]), None)
    if double is not None:
        raise InvalidOption(f"on= names {double} twice", hint="once is enough")
    return found


def _need_text(value: object, what: str, hint: str, chars_max: int = 255) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InvalidOption(f"{what} is {value!r}, which is no text", hint=hint)
    if len(value) > chars_max:
        raise InvalidOption(f"{what} has {len(value)} characters: allowed are {chars_max}", hint=hint)


def _policy(missed: Any) -> Missed:
    if missed not in _POLICIES:
        raise InvalidOption(f'missed={missed!r} is not allowed: there are "skip", "one" and "all"')
    return missed  # type: ignore[no-any-return]


def _check_subject(text: Any) -> None:
    hint = 'give words with dots between them, as in "sensors.*.temperature" or "sensors.>"'
    _need_text(text, "subject", hint, limits.EVENT_SUBJECT_CHARS_MAX)
    words = text.split(".")
    if any(not word or any(sign.isspace() or not sign.isprintable() for sign in word) for word in words):
        raise InvalidOption(f"subject={text!r} has an empty word, or one with spaces", hint=hint)
    for at, word in enumerate(words):
        if (word != "*" and "*" in word) or (">" in word and (word != ">" or at + 1 < len(words))):
            raise InvalidOption(f"subject={text!r}: * stands for a whole word, > for the last ones", hint=hint)


def _rate(text: Any) -> tuple[int, float]:
    found = _RATE.match(text) if isinstance(text, str) else None
    if found is None or not 1 <= int(found[1]) <= _RATE_COUNT_MAX:
        raise InvalidOption(
            f"rate_limit={text!r} is no rate",
            hint='give a number from 1 to a million per second, minute, hour or day: "10/s", "100/m", "5/h", "1/d"',
        )
    return int(found[1]), _PER_S[found[2]]
