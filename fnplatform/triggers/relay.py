"""Publish what functions emitted: from the outbox, where it was stored with their outcomes, into EVENTS.

An entry is read, its events are stored under ids that follow from the call (``<call>.<n>``, or ``<call>/<item>.<n>``), then it
is removed. Each step may come twice and changes nothing then: a copy of an event finds its subject taken. So whoever leads
after a crash begins with the entries that are left, and two leaders at once do no harm.

The dispatcher of the same process tells of an entry when it has stored it (``stored``); all others are found by looking: at
the start, and every LOOK_S after that, for those of an earlier leader that arrived late and those that had no room. Looking
is one read that finds nothing; a consumer would push entries of 4 MiB however many are under way.

Errors: what can't be stored is tried again for as long as the term lasts; events that went through too many functions get
dead letters instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, ProtocolError
from fleet.protocol.frames import Bytes
from fleet.protocol.ids import event_key
from fleet.protocol.limits import EVENT_HOPS_MAX, MIB
from fleet.protocol.messages import EventHead, OutboxEntry, StoredEvent
from fleet.protocol.subjects import EMITTED, STORED_EVENT, STREAM_OUTCOMES
from fnplatform.dead_letters import bury_event
from fnplatform.emits import unpack_emits
from fnplatform.jetstream import JetStream, StoredMessage, StreamFull, WrongSequence

log = logging.getLogger("fleet.relay")

KIND = "hops"
"""Of dead letters: in place of a function."""
LOOK_S = 1.0
RETRY_S = 0.2
ACTIVE_MAX = 256
ACTIVE_BYTES_MAX = 16 * MIB
"""Entries on their way at one time; one of any size always is."""

Published = tuple[EventHead, bytes]


class Outbox(Protocol):
    """Where entries lie, and where their events go. Every method may raise a FleetError: not done, as far as is known."""

    async def next(self, seq: int) -> StoredMessage | None:
        """The first entry at or after ``seq``."""
        ...

    async def publish(self, tenant: str, events: Sequence[Published]) -> None:
        """Store events, in order; those that are there already stay as they are."""
        ...

    async def bury(self, tenant: str, event: Published, reason: str) -> None:
        """Store a dead letter for an event."""
        ...

    async def remove(self, seq: int) -> None:
        """Forget an entry, if it is there."""
        ...


def events_of(entry: OutboxEntry, parts: Sequence[Bytes]) -> list[Published]:
    """The events of an entry, the same ones whenever it is asked; ProtocolError where its parts don't fit it."""
    calls = [f"{entry.call}/{item}" for item in entry.items] if entry.items else [entry.call]
    if len(calls) != len(parts):
        raise ProtocolError(f"{len(parts)} parts for {len(calls)} results that emit")
    source = f"/fleet/{entry.tenant}/{entry.app}/{entry.function}"
    at = datetime.fromtimestamp(entry.at_unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return [
        (
            EventHead(
                id=f"{call}.{number}", source=source, type=one.type, subject=one.subject, time=at,
                datacontenttype=one.datacontenttype, hops=entry.hops,
            ),
            one.data,
        )
        for call, part in zip(calls, parts, strict=True)
        for number, one in enumerate(unpack_emits(part))
    ]  # fmt: skip


def too_far(entry: OutboxEntry, head: EventHead) -> str:
    """Why an event is not published that went through too many functions."""
    return (
        f"{entry.app}.{entry.function} emitted {head.subject} as event number {entry.hops} of a chain, and a chain ends after"
        f" {EVENT_HOPS_MAX}: do functions here start each other in a circle? It was not published"
    )


class Term(Protocol):
    """The term of leadership that a relay runs beside."""

    emitted: Callable[[int, bytes], None] | None


class RelayService:
    """Relays while its process leads: a companion of the dispatcher."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def lead(self, term: Term) -> None:
        """Publish what is left and what comes, until cancelled."""
        relay = Relay(self._outbox)
        term.emitted = relay.stored
        await relay.run()

    async def reload(self, _tenant: str, _app: str) -> None:
        """Nothing: what was emitted is published, whatever became of the app."""


class Relay:
    """See the module. One for each term of leadership; ``run`` lasts as long."""

    def __init__(self, outbox: Outbox, *, look_s: float = LOOK_S) -> None:
        self._outbox = outbox
        self._look_s = look_s
        self._next = 1
        self._active: dict[int, int] = {}
        self._active_bytes = 0
        self._changed = anyio.Event()
        self._look_now = anyio.Event()
        self._group: TaskGroup | None = None
        self.published = 0
        """Events of entries that were removed, since the start."""

    def stored(self, seq: int, data: bytes) -> None:
        """An entry was stored just now, as message ``seq``."""
        if self._group is None or seq in self._active:
            return  # looking finds it
        if self._has_room(len(data)):
            self._begin(self._group, seq, data)
        else:
            self._look_now.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Publish what is left and what comes, until cancelled. Started once it hears of what is stored."""
        async with anyio.create_task_group() as group:
            self._group = group
            task_status.started()
            try:
                while True:
                    found = await self._look()
                    if found is None:
                        with anyio.move_on_after(self._look_s):
                            await self._look_now.wait()
                        self._look_now = anyio.Event()
                        continue
                    self._next = found.seq + 1
                    if found.seq not in self._active:
                        while not self._has_room(len(found.data)):
                            await self._changed.wait()
                        self._begin(group, found.seq, bytes(found.data))
            finally:
                self._group = None

    async def _look(self) -> StoredMessage | None:
        try:
            return await self._outbox.next(self._next)
        except FleetError as error:
            log.warning("can't look for what functions emitted yet: %s", error.message)
            return None

    def _has_room(self, size_bytes: int) -> bool:
        if not self._active:
            return True
        return len(self._active) < ACTIVE_MAX and self._active_bytes + size_bytes <= ACTIVE_BYTES_MAX

    def _begin(self, group: TaskGroup, seq: int, data: bytes) -> None:
        self._active[seq] = len(data)
        self._active_bytes += len(data)
        group.start_soon(self._relay, seq, data)

    async def _relay(self, seq: int, data: bytes) -> None:
        try:
            entry, parts = frames.unpack(data, OutboxEntry)
            events = events_of(entry, parts)
        except ProtocolError as error:
            log.error("entry %d of the outbox is none of ours, and stays there: %s", seq, error.message)
        else:
            await self._until_done(entry, self._settle, entry, events)
            await self._until_done(entry, self._outbox.remove, seq)
            self.published += len(events)
        finally:
            self._active_bytes -= self._active.pop(seq)
            self._changed.set()
            self._changed = anyio.Event()

    async def _settle(self, entry: OutboxEntry, events: Sequence[Published]) -> None:
        if entry.hops <= EVENT_HOPS_MAX:
            await self._outbox.publish(entry.tenant, events)
            return
        for event in events:
            await self._outbox.bury(entry.tenant, event, too_far(entry, event[0]))

    async def _until_done(self, entry: OutboxEntry, step: Callable[..., Awaitable[None]], *args: object) -> None:
        while True:
            try:
                await step(*args)
                return
            except FleetError as error:
                log.warning("what call %s emitted isn't published yet: %s", entry.call, error.message)
                await anyio.sleep(RETRY_S)


class JetStreamOutbox:
    """The real one."""

    def __init__(self, js: JetStream, *, unix_s: Callable[[], float] = time.time) -> None:
        self._js = js
        self._unix_s = unix_s

    async def next(self, seq: int) -> StoredMessage | None:
        """The first entry at or after ``seq``."""
        return await self._js.get_next(STREAM_OUTCOMES, EMITTED.wildcard(), seq)

    async def publish(self, tenant: str, events: Sequence[Published]) -> None:
        """Store events, in order, all of them on their way at once; those that are there already stay as they are."""
        done = anyio.Event()
        left = len(events)
        errors: list[FleetError] = []

        def on_stored(stored: int | FleetError) -> None:
            nonlocal left
            if not isinstance(stored, int | WrongSequence):
                errors.append(stored)
            left -= 1
            if not left:
                done.set()

        now_unix_s = self._unix_s()
        for head, data in events:
            subject = STORED_EVENT.build(tenant=tenant, event=event_key(head.source, head.id))
            message = frames.pack(StoredEvent(tenant=tenant, head=head, accepted_unix_s=now_unix_s), [data])
            self._js.publish_then(subject, message, on_stored, expect_last_subject_seq=0)
        if left:
            await done.wait()
        if errors:
            raise errors[0]

    async def bury(self, tenant: str, event: Published, reason: str) -> None:
        """Store a dead letter for an event, unless there is no room for one."""
        head, data = event
        try:
            await bury_event(self._js, tenant, KIND, head, data, reason)
        except StreamFull as error:
            log.error("no room for the dead letter of event %s: %s", head.id, error.message)

    async def remove(self, seq: int) -> None:
        """Forget an entry, if it is there."""
        await self._js.delete_seq(STREAM_OUTCOMES, seq)
