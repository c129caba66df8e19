"""Make the core's decisions durable: outcomes, requeues, dead letters, and look at what is stored.

Every operation is retried until the broker has decided it, however long that takes: the core keeps the call out of
everybody's hands meanwhile. After an answer that got lost the record may be ours, so a conflict is looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import anyio

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError
from fleet.protocol.frames import Bytes
from fleet.protocol.limits import STREAM_PART_TTL_S
from fleet.protocol.messages import InvocationState, OutcomeRecord
from fleet.protocol.subjects import (
    BUCKET_CHECKPOINTS,
    OUTCOME_PART,
    STREAM_INVOCATIONS,
    STREAM_OUTCOMES,
)
from fleet.transport import Responder
from fnplatform.atomic import Put
from fnplatform.dead_letters import bury_call
from fnplatform.dispatcher import chunks, wire
from fnplatform.dispatcher.events import Check, Checked, Commit, Discard, Event, NotStored, Requeue, Stored
from fnplatform.dispatcher.payloads import Payloads, cut
from fnplatform.group_commit import Steps
from fnplatform.jetstream import JetStream, OnStored, StoredMessage, WrongSequence

log = logging.getLogger("fleet.dispatcher")

RETRY_S = 0.2
EVENT_RESULT_TTL_S_MIN = 24 * 3600.0


class Publisher(Protocol):
    """Stores one message; JetStream itself, or what makes batches of several."""

    def publish_then(
        self,
        subject: str,
        data: bytes,
        on_stored: OnStored,
        *,
        expect_last_subject_seq: int | None = None,
        ttl_s: float | None = None,
    ) -> None: ...


class Host(Protocol):
    """The term of leadership that these operations belong to."""

    def tell(self, event: Event) -> None: ...
    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None: ...
    def replaced(self, seq: int) -> None: ...

    emitted: Callable[[int, bytes], None] | None

    @property
    def over(self) -> bool: ...


def checkpoint_key(tenant: str, call: str) -> str:
    """Where the saved state of a call lies."""
    return f"{tenant}.{call}"


def inbox_of(state: InvocationState, what: str) -> str:
    """Where outcomes (``out``) and printed lines (``log``) of a call are pushed."""
    return f"{state.inbox}.{what}"


def outcome_ttl_s(state: InvocationState, result_ttl_s: float) -> float:
    """How long an outcome is kept. That of a call by a single event says, after a crash, that it was started."""
    return max(result_ttl_s, EVENT_RESULT_TTL_S_MIN) if state.trigger and state.items is None else result_ttl_s


class Store:
    """Writes for one term of leadership."""

    def __init__(
        self,
        js: JetStream,
        outcomes: Publisher,
        responder: Responder,
        payloads: Payloads,
        host: Host,
        partition: str,
        unix_s: Callable[[], float],
    ) -> None:
        self._js = js
        self._outcomes = outcomes
        self._responder = responder
        self._payloads = payloads
        self._host = host
        self._partition = partition
        self._unix_s = unix_s
        self._steps = Steps(js)

    def _later(self, work: Callable[..., None], *args: object) -> None:
        if not self._host.over:
            asyncio.get_running_loop().call_later(RETRY_S, self._unless_over, work, *args)

    def _unless_over(self, work: Callable[..., None], *args: object) -> None:
        if not self._host.over:
            work(*args)

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def commit(self, op: Commit) -> None:
        """Store an outcome record unless one is there, then the dead letter that it may call for."""
        self._commit(op, wire.subject_of(op), wire.packed_record(op))

    def _commit(self, op: Commit, subject: str, data: bytes) -> None:
        def on_stored(stored: int | FleetError) -> None:
            if self._host.over:
                return
            if isinstance(stored, int) and op.dead:
                self._host.spawn(self._bury_and_tell, op, data, Stored(op, stored))
            elif isinstance(stored, int):
                self._push(op.entry.state, data)
                self._host.tell(Stored(op, stored))
            elif isinstance(stored, WrongSequence):
                self._host.spawn(self._commit_conflict, op, subject, data)
            else:
                log.warning("outcome of %s not stored yet: %s", op.record.call, stored.message)
                self._later(self._commit, op, subject, data)

        ttl_s = outcome_ttl_s(op.entry.state, op.entry.queue.manifest.result_ttl_s)
        if op.entry.state.stream and not op.record.final:
            ttl_s = min(ttl_s, STREAM_PART_TTL_S)
        if op.emits and self._commit_with_emits(op, subject, data, on_stored, ttl_s):
            return
        self._outcomes.publish_then(subject, data, on_stored, expect_last_subject_seq=0, ttl_s=ttl_s)

    def _commit_with_emits(self, op: Commit, subject: str, data: bytes, on_stored: OnStored, ttl_s: float) -> bool:
        """The same together with the events that it emits, in one step; False where there are none."""
        entry = wire.outbox_entry(op, subject, self._unix_s())
        if entry is None:
            return False

        def on_both_stored(stored: int | FleetError) -> None:
            on_stored(stored)
            if isinstance(stored, int) and not self._host.over and self._host.emitted is not None:
                self._host.emitted(stored + 1, entry[1])

        self._steps.publish_then([Put(subject, data, 0, ttl_s), Put(*entry)], on_both_stored)
        return True

    async def _commit_conflict(self, op: Commit, subject: str, data: bytes) -> None:
        try:
            found = await self._js.get_last(STREAM_OUTCOMES, subject)
        except FleetError:
            self._later(self._commit, op, subject, data)
            return
        if found is None:  # it expired between the two questions
            self._later(self._commit, op, subject, data)
            return
        event = Stored(op, found.seq) if found.data == data else NotStored(op)
        await self._bury_and_tell(op, found.data, event)

    async def _bury_and_tell(self, op: Commit, stored: Bytes, event: Event) -> None:
        """The letter that the stored record calls for, also one of an earlier leader's; then the caller, then the core."""
        await self._bury(op.entry.state, op.entry.seq, stored)
        self._push(op.entry.state, stored)
        self._host.tell(event)

    def _push(self, state: InvocationState, data: Bytes) -> None:
        """Tell the caller, if it still listens; it asks again if not."""
        if state.inbox:  # nobody waits for what a trigger started
            self._responder.push(inbox_of(state, "out"), "dev", state.tenant, data)

    def discard(self, action: Discard) -> None:
        """Remove parts that their caller has; what stays after a failure expires."""
        self._host.spawn(self._discard, action.entry.state, action.seq)

    async def _discard(self, state: InvocationState, seq: int) -> None:
        try:
            await self._js.purge(STREAM_OUTCOMES, _parts_pattern(state), before_seq=seq)
        except FleetError as error:
            log.debug("parts of %s are kept until they expire: %s", state.call, error.message)

    async def _bury(self, state: InvocationState, seq: int, stored: Bytes) -> None:
        """Store the dead letter that a stored record calls for, if it does, unless it is there.

        The outcome comes first, because it decides; the arguments stay in the queue until the letter is stored.
        """
        try:
            record, _ = frames.unpack(stored, OutcomeRecord)
        except ProtocolError as error:
            log.error("the record of call %s is none of ours: %s", state.call, error.message)
            return
        while record.dead is not None and not self._host.over:
            try:
                payload: Bytes = b""
                if not state.blob:
                    payload = cut(state, await self._payloads.load(state, seq) or b"", record.dead.items)
                await bury_call(self._js, state, record, payload)
                return
            except FleetUnavailable as error:
                log.warning("dead letter of %s not stored yet: %s", state.call, error.message)
                await anyio.sleep(RETRY_S)
            except FleetError as error:
                log.error("dead letter of %s can't be stored: %s", state.call, error.message)
                return

    # --- requeues ---------------------------------------------------------------------------------------------------

    def requeue(self, op: Requeue) -> None:
        """Replace an invocation by its next state."""
        # The sequence that it replaces, as of now: the new message may be delivered before its acknowledgement comes.
        replaces = op.entry.seq
        payload = b"" if op.state.blob else self._payloads.cached(replaces)
        if payload is None:
            self._host.spawn(self._load_and_requeue, op, replaces)
        else:
            self._requeue(op, replaces, payload)

    async def _load_and_requeue(self, op: Requeue, replaces: int) -> None:
        while not self._host.over:
            try:
                payload = await self._payloads.load(op.entry.state, replaces)
                break
            except FleetError as error:
                log.warning("arguments of %s can't be read yet: %s", op.state.call, error.message)
                await anyio.sleep(RETRY_S)
        else:
            return
        if payload is None:
            self._host.tell(NotStored(op))
        else:
            self._requeue(op, replaces, payload)

    def _requeue(self, op: Requeue, replaces: int, payload: Bytes) -> None:
        if not op.state.blob:
            payload = cut(op.entry.state, payload, op.take)
        self._publish_requeue(op, replaces, payload, frames.pack(op.state, [payload]))

    def _publish_requeue(self, op: Requeue, replaces: int, payload: Bytes, data: bytes) -> None:
        def on_stored(stored: int | FleetError) -> None:
            if self._host.over:
                return
            if isinstance(stored, int):
                self._requeued(op, replaces, payload, stored)
            elif isinstance(stored, WrongSequence):
                self._host.spawn(self._requeue_conflict, op, replaces, payload, data)
            else:
                log.warning("next state of %s not stored yet: %s", op.state.call, stored.message)
                self._later(self._publish_requeue, op, replaces, payload, data)

        subject = wire.invocation_subject(op.state, self._partition)
        self._js.publish_then(subject, data, on_stored, expect_last_subject_seq=replaces)

    def _requeued(self, op: Requeue, replaces: int, payload: Bytes, seq: int) -> None:
        old = self._payloads.forget(replaces)
        kept = old if op.state.blob else payload
        if kept is not None:
            self._payloads.keep(seq, kept)
        self._host.replaced(replaces)
        self._host.tell(Stored(op, seq))

    async def _requeue_conflict(self, op: Requeue, replaces: int, payload: Bytes, data: bytes) -> None:
        try:
            found = await self._js.get_last(STREAM_INVOCATIONS, wire.invocation_subject(op.state, self._partition))
        except FleetError:
            self._later(self._publish_requeue, op, replaces, payload, data)
            return
        if found is not None and found.data == data:
            self._requeued(op, replaces, payload, found.seq)
        else:
            self._host.tell(NotStored(op))

    # --- looking ----------------------------------------------------------------------------------------------------

    def check(self, action: Check) -> None:
        """Look whether an outcome, or parts of one, or a checkpoint are stored."""
        self._host.spawn(self._check, action)

    async def _check(self, action: Check) -> None:
        state = action.entry.state
        while not self._host.over:
            try:
                final = await self._js.get_last(STREAM_OUTCOMES, wire.outcome_subject(state))
                found = await self._parts(state) if final is None else []
                saved = None
                if final is None and state.items is None:
                    saved = await self._js.kv_get(BUCKET_CHECKPOINTS, checkpoint_key(state.tenant, state.call))
                break
            except FleetError as error:
                log.warning("can't look whether %s is over: %s", state.call, error.message)
                await anyio.sleep(RETRY_S)
        else:
            return
        if final is not None:
            await self._bury(state, action.seq, final.data)
            self._push(state, final.data)
        parts, dead = [], []
        for message in found:
            record = _part_of(message)
            if record is None or record.indices is None:
                continue
            parts.append((record.part, list(record.indices)))
            # Those of earlier parts were buried before the state was stored that no longer names their items.
            if record.dead is not None and record.part >= state.next_part:
                await self._bury(state, action.seq, message.data)
                dead += record.dead.items or []
        self._host.tell(
            Checked(action.entry, action.seq, final is not None, parts, saved is not None, chunks.normal(dead))
        )

    async def _parts(self, state: InvocationState) -> list[StoredMessage]:
        """Stored parts of a chunk; of a generator the newest: they come in order, so it says how far all of them reach."""
        if state.stream:
            last = await self._js.get_last(STREAM_OUTCOMES, _parts_pattern(state))
            return [last] if last is not None else []
        if state.items is None:
            return []
        return await self._js.get_last_of_each(STREAM_OUTCOMES, [_parts_pattern(state)])


def _parts_pattern(state: InvocationState) -> str:
    return OUTCOME_PART.wildcard(tenant=state.tenant, app=state.app, function=state.function, call=state.call)


def _part_of(message: StoredMessage) -> OutcomeRecord | None:
    try:
        return frames.unpack(message.data, OutcomeRecord)[0]
    except ProtocolError as error:
        log.error("record %d of %s is none of ours: %s", message.seq, message.subject, error.message)
        return None
