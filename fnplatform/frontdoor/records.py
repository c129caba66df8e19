"""Read what is stored of calls: the queue's messages and the outcome records.

A call id alone doesn't say its subject (that has app and function in it). The names of recent calls are remembered, which
makes a read exact (0.2 ms); others are found by wildcard, which the server answers in 0.4 to 2 ms at 200,000 records.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

from fleet.protocol import frames, limits
from fleet.protocol.messages import CallState, CallStatus, InvocationState, OutcomeRecord
from fleet.protocol.subjects import (
    INVOCATION,
    OUTCOME,
    OUTCOME_PART,
    PARTITION,
    STREAM_INVOCATIONS,
    STREAM_OUTCOMES,
)
from fnplatform.jetstream import JetStream, StoredMessage

NAMES_MAX = 50_000
AT_ONCE = 32
REPLY_BYTES = 4 * limits.MIB
"""A result reply stops growing here; a single record may be larger than the rest of the room, never than a message."""
WINDOW = 16
SCAN_BYTES_MAX = 64 * limits.MIB
SCAN_MESSAGES_MAX = 20_000

assert REPLY_BYTES + limits.INLINE_RESULT_BYTES_MAX <= limits.MESSAGE_BYTES_MAX

T = TypeVar("T")
R = TypeVar("R")


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """``work`` of every item, AT_ONCE at a time, results in order; the first error ends all."""
    found: dict[int, R] = {}
    gate = anyio.Semaphore(AT_ONCE)

    async def one(index: int, item: T) -> None:
        async with gate:
            found[index] = await work(item)

    try:
        async with anyio.create_task_group() as group:
            for index, item in enumerate(items):
                group.start_soon(one, index, item)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [found[index] for index in sorted(found)]


async def newest_first(
    js: JetStream, stream: str, subject: str, accept: Callable[[StoredMessage], R | None], limit: int
) -> list[R]:
    """Up to ``limit`` accepted messages of a filter, newest first; looks at a bounded number of messages and bytes."""
    state = (await js.stream_info(stream))["state"]
    first, end = int(state["first_seq"]), int(state["last_seq"]) + 1
    found: list[R] = []
    seen = seen_bytes = 0
    window = WINDOW
    while end > first and len(found) < limit and seen < SCAN_MESSAGES_MAX and seen_bytes < SCAN_BYTES_MAX:
        start = max(first, end - window)
        page = [one for one in await js.get_range(stream, subject, seq=start, limit=window) if one.seq < end]
        for message in reversed(page):
            accepted = accept(message)
            if accepted is not None and len(found) < limit:
                found.append(accepted)
        seen += window
        size = sum(len(message.data) for message in page)
        seen_bytes += size
        # Small messages are read in larger steps.
        window = min(4 * window, 4096) if size < limits.MIB else WINDOW
        end = start
    return found


def status_of_record(record: OutcomeRecord) -> CallStatus:
    """The listing row of an outcome."""
    metering = record.metering
    return CallStatus(
        call=record.call, state=record.state, app=record.app, function=record.function, version=record.version,
        group=record.group, items=record.items,
        items_done=(record.items or 0) if record.state is CallState.SUCCEEDED else 0,
        attempt=metering.attempt if metering else 0,
        submitted_unix_s=metering.submitted_unix_s if metering else 0.0,
        finished_unix_s=metering.finished_unix_s if metering else None, car=metering.car if metering else None,
        error=record.error.message if record.error else record.summary, trigger=record.trigger,
    )  # fmt: skip


def status_of_queued(state: InvocationState) -> CallStatus:
    """The listing row of a call that only the queue knows of (nobody leads right now)."""
    left = sum(last - first + 1 for first, last in state.pending) if state.pending is not None else state.items
    return CallStatus(
        call=state.call, state=CallState.QUEUED, app=state.app, function=state.function, version=state.version,
        group=state.group, items=state.items, items_done=(state.items or 0) - (left or 0), attempt=state.attempts + 1,
        losses=state.losses, submitted_unix_s=state.submitted_unix_s, trigger=state.trigger,
    )  # fmt: skip


class Records:
    """Stored states and outcomes of the calls of all tenants, each read under its own tenant's subjects only."""

    def __init__(self, js: JetStream) -> None:
        self._js = js
        self._names: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    def remember(self, tenant: str, call: str, app: str, function: str) -> None:
        """Keep the names of a call, so that it is found at once."""
        self._names[tenant, call] = (app, function)
        if len(self._names) > NAMES_MAX:
            self._names.popitem(last=False)

    async def queued(self, tenant: str, call: str) -> tuple[InvocationState, int, bytes] | None:
        """State, sequence and payload of a call in the queue, or None."""
        names = self._names.get((tenant, call))
        if names is not None:
            subject = INVOCATION.build(partition=PARTITION, tenant=tenant, app=names[0], function=names[1], call=call)
            found = await self._js.get_last(STREAM_INVOCATIONS, subject)
        else:
            subject = INVOCATION.wildcard(partition=PARTITION, tenant=tenant, call=call)
            found = await self._js.get_next(STREAM_INVOCATIONS, subject)
        if found is None:
            return None
        state, parts = frames.unpack(found.data, InvocationState)
        self.remember(tenant, call, state.app, state.function)
        return state, found.seq, bytes(parts[0]) if parts else b""

    async def final(self, tenant: str, call: str) -> tuple[OutcomeRecord, bytes] | None:
        """The record that ends a call, as it is and as it is stored, or None."""
        names = self._names.get((tenant, call))
        if names is not None:
            subject = OUTCOME.build(tenant=tenant, app=names[0], function=names[1], call=call)
            found = await self._js.get_last(STREAM_OUTCOMES, subject)
        else:
            found = await self._js.get_next(STREAM_OUTCOMES, OUTCOME.wildcard(tenant=tenant, call=call))
        if found is None:
            return None
        record, _ = frames.unpack(found.data, OutcomeRecord)
        self.remember(tenant, call, record.app, record.function)
        return record, bytes(found.data)

    async def of(self, tenant: str, call: str, part_from: int) -> tuple[list[bytes], bool, bool]:
        """Stored records with part number >= ``part_from`` as far as they fit: (records, more, known)."""
        # The queue is asked before the outcome: a call leaves the queue only after its outcome is stored.
        waits = await self.queued(tenant, call)
        final = await self.final(tenant, call)
        names = self._names.get((tenant, call))
        if names is None:
            return [], False, False
        end = final[0].part if final is not None else None
        found: list[bytes] = []
        size = 0
        part = part_from
        while end is None or part < end:
            subject = OUTCOME_PART.build(tenant=tenant, app=names[0], function=names[1], call=call, part=str(part))
            stored = await self._js.get_last(STREAM_OUTCOMES, subject)
            if stored is None:
                break
            found.append(bytes(stored.data))
            size += len(stored.data)
            part += 1
            if size >= REPLY_BYTES:
                return found, True, True
        if final is not None:  # Also behind its number: who cancels a call doesn't know how many parts there are.
            if found and size + len(final[1]) > REPLY_BYTES:
                return found, True, True
            found.append(final[1])
        return found, False, bool(found) or waits is not None or final is not None

    async def status(self, tenant: str, call: str) -> CallStatus:
        """The row of a call as stored; ``state`` None if nothing is."""
        waits = await self.queued(tenant, call)
        final = await self.final(tenant, call)
        if final is not None:
            return status_of_record(final[0])
        return status_of_queued(waits[0]) if waits is not None else CallStatus(call=call)

    async def recent(
        self, tenant: str, app: str | None, function: str | None, group: str | None, limit: int
    ) -> list[CallStatus]:
        """Ended calls, newest first."""
        fixed = {key: value for key, value in (("app", app), ("function", function)) if value is not None}

        def accept(message: StoredMessage) -> CallStatus | None:
            record, _ = frames.unpack(message.data, OutcomeRecord)
            return status_of_record(record) if group is None or record.group == group else None

        subject = OUTCOME.wildcard(tenant=tenant, **fixed)
        return await newest_first(self._js, STREAM_OUTCOMES, subject, accept, limit)
