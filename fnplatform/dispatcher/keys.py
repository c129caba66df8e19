"""Calls of a function with the same ``key`` run one after the other, by their ``order``. Pure; changes the Board.

Of one (tenant, app, function, key) the call with the lowest order is the only one that waits for a car, is looked up, backs
off or runs; the others are BLOCKED until it is over, whatever way it ends. So a retry holds up its own key and nothing else.
Versions of a function share their keys. What is queued under a lower order while a later one runs goes next.

Before this leader knows everything that was queued before it led, nothing of a key goes: what comes later in the stream may be
earlier in the order, since each attempt is stored anew.

Calls without a key never come here.
"""

from __future__ import annotations

from fnplatform.dispatcher import chunks
from fnplatform.dispatcher.chunks import Ranges
from fnplatform.dispatcher.queues import EntryHeap
from fnplatform.dispatcher.state import Board, Entry, KeyId, Phase


def _is_there(entry: Entry, _: float) -> bool:
    return entry.phase is not Phase.GONE


class KeyLine:
    """The calls of one key that aren't over. ``active``: the one whose turn it is, if it took it already."""

    __slots__ = ("active", "calls", "heap")

    def __init__(self) -> None:
        self.heap = EntryHeap(_is_there)
        self.active: Entry | None = None
        self.calls = 0

    @property
    def head(self) -> Entry | None:
        """The call with the lowest order."""
        found = self.heap.peek()
        return None if found is None else found[1]


def id_of(entry: Entry) -> KeyId:
    """Which line a call stands in."""
    state = entry.state
    return state.tenant, state.app, state.function, state.key


def rank_of(entry: Entry) -> float:
    """The lowest goes first."""
    return float(entry.state.order)


def join(board: Board, entry: Entry) -> None:
    """A call with a key is known from now on."""
    line = board.lines.get(id_of(entry))
    if line is None:
        line = board.lines[id_of(entry)] = KeyLine()
    line.calls += 1
    line.heap.push(rank_of(entry), entry)


def take_turn(board: Board, entry: Entry) -> bool:
    """Whether it is this call's turn, which it takes then. One that waits with a higher order gives way."""
    line = board.lines[id_of(entry)]
    active = line.active
    if line.head is not entry:
        if active is entry:
            line.active = None
        return False
    if active is not None and active is not entry and active.phase is not Phase.GONE:
        if active.phase not in (Phase.WAITING, Phase.DELAYED):
            return False
        block(active)
    line.active = entry
    return True


def block(entry: Entry) -> None:
    """It waits for an earlier one of its key."""
    if entry.queued:
        entry.queued = False
        entry.queue.waiting -= 1
    entry.phase = Phase.BLOCKED


def adopted(board: Board, entry: Entry) -> None:
    """A car runs this call already, by an earlier leader's lease: it had its turn."""
    line = board.lines[id_of(entry)]
    if line.active is None or line.active.lease is None:
        if line.active is not None and line.active is not entry and line.active.phase in (Phase.WAITING, Phase.DELAYED):
            block(line.active)
        line.active = entry


def leave(board: Board, entry: Entry) -> None:
    """The call is over (its phase says so)."""
    line = board.lines[id_of(entry)]
    line.calls -= 1
    if not line.calls:
        del board.lines[id_of(entry)]
    elif line.active is entry:
        line.active = None


def next_of(board: Board, entry: Entry) -> Entry | None:
    """The call of the same key whose turn it is now, if nothing else but its turn kept it."""
    line = board.lines.get(id_of(entry))
    if line is None or (line.active is not None and line.active.phase is not Phase.GONE):
        return None
    head = line.head
    return head if head is not None and head.phase is Phase.BLOCKED else None


def ahead_of(board: Board, entry: Entry) -> Entry | None:
    """The call that this one waits for."""
    line = board.lines.get(id_of(entry))
    if line is None:
        return None
    return line.active if line.active is not None and line.active is not entry else line.head


# --- chunks of one key -----------------------------------------------------------------------------------------------


def one_by_one(entry: Entry) -> bool:
    """Whether the items of a chunk are granted one at a time: one that fails is tried again before the next ones run."""
    state = entry.state
    return bool(state.key) and state.items is not None and entry.queue.manifest.retries.max_attempts > 1


def items_of(entry: Entry) -> Ranges:
    """What of a chunk a lease is for, if nothing of it backs off."""
    return chunks.of([entry.remaining[0][0]]) if entry.remaining and one_by_one(entry) else entry.remaining


def hold_of(entry: Entry) -> float:
    """When that may run."""
    return entry.holds.get(entry.remaining[0][0], 0.0) if entry.remaining else 0.0
