"""Accept events: stored means accepted, a copy is told from its original by the subject that it would be stored on.

An event lies on ``evt.<tenant>.<key of its source and id>`` for EVENTS_S_MAX, published with expected sequence 0: whoever
comes second finds it taken. No task per event: the acknowledgement's callback counts down and answers.

When the broker doesn't answer, nobody knows whether an event was stored: FleetUnavailable. Sent again under its own id, it
is stored or found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, QueueFull
from fleet.protocol.ids import event_key
from fleet.protocol.limits import MIB
from fleet.protocol.messages import EventHead, StoredEvent
from fleet.protocol.subjects import STORED_EVENT
from fnplatform.disk import DiskRoom
from fnplatform.group_commit import GroupCommit
from fnplatform.jetstream import StreamFull, WrongSequence

IN_FLIGHT_MAX = 16_384
IN_FLIGHT_BYTES_MAX = 64 * MIB
"""Events on their way into the stream at one time."""


class Accepted(NamedTuple):
    """One event that is stored. ``duplicate``: it had been before."""

    id: str
    duplicate: bool


Then = Callable[["list[Accepted] | FleetError"], None]


class _Batch:
    """Events that came together, until all of them are stored or one can't be."""

    __slots__ = ("accepted", "error", "left", "size_bytes", "then")

    def __init__(self, heads: Sequence[tuple[EventHead, bytes]], then: Then, size_bytes: int) -> None:
        self.accepted = [Accepted(head.id, False) for head, _ in heads]
        self.left = len(heads)
        self.then = then
        self.size_bytes = size_bytes
        self.error: FleetError | None = None


class Intake:
    """Stores events. ``store`` publishes to EVENTS."""

    def __init__(self, store: GroupCommit, *, disk: DiskRoom, unix_s: Callable[[], float] = time.time) -> None:
        self._store = store
        self._disk = disk
        self._unix_s = unix_s
        self._events = 0
        self._bytes = 0
        self.stored = 0
        """Events that are stored because of this process."""
        self.duplicates = 0

    @property
    def busy(self) -> bool:
        """Whether something is on its way."""
        return self._events > 0

    def accept(self, tenant: str, events: Sequence[tuple[EventHead, bytes]], then: Then) -> None:
        """Store events whose heads are checked; ``then`` is called once: all are stored, or an error.

        QueueFull (retryable) where there is no room now, FleetUnavailable where nobody knows. Some may be stored all the
        same: whoever sends them again, sends them under the same ids. Never raises by itself.
        """
        size_bytes = sum(len(data) for _, data in events)
        error = self._no_room(len(events), size_bytes)
        if error is not None or not events:
            then(error or [])
            return
        batch = _Batch(events, then, size_bytes)
        self._events += len(events)
        self._bytes += size_bytes
        now_unix_s = self._unix_s()
        for index, (head, data) in enumerate(events):
            assert head.id and head.source, "an event without a name can't be told from others"
            self._one(batch, index, tenant, head, data, now_unix_s)

    async def accepted(self, tenant: str, events: Sequence[tuple[EventHead, bytes]]) -> list[Accepted]:
        """The same for whoever can wait; raises the error."""
        done = anyio.Event()
        results: list[list[Accepted] | FleetError] = []

        def then(result: list[Accepted] | FleetError) -> None:
            results.append(result)
            done.set()

        self.accept(tenant, events, then)
        await done.wait()
        result = results[0]
        if isinstance(result, FleetError):
            raise result
        return result

    def _no_room(self, count: int, size_bytes: int) -> FleetError | None:
        try:
            self._disk.check()
        except QueueFull as error:
            return error
        if self._events + count > IN_FLIGHT_MAX or self._bytes + size_bytes > IN_FLIGHT_BYTES_MAX:
            return QueueFull("too many events arrive at once", hint="publish them again, under the same ids")
        return None

    def _one(self, batch: _Batch, index: int, tenant: str, head: EventHead, data: bytes, now_unix_s: float) -> None:
        def on_stored(stored: int | FleetError) -> None:
            if isinstance(stored, int):
                self.stored += 1
            elif isinstance(stored, WrongSequence):
                self.duplicates += 1
                batch.accepted[index] = Accepted(head.id, True)
            elif batch.error is None:
                batch.error = _for_user(stored)
            batch.left -= 1
            if batch.left:
                return
            self._events -= len(batch.accepted)
            self._bytes -= batch.size_bytes
            batch.then(batch.error or batch.accepted)

        subject = STORED_EVENT.build(tenant=tenant, event=event_key(head.source, head.id))
        message = frames.pack(StoredEvent(tenant=tenant, head=head, accepted_unix_s=now_unix_s), [data])
        self._store.publish_then(subject, message, on_stored, expect_last_subject_seq=0)


def _for_user(error: FleetError) -> FleetError:
    if isinstance(error, StreamFull):
        return QueueFull(
            "the platform keeps no more events",
            hint="publish it again later, under the same id: those that were handled are removed within seconds",
        )
    return error
