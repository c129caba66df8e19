"""Which triggers take an event: an event starts a function once, by the first of its triggers that matches. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.protocol.messages import SubjectTrigger
from fnplatform.triggers.invocations import Arrived
from fnplatform.triggers.table import Bound, subject_matches


def takers(bounds: Sequence[Bound], event: Arrived) -> list[tuple[Bound, str]]:
    """Of ``bounds`` those that take the event, each with the key it goes under."""
    found: list[tuple[Bound, str]] = []
    for bound in bounds:
        trigger = bound.trigger
        assert isinstance(trigger, SubjectTrigger), bound
        if not _holds(trigger, event):
            continue
        earlier = bound.manifest.triggers[: bound.index]
        if any(isinstance(one, SubjectTrigger) and _holds(one, event) for one in earlier):
            continue
        found.append((bound, ""))
    return found


def _holds(trigger: SubjectTrigger, event: Arrived) -> bool:
    return subject_matches(trigger.subject, event.head.subject)
