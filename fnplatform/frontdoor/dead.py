"""What failed for good: list, show, replay, drop.

A call has one outcome for ever, so a replay is a new call with a new id; its letter goes once that is in the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fleet.protocol import frames
from fleet.protocol.errors import QueueFull, ResultExpired
from fleet.protocol.ids import new_call_id
from fleet.protocol.messages import DeadLetter, DeadReply, DeadRequest, InvocationState
from fleet.protocol.subjects import DEAD_LETTER, INVOCATION, PARTITION, STREAM_DEAD
from fnplatform.blobs import BlobStore
from fnplatform.frontdoor.ports import DispatcherPort
from fnplatform.frontdoor.records import for_each, newest_first
from fnplatform.jetstream import JetStream, StoredMessage, StreamFull
from fnplatform.registry import Registry

Parts = Sequence[memoryview]


def replayed(state: InvocationState, call: str, queue_timeout_s: float | None, unix_s: float) -> InvocationState:
    """The state of a new call with the arguments of one that failed. Of a chunk, the items that hadn't succeeded."""
    fresh = {
        "call": call, "submitted_unix_s": unix_s, "not_before_unix_s": 0.0, "attempts": 0, "item_attempts": {},
        "losses": 0, "departures": 0, "next_part": 0, "checkpoint": False, "group": None,
        "expires_unix_s": None if queue_timeout_s is None else unix_s + queue_timeout_s,
    }  # fmt: skip
    return state.model_copy(update=fresh)


class DeadLetters:
    """The dead verb."""

    def __init__(
        self,
        *,
        js: JetStream,
        registry: Registry,
        blobs: BlobStore,
        dispatcher: DispatcherPort,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._js = js
        self._registry = registry
        self._blobs = blobs
        self._dispatcher = dispatcher
        self._unix_s = unix_s

    async def handle(self, tenant: str, request: DeadRequest, parts: Parts) -> DeadReply:
        """Do what ``action`` says; ResultExpired for a call that has no letter."""
        if request.action == "list":
            return DeadReply(letters=await self._list(tenant, request.limit))
        found = await for_each(request.calls, lambda call: self._find(tenant, call))
        letters = [frames.unpack(message.data, DeadLetter)[0] for message in found]
        if request.action == "show":
            return DeadReply(letters=letters)
        made = []
        for message in found:
            if request.action == "replay":
                made.append(await self._replay(tenant, message))
            await self._js.delete_seq(STREAM_DEAD, message.seq)
        return DeadReply(letters=letters, replayed=made)

    async def _list(self, tenant: str, limit: int) -> list[DeadLetter]:
        def accept(message: StoredMessage) -> DeadLetter | None:
            return frames.unpack(message.data, DeadLetter)[0]

        return await newest_first(self._js, STREAM_DEAD, DEAD_LETTER.wildcard(tenant=tenant), accept, limit)

    async def _find(self, tenant: str, call: str) -> StoredMessage:
        found = await self._js.get_next(STREAM_DEAD, DEAD_LETTER.wildcard(tenant=tenant, call=call))
        if found is None:
            raise ResultExpired(f"call {call} is not among what failed for good", hint="see: fleet dead list")
        return found

    async def _replay(self, tenant: str, message: StoredMessage) -> str:
        letter, parts = frames.unpack(message.data, DeadLetter)
        state = letter.state
        manifest = await self._registry.lookup(tenant, state.app, state.function, state.version)
        if state.blob and not await self._blobs.renew(tenant, state.digest):
            raise ResultExpired(f"the arguments of call {state.call} are no longer kept")
        for ref in state.refs:
            if not await self._blobs.renew(tenant, ref.digest):
                raise ResultExpired(f"a value of fleet.put that call {state.call} refers to is no longer kept")
        fresh = replayed(state, new_call_id(), manifest.queue_timeout_s, self._unix_s())
        payload = bytes(parts[0]) if parts else b""
        subject = INVOCATION.build(
            partition=PARTITION, tenant=tenant, app=state.app, function=state.function, call=fresh.call
        )
        try:
            seq = await self._js.publish(subject, frames.pack(fresh, [payload]), expect_last_subject_seq=0)
        except StreamFull as error:
            raise QueueFull("the queue is full") from error
        self._dispatcher.submit_local(fresh, seq, payload)
        return fresh.call
