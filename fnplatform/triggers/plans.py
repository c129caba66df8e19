"""What the router says is to be done, and how events come together in calls. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fleet.protocol import limits
from fnplatform.triggers.invocations import Arrived, call_of
from fnplatform.triggers.lanes import Lane
from fnplatform.triggers.state import Cursor
from fnplatform.triggers.table import Bound

CALLS_MAX = 256
CALLS_BYTES_MAX = 4 * limits.MIB
"""Calls in one batch; that of the last event that is put in may be more: up to twice as many."""
RECENT_BYTES_MAX = 16 * limits.MIB
"""Events at hand that triggers hold back; others are read again."""

Match = Callable[[Sequence[Bound], Arrived], list[tuple[Bound, str]]]
"""Of the triggers whose pattern matches those that take the event, one for each function, and their keys."""

ChunkMax = Callable[[Bound, bool], int]
"""How many events of a trigger may share a chunk; whether it lags."""


@dataclass(slots=True, eq=False)
class Waiting:
    """An event in the line, with the triggers that take it and their keys."""

    event: Arrived
    takers: list[tuple[Lane, str]]
    checked: bool


def repeats(line: Iterable[Waiting]) -> bool:
    """Whether several of these events are one trigger's: then they are cheaper together."""
    names = [lane.name for waiting in line for lane, _ in waiting.takers]
    return len(names) != len(set(names))


@dataclass(slots=True, eq=False)
class Start:
    """One call to be: of one event, of several as a chunk, or (``listed``) of several as a list.

    ``wanted``: sequences of all its events, where some of them must be read again; ``events`` are those at hand then.
    """

    lane: Lane
    bound: Bound
    key: str
    events: list[Arrived]
    size_bytes: int = 0
    listed: bool = False
    wanted: list[int] | None = None


@dataclass(slots=True)
class Batch:
    """What is stored in one step."""

    starts: list[Start]
    cursor: Cursor


@dataclass(slots=True)
class Fetch:
    """Events to be read for a trigger that lags: a page from ``seq`` on, or just those of ``missing``."""

    lane: Lane
    seq: int
    asked_at: int
    missing: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the router asks others about."""

    match: Match
    key: Callable[[Bound, Arrived], str]
    """The key of an event that the trigger took."""
    chunk_max: ChunkMax
    pause_s: Callable[[Bound], float]
    """0 if calls of this trigger may be stored right now, else when to ask again."""


@dataclass(slots=True)
class Packing:
    """Calls of one batch; chunks are open to more events of their trigger, key and hops."""

    chunk_max: ChunkMax
    starts: list[Start] = field(default_factory=list)
    _open: dict[tuple[str, str, int], Start] = field(default_factory=dict)
    _calls: set[tuple[str, str, str, str]] = field(default_factory=set)
    _bytes: int = 0

    @property
    def full(self) -> bool:
        """Whether no more is to be put in."""
        return len(self.starts) >= CALLS_MAX or self._bytes >= CALLS_BYTES_MAX

    @property
    def half_full(self) -> bool:
        """What lags takes no more than half of a batch: the rest is for what comes."""
        return len(self.starts) >= CALLS_MAX // 2 or self._bytes >= CALLS_BYTES_MAX // 2

    @property
    def no_room(self) -> bool:
        """Whether no more can be put in, also of an event that some of it was put in of."""
        return len(self.starts) >= 2 * CALLS_MAX or self._bytes >= 2 * CALLS_BYTES_MAX

    def join(self, lane: Lane, key: str, event: Arrived) -> None:
        """Put the event into a call of its trigger: one of its key and its hops that has room, or a new one."""
        bound = lane.bound
        if self._is_known(bound, event):
            return
        size_bytes = len(event.packed(takes_event=bound.manifest.takes_event)) + 4
        name = (lane.name, key, event.head.hops)
        start = self._open.get(name)
        if (
            start is None
            or len(start.events) >= self.chunk_max(bound, lane.lagging)
            or start.size_bytes + size_bytes > limits.INLINE_ARGS_BYTES_MAX
        ):
            start = self._open[name] = Start(lane, bound, key, [])
            self.starts.append(start)
        start.events.append(event)
        start.size_bytes += size_bytes
        self._bytes += size_bytes

    def add(self, start: Start) -> None:
        """A call that nothing joins."""
        self.starts.append(start)
        self._bytes += sum(event.size_bytes for event in start.events)

    def _is_known(self, bound: Bound, event: Arrived) -> bool:
        """A copy of an event whose first one was in EVENTS no longer when it came: its call is in this batch already."""
        call = (*bound.owner, call_of(bound, event.head))
        known = call in self._calls
        self._calls.add(call)
        return known


class Recent:
    """Events that are held back, as long as there is room for them."""

    def __init__(self) -> None:
        self._events: OrderedDict[int, Arrived] = OrderedDict()
        self._bytes = 0

    def keep(self, event: Arrived) -> None:
        """Have it at hand."""
        if event.seq in self._events:
            return
        self._events[event.seq] = event
        self._bytes += event.size_bytes
        while self._bytes > RECENT_BYTES_MAX:
            _, oldest = self._events.popitem(last=False)
            self._bytes -= oldest.size_bytes

    def get(self, seq: int) -> Arrived | None:
        """The event, if it is at hand."""
        return self._events.get(seq)
