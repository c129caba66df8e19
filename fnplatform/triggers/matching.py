"""Which triggers take an event: an event starts a function once, by the first of its triggers that matches. Pure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

from fleet.protocol.errors import InvalidOption
from fleet.protocol.messages import SubjectTrigger
from fnplatform.triggers.expressions import Expression, compile_expression
from fnplatform.triggers.invocations import Arrived
from fnplatform.triggers.table import Bound, subject_matches

log = logging.getLogger("fleet.triggers")

COMPILED_MAX = 4096


def takers(bounds: Sequence[Bound], event: Arrived) -> list[tuple[Bound, str]]:
    """Of ``bounds`` those that take the event, each with the key it goes under."""
    found: list[tuple[Bound, str]] = []
    for bound in bounds:
        if not _holds(_trigger(bound), event):
            continue
        earlier = bound.manifest.triggers[: bound.index]
        if any(isinstance(one, SubjectTrigger) and _holds(one, event) for one in earlier):
            continue
        found.append((bound, key_of(bound, event)))
    return found


def key_of(bound: Bound, event: Arrived) -> str:
    """The key that the event has for this trigger."""
    text = _trigger(bound).key
    expression = None if text is None else _compiled(text)
    return "" if expression is None else expression.key(event.vars)


def _trigger(bound: Bound) -> SubjectTrigger:
    assert isinstance(bound.trigger, SubjectTrigger), bound
    return bound.trigger


def _holds(trigger: SubjectTrigger, event: Arrived) -> bool:
    if not subject_matches(trigger.subject, event.head.subject):
        return False
    if trigger.filter is None:
        return True
    expression = _compiled(trigger.filter)
    return expression is not None and expression.holds(event.vars)


@lru_cache(COMPILED_MAX)
def _compiled(text: str) -> Expression | None:
    """None, which never holds, for what an earlier release of the platform took and this one doesn't."""
    try:
        return compile_expression(text)
    except InvalidOption as error:
        log.error("an expression of a trigger doesn't work any more: %s %s", text, error.message)
        return None
