"""Hands calls over until they are accepted, and follows them until their outcome is here. Runs in the client's loop.

What is submitted in the same turn of the loop shares one request; while several requests are open, what comes gathers
for the next one, so that a flood makes few large requests. A call is sent again under its own id until it is answered:
the platform recognises it, whatever became of the first try.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import anyio.to_thread

from fleet import _packed
from fleet._api import unanswered
from fleet._ticket import Ticket
from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError, ResultExpired
from fleet.protocol.limits import CONNECT_S, REQUEST_S, RESULT_POLL_S, SUBMIT_CALLS_MAX, SUBMIT_INLINE_BYTES_MAX
from fleet.protocol.messages import (
    CallRequest,
    CallState,
    OutcomeRecord,
    ResultReply,
    ResultRequest,
    StatusReply,
    SubmitReply,
    SubmitRequest,
    SubmitResult,
)
from fleet.protocol.subjects import API, ApiVerb
from fleet.transport import Bus, Request

log = logging.getLogger("fleet.client")

REQUESTS_OPEN_MAX = 4
HEADER_BYTES = 256 * 1024
"""Room for the header of a full submit request beside its payloads."""
OUTAGE_S = 20.0
"""How long a call is tried to be handed over to a fleet that answered before."""
RETRY_S = 0.1
POLL_TICK_S = 0.25
FOREIGN_POLL_S_MIN = 0.05
FOREIGN_POLL_S_MAX = 1.0
POLL_ALONE_MAX = 16
_ENDED = (CallState.SUCCEEDED, CallState.FAILED, CallState.CANCELLED, CallState.EXPIRED)

PutBlob = Callable[[str, bytes], Coroutine[Any, Any, None]]
GetBlob = Callable[[str, int], Coroutine[Any, Any, bytes]]
Start = Callable[..., None]


class Submitter:
    """``put_blob`` and ``get_blob`` move large payloads, ``start`` runs a coroutine function as a task of the client."""

    def __init__(self, bus: Bus, tenant: str, start: Start, put_blob: PutBlob, get_blob: GetBlob) -> None:
        self._bus = bus
        self._start = start
        self._put_blob = put_blob
        self._get_blob = get_blob
        self._subject = {verb: API.build(tenant=tenant, verb=verb) for verb in ApiVerb}
        self._loop = asyncio.get_running_loop()
        self._inline_bytes_max = min(SUBMIT_INLINE_BYTES_MAX, bus.payload_bytes_max - HEADER_BYTES)
        self._queue: deque[Ticket] = deque()
        self._open = 0
        self._tickets: dict[str, Ticket] = {}
        self._polling = False
        self._foreign = 0
        self.answered = False
        """Whether a control plane ever answered here."""

    @property
    def unaccepted(self) -> list[Ticket]:
        """Calls that are not handed over yet."""
        return [ticket for ticket in self._tickets.values() if not ticket.accepted]

    def submit(self, tickets: list[Ticket]) -> None:
        """Hand calls over; each ticket is finished once its outcome is here, or with the error."""
        for ticket in tickets:
            self._tickets[ticket.call] = ticket
            if ticket.payload is not None and len(ticket.payload) > self._inline_bytes_max:
                self._start(self._submit_large, ticket)
            else:
                self._queue.append(ticket)
        self._flush()
        self._keep_polling()

    def watch(self, ticket: Ticket) -> None:
        """Follow a call that was submitted by somebody else."""
        ticket.accepted = ticket.foreign = True
        ticket.poll_s = FOREIGN_POLL_S_MIN
        self._foreign += 1
        self._tickets[ticket.call] = ticket
        self._ask_result(ticket)
        self._keep_polling()

    def forget(self, ticket: Ticket, error: FleetError) -> None:
        """Stop following a call; who waits gets ``error``."""
        self._finish(ticket, error)

    def on_push(self, request: Request) -> None:
        """An outcome that the platform pushed to the inbox."""
        try:
            record, parts = frames.unpack(request.data, OutcomeRecord)
        except ProtocolError as error:
            log.warning("an outcome can't be read: %s", error)
            return
        self._arrived(record, parts[0] if parts else b"")

    def on_reconnect(self) -> None:
        """Outcomes may have been pushed to nobody meanwhile."""
        for ticket in self._tickets.values():
            if ticket.accepted:
                ticket.asked_s = 0.0
        self._keep_polling()

    # --- handing over

    async def _submit_large(self, ticket: Ticket) -> None:
        assert ticket.payload is not None and ticket.submit is not None
        try:
            await self._put_blob(ticket.submit.digest, ticket.payload)
        except FleetError as error:
            self._finish(ticket, error)
            return
        ticket.submit = ticket.submit.model_copy(update={"blob": True})
        self._queue.append(ticket)
        self._flush()

    async def _put_refs(self, ticket: Ticket, digests: list[str]) -> None:
        """Values of ``fleet.put`` that are no longer kept: put them again, if this process can, and submit again."""
        from fleet import _put

        refs = _packed.refs_of(ticket.payload or b"")
        try:
            for digest in digests:
                if digest not in refs:
                    raise ProtocolError("the platform misses a value that the arguments don't refer to")
                # Pickling runs code of the developer, and takes long for what is large: not in the client's loop.
                data = await anyio.to_thread.run_sync(_put.put_again, refs[digest])
                await self._put_blob(digest, data)
        except FleetError as error:
            self._finish(ticket, error)
            return
        self._requeue([ticket])

    def _flush(self) -> None:
        while self._queue and self._open < REQUESTS_OPEN_MAX:
            first = self._queue[0]
            batch: list[Ticket] = []
            size = 0
            while self._queue and len(batch) < SUBMIT_CALLS_MAX and self._queue[0].sent == first.sent:
                weight = self._weight(self._queue[0])
                if batch and size + weight > self._inline_bytes_max:
                    break
                size += weight
                batch.append(self._queue.popleft())
            batch = [ticket for ticket in batch if not ticket.done]
            if batch:
                self._send(batch)

    @staticmethod
    def _weight(ticket: Ticket) -> int:
        assert ticket.submit is not None
        return 0 if ticket.submit.blob else ticket.submit.payload_bytes

    def _send(self, batch: list[Ticket]) -> None:
        fresh = not batch[0].sent
        calls, parts = [], []
        for ticket in batch:
            assert ticket.submit is not None
            ticket.sent = True
            calls.append(ticket.submit)
            parts.append(b"" if ticket.submit.blob else ticket.payload or b"")
        message = SubmitRequest(calls=calls, inbox=self._bus.inbox, fresh=fresh)
        self._open += 1
        self._bus.ask(
            self._subject[ApiVerb.SUBMIT],
            frames.pack(message, parts),
            functools.partial(self._answered, batch),
            timeout_s=REQUEST_S,
        )

    def _answered(self, batch: list[Ticket], got: Request | FleetUnavailable) -> None:
        self._open -= 1
        if isinstance(got, Request):
            self.answered = True
            try:
                reply, _ = frames.unpack(got.data, SubmitReply)
                error = reply.error.to_error() if reply.error is not None else None
            except ProtocolError as unreadable:
                reply, error = SubmitReply(), unreadable
            results = {result.call: result for result in reply.results}
            for ticket in batch:
                self._judge(ticket, results.get(ticket.call), error)
        else:
            self._try_again(batch, got)
        self._flush()

    def _judge(self, ticket: Ticket, result: SubmitResult | None, error: FleetError | None) -> None:
        if ticket.done or ticket.accepted:
            return
        if error is None and result is None:
            error = ProtocolError(f"the answer to the submit says nothing of call {ticket.call}")
        elif result is not None and result.blob_missing and ticket.payload is not None:
            self._start(self._submit_large, ticket)
            return
        elif result is not None and result.refs_missing and not ticket.refs_put:
            ticket.refs_put = True
            self._start(self._put_refs, ticket, result.refs_missing)
            return
        elif result is not None and result.error is not None:
            error = result.error.to_error()
            if result.error.code == "not_deployed" and ticket.renew is not None and ticket.renew():
                return
        if error is not None:
            self._finish(ticket, error)
            return
        assert result is not None
        ticket.accept()
        ticket.asked_s = time.monotonic()
        if result.done:
            self._ask_result(ticket)

    def _try_again(self, batch: list[Ticket], why: FleetUnavailable) -> None:
        patience_s = OUTAGE_S if self.answered else CONNECT_S
        now_s = time.monotonic()
        again = []
        for ticket in batch:
            if ticket.done or ticket.accepted:
                continue
            if now_s - ticket.born_s > patience_s:
                self._finish(ticket, unanswered(self._bus, why, "does not answer"))
            else:
                again.append(ticket)
        if again:
            self._loop.call_later(RETRY_S, self._requeue, again)

    def _requeue(self, tickets: list[Ticket]) -> None:
        self._queue.extend(ticket for ticket in tickets if not ticket.done and not ticket.accepted)
        self._flush()

    # --- outcomes

    def _arrived(self, record: OutcomeRecord, part: bytes | memoryview) -> None:
        ticket = self._tickets.get(record.call)
        if ticket is None or ticket.done:
            return
        if record.blob is not None and not len(part):
            if record.part not in ticket.fetching:
                ticket.fetching.add(record.part)
                self._start(self._fetch, ticket, record)
            return
        if ticket.take(record, part):
            ticket.asked_s = time.monotonic()
        if ticket.complete or ticket.done:
            self._finish(ticket, None)
        elif ticket.lacks:
            self._ask_result(ticket)  # a part went missing on the way

    async def _fetch(self, ticket: Ticket, record: OutcomeRecord) -> None:
        assert record.blob is not None
        try:
            data = await self._get_blob(record.blob, record.blob_bytes)
        except FleetUnavailable as error:
            ticket.fetching.discard(record.part)
            log.info("a large result is not here yet: %s", error)
            ticket.asked_s = 0.0  # asked for again with the next poll
        except FleetError as error:
            self._finish(ticket, error)
        else:
            ticket.fetching.discard(record.part)
            self._arrived(record.model_copy(update={"blob": None}), data)

    def _finish(self, ticket: Ticket, error: FleetError | None) -> None:
        if self._tickets.pop(ticket.call, None) is not None and ticket.foreign:
            self._foreign -= 1
        ticket.finish(error)

    def _ask_result(self, ticket: Ticket) -> None:
        if ticket.asking:
            return
        ticket.asking = True
        ticket.asked_s = time.monotonic()
        request = ResultRequest(call=ticket.call, part_from=ticket.next_part)
        self._bus.ask(self._subject[ApiVerb.RESULT], frames.pack(request), functools.partial(self._result_came, ticket))

    def _result_came(self, ticket: Ticket, got: Request | FleetUnavailable) -> None:
        ticket.asking = False
        if ticket.done or not isinstance(got, Request):
            return
        self.answered = True
        try:
            reply, parts = frames.unpack(got.data, ResultReply)
            records = [frames.unpack(part, OutcomeRecord) for part in parts]
        except ProtocolError as error:
            self._finish(ticket, error)
            return
        if reply.error is not None:
            log.info("the outcome of %s could not be asked for: %s", ticket.call, reply.error.message)
            return
        if not reply.known:
            self._unknown(ticket)
            return
        ticket.unknown = 0
        for record, record_parts in records:
            self._arrived(record, record_parts[0] if record_parts else b"")
        if reply.more and not ticket.done:
            self._ask_result(ticket)

    def _unknown(self, ticket: Ticket) -> None:
        # A call of ours that was just accepted may be unknown for a moment to a control plane that has just started.
        ticket.unknown += 1
        if ticket.foreign or ticket.unknown >= 2:
            self._finish(
                ticket,
                ResultExpired(f"call {ticket.call} is not known here: its outcome is no longer kept, or never was"),
            )

    # --- asking again

    def _keep_polling(self) -> None:
        if not self._polling and self._tickets:
            self._polling = True
            self._loop.call_later(FOREIGN_POLL_S_MIN if self._foreign else POLL_TICK_S, self._poll)

    def _poll(self) -> None:
        self._polling = False
        self._keep_polling()
        if not self._bus.connected:
            return
        now_s = time.monotonic()
        due = []
        for ticket in self._tickets.values():
            if ticket.accepted and not ticket.asking and now_s - ticket.asked_s >= (ticket.poll_s or RESULT_POLL_S):
                if ticket.poll_s:
                    ticket.poll_s = min(FOREIGN_POLL_S_MAX, ticket.poll_s * 1.5)
                ticket.asked_s = now_s
                due.append(ticket)
        if len(due) <= POLL_ALONE_MAX:
            for ticket in due:
                self._ask_result(ticket)
            return
        for start in range(0, len(due), SUBMIT_CALLS_MAX):
            calls = [ticket.call for ticket in due[start : start + SUBMIT_CALLS_MAX]]
            self._bus.ask(self._subject[ApiVerb.STATUS], frames.pack(CallRequest(calls=calls)), self._statuses_came)

    def _statuses_came(self, got: Request | FleetUnavailable) -> None:
        if not isinstance(got, Request):
            return
        try:
            reply, _ = frames.unpack(got.data, StatusReply)
        except ProtocolError as error:
            log.warning("a status can't be read: %s", error)
            return
        for row in reply.calls:
            ticket = self._tickets.get(row.call)
            if ticket is not None and (row.state is None or row.state in _ENDED or row.items_done):
                self._ask_result(ticket)
