"""Store invocations and how far we are, exactly once.

The cursor is one message in the queue's stream. A **commit** stores calls and the next cursor in one atomic batch that
expects the last cursor's sequence. A **lone** call is one publish (0.14 ms instead of 2) that expects the same, so that
it fails once anybody wrote a cursor after that. Both are therefore void as soon as somebody else claimed the cursor, also
when they were sent before and arrive late.

``claim`` writes the cursor anew, under our epoch. After it, nothing that was sent before can be stored any more: what is in
the queue or has an outcome is there, everything else isn't and won't be. So it is the one answer to a new leader, to an
answer that got lost and to an expectation that failed. Calls of their own behind the cursor are then looked up by their ids;
chunks needn't be, since they come with a cursor.

Errors: CursorMoved when a later leader claimed it; StreamFull; FleetUnavailable: claim again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from fleet.protocol import frames
from fleet.protocol.errors import FleetError
from fleet.protocol.limits import MIB
from fleet.protocol.subjects import (
    CURSOR,
    INVOCATION,
    OUTCOME,
    STORED_EVENT,
    STREAM_EVENTS,
    STREAM_INVOCATIONS,
    STREAM_OUTCOMES,
)
from fnplatform.atomic import Put, publish_batch
from fnplatform.dispatcher.wire import invocation_subject
from fnplatform.jetstream import JetStream, OnStored, StoredMessage, WrongSequence
from fnplatform.triggers.invocations import NewInvocation
from fnplatform.triggers.state import Cursor

log = logging.getLogger("fleet.triggers")

PAGE_BYTES = 4 * MIB
"""Of events that are read together."""
LOOKED_UP_MAX = 256
"""Calls that are looked up by one question."""


class CursorMoved(FleetError):
    """A later leader claimed the cursor: this one has nothing more to do."""

    code = "cursor_moved"


class Streams(Protocol):
    """What routing needs of EVENTS, INVOCATIONS and OUTCOMES."""

    async def cursor(self) -> StoredMessage | None: ...
    async def put(self, calls: Sequence[Put], cursor: bytes, expect: int) -> int:
        """All in one step; the sequence of the first. The cursor comes last."""
        ...

    def lone(self, subject: str, data: bytes, expect_cursor: int, on_stored: OnStored) -> None:
        """One call, if the cursor is still that one. ``on_stored`` is called once."""
        ...

    async def present(self, stream: str, subjects: Sequence[str]) -> set[str]:
        """Those of them that hold a message."""
        ...

    async def events_end(self) -> int:
        """Sequence of the newest event."""
        ...

    async def events(self, tenant: str, seq: int, limit: int) -> list[StoredMessage]:
        """Events of a tenant from ``seq`` on, some of them; none: there are none."""
        ...

    async def event(self, seq: int) -> StoredMessage | None: ...
    async def purge_events(self, upto: int, full: float, to: float) -> int:
        """Where more than the share ``full`` is taken: remove the oldest up to ``upto``, until ``to`` is; how many."""
        ...


class JetStreams:
    """The real ones."""

    def __init__(self, js: JetStream, partition: str) -> None:
        self._js = js
        self._cursor = CURSOR.build(partition=partition)

    async def cursor(self) -> StoredMessage | None:
        """The cursor's message."""
        return await self._js.get_last(STREAM_INVOCATIONS, self._cursor)

    async def put(self, calls: Sequence[Put], cursor: bytes, expect: int) -> int:
        """All in one step; the sequence of the first. The cursor comes last."""
        if not calls:
            return await self._js.publish(self._cursor, cursor, expect_last_subject_seq=expect)
        return await publish_batch(self._js, [*calls, Put(self._cursor, cursor, expect)])

    def lone(self, subject: str, data: bytes, expect_cursor: int, on_stored: OnStored) -> None:
        """One call, if the cursor is still that one."""
        about = {"Nats-Expected-Last-Subject-Sequence-Subject": self._cursor}
        self._js.publish_then(subject, data, on_stored, expect_last_subject_seq=expect_cursor, headers=about)

    async def present(self, stream: str, subjects: Sequence[str]) -> set[str]:
        """Those of them that hold a message."""
        found = await self._js.get_last_of_each(stream, list(subjects), limit=len(subjects))
        return {message.subject for message in found}

    async def events_end(self) -> int:
        """Sequence of the newest event."""
        return int((await self._js.stream_info(STREAM_EVENTS))["state"]["last_seq"])

    async def events(self, tenant: str, seq: int, limit: int) -> list[StoredMessage]:
        """Events of a tenant from ``seq`` on, some of them; none: there are none."""
        wildcard = STORED_EVENT.wildcard(tenant=tenant)
        return await self._js.get_range(STREAM_EVENTS, wildcard, seq=seq, limit=limit, bytes_max=PAGE_BYTES)

    async def event(self, seq: int) -> StoredMessage | None:
        """One event."""
        return await self._js.get_seq(STREAM_EVENTS, seq)

    async def purge_events(self, upto: int, full: float, to: float) -> int:
        """Where more than the share ``full`` is taken: remove the oldest up to ``upto``, until ``to`` is; how many."""
        info = await self._js.stream_info(STREAM_EVENTS)
        state, config = info["state"], info["config"]
        limits = ((state["messages"], config["max_msgs"]), (state["bytes"], config["max_bytes"]))
        taken = max(used / most for used, most in limits if most > 0)
        first, last = int(state["first_seq"]), int(state["last_seq"])
        if taken <= full:
            return 0
        edge = min(upto, first + int((last - first + 1) * (1 - to / taken)) - 1)
        if edge < first:
            return 0
        count = await self._js.purge(STREAM_EVENTS, STORED_EVENT.wildcard(), before_seq=edge + 1)
        log.warning(
            "EVENTS is %.0f %% full: %d handled events removed, their copies aren't known any more", 100 * taken, count
        )
        return count


class Committer:
    """Writes for one term of leadership; one commit at a time, and no lone call is under way meanwhile."""

    def __init__(self, streams: Streams, partition: str, epoch: int) -> None:
        self._streams = streams
        self._partition = partition
        self._epoch = epoch
        self._seq = 0
        self.cursor = Cursor()
        """As stored."""

    async def claim(self) -> Cursor:
        """Make the cursor ours: nothing that was sent before is stored from now on. CursorMoved, FleetUnavailable."""
        while True:
            found = await self._streams.cursor()
            before, expect = Cursor(), 0
            if found is not None:
                before, expect = Cursor.model_validate_json(bytes(found.data)), found.seq
            if before.epoch > self._epoch:
                raise CursorMoved(f"the leader of epoch {before.epoch} routes events")
            try:
                await self._write([], before, expect, max(self.cursor.stamp, before.stamp))
                return self.cursor
            except WrongSequence:
                continue  # something of before arrived in between

    async def commit(self, calls: Sequence[NewInvocation], cursor: Cursor) -> list[int]:
        """Store the calls and the cursor, in one step; the calls' sequences.

        WrongSequence: somebody wrote a cursor, or there is such a call; StreamFull: nothing was stored. FleetUnavailable:
        nobody knows. Claim after any of them.
        """
        puts = [Put(invocation_subject(call.state, self._partition), _packed(call), 0) for call in calls]
        first = await self._write(puts, cursor, self._seq, self.cursor.stamp)
        return list(range(first, first + len(calls)))

    async def _write(self, puts: Sequence[Put], cursor: Cursor, expect: int, stamp: int) -> int:
        fresh = cursor.model_copy(update={"epoch": self._epoch, "stamp": stamp + 1})
        data = fresh.model_dump_json(exclude_defaults=True).encode()
        first = await self._streams.put(puts, data, expect)
        self._seq = first + len(puts)
        self.cursor = fresh
        return first

    def publish_lone(self, call: NewInvocation, on_stored: OnStored) -> None:
        """Store one call, unless a cursor was written since ours."""
        self._streams.lone(invocation_subject(call.state, self._partition), _packed(call), self._seq, on_stored)

    async def known(self, states: Sequence[tuple[str, str, str, str]]) -> set[str]:
        """Of calls (tenant, app, function, call) those that are in the queue or have an outcome. Ask after ``claim``."""
        found: set[str] = set()
        for at in range(0, len(states), LOOKED_UP_MAX):
            part = states[at : at + LOOKED_UP_MAX]
            queued = {
                INVOCATION.build(partition=self._partition, tenant=t, app=a, function=f, call=c): c
                for t, a, f, c in part
            }
            ended = {OUTCOME.build(tenant=t, app=a, function=f, call=c): c for t, a, f, c in part}
            # The queue first: a call leaves it only after its outcome is stored.
            for stream, subjects in ((STREAM_INVOCATIONS, queued), (STREAM_OUTCOMES, ended)):
                found |= {subjects[one] for one in await self._streams.present(stream, list(subjects))}
        return found


def _packed(call: NewInvocation) -> bytes:
    return frames.pack(call.state, [b"" if call.state.blob else call.payload])
