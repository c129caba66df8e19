"""Calls over HTTP without HTTP: submit, wait, look up, cancel, and what came of it."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from fleet._positions import StreamTicket
from fleet._ticket import Ticket
from fleet.protocol import frames
from fleet.protocol.codec import ExceptionData, decode_exception
from fleet.protocol.errors import (
    CallError,
    FleetError,
    FleetUnavailable,
    NotDeployed,
    ProtocolError,
    Refused,
    ResultExpired,
    from_code,
)
from fleet.protocol.ids import derived_call_id, new_call_id
from fleet.protocol.messages import (
    CallRequest,
    CallState,
    CallStatus,
    CancelReply,
    FunctionInfo,
    FunctionsReply,
    FunctionsRequest,
    Manifest,
    OutcomeRecord,
    ResultReply,
    ResultRequest,
    StatusReply,
    SubmitCall,
    WireError,
)
from fleet.protocol.subjects import ApiVerb
from fnplatform.gateway.bounds import CALL_S_MAX, CANCEL_S, JSON_SMALL_BYTES, POLL_S_FIRST, POLL_S_SLOWEST
from fnplatform.gateway.decoding import decoded
from fnplatform.gateway.problems import HttpProblem, problem_of
from fnplatform.gateway.tenants import Tenant

ENDED = (CallState.SUCCEEDED, CallState.FAILED, CallState.CANCELLED, CallState.EXPIRED)
_VALUE, _RAISED, _ENDED, _EMITTED = 0, 1, 2, 3
_LAST_PART = 1 << 30
"""Behind all parts: asks for the record that ends a call, alone."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a function returned, as the codec wrote it."""

    data: bytes | memoryview

    async def read(self, make: Callable[[Any], Any]) -> Any:
        """``make`` of the value; in a thread where that takes long. ResultNotPortable, ProtocolError."""
        if len(self.data) <= JSON_SMALL_BYTES:
            return make(decoded(self.data))
        return await anyio.to_thread.run_sync(lambda: make(decoded(self.data)))


Outcome = Value | ExceptionData | FleetError
"""A value, what the function raised, or how the platform ended the call."""


async def live(tenant: Tenant, app: str, function: str) -> FunctionInfo:
    """The function as it is live right now; NotDeployed. Always asks, so that a deploy counts at once."""
    reply = await tenant.ask(ApiVerb.FUNCTIONS, FunctionsRequest(app=app, function=function), FunctionsReply)
    if not reply.functions:
        raise NotDeployed(f"there is no function {app}.{function}")
    tenant.known = True
    return reply.functions[0]


def keyed_call_id(tenant: str, manifest: Manifest, key: str) -> str:
    """The call that an Idempotency-Key stands for."""
    return derived_call_id("http", tenant, manifest.app, manifest.function, key)


def ticket_of(info: FunctionInfo, payload: bytes, call: str | None = None, *, stream: bool = False) -> Ticket:
    """A call of just this version, to be submitted."""
    submit = SubmitCall(
        call=call or new_call_id(), app=info.manifest.app, function=info.manifest.function, version=info.version,
        digest=hashlib.sha256(payload).hexdigest(), payload_bytes=len(payload), stream=stream,
    )  # fmt: skip
    return (StreamTicket if stream else Ticket)(submit.call, submit, payload)


def submit(tenant: Tenant, ticket: Ticket) -> Ticket:
    """Hand it over, unless the same call is on its way already: then that one counts. HttpProblem 422 if it differs."""
    known = tenant.calls.get(ticket.call)
    if known is None:
        tenant.submit(ticket)
        return ticket
    assert ticket.submit is not None and known.submit is not None
    if known.submit.digest != ticket.submit.digest:
        raise _key_reused(ticket.call)
    return known


def _key_reused(call: str) -> HttpProblem:
    return HttpProblem(
        422, "idempotency_key_reused", "this Idempotency-Key stands for a call with other arguments",
        hint="use a new key for a new call", call=call,
    )  # fmt: skip


async def accepted(ticket: Ticket) -> None:
    """Return once the platform has it; HttpProblem if it refused."""
    if not ticket.accepted and not ticket.done:
        there, others = anyio.Event(), ticket.on_accepted

        def heard() -> None:
            there.set()
            if others is not None:  # Requests with one key share a ticket.
                others()

        ticket.on_accepted = heard
        ticket.arm(there.set)
        await there.wait()
    if ticket.error is not None:
        raise refusal_of(ticket)


def refusal_of(ticket: Ticket) -> HttpProblem:
    """Why a call has no outcome of its own."""
    assert ticket.error is not None
    if isinstance(ticket.error, Refused) and ticket.error.details.get("other_arguments"):
        return _key_reused(ticket.call)
    return problem_of(ticket.error, ticket.call if ticket.accepted else None)


def patience_s(manifest: Manifest, limit_s: float = CALL_S_MAX) -> float:
    """How long an answer is waited for: what the function may take, all its attempts and waiting included."""
    if manifest.queue_timeout_s is None:
        return limit_s
    retries = manifest.retries
    pause_s = sum(
        min(retries.max_delay_s, retries.delay_s * retries.backoff**number)
        for number in range(min(retries.max_attempts - 1, 32))
    )
    # The platform ends the call itself by then; what it says is better than our own "too late".
    whole_s = manifest.queue_timeout_s + manifest.program.timeout_s * retries.max_attempts + pause_s + 2.0
    return min(limit_s, whole_s)


async def finished(ticket: Ticket, limit_s: float) -> bool:
    """Whether its outcome came within ``limit_s``."""
    if not ticket.done:
        over = anyio.Event()
        ticket.arm(over.set)
        with anyio.move_on_after(limit_s):
            await over.wait()
    return ticket.done


def outcome_of(ticket: Ticket) -> Outcome:
    """What came of a call that is done."""
    assert ticket.done, ticket.call
    if ticket.error is not None:
        return ticket.error
    assert ticket.final is not None, ticket.call
    return _outcome(ticket.final, ticket.final_bytes())


def _outcome(record: OutcomeRecord, data: bytes | memoryview) -> Outcome:
    if record.error is not None:
        return record.error.to_error()
    return item_outcome(data)


def item_outcome(data: bytes | memoryview) -> Outcome:
    """What result bytes say: of a call, or of one item that a generator yielded."""
    if not len(data):
        return ProtocolError("a result is empty")
    status = data[0]
    try:
        if status == _VALUE:
            return Value(data[1:])
        if status == _RAISED:
            found = decode_exception(bytes(data[1:]))
            error = from_code(found.code, found.message, found.hint)
            # What the sandbox itself says of a call; any other error of ours was raised by the function.
            return error if isinstance(error, CallError) else found
        if status == _ENDED:
            return WireError.model_validate_json(bytes(data[1:])).to_error()
        if status == _EMITTED and len(data) >= 5:  # Events, which the platform publishes, in front of the value.
            (length,) = struct.unpack_from("<I", data, 1)
            return Value(data[5 + length :])
    except (FleetError, ValueError) as error:
        return error if isinstance(error, FleetError) else ProtocolError("a result's error is malformed")
    return ProtocolError(f"a result has the unknown status {status}")


async def status(tenant: Tenant, call: str) -> CallStatus:
    """How it stands; ResultExpired if nobody knows the call."""
    reply = await tenant.ask(ApiVerb.STATUS, CallRequest(calls=[call]), StatusReply)
    if not reply.calls or reply.calls[0].state is None:
        raise ResultExpired(f"call {call} is not known here: its outcome is no longer kept, or never was")
    tenant.known = True
    return reply.calls[0]


async def stored_outcome(tenant: Tenant, call: str) -> tuple[OutcomeRecord, Outcome] | None:
    """The record that ended a call, and what it says; None while there is none."""
    request = ResultRequest(call=call, part_from=_LAST_PART)
    _, parts = await tenant.api.ask(ApiVerb.RESULT, request, ResultReply)
    if not parts:
        return None
    record, bodies = frames.unpack(parts[-1], OutcomeRecord)
    if not record.final:
        return None
    data: bytes | memoryview = bodies[0] if bodies else b""
    if record.blob is not None and not len(data):
        try:
            data = await tenant.get_blob(record.blob, record.blob_bytes)
        except FleetError as error:
            return record, error
    return record, _outcome(record, data)


async def until_ended(tenant: Tenant, call: str, limit_s: float) -> None:
    """Wait until the call has an outcome or ``limit_s`` is over; whoever made the call."""
    ticket = tenant.calls.get(call)
    if ticket is not None and not isinstance(ticket, StreamTicket):
        await finished(ticket, limit_s)
        return
    until_s = time.monotonic() + limit_s
    pause_s = POLL_S_FIRST
    while (left_s := until_s - time.monotonic()) > 0:
        await anyio.sleep(min(pause_s, left_s))
        pause_s = min(POLL_S_SLOWEST, pause_s * 1.5)
        try:
            if (await status(tenant, call)).state in ENDED:
                return
        except FleetUnavailable:
            continue  # It may be back within the limit.
        except FleetError:
            return


async def cancel(tenant: Tenant, call: str) -> bool:
    """End it; whether this ended it."""
    reply = await tenant.ask(ApiVerb.CANCEL, CallRequest(calls=[call]), CancelReply)
    return call in reply.cancelled


async def cancel_quietly(tenant: Tenant, ticket: Ticket) -> None:
    """Nobody wants its outcome any more: end it, also when we are being cancelled ourselves."""
    with anyio.move_on_after(CANCEL_S, shield=True):
        try:
            if not ticket.accepted and not ticket.done:  # Not before the platform has it: it would know nothing of it.
                await accepted(ticket)
            if not ticket.done:
                await cancel(tenant, ticket.call)
        except (FleetError, HttpProblem):
            pass  # it has ended, or nobody is there to be told
