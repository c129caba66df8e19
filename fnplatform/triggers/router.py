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
from collections.abc import Mapping, Sequence

from fleet.protocol import limits
from fleet.protocol.messages import SubjectTrigger
from fnplatform.triggers.invocations import Arrived
from fnplatform.triggers.lanes import Lane
from fnplatform.triggers.lookups import CallName, LookUps
from fnplatform.triggers.plans import CALLS_MAX, Batch, Fetch, Packing, Recent, Rules, Start, Waiting, repeats
from fnplatform.triggers.shaping import Release
from fnplatform.triggers.state import Cursor
from fnplatform.triggers.table import Bound

LONES_MAX = 4
"""So many calls cost less one by one than in a batch."""
WAITING_MAX = 4000
WAITING_BYTES_MAX = 32 * limits.MIB
"""Events in the line: beyond this none are read."""
MISSING_MAX = 256
"""Events that were held back before a restart are read again so many at a time."""
FETCHES_MAX = 8
"""Pages that are read one after the other before something is stored again."""
CURSOR_S = 1.0
"""The cursor is this old at most while events come."""
RETRY_S = 0.5


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
        self._look_ups = LookUps()
        self._behind_s: float | None = None
        """Since when the stored cursor is behind."""
        self._in_step = False
        """A trigger has caught up: that must be stored before it starts calls of their own."""
        self._now_s = now_s
        self._unix_s = 0.0
        self._recent = Recent()
        self._turn = 0
        self._held = 0
        """Events that all triggers hold back."""

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
            self._look_ups.add(waiting)

    def skip(self, seq: int, now_s: float) -> None:
        """An event that can't be read, or none: nothing starts by it."""
        if seq > self.head:
            self.head = seq
            if self._behind_s is None:
                self._behind_s = now_s
            if not self._line:
                self.popped = seq

    def unchecked(self) -> list[CallName]:
        """Calls to be looked up, some of them at a time."""
        return self._look_ups.next()

    def checked(self, looked_up: Sequence[CallName], known: set[str]) -> None:
        """Of these calls ``known`` were started before."""
        self._calls -= self._look_ups.answered(looked_up, known)

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
            if len(waiting.takers) > LONES_MAX or (not self.under_way and repeats(self._line)):
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
        if lane.busy or lane.lagging or lane.shaper is not None or not self._may(lane):
            return False
        packed = event.packed(takes_event=lane.bound.manifest.takes_event)
        return len(packed) <= limits.INLINE_ARGS_BYTES_MAX  # else it is a blob, which is put first

    # --- in a batch -------------------------------------------------------------------------------------------------

    def batch(self, now_s: float, unix_s: float) -> Batch | None:
        """What is to be stored in one step, if anything is; then tell ``committed``, or make a new router."""
        self._now_s, self._unix_s = now_s, unix_s
        if self.committing or self.under_way:
            return None
        packing = Packing(self._rules.chunk_max)
        lanes = self._in_turn()
        self._held = sum(lane.shaper.count for lane in lanes if lane.shaper is not None)
        for lane in lanes:
            if lane.caught:
                self._take_caught(lane, packing)
        while self._line and self._line[0].checked and not packing.full:
            before = self.popped
            waiting = self._pop()
            for lane, key in waiting.takers:
                self._take(lane, key, waiting.event, before, packing)
        for lane in lanes:
            if lane.lagging:
                self._passed(lane)
            self._release(lane, packing)
            if lane.over(self.popped):
                del self.lanes[lane.name]
        if not packing.starts and not self._in_step and not self._cursor_due(now_s):
            return None
        self.committing = True
        self._in_step = False
        return Batch(packing.starts, self._cursor())

    def _in_turn(self) -> list[Lane]:
        """All lanes, each time beginning with another one: where there is no room for all, each has its turn."""
        lanes = list(self.lanes.values())
        self._turn += 1
        first = self._turn % max(1, len(lanes))
        return lanes[first:] + lanes[:first]

    def committed(self, batch: Batch, cursor: Cursor) -> None:
        """It is stored."""
        assert self.committing
        self.committing = False
        self.durable = cursor
        self._behind_s = None if self.popped == cursor.seq and not self._line else self._now_s

    def _take(self, lane: Lane, key: str, event: Arrived, before: int, packing: Packing) -> None:
        if lane.lagging:
            lane.live(event, before)
        elif lane.shaper is not None:
            if lane.has_room(self._held):
                self._hold(lane, key, event)
            else:
                lane.lag(before)
        elif not self._may(lane):
            lane.lag(before)
        elif packing.no_room:
            lane.lag(before)  # an event may have more takers than a batch has room for
        else:
            packing.join(lane, key, event)

    def _may(self, lane: Lane) -> bool:
        """Whether calls of the trigger may be stored now; if not, it is asked again after its pause."""
        if lane.retry_s > self._now_s:
            return False
        pause_s = self._rules.pause_s(lane.bound)
        lane.retry_s = self._now_s + pause_s
        return pause_s <= 0

    def _take_caught(self, lane: Lane, packing: Packing) -> None:
        if lane.shaper is not None:
            while lane.caught and lane.has_room(self._held):
                event = lane.caught[0]
                for _, key in self._rules.match([lane.bound], event):
                    self._hold(lane, key, event)
                lane.took(event)
            return
        if not self._may(lane):
            return
        while lane.caught and not packing.half_full:
            event = lane.caught[0]
            for _, key in self._rules.match([lane.bound], event):
                packing.join(lane, key, event)
            lane.took(event)

    def _hold(self, lane: Lane, key: str, event: Arrived) -> None:
        """The trigger decides when it starts something."""
        assert lane.shaper is not None
        lane.shaper.add(event.seq, key, event.accepted_unix_s, event.size_bytes)
        lane.seen_unix_s = event.accepted_unix_s
        self._recent.keep(event)
        self._held += 1

    def _release(self, lane: Lane, packing: Packing) -> None:
        """What a trigger held back, and now starts."""
        shaper = lane.shaper
        if shaper is None:
            return
        shaper.passed(lane.upto if lane.lagging else self.popped)
        if packing.full or (shaper.next_unix_s is not None and not self._may(lane)):
            return
        # While events are still to come it judges by the times of those that came.
        read_to = self._line[0].event.accepted_unix_s if self._line else None
        if lane.lagging and not (lane.joined and not lane.caught):
            read_to = lane.seen_unix_s
        for release in shaper.release(self._unix_s, read_to, calls_max=CALLS_MAX - len(packing.starts)):
            self._start(lane, release, packing)

    def _start(self, lane: Lane, release: Release, packing: Packing) -> None:
        events = [self._recent.get(seq) for seq in release.seqs]
        at_hand = [event for event in events if event is not None]
        if len(at_hand) == len(events) and lane.trigger.batch is None:
            packing.join(lane, release.key, at_hand[0])
            return
        wanted = None if len(at_hand) == len(events) else release.seqs
        listed = lane.trigger.batch is not None
        packing.add(Start(lane, lane.bound, release.key, at_hand, listed=listed, wanted=wanted))

    def _cursor(self) -> Cursor:
        lagging = {name: lane.state(self.popped) for name, lane in self.lanes.items() if lane.is_to_be_stored}
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
        """Pages of EVENTS to be read for triggers that lag, some of them at a time; tell ``fetched`` of each."""
        self._now_s = now_s
        found: list[Fetch] = []
        for lane in self._in_turn():
            if len(found) >= FETCHES_MAX:
                break
            if not lane.lagging or lane.fetching or lane.joined or lane.caught or lane.retry_s > now_s:
                continue
            if lane.shaper is not None and lane.shaper.missing:
                found.append(Fetch(lane, 0, self.popped, lane.shaper.missing[:MISSING_MAX]))
                continue
            if lane.shaper is None and not self._may(lane):
                continue
            if not lane.has_room(self._held):
                continue
            lane.fetching = True
            lane.tail = []
            found.append(Fetch(lane, lane.read_to + 1, self.popped))
        return found

    def restored(self, fetch: Fetch, events: Mapping[int, Arrived]) -> None:
        """What was held back before a restart; what isn't among ``events`` is no longer kept."""
        lane = fetch.lane
        assert lane.shaper is not None and fetch.missing is not None
        for seq in fetch.missing:
            event = events.get(seq)
            if event is None:
                lane.shaper.forget(seq)
            else:
                lane.shaper.add(seq, self._rules.key(lane.bound, event), event.accepted_unix_s, event.size_bytes)
                self._recent.keep(event)

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
        if lane.passed(self.popped) and lane.shaper is None:
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
            if not waiting.takers:
                waiting.checked = True  # there is nothing to be asked about it

    @property
    def wake_s(self) -> float | None:
        """When ``batch`` or ``fetches`` is to be asked again, if nothing happens before; None: not at all."""
        if self.under_way:
            return None  # the last of these to be stored wakes us
        due = [self._behind_s + CURSOR_S] if self._behind_s is not None and self.popped > self.durable.seq else []
        wakes = [lane.wake_s(self._now_s, self._unix_s) for lane in self.lanes.values()]
        return min([*due, *(at for at in wakes if at is not None)], default=None)
