"""Which items of a chunk are done, which run again and who is charged. Pure.

Items are named by ranges ``[(first, last), ...]``: sorted, disjoint, both ends included. A chunk of 4,096 items is one
range as long as nothing went wrong, so the usual report costs the same for one item and for thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fleet.protocol.errors import CallTimeout, FleetError, ProtocolError, SandboxTrap
from fleet.protocol.messages import RunStatus, WireError

Ranges = list[tuple[int, int]]
T = TypeVar("T")


def count(ranges: Iterable[tuple[int, int]]) -> int:
    """How many items ``ranges`` name."""
    return sum(last - first + 1 for first, last in ranges)


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same items, sorted and merged; ProtocolError for a range that is none."""
    merged: Ranges = []
    for first, last in sorted(ranges):
        if first < 0 or last < first:
            raise ProtocolError(f"[{first}, {last}] is no range of items")
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def of(numbers: Iterable[int]) -> Ranges:
    """Ranges of single item numbers, in any order."""
    return normal((number, number) for number in numbers)


def numbers(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Every item number, in the order of the ranges."""
    for first, last in ranges:
        yield from range(first, last + 1)


def contains(ranges: Iterable[tuple[int, int]], number: int) -> bool:
    """Whether ``number`` is one of the items."""
    return any(first <= number <= last for first, last in ranges)


def subtract(ranges: Ranges, without: Ranges) -> Ranges:
    """Items of ``ranges`` that are not in ``without``; both normal."""
    if not without:
        return ranges
    left: Ranges = []
    at = 0
    for first, last in ranges:
        while at < len(without) and without[at][1] < first:
            at += 1
        step = at
        while step < len(without) and without[step][0] <= last:
            if without[step][0] > first:
                left.append((first, without[step][0] - 1))
            first = without[step][1] + 1
            step += 1
        if first <= last:
            left.append((first, last))
    return left


def intersect(ranges: Ranges, others: Ranges) -> Ranges:
    """Items in both; both normal."""
    if ranges == others:
        return ranges
    return subtract(ranges, subtract(ranges, others))


def union(ranges: Ranges, others: Ranges) -> Ranges:
    """Items in either."""
    return normal([*ranges, *others]) if others else ranges


def select(stored: Ranges, items: Sequence[T], wanted: Ranges) -> list[T]:
    """The ``items`` (one for each number in ``stored``, in order) that ``wanted`` names, in its order."""
    if stored == wanted:
        return list(items)
    place = dict(zip(numbers(stored), items, strict=True))
    return [place[number] for number in numbers(wanted)]


@dataclass(slots=True)
class Settled:
    """What one report means for the items of a chunk."""

    commit: Ranges
    """Results that stand, values and final exceptions."""
    rest: Ranges
    """What still has to run, ``retry`` included."""
    attempts: dict[int, int]
    """Failures so far of single items."""
    retry: list[int] = field(default_factory=list)
    """Items that failed and have attempts left."""
    ended: dict[int, WireError] = field(default_factory=dict)
    """Items that the platform ends, out of attempts."""
    dead: list[int] = field(default_factory=list)
    """Items out of attempts, whoever ended them."""
    culprit_unknown: bool = False
    """A sandbox died and nobody can be charged."""


def run_error(status: RunStatus, message: str) -> FleetError:
    """The error of a run that its car ended (TIMEOUT) or that ended its sandbox (TRAP)."""
    if status is RunStatus.TIMEOUT:
        return CallTimeout(message or "the call ran longer than its timeout")
    return SandboxTrap(message or "the sandbox ended by itself")


def settle(
    remaining: Ranges,
    *,
    done: Ranges,
    failed: Sequence[int],
    status: RunStatus,
    culprit: int | None,
    message: str,
    attempts: dict[int, int],
    attempts_max: int,
) -> Settled:
    """Judge one report. ``failed``: items in ``done`` whose result is an exception of the function.

    The item a sandbox died on is charged, the others are not; when it isn't known nobody is (and the caller asks for
    exact reports from then on). Items that were done before are ignored, so a report may come twice.
    """
    done = intersect(done, remaining)
    settled = Settled(commit=done, rest=remaining, attempts=attempts)
    if failed:
        settled.attempts = dict(attempts)
        for number in failed:
            if contains(done, number):
                _charge(settled, number, attempts_max)
        settled.commit = subtract(done, of(settled.retry))
    settled.rest = subtract(remaining, settled.commit)
    if status in (RunStatus.TIMEOUT, RunStatus.TRAP) and settled.rest:
        unfinished = subtract(settled.rest, of(settled.retry))
        if culprit is None and count(unfinished) == 1:
            culprit = unfinished[0][0]
        if culprit is None or not contains(unfinished, culprit):
            settled.culprit_unknown = True
            return settled
        settled.attempts = dict(settled.attempts)
        if not _charge(settled, culprit, attempts_max):
            settled.ended[culprit] = WireError.of(run_error(status, message))
            settled.rest = subtract(settled.rest, [(culprit, culprit)])
    return settled


def _charge(settled: Settled, number: int, attempts_max: int) -> bool:
    """Count a failure of an item; whether it may run again."""
    failures = settled.attempts.get(number, 0) + 1
    settled.attempts[number] = failures
    again = failures < attempts_max
    (settled.retry if again else settled.dead).append(number)
    return again
