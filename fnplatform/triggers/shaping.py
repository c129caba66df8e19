"""Events that wait for each other before they start a function: ``batch``, ``debounce``, ``rate_limit``. Pure.

A ``Shaper`` belongs to one subject trigger. The shell feeds it the events that match, in the order of EVENTS, and asks what
may start now:

* **batch**: events (of a key, if there is one) start the function together: once there are ``max_size`` of them (or
  EVENT_BATCH_BYTES_MAX), or once the oldest waited ``max_wait_s``.
* **debounce**: the newest event (of its key) starts the function, once none followed it for ``debounce_s``. Those that were
  followed sooner are superseded: they start nothing.
* **rate limit**: whatever is to start, a single event or a batch, over all keys together: at most ``count`` in any
  ``per_s`` seconds. What had to wait goes evenly spaced.

**What the shell does.** ``add`` each matching event, ``passed(seq)`` now and then for those that don't match, then
``release(now)``; store the calls of the releases and ``state()`` in one step. A call carries the ``key`` of its release. After
a restart: ``Shaper(trigger, state)``, ``add`` the events of ``missing`` (``forget`` those that EVENTS no longer has), then
every event behind ``position`` anew. Feeding an event twice is harmless. Then the releases are those of a run without a
restart. While ``room`` is False, feed it nothing; when it is True again, go on behind ``position``.

**Time.** ``accepted_unix_s`` must be the same each time an event is read (the time that its message was stored is best, it
is one clock's). While the shell is behind, it says up to which event's time it has read (``read_to_unix_s``): who comes
late judges as who was there. A time that lies ahead of the clock counts as now, and a clock that goes back stands still:
nothing is lost, nothing goes early, and what waits does so for no more than its time once more.

Units:  ``*_unix_s`` seconds since 1970, ``*_bytes`` bytes.
Bounds: a Shaper holds SHAPER_HELD_MAX events (or one batch, where that is more); ``state()`` is at most some 30 KiB.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from pydantic import Field

from fleet.protocol import limits
from fleet.protocol.messages import SubjectTrigger
from fleet.protocol.messages.base import Message
from fnplatform.triggers.pace import Pace, PaceState

SHAPER_HELD_MAX = 4000
"""Events that one trigger holds back: with ``debounce`` and ``key``, so many keys at once."""
CLOCK_SKEW_S = 1.0
"""A time this far ahead is that of a machine whose clock differs a little, and is believed."""
AT_ONCE = -float("inf")
LAG_EVENTS_MAX = 1000
"""Reading so many events again is cheaper than naming single ones."""


class ShaperState(Message):
    """What a Shaper must be given again. Everything else is in EVENTS."""

    upto: int = 0
    """Every event up to here was seen; of these, only those in ``held`` are still to start something."""
    held: list[int] = Field([])
    """Their sequences: the first one, then the distance from each to the next."""
    clamped: dict[int, float] = Field({})
    """Sequence -> time instead of that of the event, which lay ahead of the clock."""
    pace: PaceState = PaceState()


@dataclass(frozen=True, slots=True)
class Release:
    """One call: of the one event, or with ``batch`` of a list of them. ``key`` is that of each of them."""

    seqs: list[int]
    key: str


@dataclass(slots=True)
class _Held:
    seq: int
    key: str
    unix_s: float
    size_bytes: int


@dataclass(slots=True, eq=False)
class _Group:
    """Held events that are looked at together, in order: those of a key where they wait for each other."""

    name: str
    events: deque[_Held] = field(default_factory=deque)
    size_bytes: int = 0
    due_unix_s: float = 0.0
    """When the first of them may go; AT_ONCE: it waits for nothing."""
    due_seq: int = 0
    """Which one was the first when that was worked out; 0: it wasn't."""
    ripe: bool = False


class Shaper:
    """What one trigger holds back."""

    def __init__(self, trigger: SubjectTrigger, state: ShaperState | None = None) -> None:
        state = state or ShaperState()
        self._batch = trigger.batch
        self._debounce_s = trigger.debounce_s
        self._grouped = trigger.batch is not None or trigger.debounce_s is not None
        self._held_max = max(SHAPER_HELD_MAX, trigger.batch.max_size if trigger.batch else 0)
        self._pace = Pace(trigger.rate_limit, state.pace)
        self._groups: dict[str, _Group] = {}
        self._events: dict[int, _Held] = {}
        """All that is held, the oldest first, but for what is still missing."""
        self._fresh: list[_Held] = []
        """Added since the clock was last asked."""
        self._due: list[tuple[float, int, _Group]] = []
        self._ripe: list[tuple[int, _Group]] = []
        self._missing = dict.fromkeys(accumulate(state.held))
        self._restored = set(self._missing)
        self._clamped = dict(state.clamped)
        self._position = state.upto
        self._departed = state.upto if self._missing else 0
        """No event behind this one has left."""
        self._now_unix_s = state.pace.now_unix_s
        self.superseded = 0
        """Events that a newer one took the place of, since this object was made."""

    # --- events in --------------------------------------------------------------------------------------------------

    @property
    def missing(self) -> list[int]:
        """Events that were held before the restart and weren't added again yet: nothing is released before they are."""
        return list(self._missing)

    @property
    def position(self) -> int:
        """Every event up to here was seen: read on behind it."""
        return self._position

    @property
    def upto(self) -> int:
        """As in ``state()``: events up to here needn't be read again, but for those it names."""
        return next(iter(self._events)) - 1 if self._lags else self._position

    @property
    def count(self) -> int:
        """Events that it holds."""
        return len(self._events) + len(self._missing)

    @property
    def room(self) -> bool:
        """Whether it takes more events."""
        return self.count < self._held_max

    @property
    def idle(self) -> bool:
        """Whether a new Shaper would do as well: it holds nothing, and no start counts any more (at the last release)."""
        return not self._events and not self._missing and self._pace.idle

    def add(self, seq: int, key: str, accepted_unix_s: float, size_bytes: int) -> None:
        """An event that matches; in the order of ``seq``. One that was seen before changes nothing."""
        if seq in self._missing:
            del self._missing[seq]
        elif seq > self._position:
            assert not self._missing, "what was held before the restart comes first"
            self._position = seq
        else:
            return
        held = _Held(seq, key, self._clamped.get(seq, accepted_unix_s), size_bytes)
        name = key if self._grouped else ""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name)
        if self._debounce_s is not None and group.events:
            self._follow(group, held)
        if seq not in self._clamped:
            self._fresh.append(held)
        self._events[seq] = held
        group.events.append(held)
        group.size_bytes += size_bytes
        if not group.ripe:
            self._settle(group)

    def passed(self, seq: int) -> None:
        """Every event up to ``seq`` was looked at: those that weren't added don't match."""
        self._position = max(self._position, seq)

    def forget(self, seq: int) -> None:
        """An event of ``missing`` is no longer kept."""
        self._missing.pop(seq, None)
        self._clamped.pop(seq, None)

    def _follow(self, group: _Group, held: _Held) -> None:
        """An event comes after another one of its key: soon enough to take its place, or not."""
        assert self._debounce_s is not None
        last = group.events[-1]
        # Of two that were held before a restart, the first had been quiet for long enough.
        both_were_held = last.seq in self._restored and held.seq in self._restored
        if not both_were_held and held.unix_s < last.unix_s + self._debounce_s:
            group.events.pop()
            group.size_bytes -= last.size_bytes
            self._leave(last)
            self.superseded += 1

    def _leave(self, held: _Held) -> None:
        del self._events[held.seq]
        self._departed = max(self._departed, held.seq)
        self._clamped.pop(held.seq, None)
        self._restored.discard(held.seq)

    # --- calls out --------------------------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether it holds nothing."""
        return not self._events and not self._missing

    def release(
        self, now_unix_s: float, read_to_unix_s: float | None = None, *, calls_max: int | None = None
    ) -> list[Release]:
        """What starts now, in order; ``calls_max`` of it, the rest the next time. ``read_to_unix_s``: while events are still
        to be read, the time of the last one that was seen; None: there are no more.
        """
        if self._missing:
            return []
        self._pace.at(now_unix_s)
        self._clamp(now_unix_s)
        # Who has no room can't read on: then the clock must do, or nothing would ever make room.
        horizon = now_unix_s if read_to_unix_s is None or not self.room else min(now_unix_s, read_to_unix_s)
        released: list[Release] = []
        while calls_max is None or len(released) < calls_max:
            self._ripen(horizon)
            if not self._ripe or not self._pace.may_start():
                break
            _, group = heapq.heappop(self._ripe)
            released.append(self._take(group))
            self._pace.start()
        if not self._ripe or not self._pace.may_start():
            self._pace.waits(bool(self._ripe))
        return released

    @property
    def next_unix_s(self) -> float | None:
        """When ``release`` may give something again if no event comes; None: not before one comes."""
        if self._ripe:
            return self._pace.next_unix_s
        due = self._next_due()
        return None if due is None else max(due.due_unix_s, self._now_unix_s)

    def _clamp(self, now_unix_s: float) -> None:
        """Let no time lie ahead of the clock."""
        suspects: Iterable[_Held] = self._fresh
        if now_unix_s < self._now_unix_s:
            suspects = list(self._events.values())
        self._now_unix_s = now_unix_s
        for held in suspects:
            if held.unix_s > now_unix_s + CLOCK_SKEW_S and held.seq in self._events:
                held.unix_s = now_unix_s
                self._clamped[held.seq] = now_unix_s
                group = self._groups[held.key if self._grouped else ""]
                if not group.ripe:
                    self._settle(group)
        self._fresh = []

    def _settle(self, group: _Group) -> None:
        """Work out when the group's next start is due."""
        first = group.events[0]
        if self._batch is not None:
            due = AT_ONCE if self._is_full(group) else first.unix_s + self._batch.max_wait_s
        elif self._debounce_s is not None:
            due = AT_ONCE if len(group.events) > 1 else first.unix_s + self._debounce_s
        else:
            due = AT_ONCE
        if (due, first.seq) == (group.due_unix_s, group.due_seq):
            return
        group.due_unix_s, group.due_seq = due, first.seq
        heapq.heappush(self._due, (due, first.seq, group))
        if len(self._due) > 4 * len(self._groups) + 64:
            self._due = [item for item in self._due if self._counts(item)]
            heapq.heapify(self._due)

    def _is_full(self, group: _Group) -> bool:
        batch = self._batch
        assert batch is not None
        return len(group.events) >= batch.max_size or group.size_bytes >= limits.EVENT_BATCH_BYTES_MAX

    def _counts(self, item: tuple[float, int, _Group]) -> bool:
        due, seq, group = item
        return group.due_seq == seq and group.due_unix_s == due

    def _next_due(self) -> _Group | None:
        while self._due and not self._counts(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][2] if self._due else None

    def _ripen(self, horizon_unix_s: float) -> None:
        """What is due goes in the order in which it came."""
        while (group := self._next_due()) is not None:
            # Without room a batch isn't waited for: what it waits for can't come.
            crowded = self._batch is not None and not self.room and not self._ripe
            if group.due_unix_s > horizon_unix_s and not crowded:
                return
            heapq.heappop(self._due)
            group.ripe, group.due_seq = True, 0
            heapq.heappush(self._ripe, (group.events[0].seq, group))

    def _take(self, group: _Group) -> Release:
        """The group's next call; the rest of it waits for its own time."""
        group.ripe = False
        count_max = self._batch.max_size if self._batch is not None else 1
        taken: list[_Held] = []
        size_bytes = 0
        while group.events and len(taken) < count_max:
            size_bytes += group.events[0].size_bytes
            if taken and size_bytes > limits.EVENT_BATCH_BYTES_MAX:
                break
            held = group.events.popleft()
            group.size_bytes -= held.size_bytes
            taken.append(held)
            self._leave(held)
        if group.events:
            self._settle(group)
        else:
            del self._groups[group.name]
        return Release([held.seq for held in taken], taken[0].key)

    # --- what is stored ---------------------------------------------------------------------------------------------

    def state(self) -> ShaperState:
        """What must be stored in one step with the calls of the releases so far."""
        held: list[int] = []
        if not self._lags:
            held = sorted([*self._missing, *self._events]) if self._missing else list(self._events)
        gaps = [held[0], *(later - earlier for earlier, later in pairwise(held))] if held else []
        return ShaperState.model_construct(
            upto=self.upto, held=gaps, clamped=dict(self._clamped), pace=self._pace.state()
        )

    @property
    def _lags(self) -> bool:
        """Whether reading again from the oldest held event on brings back what is held and nothing else: nothing behind it
        has left (first in, first out), and it isn't far."""
        if self._missing or not self._events:
            return False
        oldest = next(iter(self._events))
        near = self._position - oldest < LAG_EVENTS_MAX or len(self._events) > SHAPER_HELD_MAX
        return self._departed < oldest and near
