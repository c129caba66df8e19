"""Faults planted into the cores. Each must be caught by the judgement of some seed: that is what makes it one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fnplatform.dispatcher import cars, core, events, granting, keys, matching, reporting, verdicts
from runtime.agent_slots import SlotPool
from runtime.agent_state import AgentCore

Plant = Callable[[pytest.MonkeyPatch], None]


def skip_the_fence(patch: pytest.MonkeyPatch) -> None:
    """A report counts under whatever lease it comes, as long as its call isn't over."""
    original = verdicts.reported

    def reported(board: Any, event: events.Reported) -> Any:
        for result in event.results:
            entry = board.entries.get(("default", result.run.lease.call))
            if entry is not None and entry.lease is not None:
                result.run = result.run.model_copy(update={"lease": entry.lease.lease})
                event.car = entry.lease.car.name
        return original(board, event)

    patch.setattr(verdicts, "reported", reported)


def acknowledge_early(patch: pytest.MonkeyPatch) -> None:
    """The queue's message is settled when the outcome is known, not when it is durable."""
    original = reporting.push_op

    def push_op(board: Any, entry: Any, op: Any) -> None:
        if isinstance(op, events.Commit) and op.record.final:
            board.out.append(events.Remove(entry.seq))
        original(board, entry, op)

    patch.setattr(reporting, "push_op", push_op)


def forget_a_release(patch: pytest.MonkeyPatch) -> None:
    """The owner left, and the dispatcher notes the standing but not the leases."""

    def released(board: Any, name: str, release: Any) -> None:
        original(board, name, release.model_copy(update={"leases": []}))

    original = cars.released
    patch.setattr(cars, "released", released)


def drop_a_requeue(patch: pytest.MonkeyPatch) -> None:
    """What counts against a call is noted, and its next state never written."""

    def requeue(board: Any, entry: Any, **_: Any) -> None:
        entry.phase = reporting.Phase.ENDING

    for module in (reporting, cars, core, granting):
        if hasattr(module, "requeue"):
            patch.setattr(module, "requeue", requeue)


def double_grant(patch: pytest.MonkeyPatch) -> None:
    """Now and then a call that was granted is granted again."""
    original = granting._assign

    def assign(board: Any, entry: Any, car: Any) -> None:
        original(board, entry, car)
        if board.counter % 7 == 0:
            others = [other for other in board.cars.values() if other.has_place and other is not car]
            if others:
                entry.lease.car.leases.pop(entry.lease.lease.counter)
                entry.queue.limit.running -= 1
                original(board, entry, others[0])

    patch.setattr(granting, "_assign", assign)


def ignore_standing(patch: pytest.MonkeyPatch) -> None:
    """A car that was eligible once stays so."""
    original = AgentCore._evaluate

    def evaluate(self: AgentCore) -> None:
        if not self.state.eligible:
            original(self)

    patch.setattr(AgentCore, "_evaluate", evaluate)


def ignore_lanes(patch: pytest.MonkeyPatch) -> None:
    """The matcher asks for memory and region alone."""
    patch.setattr(granting, "fits", lambda need, offer: matching.in_region(need, offer))
    patch.setattr(granting, "ranked", lambda need, kinds: list(kinds))


def forget_what_is_kept(patch: pytest.MonkeyPatch) -> None:
    """Calls go to any car, whoever has what they go on from."""
    patch.setattr(granting, "_keeper", lambda board, entry: None)


def forget_the_key(patch: pytest.MonkeyPatch) -> None:
    """It is always everybody's turn."""
    patch.setattr(keys, "take_turn", lambda board, entry: True)


def order_by_the_stream(patch: pytest.MonkeyPatch) -> None:
    """Of a key goes first what was stored first, and each attempt is stored anew."""
    patch.setattr(keys, "rank_of", lambda entry: float(entry.seq))


def ignore_places(patch: pytest.MonkeyPatch) -> None:
    """A car runs a job wherever its slot is free, however many others run."""
    patch.setattr(SlotPool, "full", False)
    patch.setattr(SlotPool, "choose", lambda self, job: (next(iter(self._idle(job.lane)), None), None))


MUTATIONS: tuple[Plant, ...] = (
    skip_the_fence,
    acknowledge_early,
    forget_a_release,
    drop_a_requeue,
    double_grant,
    ignore_standing,
    ignore_lanes,
    forget_what_is_kept,
    forget_the_key,
    order_by_the_stream,
    ignore_places,
)
