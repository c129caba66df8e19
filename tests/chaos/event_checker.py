"""Judge what the durable streams hold after the chaos run of events. Knows nothing of the platform's code; imports none of it.

Rules, each with the name that a violation carries:

``lost``    every event has an outcome for each function that takes it
``double``  none has two
``wrong``   an event that has to fail failed, every other one succeeded
``foreign`` no outcome of an event that the function doesn't take, or that nobody published
``dead``    exactly one dead letter for each event that failed for good, with all its attempts, and none for another
``order``   outcomes of one key come in the order in which its events were accepted
``left``    nothing waits any more
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Handled:
    """One result of one event, in the order of the stream that holds them."""

    function: str
    n: int
    ok: bool


@dataclass(frozen=True)
class Letter:
    """One event in one dead letter."""

    function: str
    n: int
    attempts: int


@dataclass(frozen=True)
class Rules:
    """What has to become of event ``n``."""

    takes: dict[str, Callable[[int], bool]]
    """By function."""
    fails: dict[str, Callable[[int], bool]]
    attempts: int
    keys: dict[str, Callable[[int], int]]


@dataclass
class Stored:
    """What was found."""

    accepted: list[int] = field(default_factory=list)
    """Events, in the order of their stream."""
    handled: list[Handled] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    waiting: int = 0
    unreadable: list[str] = field(default_factory=list)


def judge(stored: Stored, count: int, rules: Rules) -> list[str]:
    """Violations; ``count``: events 0 to ``count - 1`` were published."""
    found = [f"left: {stored.waiting} invocations wait"] if stored.waiting else []
    found += [f"unreadable: {text}" for text in stored.unreadable]
    found += _accepted(stored.accepted, count)
    outcomes: dict[str, dict[int, list[bool]]] = {function: defaultdict(list) for function in rules.takes}
    for one in stored.handled:
        outcomes.setdefault(one.function, defaultdict(list))[one.n].append(one.ok)
    for function, takes in rules.takes.items():
        found += _outcomes(function, outcomes[function], [n for n in range(count) if takes(n)], rules)
    found += [f"foreign: {function} has no part in this" for function in outcomes if function not in rules.takes]
    found += _dead(stored.letters, count, rules)
    for function, key in rules.keys.items():
        found += _order(stored, function, key)
    return found


def _accepted(accepted: list[int], count: int) -> list[str]:
    times = Counter(accepted)
    found = [f"lost: event {n} was accepted and isn't stored" for n in range(count) if n not in times]
    found += [f"double: event {n} is stored {times[n]} times" for n in times if times[n] > 1]
    return found + [f"foreign: event {n} is stored and nobody published it" for n in times if not 0 <= n < count]


def _outcomes(function: str, outcomes: dict[int, list[bool]], wanted: list[int], rules: Rules) -> list[str]:
    found = []
    fails = rules.fails.get(function, lambda n: False)
    for n in wanted:
        got = outcomes.get(n, [])
        if not got:
            found.append(f"lost: {function} has no outcome of event {n}")
        elif len(got) > 1:
            found.append(f"double: {function} has {len(got)} outcomes of event {n}")
        elif got[0] is fails(n):
            found.append(f"wrong: event {n} {'succeeded' if got[0] else 'failed'} at {function}")
    known = set(wanted)
    return found + [f"foreign: {function} handled event {n}" for n in outcomes if n not in known]


def _dead(letters: Iterable[Letter], count: int, rules: Rules) -> list[str]:
    found = []
    times = Counter((one.function, one.n) for one in letters)
    for function, takes in rules.takes.items():
        fails = rules.fails.get(function, lambda n: False)
        for n in range(count):
            due = int(takes(n) and fails(n))
            if times.pop((function, n), 0) != due:
                found.append(f"dead: event {n} should have {due} letters of {function}, and has another number")
    found += [f"dead: nobody knows of event {n} for {function}" for function, n in times]
    return found + [
        f"dead: the letter of event {one.n} says {one.attempts} attempts, not {rules.attempts}"
        for one in letters
        if one.attempts != rules.attempts
    ]


def _order(stored: Stored, function: str, key: Callable[[int], int]) -> list[str]:
    place = {n: index for index, n in enumerate(stored.accepted)}
    last: dict[int, int] = {}
    found = []
    for one in stored.handled:
        if one.function != function or one.n not in place:
            continue
        before = last.get(key(one.n))
        if before is not None and place[before] > place[one.n]:
            found.append(f"order: {function} handled event {before} before {one.n} of the same key, accepted earlier")
        last[key(one.n)] = one.n
    return found
