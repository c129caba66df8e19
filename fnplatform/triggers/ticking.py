"""Turns the ticks of live clocks into calls: each once, in one step with the note that it did.

At start-up, on every wake-up, after a reconnect and after a deploy: what is due since the last settled tick of each clock
(``clocks.due``) is stored together with the clocks' new states, in one atomic batch (the ledger's). What a crash leaves
undone is computed anew from what is stored. Ticks are given to the version that is live when they are stored; those of a
version that isn't any more are dropped. A clock that is new starts at its deploy, one that is gone leaves nothing, and one
that a deploy left as it was goes on. Two clocks of a function that tick at the same moment start it once.

While a tenant has too many calls in the queue its ticks wait, and are missed.

Errors: what the ledger raises but for FleetUnavailable and StreamFull, after which it tries again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio

from fleet._event import Event, pack_call
from fleet.protocol.errors import FleetUnavailable, InvalidOption
from fleet.protocol.ids import digest, tick_call_id
from fleet.protocol.messages import InvocationState
from fleet.protocol.messages.triggers import AtTrigger, ClockTrigger, CronTrigger, EveryTrigger
from fnplatform.jetstream import StreamFull
from fnplatform.triggers.clocks import ClockState, due, next_tick, tick_text
from fnplatform.triggers.table import Bound

log = logging.getLogger("fleet.triggers")

EVENT_TYPE = "fleet.tick"
SLICE = 200
"""Ticks stored in one batch; the server allows 1,000 messages."""
RETRY_S = 0.2
HELD_S = 1.0
"""Ticks of a tenant that may have none stored are looked at again after this time."""
BEHIND_S = 60.0
"""A machine's clock that is farther behind the last tick than this is worth a warning."""


class LiveClocks(Protocol):
    """Which clocks are live: the table of triggers."""

    def clocks(self) -> list[Bound]: ...


class Ledger(Protocol):
    """Where calls and the states of clocks are stored together."""

    async def clocks(self) -> Mapping[str, ClockState]:
        """What is durable. FleetUnavailable."""
        ...

    async def store_ticks(
        self, calls: Sequence[tuple[InvocationState, bytes]], clocks: Mapping[str, ClockState]
    ) -> None:
        """All of it, or nothing; FleetUnavailable where it can't be known. ``clocks`` replaces what was stored."""
        ...


class Rings(Protocol):
    """What wakes us: the alarm."""

    def arm(self, at_unix_s: float | None) -> None: ...
    def ring(self) -> None: ...
    async def wait(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of one function: its call, and the clocks whose tick it is."""

    bound: Bound
    scheduled_unix_s: float
    clocks: tuple[str, ...]


def tick_event(bound: Bound, scheduled_unix_s: float, now_unix_s: float) -> Event:
    """What a function gets for a tick: its data tells the scheduled time, and how late it was noticed in seconds."""
    scheduled = tick_text(scheduled_unix_s)
    return Event(
        "",
        {"scheduled": scheduled, "late_s": round(max(0.0, now_unix_s - scheduled_unix_s), 3)},
        id=scheduled,
        source=f"/fleet/{bound.tenant}/{bound.app}/{bound.function}/clock",
        type=EVENT_TYPE,
        time=scheduled,
    )


def tick_call(step: Step, now_unix_s: float) -> tuple[InvocationState, bytes]:
    """The call of a tick and its arguments."""
    bound, manifest = step.bound, step.bound.manifest
    event = tick_event(bound, step.scheduled_unix_s, now_unix_s) if manifest.takes_event else None
    payload = pack_call(event)
    scheduled = tick_text(step.scheduled_unix_s)
    state = InvocationState(
        tenant=bound.tenant, app=bound.app, function=bound.function, version=bound.version, inbox="",
        call=tick_call_id(bound.tenant, bound.app, bound.function, bound.version, scheduled),
        digest=digest(payload), payload_bytes=len(payload), submitted_unix_s=now_unix_s,
        expires_unix_s=None if manifest.queue_timeout_s is None else now_unix_s + manifest.queue_timeout_s,
        trigger=bound.trigger.kind,
    )  # fmt: skip
    return state, payload


def plan(live: Iterable[Bound], states: Mapping[str, ClockState], now_unix_s: float) -> list[Step]:
    """What is to run now: a function's moments oldest first, functions with few of them before those with many."""
    functions: dict[tuple[str, str, str], dict[str, tuple[float, Bound, list[str]]]] = {}
    for bound in live:
        found = due(_clock(bound), states[bound.id], now_unix_s)
        if found.late:
            cut = ", the newest of them: more were missed" if found.cut else ""
            log.warning("%s.%s: %d ticks were missed and are made up for%s", bound.app, bound.function, found.late, cut)
        moments = functions.setdefault(bound.owner, {})
        for tick in found.ticks:
            moments.setdefault(tick_text(tick), (tick, bound, []))[2].append(bound.id)
    steps = []
    for moments in sorted(functions.values(), key=len):
        for tick, bound, clocks in sorted(moments.values(), key=lambda moment: moment[0]):
            steps.append(Step(bound, tick, tuple(clocks)))
    return steps


def _clock(bound: Bound) -> ClockTrigger:
    assert isinstance(bound.trigger, CronTrigger | EveryTrigger | AtTrigger), bound
    return bound.trigger


def _next(bound: Bound, after_unix_s: float) -> float | None:
    try:
        return next_tick(_clock(bound), after_unix_s)
    except InvalidOption as error:
        # It was right when it was deployed: the base of time zones has changed.
        log.error("a clock of %s.%s never ticks: %s", bound.app, bound.function, error.message)
        return None


class Ticking:
    """The clocks of one partition, run by its leader.

    ``deployed``: when an app (tenant, name) was deployed last. ``may``: whether calls of a tenant may be stored right now.
    """

    def __init__(
        self,
        table: LiveClocks,
        ledger: Ledger,
        alarm: Rings,
        deployed: Callable[[str, str], Awaitable[float]],
        may: Callable[[str], bool] = lambda tenant: True,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._alarm = alarm
        self._deployed = deployed
        self._may = may
        self._unix_s = unix_s
        self._lock = anyio.Lock()
        self._stale = True
        self._live: dict[str, Bound] = {}
        self._states: dict[str, ClockState] = {}
        self._next: dict[str, float] = {}

    async def run(self) -> None:
        """Run what is due, again and again, until cancelled."""
        while True:
            try:
                held = await self.settle()
            except (FleetUnavailable, StreamFull) as error:
                log.warning("ticks wait: %s", error.message)
                self._stale = True  # what was stored, and what wasn't, is asked again
                await anyio.sleep(RETRY_S)
                continue
            following = [at for name, at in self._next.items() if self._live[name].tenant not in held]
            if held:
                following.append(self._unix_s() + HELD_S)
            self._alarm.arm(min(following, default=None))
            await self._alarm.wait()

    async def changed(self) -> None:
        """The table changed. When this returns no tick of a version that isn't live any more is stored."""
        self._stale = True
        self._alarm.ring()
        async with self._lock:
            pass

    async def settle(self) -> set[str]:
        """Store the calls of all ticks that are due, but for tenants that may have none: these are returned.

        FleetUnavailable, StreamFull: some may not be stored.
        """
        async with self._lock:
            while self._stale:
                self._stale = False
                await self._load()
            now_unix_s = self._unix_s()
            ready = [bound for bound in self._live.values() if self._next.get(bound.id, now_unix_s + 1) <= now_unix_s]
            held = self._held({bound.tenant for bound in ready})
            ready = [bound for bound in ready if bound.tenant not in held]
            steps = plan(ready, self._states, now_unix_s)
            for first in range(0, len(steps), SLICE):
                slice_ = steps[first : first + SLICE]
                held |= self._held({step.bound.tenant for step in slice_})
                await self._store([step for step in slice_ if step.bound.tenant not in held], now_unix_s)
                if self._stale:
                    self._alarm.ring()
                    return held
            for bound in ready:
                if bound.tenant not in held:
                    self._plan_next(bound, max(now_unix_s, self._states[bound.id].last_unix_s))
            return held

    def _held(self, tenants: set[str]) -> set[str]:
        return {tenant for tenant in tenants if not self._may(tenant)}

    async def _store(self, steps: Sequence[Step], now_unix_s: float) -> None:
        if not steps:
            return
        after = dict(self._states)
        for step in steps:
            after.update(dict.fromkeys(step.clocks, ClockState(last_unix_s=step.scheduled_unix_s)))
        await self._ledger.store_ticks([tick_call(step, now_unix_s) for step in steps], after)
        self._states = after

    async def _load(self) -> None:
        """Bring the clocks in line with the table."""
        live = {bound.id: bound for bound in self._table.clocks()}
        stored = await self._ledger.clocks()
        since: dict[tuple[str, str], float] = {}
        states: dict[str, ClockState] = {}
        for name, bound in live.items():
            state = stored.get(name)
            if state is None:
                app = (bound.tenant, bound.app)
                if app not in since:
                    since[app] = await self._deployed(*app)
                state = ClockState(last_unix_s=since[app])
            states[name] = state
        if states != stored:
            await self._ledger.store_ticks([], states)
        self._live, self._states, self._next = live, states, {}
        now_unix_s = self._unix_s()
        for name, bound in live.items():
            last_unix_s = states[name].last_unix_s
            if last_unix_s > now_unix_s + BEHIND_S:
                log.warning(
                    "%s.%s ticked %.0f s in the future, it waits until then: was this machine's clock set back?",
                    bound.app, bound.function, last_unix_s - now_unix_s,
                )  # fmt: skip
            self._plan_next(bound, last_unix_s)

    def _plan_next(self, bound: Bound, after_unix_s: float) -> None:
        following = _next(bound, after_unix_s)
        if following is None:
            self._next.pop(bound.id, None)
        else:
            self._next[bound.id] = following
