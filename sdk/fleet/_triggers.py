"""What starts a deployed function by itself: from ``on=`` into its manifest, and in words for people."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, assert_never

from fleet._function import Function
from fleet.protocol import messages
from fleet.protocol import triggers as given
from fleet.protocol.errors import DeployError
from fleet.protocol.units import format_seconds


def messages_of(function: Function[..., Any]) -> list[messages.Trigger]:
    """The triggers of ``function`` as its manifest tells them."""
    return [_message(one) for one in function.options.on]


def _message(one: given.Trigger) -> messages.Trigger:
    match one:
        case given.Cron():
            return messages.CronTrigger(expression=one.expression, timezone=one.timezone, missed=one.missed)
        case given.Every():
            return messages.EveryTrigger(every_s=one.every_s, missed=one.missed)
        case given.At():
            return messages.AtTrigger(at_unix_s=one.at_unix_s, missed=one.missed)
        case given.Subject():
            batch, rate = one.batch, one.rate
            return messages.SubjectTrigger(
                subject=one.subject,
                filter=one.filter,
                batch=None
                if batch is None
                else messages.EventBatch(max_size=batch.max_size, max_wait_s=batch.max_wait_s),
                debounce_s=one.debounce_s,
                key=one.key,
                rate_limit=None if rate is None else messages.RateLimit(count=rate[0], per_s=rate[1]),
            )
        case given.Http():
            return messages.HttpTrigger(method=one.method, path=one.path)
        case _:
            assert_never(one)


def takes_event(function: Function[..., Any]) -> bool:
    """Whether a call gets the event as its one argument; False for functions without a parameter by position."""
    signature = function._call_signature()
    if signature is None:
        return True
    return any(one.kind in _BY_POSITION for one in signature.parameters.values())


_BY_POSITION = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


def check_startable(function: Function[..., Any]) -> None:
    """DeployError for triggers of a function that an event can't start."""
    if not function.options.on:
        return
    if function.yields:
        raise DeployError(
            f"{function.display_name} has triggers, and is a generator function: nobody would read what it yields",
            hint="return a value, or leave on= out",
        )
    signature = function._call_signature()
    if signature is None:
        return
    try:
        signature.bind(*((None,) if takes_event(function) else ()))
    except TypeError as error:
        raise DeployError(
            f"{function.display_name} has triggers, and can't be called with one event: {error}",
            hint="let it take one argument, the fleet.Event, or none; others need defaults",
        ) from None


def check_routes(functions: Iterable[Function[..., Any]]) -> None:
    """DeployError for two functions of one app that would answer the same requests."""
    taken: dict[tuple[str, str], str] = {}
    for function in functions:
        for one in function.options.on:
            if isinstance(one, given.Http):
                key = (one.method, _PARAMETER.sub(r"{\1}", one.path))
                if key in taken:
                    raise DeployError(
                        f"{taken[key]} and {function.display_name} both answer {one.method} {one.path}",
                        hint="give one of them another path",
                    )
                taken[key] = function.display_name


_PARAMETER = re.compile(r"\{[^{}:]*(:[^{}]*)?\}")
"""Of a path: whatever it is called, it stands for the same."""


def in_words(trigger: messages.Trigger) -> str:
    """A trigger for people: ``cron 0 2 * * * Europe/Berlin, missed=all``; ``subject a.* filter=... batch=100/1 s``."""
    match trigger:
        case messages.CronTrigger():
            return f"cron {trigger.expression} {trigger.timezone}{_policy(trigger.missed)}"
        case messages.EveryTrigger():
            return f"every {format_seconds(trigger.every_s)}{_policy(trigger.missed)}"
        case messages.AtTrigger():
            return f"{given.At(trigger.at_unix_s, trigger.missed)}{_policy(trigger.missed)}"
        case messages.HttpTrigger():
            return f"http {trigger.method} {trigger.path}"
        case messages.SubjectTrigger():
            batch, rate, debounce_s = trigger.batch, trigger.rate_limit, trigger.debounce_s
            shaping = {
                "filter": trigger.filter,
                "batch": None if batch is None else f"{batch.max_size}/{format_seconds(batch.max_wait_s)}",
                "debounce": None if debounce_s is None else format_seconds(debounce_s),
                "key": trigger.key,
                "rate_limit": None if rate is None else f"{rate.count}/{format_seconds(rate.per_s)}",
            }
            said = [f"{name}={value}" for name, value in shaping.items() if value is not None]
            return " ".join((f"subject {trigger.subject}", *said))
        case _:
            assert_never(trigger)


def _policy(missed: messages.Missed) -> str:
    return "" if missed == "one" else f" missed={missed}"
