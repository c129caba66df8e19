"""One subject trigger at work: in step with the others, lagging behind them, or holding events back. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from fleet.protocol.messages import SubjectTrigger
from fnplatform.triggers.invocations import Arrived
from fnplatform.triggers.shaping import Shaper
from fnplatform.triggers.state import Cursor, LaneState
from fnplatform.triggers.table import Bound

CAUGHT_MAX = 1000
CAUGHT_BYTES_MAX = 4 << 20
"""Events that a lagging trigger has at hand."""


HELD_ALL_MAX = 50_000
"""Events that all triggers hold back together: they stand in the cursor, which is stored with every batch."""
HELD_LEAST = 100
"""And so many of each, whatever others hold."""


class Lane:
    """A trigger and where it is.

    **In step**: its events wait with those of all others in the router. **Lagging**: it reads EVENTS by itself from ``read_to``
    on, a page at a time; while it does, live events go into ``tail``, and once a page reaches where those begin, it has
    caught up: what is in ``caught`` is all that is left. It is in step again when that is empty.
    """

    __slots__ = (
        "bound", "busy", "caught", "caught_bytes", "fetching", "joined", "lagging", "name", "read_to", "retry_s",
        "seen_unix_s", "shaper", "tail", "until", "upto",
    )  # fmt: skip

    def __init__(self, bound: Bound, state: LaneState | None = None) -> None:
        self.bound = bound
        self.name = bound.id
        """Its trigger's id, with something behind it once that was changed."""
        self.busy = False
        """A call of its own is on its way into the queue."""
        self.lagging = state is not None
        self.upto = 0 if state is None else state.upto
        """While it lags: events up to here are done, or were given to the shaper."""
        self.shaper = Shaper(self.trigger, None if state is None else state.shaper) if self.trigger.shaped else None
        """Holds events back."""
        self.seen_unix_s = 0.0
        """When the last event that the shaper got was accepted."""
        if state is not None and self.shaper is not None:
            self.upto = self.shaper.position
        self.read_to = self.upto
        self.until = None if state is None else state.until
        """The trigger was changed: it ends with this event."""
        self.retry_s = 0.0
        """It doesn't read on, and nothing of it is stored, before this time."""
        self.fetching = False
        self.caught: deque[Arrived] = deque()
        self.caught_bytes = 0
        self.tail: list[Arrived] | None = None
        self.joined = False

    @property
    def trigger(self) -> SubjectTrigger:
        """What it obeys."""
        trigger = self.bound.trigger
        assert isinstance(trigger, SubjectTrigger), self.bound
        return trigger

    def lag(self, upto: int) -> None:
        """Events after ``upto`` are read again later."""
        assert not self.lagging and not self.caught
        self.lagging = True
        self.upto = self.read_to = upto
        self.joined = self.fetching = False
        self.tail = None

    def live(self, event: Arrived, before: int) -> None:
        """While it lags: an event comes by; all before it up to ``before`` came by too."""
        if self.until is not None and event.seq > self.until:
            return
        if self.joined:
            if self._fits(event):
                self._catch(event)
            else:
                self.joined = False
                self.read_to = before
        elif self.tail is not None:
            if len(self.tail) < CAUGHT_MAX and self.caught_bytes < CAUGHT_BYTES_MAX:
                self.tail.append(event)
                self.caught_bytes += event.size_bytes
            else:
                self._drop_tail()

    def fetched(self, page: list[Arrived], asked_at: int, now_at: int, *, complete: bool, claims: Claims) -> None:
        """A page of EVENTS behind ``read_to``. It was asked for when the others were at ``asked_at``, they are at ``now_at``.

        ``complete``: there was no more behind it. Nothing if too much is at hand: it reads on from where it stops.
        """
        self.fetching = False
        edge = asked_at if self.until is None else min(asked_at, self.until)
        for event in page:
            if event.seq > edge:
                complete = True
                break
            if claims(self.bound, event):
                if not self._fits(event):
                    self._drop_tail()
                    return
                self._catch(event)
            self.read_to = event.seq
        if not complete:
            self._drop_tail()
        else:
            self.read_to = max(self.read_to, edge)
            if self.until is not None:
                self.joined = self.read_to >= self.until
                self._drop_tail()
            elif self.tail is not None:
                for event in self.tail:
                    self.caught.append(event)
                self.tail = None
                self.read_to = now_at
                self.joined = True
        if not self.caught:
            self.upto = self.read_to

    def took(self, event: Arrived) -> None:
        """The first of ``caught`` is part of what is stored next."""
        assert self.caught[0] is event
        self.caught.popleft()
        self.caught_bytes -= event.size_bytes
        self.upto = event.seq if self.caught else max(event.seq, self.read_to)

    def passed(self, seq: int) -> bool:
        """Every event up to ``seq`` came by; whether it is in step again by that."""
        if self.joined and self.until is None:
            self.read_to = max(self.read_to, seq)
            if not self.caught:
                self.lagging = self.joined = False
                return True
        return False

    def retire(self, until: int) -> None:
        """The trigger was changed: finish what came up to ``until``."""
        assert self.until is None
        self.until = until
        self.name = f"{self.bound.id}.{until}"
        if self.joined:  # it reads what is left by itself
            self.joined = False
        self._drop_tail()

    def over(self, popped: int) -> bool:
        """Changed, and done with all that was before that; the others are at ``popped``."""
        if self.until is None or self.caught or (self.shaper is not None and not self.shaper.empty):
            return False
        return (self.upto if self.lagging else popped) >= self.until

    def wake_s(self, now_s: float, unix_s: float) -> float | None:
        """When there is something to do for it if nothing happens before; by the clock that ``now_s`` is of."""
        if self.shaper is not None and (next_unix_s := self.shaper.next_unix_s) is not None:
            return max(self.retry_s, now_s + next_unix_s - unix_s)
        return self.retry_s if self.lagging and not self.fetching else None

    def has_room(self, held: int) -> bool:
        """Whether its shaper, if it has one, takes another event, while all shapers hold ``held``."""
        return self.shaper is None or (self.shaper.room and (held < HELD_ALL_MAX or self.shaper.count < HELD_LEAST))

    @property
    def is_to_be_stored(self) -> bool:
        """Whether the cursor's place doesn't tell what it has done: it lags, its shaper has something to remember, or it was
        changed and has to finish under whoever leads then."""
        return self.lagging or self.until is not None or (self.shaper is not None and not self.shaper.idle)

    def state(self, popped: int = 0) -> LaneState:
        """What must be durable then; the others are at ``popped``."""
        bound = self.bound
        shaper = None if self.shaper is None else self.shaper.state()
        upto = self.upto if self.lagging else popped
        return LaneState.model_construct(
            tenant=bound.tenant, app=bound.app, function=bound.function, version=bound.version, index=bound.index,
            upto=upto if shaper is None else shaper.upto, until=self.until, shaper=shaper,
        )  # fmt: skip

    def _fits(self, event: Arrived) -> bool:
        return not self.caught or (
            len(self.caught) < CAUGHT_MAX and self.caught_bytes + event.size_bytes <= CAUGHT_BYTES_MAX
        )

    def _catch(self, event: Arrived) -> None:
        self.caught.append(event)
        self.caught_bytes += event.size_bytes

    def _drop_tail(self) -> None:
        for event in self.tail or ():
            self.caught_bytes -= event.size_bytes
        self.tail = None


Claims = Callable[[Bound, Arrived], bool]


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
