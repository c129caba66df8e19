"""Triggers as they are deployed: what can't work is refused then, naming app, function and field. Pure.

Errors: InvalidOption.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption
from fleet.protocol.ids import is_token
from fleet.protocol.messages import AtTrigger, CronTrigger, EveryTrigger, HttpTrigger, Manifest, SubjectTrigger
from fleet.protocol.messages.triggers import Trigger
from fnplatform.triggers.clocks import parse_cron
from fnplatform.triggers.expressions import compile_expression

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%-]+\Z")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def check_triggers(manifest: Manifest) -> None:
    """InvalidOption for the first trigger of a function that can't work."""
    name = f"{manifest.app}.{manifest.function}"
    if not manifest.triggers:
        return
    if manifest.program.runtime == "jax":
        raise InvalidOption(
            f'{name}: on= is not allowed with runtime="jax": a program takes arrays, no events',
            hint='give the triggers to a function with runtime="wasm" that calls this one',
        )
    if manifest.yields:
        raise InvalidOption(
            f"{name}: on= is not allowed for a generator function: nobody would take what it yields",
            hint="return the whole result, or fleet.emit(...) of each part",
        )
    for index, trigger in enumerate(manifest.triggers):
        if trigger in manifest.triggers[:index]:
            raise InvalidOption(f"{name}: on= names {_told(trigger)} twice", hint="leave one of them out")
        _CHECKS[type(trigger)](f"{name}: {_told(trigger)}", trigger)


def check_routes(manifests: Iterable[Manifest]) -> None:
    """InvalidOption where two functions of an app ask for the same requests."""
    taken: dict[tuple[str, str], str] = {}
    for manifest in manifests:
        name = f"{manifest.app}.{manifest.function}"
        for trigger in manifest.triggers:
            if isinstance(trigger, HttpTrigger):
                # What a parameter is called doesn't tell two paths apart.
                shape = "/".join("{}" if _PARAMETER.match(part) else part for part in trigger.path.split("/"))
                shape = f"{shape}:path" if trigger.path.endswith(":path}") else shape
                other = taken.setdefault((trigger.method, shape), name)
                if other != name:
                    raise InvalidOption(
                        f"{name}: path={trigger.path!r} of {_told(trigger)} is that of {other} as well",
                        hint="give one of them another path or method",
                    )


def _told(trigger: Trigger) -> str:
    match trigger:
        case CronTrigger():
            return f'fleet.cron("{trigger.expression}")'
        case EveryTrigger():
            return f"fleet.every({trigger.every_s:g})"
        case AtTrigger():
            return f"fleet.at({trigger.at_unix_s:.0f})"
        case SubjectTrigger():
            return f'fleet.subject("{trigger.subject}")'
        case HttpTrigger():
            return f'fleet.http("{trigger.method}", "{trigger.path}")'


# --- clocks ----------------------------------------------------------------------------------------------------------


def _cron(where: str, trigger: CronTrigger) -> None:
    try:
        parse_cron(trigger.expression, trigger.timezone)
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error.message}", hint=error.hint) from None


def _every(where: str, trigger: EveryTrigger) -> None:
    if not math.isfinite(trigger.every_s):
        raise InvalidOption(f"{where}: a period of {trigger.every_s} s is none")


def _at(where: str, trigger: AtTrigger) -> None:
    if not math.isfinite(trigger.at_unix_s) or not 0 <= trigger.at_unix_s < 2**38:
        raise InvalidOption(f"{where}: {trigger.at_unix_s} is no time", hint="give a datetime with a time zone")


# --- subjects --------------------------------------------------------------------------------------------------------


def _subject(where: str, trigger: SubjectTrigger) -> None:
    _pattern(where, trigger.subject)
    for field, text in (("filter", trigger.filter), ("key", trigger.key)):
        if text is None:
            continue
        try:
            compile_expression(text)
        except InvalidOption as error:
            raise InvalidOption(f'{where}: {field}="{text:.200}" {error.message}', hint=error.hint) from None
    if trigger.debounce_s is not None and trigger.batch is not None:
        raise InvalidOption(
            f"{where}: debounce= and batch= exclude each other: debounce starts it with the newest event alone",
            hint="leave one of them out; batch=fleet.EventBatch(max_wait=...) waits for more events as well",
        )
    numbers = [trigger.debounce_s, trigger.batch.max_wait_s if trigger.batch else None]
    numbers += [trigger.rate_limit.per_s if trigger.rate_limit else None]
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise InvalidOption(f"{where}: its times must be numbers of seconds")


def _pattern(where: str, subject: str) -> None:
    """Tokens with dots between them, ``*`` for any one, ``>`` last for one or more."""
    tokens = subject.split(".")
    hint = 'names of A-Z a-z 0-9 _ - with dots between them, * for one of them, > last for the rest: "sensors.*.>"'
    if len(tokens) > limits.EVENT_SUBJECT_TOKENS_MAX:
        raise InvalidOption(
            f"{where}: subject has {len(tokens)} names, {limits.EVENT_SUBJECT_TOKENS_MAX} are allowed", hint=hint
        )
    for index, token in enumerate(tokens):
        if token == ">" and index < len(tokens) - 1:
            raise InvalidOption(
                f'{where}: ">" in its subject stands for all that follows: it must come last', hint=hint
            )
        if token not in ("*", ">") and not is_token(token):
            what = f'"{token:.80}" in its subject is no name' if token else "its subject has an empty name"
            raise InvalidOption(f"{where}: {what}", hint=hint)


# --- HTTP ------------------------------------------------------------------------------------------------------------


def _http(where: str, trigger: HttpTrigger) -> None:
    path = trigger.path
    hint = 'a path is like "/resize/{size}"; {rest:path}, at the end, takes any number of segments'
    if not path.startswith("/"):
        raise InvalidOption(f'{where}: path must begin with "/"', hint=hint)
    names: set[str] = set()
    segments = path[1:].split("/")
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        found = _PARAMETER.match(segment)
        if found is None:
            if "{" in segment or "}" in segment:
                raise InvalidOption(f'{where}: "{segment}" in its path is no parameter', hint=hint)
            if segment in (".", "..") or (not segment and not last):
                raise InvalidOption(f'{where}: path has a segment "{segment}", which no request has', hint=hint)
            if segment and (not _SEGMENT.match(segment) or _ESCAPE.search(segment)):
                raise InvalidOption(
                    f'{where}: "{segment}" in its path has characters that a URL has not', hint="write them as %20"
                )
            continue
        if found[2] and not last:
            raise InvalidOption(f"{where}: {segment} takes the rest of the path: it must come last", hint=hint)
        if found[1] in names:
            raise InvalidOption(f"{where}: path names {{{found[1]}}} twice", hint=hint)
        names.add(found[1])


_CHECKS: dict[type, Callable[[str, Any], None]] = {
    CronTrigger: _cron,
    EveryTrigger: _every,
    AtTrigger: _at,
    SubjectTrigger: _subject,
    HttpTrigger: _http,
}
