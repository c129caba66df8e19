"""From events to calls: what is stored next, and how far that brings the cursor. Pure: no clock, no I/O.

Events come in the order of EVENTS and wait in one line. They leave it from its front, in one of two ways:

* **alone**: a call of its own for each trigger it matches, by plain publishes, while nothing else is under way that it
  would have to wait for. The cursor follows later; until then the call's id says that it was started.
* **in a batch**: as much of the line as fits, events of one function together in chunks, in one atomic step with the cursor.
  While one is under way the line grows, which makes the next one larger: the busier, the cheaper.

``popped`` is the last event that left. When nothing is under way, everything up to it is stored, and it is the cursor's place.

A trigger for which nothing may be stored right now (its tenant has too much in the queue, the queue is full) leaves the line:
it **lags** (``lanes.py``) and holds nobody up.

Whatever fails, the whole router is thrown away and made anew from the stored cursor; events behind it come again. Those up to
``check_upto`` may have been started by calls of their own: they are looked up before they go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fleet.protocol import limits
from fleet.protocol.messages import SubjectTrigger
from fnplatform.triggers.invocations import Arrived, call_of
from fnplatform.triggers.lanes import Lane
from fnplatform.triggers.state import Cursor, LaneState
from fnplatform.triggers.table import Bound

LONES_MAX = 4
"""So many calls cost less one by one than in a batch."""
WAITING_MAX = 4000
WAITING_BYTES_MAX = 32 * limits.MIB
"""Events in the line: beyond this none are read."""
CALLS_MAX = 256
CALLS_BYTES_MAX = 4 * limits.MIB
"""Calls in one batch."""
CHECKS_MAX = 256
CURSOR_S = 1.0
"""The cursor is this old at most while events come."""
RETRY_S = 0.5

Match = Callable[[Sequence[Bound], Arrived], list[tuple[Bound, str]]]
"""Of the triggers whose pattern matches those that take the event, one for each function, and their keys."""


@dataclass(slots=True, eq=False)
class Waiting:
    """An event in the line, with the triggers that take it and their keys."""

    event: Arrived
    takers: list[tuple[Lane, str]]
    checked: bool


@dataclass(slots=True, eq=False)
class Start:
    """One call to be: of one event, of several as a chunk, or (``listed``) of several as a list."""

    lane: Lane
    bound: Bound
    key: str
    events: list[Arrived]
    size_bytes: int = 0
    listed: bool = False


@dataclass(slots=True)
class Batch:
    """What is stored in one step."""

    starts: list[Start]
    cursor: Cursor
    popped: int


@dataclass(slots=True)
class Fetch:
    """A page of EVENTS to be read for a trigger that lags."""

    lane: Lane
    seq: int
    asked_at: int


@dataclass(slots=True)
class Rules:
    """What the router asks others about."""

    match: Match
    chunk_max: Callable[[Bound], int]
    may: Callable[[str], bool]
    """Whether calls of this tenant may be stored right now."""


@dataclass(slots=True)
class _Open:
    """Chunks that more events may join, by trigger, key and hops; and what the batch holds so far."""

    groups: dict[tuple[str, str, int], Start] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    calls: set[tuple[str, str, str, str]] = field(default_factory=set)
    size_bytes: int = 0

    @property
    def full(self) -> bool:
        return len(self.starts) >= CALLS_MAX or self.size_bytes >= CALLS_BYTES_MAX


class Router:
    """One life between two failures. ``lanes``: every live subject trigger, and those that were changed and aren't done."""

    def __init__(
        self, cursor: Cursor, lanes: Mapping[str, Lane], rules: Rules, check_upto: int, now_s: float = 0.0
    ) -> None:
        self.lanes = dict(lanes)
        self.head = cursor.seq
        """The last event that came in."""
        self.popped = cursor.seq
        self.durable = cursor
        self.under_way = 0
        """Calls that are being stored one by one."""
        self.committing = False
        self._rules = rules
        self._check_upto = check_upto
        self._line: deque[Waiting] = deque()
        self._line_bytes = 0
        self._calls = 0
        self._unchecked: deque[Waiting] = deque()
        self._behind_s: float | None = None
        """Since when the stored cursor is behind."""
        self._in_step = False
        """A trigger has caught up: that must be stored before it starts calls of their own."""
        self._now_s = now_s

    # --- events in --------------------------------------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether more events may be read."""
        return len(self._line) < WAITING_MAX and self._line_bytes < WAITING_BYTES_MAX

    @property
    def waiting(self) -> int:
        """Events in the line."""
        return len(self._line)

    def arrive(self, event: Arrived, matching: Sequence[Bound], now_s: float) -> None:
        """The next event of EVENTS. ``matching``: live triggers with its subject."""
        assert event.seq > self.head, (event.seq, self.head)
        self.head = event.seq
        takers: list[tuple[Lane, str]] = []
        if matching:
            for bound, key in self._rules.match(matching, event):
                lane = self.lanes.get(bound.id)
                if lane is not None:
                    takers.append((lane, key))
        if self._behind_s is None:
            self._behind_s = now_s
        if not takers and not self._line:
            self.popped = event.seq
            return
        checked = event.seq > self._check_upto or not takers
        waiting = Waiting(event, takers, checked)
        self._line.append(waiting)
        self._line_bytes += event.size_bytes
        self._calls += len(takers)
        if not checked:
            self._unchecked.append(waiting)

    def skip(self, seq: int, now_s: float) -> None:
        """An event that can't be read, or none: nothing starts by it."""
        if seq > self.head:
            self.head = seq
            if self._behind_s is None:
                self._behind_s = now_s
            if not self._line:
                self.popped = seq

    def unchecked(self) -> list[tuple[str, str, str, str]]:
        """Calls (tenant, app, function, call) to be looked up, some of them at a time."""
        found: list[tuple[str, str, str, str]] = []
        for waiting in self._unchecked:
            if len(found) >= CHECKS_MAX:
                break
            found += [(*lane.bound.owner, call_of(lane.bound, waiting.event.head)) for lane, _ in waiting.takers]
        return found

    def checked(self, looked_up: Sequence[tuple[str, str, str, str]], known: set[str]) -> None:
        """Of these calls ``known`` were started before."""
        calls = {one[3] for one in looked_up}
        while self._unchecked:
            waiting = self._unchecked[0]
            by_call = {call_of(lane.bound, waiting.event.head): (lane, key) for lane, key in waiting.takers}
            if not by_call.keys() <= calls:
                break
            self._unchecked.popleft()
            self._calls -= len(waiting.takers)
            waiting.takers = [taker for call, taker in by_call.items() if call not in known]
            self._calls += len(waiting.takers)
            waiting.checked = True

    # --- alone ------------------------------------------------------------------------------------------------------

    def lones(self, now_s: float) -> list[Start]:
        """Calls to be stored one by one, now; tell ``lone_stored`` of each. Most often there are none."""
        self._now_s = now_s
        if self.committing or self._in_step or (self.under_way and self._cursor_due(now_s)):
            return []
        if not self.under_way and self._calls > LONES_MAX:
            return []
        found: list[Start] = []
        while self._line and self.under_way < LONES_MAX:
            waiting = self._line[0]
            if not waiting.checked or not all(self._alone(lane, waiting.event) for lane, _ in waiting.takers):
                break
            if not self.under_way and self._lane_repeats():
                break
            self._pop()
            for lane, key in waiting.takers:
                lane.busy = True
                self.under_way += 1
                found.append(Start(lane, lane.bound, key, [waiting.event]))
        return found

    def lone_stored(self, start: Start) -> None:
        """It is in the queue."""
        assert start.lane.busy and self.under_way
        start.lane.busy = False
        self.under_way -= 1

    def _alone(self, lane: Lane, event: Arrived) -> bool:
        if lane.busy or lane.lagging or lane.retry_s > self._now_s or not self._rules.may(lane.bound.tenant):
            return False
        packed = event.packed(takes_event=lane.bound.manifest.takes_event)
        return len(packed) <= limits.INLINE_ARGS_BYTES_MAX  # else it is a blob, which is put first

    def _lane_repeats(self) -> bool:
        """Whether several events in the line are one trigger's: then they are cheaper together."""
        seen: set[str] = set()
        for waiting in self._line:
            for lane, _ in waiting.takers:
                if lane.bound.id in seen:
                    return True
                seen.add(lane.bound.id)
        return False

    # --- in a batch -------------------------------------------------------------------------------------------------

    def batch(self, now_s: float) -> Batch | None:
        """What is to be stored in one step, if anything is; then tell ``committed``, or make a new router."""
        self._now_s = now_s
        if self.committing or self.under_way:
            return None
        open_ = _Open()
        for lane in list(self.lanes.values()):
            if lane.caught:
                self._take_caught(lane, open_)
        while self._line and self._line[0].checked and not open_.full:
            before = self.popped
            waiting = self._pop()
            for lane, key in waiting.takers:
                self._take(lane, key, waiting.event, before, open_)
        for lane in list(self.lanes.values()):
            if lane.lagging:
                self._passed(lane)
            if lane.over(self.popped):
                del self.lanes[lane.name]
        if not open_.starts and not self._in_step and not self._cursor_due(now_s):
            return None
        self.committing = True
        self._in_step = False
        return Batch(open_.starts, self._cursor(), self.popped)

    def committed(self, batch: Batch, cursor: Cursor) -> None:
        """It is stored."""
        assert self.committing
        self.committing = False
        self.durable = cursor
        self._behind_s = None if self.popped == cursor.seq and not self._line else self._now_s

    def _take(self, lane: Lane, key: str, event: Arrived, before: int, open_: _Open) -> None:
        if lane.lagging:
            lane.live(event, before)
        elif lane.retry_s > self._now_s or not self._rules.may(lane.bound.tenant):
            lane.lag(before)
            lane.retry_s = max(lane.retry_s, self._now_s + RETRY_S)
        else:
            self._join(lane, key, event, open_)

    def _take_caught(self, lane: Lane, open_: _Open) -> None:
        if lane.retry_s > self._now_s:
            return
        if not self._rules.may(lane.bound.tenant):
            lane.retry_s = self._now_s + RETRY_S
            return
        while lane.caught and not open_.full:
            event = lane.caught[0]
            for bound, key in self._rules.match([lane.bound], event):
                self._join(lane, key, event, open_)
                assert bound is lane.bound
            lane.took(event)

    def _join(self, lane: Lane, key: str, event: Arrived, open_: _Open) -> None:
        """Put the event into a call of its trigger: one of its key and its hops that has room, or a new one."""
        bound = lane.bound
        call = (*bound.owner, call_of(bound, event.head))
        if call in open_.calls:
            return  # a copy of an event whose first one was in EVENTS no longer when it came
        open_.calls.add(call)
        size_bytes = len(event.packed(takes_event=bound.manifest.takes_event)) + 4
        name = (bound.id, key, event.head.hops)
        start = open_.groups.get(name)
        if (
            start is None
            or len(start.events) >= self._rules.chunk_max(bound)
            or start.size_bytes + size_bytes > limits.INLINE_ARGS_BYTES_MAX
        ):
            start = open_.groups[name] = Start(lane, bound, key, [])
            open_.starts.append(start)
        start.events.append(event)
        start.size_bytes += size_bytes
        open_.size_bytes += size_bytes

    def _cursor(self) -> Cursor:
        lagging = {name: lane.state() for name, lane in self.lanes.items() if lane.lagging}
        return self.durable.model_copy(update={"seq": self.popped, "lagging": lagging})

    def _cursor_due(self, now_s: float) -> bool:
        return self._behind_s is not None and now_s - self._behind_s >= CURSOR_S and self.popped > self.durable.seq

    def _pop(self) -> Waiting:
        waiting = self._line.popleft()
        self._line_bytes -= waiting.event.size_bytes
        self._calls -= len(waiting.takers)
        self.popped = waiting.event.seq if self._line else self.head
        return waiting

    # --- what lags --------------------------------------------------------------------------------------------------

    def fetches(self, now_s: float) -> list[Fetch]:
        """Pages of EVENTS to be read for triggers that lag; tell ``fetched`` of each."""
        self._now_s = now_s
        found = []
        for lane in self.lanes.values():
            if not lane.lagging or lane.fetching or lane.joined or lane.caught or lane.retry_s > now_s:
                continue
            if not self._rules.may(lane.bound.tenant):
                lane.retry_s = now_s + RETRY_S
                continue
            lane.fetching = True
            lane.tail = []
            found.append(Fetch(lane, lane.read_to + 1, self.popped))
        return found

    def fetched(self, fetch: Fetch, page: list[Arrived], *, complete: bool) -> None:
        """The page; ``complete``: there is nothing behind it."""
        lane = fetch.lane
        lane.fetched(
            page, fetch.asked_at, self.popped, complete=complete,
            claims=lambda bound, event: bool(self._rules.match([bound], event)),
        )  # fmt: skip
        if lane.lagging:
            self._passed(lane)

    def _passed(self, lane: Lane) -> None:
        if lane.passed(self.popped):
            self._in_step = True

    def block(self, lane: str, until_s: float) -> None:
        """Nothing of this trigger is stored before then."""
        found = self.lanes.get(lane)
        if found is not None:
            found.retry_s = until_s

    # --- triggers change --------------------------------------------------------------------------------------------

    def replace(self, tenant: str, app: str, bounds: Sequence[Bound]) -> None:
        """From now on these are the triggers of the app.

        Events that wait for one that stays start the new version. One that goes finishes what came before; those of a
        function that is gone start nothing any more.
        """
        fresh = {bound.id: bound for bound in bounds if isinstance(bound.trigger, SubjectTrigger)}
        functions = {bound.function for bound in bounds}
        for name, lane in list(self.lanes.items()):
            old = lane.bound
            if (old.tenant, old.app) != (tenant, app) or name in fresh:
                continue
            if old.function not in functions:
                self._drop(lane)
            elif lane.until is None:
                del self.lanes[name]
                lane.retire(self.head)
                self.lanes[lane.name] = lane
        for name, bound in fresh.items():
            if name in self.lanes:
                lane = self.lanes[name]
                lane.bound = bound
            else:
                self.lanes[name] = Lane(bound)

    def _drop(self, lane: Lane) -> None:
        del self.lanes[lane.name]
        for waiting in self._line:
            before = len(waiting.takers)
            waiting.takers = [taker for taker in waiting.takers if taker[0] is not lane]
            self._calls -= before - len(waiting.takers)

    @property
    def wake_s(self) -> float | None:
        """When ``batch`` or ``fetches`` is to be asked again, if nothing happens before; None: not at all."""
        if self.under_way:
            return None  # the last of these to be stored wakes us
        due = [self._behind_s + CURSOR_S] if self._behind_s is not None and self.popped > self.durable.seq else []
        due += [lane.retry_s for lane in self.lanes.values() if lane.lagging]
        return min(due, default=None)


def lanes_of(cursor: Cursor, live: Sequence[Bound], gone: Mapping[str, Bound]) -> dict[str, Lane]:
    """The lanes that a leader begins with: those of live triggers, and of changed ones (``gone``) that aren't done."""
    lanes: dict[str, Lane] = {}
    for bound in live:
        if isinstance(bound.trigger, SubjectTrigger):
            lanes[bound.id] = Lane(bound, cursor.lagging.get(bound.id))
    for name, bound in gone.items():
        state: LaneState = cursor.lagging[name]
        lane = Lane(bound, state.model_copy(update={"until": None}))
        lane.retire(cursor.seq if state.until is None else state.until)
        lanes[lane.name] = lane
    return lanes
