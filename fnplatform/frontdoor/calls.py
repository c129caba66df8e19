"""Ask about calls and end them: status, result, calls, explain, cancel.

What waits or runs the dispatcher knows best; what has ended is stored. While nobody leads, the stores alone answer: a call
in the queue then shows as queued, and cancelling works all the same, because its outcome is written first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fleet.protocol import frames, limits
from fleet.protocol.errors import CallCancelled, FleetUnavailable, NotDeployed, ResultExpired
from fleet.protocol.messages import (
    CallRequest,
    CallsRequest,
    CallState,
    CallStatus,
    CancelReply,
    ConsumeRequest,
    ExplainReply,
    ExplainRequest,
    InvocationState,
    OutcomeRecord,
    Reply,
    ResultReply,
    ResultRequest,
    StatusReply,
    WireError,
)
from fleet.protocol.subjects import INVOCATION, OUTCOME, PARTITION, STREAM_INVOCATIONS
from fleet.transport import Responder
from fnplatform.dispatcher.stores import outcome_ttl_s
from fnplatform.frontdoor.ports import DispatcherPort
from fnplatform.frontdoor.records import Records, for_each
from fnplatform.jetstream import JetStream, WrongSequence
from fnplatform.registry import Registry

Parts = Sequence[memoryview]
ENDED = frozenset({CallState.SUCCEEDED, CallState.FAILED, CallState.CANCELLED, CallState.EXPIRED})


def cancelled_record(state: InvocationState) -> OutcomeRecord:
    """The outcome of a call that its owner cancelled."""
    error = CallCancelled("the call was cancelled")
    return OutcomeRecord(
        call=state.call, app=state.app, function=state.function, version=state.version, state=CallState.CANCELLED,
        part=state.next_part, error=WireError.of(error), summary="cancelled", group=state.group, submit_digest=state.digest,
        items=state.items, trigger=state.trigger,
    )  # fmt: skip


class Calls:
    """The verbs about calls; each sees the calls of its own tenant only."""

    def __init__(
        self,
        *,
        js: JetStream,
        responder: Responder,
        registry: Registry,
        records: Records,
        dispatcher: DispatcherPort,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._js = js
        self._responder = responder
        self._registry = registry
        self._records = records
        self._dispatcher = dispatcher
        self._unix_s = unix_s

    async def status(self, tenant: str, request: CallRequest, parts: Parts) -> StatusReply:
        """Rows for ``calls`` in order, then those of ``group``."""
        calls = request.calls[: limits.LIST_ROWS_MAX]
        rows = await self._present(tenant, calls)
        missing = [call for call in calls if rows.get(call) is None]
        for row in await for_each(missing, lambda call: self._records.status(tenant, call)):
            rows[row.call] = row
        found = [rows[call] for call in calls]
        if request.group is not None:
            listed = await self.calls(tenant, CallsRequest(group=request.group, limit=limits.LIST_ROWS_MAX), ())
            found += [row for row in listed.calls if row.call not in rows]
        return StatusReply(calls=found)

    async def calls(self, tenant: str, request: CallsRequest, parts: Parts) -> StatusReply:
        """Present calls and ended ones together, newest first."""
        try:
            present = await self._dispatcher.calls(tenant, request)
        except FleetUnavailable:
            present = []
        ended = await self._records.recent(tenant, request.app, request.function, request.group, request.limit)
        rows = {row.call: row for row in present}
        rows.update({row.call: row for row in ended})
        newest = sorted(rows.values(), key=lambda row: row.submitted_unix_s or row.finished_unix_s or 0.0, reverse=True)
        return StatusReply(calls=newest[: request.limit])

    async def result(self, tenant: str, request: ResultRequest, parts: Parts) -> bytes:
        """The stored records, packed; ``known`` false if the call never was or is no longer kept."""
        found, more, known = await self._records.of(tenant, request.call, request.part_from)
        return frames.pack(ResultReply(known=known, more=more), found)

    async def consume(self, tenant: str, request: ConsumeRequest, parts: Parts) -> Reply:
        """Whoever iterates generators is there, and so far."""
        await self._dispatcher.consume(tenant, request.positions)
        return Reply()

    async def explain(self, tenant: str, request: ExplainRequest, parts: Parts) -> ExplainReply:
        """Why a call waits, or how it ended; ResultExpired if nothing is known of it."""
        unavailable: FleetUnavailable | None = None
        try:
            reply = await self._dispatcher.explain(tenant, request.call)
            if reply.state is not None:
                return reply
        except FleetUnavailable as error:
            unavailable = error
        row = await self._records.status(tenant, request.call)
        if row.state is None:
            raise ResultExpired(f"nothing is known of call {request.call}")
        if row.state in ENDED:
            why = f": {row.error}" if row.error else ""
            return ExplainReply(sentence=f"it doesn't wait, it {row.state.value}{why}", state=row.state)
        if unavailable is None:
            return ExplainReply(sentence="it is on its way to the dispatcher", state=row.state)
        return ExplainReply(
            sentence="waits because no dispatcher leads right now; one takes over within seconds", state=row.state
        )

    async def cancel(self, tenant: str, request: CallRequest, parts: Parts) -> CancelReply:
        """End calls; those that had an outcome before are not among the answer's."""
        calls = list(dict.fromkeys(request.calls))
        if request.group is not None:
            calls += [call for call in await self._of_group(tenant, request.group) if call not in set(calls)]
        return CancelReply(cancelled=await self.cancel_all(tenant, calls))

    async def cancel_all(self, tenant: str, calls: Sequence[str]) -> list[str]:
        """Write the outcome ``cancelled`` first, then tell the leader, who kills what runs: also when nobody leads."""
        ended = await for_each(calls, lambda call: self._cancel_one(tenant, call))
        seqs = {call: seq for call, seq in zip(calls, ended, strict=True) if seq is not None}
        known: list[str] = []
        if seqs:
            try:
                known = await self._dispatcher.cancel(tenant, list(seqs))
            except FleetUnavailable:
                pass  # nobody leads: whoever will looks for outcomes before it grants
        # What the leader knows it removes itself. A requeue of it meanwhile has another sequence, and is removed there.
        left = [seq for call, seq in seqs.items() if call not in known]
        await for_each(left, lambda seq: self._js.delete_seq(STREAM_INVOCATIONS, seq))
        return list(seqs)

    async def cancel_app(self, tenant: str, app: str) -> int:
        """End every call of an app that waits or runs; how many."""
        return len(await self.cancel_all(tenant, await self.waiting_of(tenant, app)))

    async def waiting_of(self, tenant: str, app: str) -> list[str]:
        """Ids of the calls of an app in the queue, running ones included: what the queue itself says."""
        pattern = INVOCATION.wildcard(partition=PARTITION, tenant=tenant, app=app)
        found = await self._js.subjects(STREAM_INVOCATIONS, pattern)
        return [subject.rpartition(".")[2] for subject in found]

    # --- inside -------------------------------------------------------------------------------------------------

    async def _present(self, tenant: str, calls: Sequence[str]) -> dict[str, CallStatus | None]:
        """Rows of what waits or runs; nothing while nobody leads."""
        if not calls:
            return {}
        try:
            rows = await self._dispatcher.status(tenant, calls)
        except FleetUnavailable:
            return {}
        return {row.call: row for row in rows if row.state is not None and row.state not in ENDED}

    async def _of_group(self, tenant: str, group: str) -> list[str]:
        request = CallsRequest(group=group, limit=limits.LIST_ROWS_MAX)
        try:
            return [row.call for row in await self._dispatcher.calls(tenant, request)]
        except FleetUnavailable:
            pattern = INVOCATION.wildcard(partition=PARTITION, tenant=tenant)
            subjects = list(await self._js.subjects(STREAM_INVOCATIONS, pattern))
            queued = await for_each(subjects, lambda subject: self._records.queued(tenant, subject.rpartition(".")[2]))
            return [found[0].call for found in queued if found is not None and found[0].group == group]

    async def _cancel_one(self, tenant: str, call: str) -> int | None:
        """Write the outcome; the sequence of the queue's message, None if there was an outcome (or no call) before."""
        found = await self._records.queued(tenant, call)
        if found is None:
            return None
        state, seq, _ = found
        subject = OUTCOME.build(tenant=tenant, app=state.app, function=state.function, call=call)
        data = frames.pack(cancelled_record(state))
        try:
            manifest = await self._registry.lookup(tenant, state.app, state.function, state.version)
            ttl_s = outcome_ttl_s(state, manifest.result_ttl_s)
        except NotDeployed:
            ttl_s = limits.RESULT_TTL_S_DEFAULT
        try:
            await self._js.publish(subject, data, expect_last_subject_seq=0, ttl_s=ttl_s)
        except WrongSequence:
            return None
        if state.inbox:  # nobody waits for what a trigger started
            self._responder.push(f"{state.inbox}.out", "dev", tenant, data)
        return seq
