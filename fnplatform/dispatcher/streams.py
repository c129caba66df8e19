"""Generator calls: how far their callers are, and that they are there. Pure; changes the Board.

What a caller has taken is soft state: it says so again and again, and a new leader begins with what it last wrote down.
"""

from __future__ import annotations

from itertools import takewhile

from fleet.protocol.errors import CallCancelled
from fleet.protocol.limits import MIB, STREAM_IDLE_S
from fleet.protocol.messages import CallState
from fnplatform.dispatcher import reporting
from fnplatform.dispatcher.chunks import Ranges
from fnplatform.dispatcher.events import Consumed, Credit, Discard, Drop
from fnplatform.dispatcher.granting import unlease
from fnplatform.dispatcher.state import Board, Entry, Phase

DISCARD_PARTS = 64
DISCARD_BYTES = 16 * MIB
"""Parts that the caller has are removed in lots of so many, or so large ones."""


def opened(board: Board, entry: Entry) -> None:
    """A generator call is known from now on; its caller has STREAM_IDLE_S to be heard."""
    entry.consumer_s = board.now_s
    board.streams[entry] = None


def consumed(board: Board, event: Consumed) -> None:
    """The caller is there; the car may let the generator go on as far."""
    entry = board.entries.get((event.tenant, event.call))
    if entry is None or not entry.state.stream:
        return
    entry.consumer_s = board.now_s
    board.streams.pop(entry, None)
    board.streams[entry] = None
    if event.received > entry.delivered and not entry.ops:
        # An earlier leader stored them, and they have expired since: what the caller has needn't be made again.
        entry.delivered, entry.next_part = event.received, max(entry.next_part, event.part)
    # Not more than was delivered: however far a caller claims to be, the car keeps no more than a window unreported.
    entry.consumed = max(entry.consumed, min(event.items, entry.delivered))
    if entry.lease is not None:  # Also where it is nothing new: what was told before may have got lost.
        board.out.append(Credit(entry.lease.car.name, entry.lease.lease.counter, entry.consumed))
    _discard(board, entry, event.part)


def stored(entry: Entry, part: int, seq: int, size_bytes: int) -> None:
    """A part is stored, as message ``seq`` of the stream."""
    entry.parts.append((part, seq, size_bytes))


def _discard(board: Board, entry: Entry, part: int) -> None:
    """Let go of parts below ``part``, which the caller has, when they are many. The newest one stays: it says how far
    the generator is."""
    count = size_bytes = 0
    for number, _, one_bytes in entry.parts:
        if number >= part or count == len(entry.parts) - 1:
            break
        count += 1
        size_bytes += one_bytes
    if count >= DISCARD_PARTS or size_bytes >= DISCARD_BYTES:
        del entry.parts[:count]
        board.out.append(Discard(entry, entry.parts[0][1]))


def found(entry: Entry, parts: list[tuple[int, Ranges]]) -> None:
    """Parts that are stored, as the stream says."""
    for _, indices in parts:
        if indices:
            entry.delivered = max(entry.delivered, indices[-1][1] + 1)


def idle(board: Board) -> None:
    """End generators whose callers weren't heard for too long: nobody will ever take what they yield."""
    if board.adopting:
        return
    due = list(takewhile(lambda entry: board.now_s - entry.consumer_s >= STREAM_IDLE_S, board.streams))
    for entry in due:
        if entry.phase in (Phase.GONE, Phase.ENDING):
            continue
        if entry.lease is not None:
            held = unlease(board, entry, "cancel")
            board.out.append(Drop(held.car.name, [held.lease.counter]))
        error = CallCancelled(f"nobody iterated what the generator yields for {STREAM_IDLE_S:g} s")
        reporting.end_call(board, entry, CallState.CANCELLED, error)
