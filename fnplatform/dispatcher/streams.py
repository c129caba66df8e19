"""Generator calls: how far their callers are, and that they are there. Pure; changes the Board.

What a caller has taken is soft state: it says so again and again, and a new leader begins with what it last wrote down.
"""

from __future__ import annotations

from fleet.protocol.errors import CallCancelled
from fleet.protocol.limits import STREAM_IDLE_S
from fleet.protocol.messages import CallState
from fnplatform.dispatcher import reporting
from fnplatform.dispatcher.chunks import Ranges
from fnplatform.dispatcher.events import Consumed, Credit, Drop
from fnplatform.dispatcher.granting import unlease
from fnplatform.dispatcher.state import Board, Entry, Phase


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
    board.streams.pop(entry)
    board.streams[entry] = None
    # Not more than was delivered: however far a caller claims to be, the car keeps no more than a window unreported.
    items = min(event.items, entry.delivered)
    if items > entry.consumed:
        entry.consumed = items
        if entry.lease is not None:
            board.out.append(Credit(entry.lease.car.name, entry.lease.lease.counter, items))


def found(entry: Entry, parts: list[tuple[int, Ranges]]) -> None:
    """Parts that are stored, as the stream says."""
    for _, indices in parts:
        if indices:
            entry.delivered = max(entry.delivered, indices[-1][1] + 1)


def idle(board: Board) -> None:
    """End generators whose callers weren't heard for too long: nobody will ever take what they yield."""
    if board.adopting:
        return
    for entry in list(board.streams):
        if board.now_s - entry.consumer_s < STREAM_IDLE_S:
            return
        if entry.phase in (Phase.GONE, Phase.ENDING):
            continue
        if entry.lease is not None:
            held = unlease(board, entry, "cancel")
            board.out.append(Drop(held.car.name, [held.lease.counter]))
        error = CallCancelled(f"nobody iterated what the generator yields for {STREAM_IDLE_S:g} s")
        reporting.end_call(board, entry, CallState.CANCELLED, error)
