"""Between the core's values and messages: grants out, reports in, outcome records. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fleet.protocol import frames, limits
from fleet.protocol.errors import ProtocolError
from fleet.protocol.frames import Bytes
from fleet.protocol.messages import (
    DeadNote,
    GrantRequest,
    InvocationState,
    LeaseGrant,
    OutboxEntry,
    OutcomeReport,
    Program,
    RunOutcome,
    RunStatus,
)
from fleet.protocol.subjects import EMITTED, INVOCATION, OUTCOME, OUTCOME_PART
from fnplatform import emits
from fnplatform.dispatcher import chunks
from fnplatform.dispatcher.chunks import Ranges
from fnplatform.dispatcher.events import Commit, Result
from fnplatform.dispatcher.state import Entry

GRANT_BYTES_MAX = limits.MESSAGE_BYTES_MAX - 3 * limits.MIB
"""Room for arguments in one grant; the rest is for its header, which may count the failures of many items."""
TEXT_CHARS_MAX = 2000
"""What a car says in words is kept up to here."""
VALUE = 0
EXCEPTION = 1
PLATFORM_ERROR = b"\x02"
_STATUSES = bytes((VALUE, EXCEPTION, emits.STATUS))

NO_PROGRAM = Program(bundle="0" * 64, bundle_bytes=0, module="", qualname="")
"""Stand-in for a version that is no longer known: a call of it can only be ended."""

assert limits.SUBMIT_INLINE_BYTES_MAX <= GRANT_BYTES_MAX


def lease_grant(entry: Entry, *, by_blob: bool, payload_bytes: int, with_checkpoint: bool) -> LeaseGrant:
    """One granted call. Built without validation: every value in it was validated or is ours."""
    held = entry.lease
    assert held is not None, entry.state.call
    state = entry.state
    items = held.items
    if by_blob and items is not None:
        items = [
            (0, (state.items or 0) - 1)
        ]  # the blob holds all of them: results that aren't wanted are left out later
    return LeaseGrant.model_construct(
        lease=held.lease, tenant=state.tenant, app=state.app, function=state.function, version=state.version,
        program=entry.queue.program, attempt=entry.attempt, item_numbers=items,
        item_attempts={item: failures + 1 for item, failures in entry.item_attempts.items()},
        exact=entry.exact, blob=state.digest if by_blob else None, payload_bytes=payload_bytes,
        checkpoint=with_checkpoint, departures=entry.departures, submitted_unix_s=state.submitted_unix_s,
        granted_unix_s=held.granted_unix_s, refs=state.refs, stream=state.stream,
        skip=entry.delivered if state.stream else 0, consumed=entry.consumed,
    )  # fmt: skip


def grant_request(grants: list[LeaseGrant], epoch: int, parts: Sequence[Bytes]) -> bytes:
    """The message of a grant."""
    return frames.pack(GrantRequest.model_construct(leases=grants, epoch=epoch), parts)


def results_of(report: OutcomeReport, parts: Sequence[memoryview]) -> list[Result]:
    """What a report says, with as much of its parts looked at as the core needs; ProtocolError if they don't add up."""
    if len(parts) != len(report.outcomes):
        raise ProtocolError(f"a report of {len(report.outcomes)} outcomes came with {len(parts)} parts")
    return [_result(run, part) for run, part in zip(report.outcomes, parts, strict=True)]


def _result(run: RunOutcome, part: memoryview) -> Result:
    """One outcome; whatever is wrong with it makes it ``malformed``, without items, so that nothing below can trip."""
    if len(run.summary) > TEXT_CHARS_MAX or len(run.message) > TEXT_CHARS_MAX:
        run = run.model_copy(update={"summary": run.summary[:TEXT_CHARS_MAX], "message": run.message[:TEXT_CHARS_MAX]})
    try:
        if len(part) > limits.INLINE_RESULT_BYTES_MAX:
            raise ProtocolError("the result should have been a blob")
        if run.done is None:
            return _single(run, part)
        return _chunk(run, run.done, part)
    except ProtocolError:
        return Result(run.model_copy(update={"done": None, "blob": None}), b"", malformed=True)


def _single(run: RunOutcome, part: memoryview) -> Result:
    if run.blob is not None:
        return Result(run, b"")
    status_byte = part[0] if len(part) else -1
    if run.status is RunStatus.OK and status_byte not in (VALUE, EXCEPTION, emits.STATUS):
        raise ProtocolError("a result without its status byte")
    if status_byte != emits.STATUS:
        return Result(run, part, status_byte)
    emits.unpack_emits(emits.packed_in(part))
    return Result(run, part, status_byte, emits=True)


def _chunk(run: RunOutcome, done: Ranges, part: memoryview) -> Result:
    """One outcome of items; ProtocolError unless the part holds one result for each of them, in order."""
    count = chunks.count(chunks.normal(done))
    if any(one[1] >= other[0] for one, other in pairwise(done)):
        raise ProtocolError("items out of order")
    if count > limits.CHUNK_ITEMS_MAX:
        raise ProtocolError(f"{count} items")
    if run.blob is not None or (not count and not len(part)):
        return Result(run, part)
    items = frames.unpack_items(part, limits.CHUNK_ITEMS_MAX)
    if len(items) != count or not all(map(len, items)):
        raise ProtocolError("not one result for each item")
    heads = bytes([item[0] for item in items])
    if heads.count(VALUE) == count:
        return Result(run, part)
    if heads.translate(None, _STATUSES):
        raise ProtocolError("a result without its status byte")
    emitting = emits.STATUS in heads
    if emitting:
        for item in items:
            if item[0] == emits.STATUS:
                emits.unpack_emits(emits.packed_in(item))
    failed = [number for number, head in zip(chunks.numbers(done), heads, strict=True) if head == EXCEPTION]
    return Result(run, part, failed=failed, emits=emitting)


def outcome_subject(state: InvocationState, part: int | None = None) -> str:
    """Where the record of a call is stored: the one that ends it, or (``part``) one that doesn't."""
    if part is None:
        return OUTCOME.build(tenant=state.tenant, app=state.app, function=state.function, call=state.call)
    return OUTCOME_PART.build(
        tenant=state.tenant, app=state.app, function=state.function, call=state.call, part=str(part)
    )


def subject_of(op: Commit) -> str:
    """Where this record goes."""
    return outcome_subject(op.entry.state, None if op.record.final else op.record.part)


def invocation_subject(state: InvocationState, partition: str) -> str:
    """Where the queue holds a call."""
    return INVOCATION.build(
        partition=partition, tenant=state.tenant, app=state.app, function=state.function, call=state.call
    )


def packed_record(op: Commit) -> bytes:
    """The record with its results behind it."""
    part = _record_part(op.part, op.done, op.take, op)
    record = op.record
    if op.dead:
        record = record.model_copy(update={"dead": _dead_note(op)})
    return frames.pack(record, [part] if len(part) else ())


def _dead_note(op: Commit) -> DeadNote:
    entry = op.entry
    attempts = {item: entry.item_attempts.get(item, 0) for item in chunks.numbers(op.dead_items or [])}
    failures = entry.attempts
    if op.dead_items is None and op.record.metering is not None:
        failures = op.record.metering.attempt  # this run's failure included
    return DeadNote(
        reason=op.dead, items=op.dead_items, attempts=failures, losses=entry.losses,
        item_attempts={item: count for item, count in attempts.items() if count},
    )  # fmt: skip


def _record_part(part: Bytes, done: Ranges, take: Ranges | None, op: Commit) -> Bytes:
    if take is None and not op.ended:
        return part
    results: dict[int, Bytes] = {}
    if len(part):
        items = frames.unpack_items(part, limits.CHUNK_ITEMS_MAX)
        wanted = done if take is None else take
        results = dict(zip(chunks.numbers(wanted), chunks.select(done, items, wanted), strict=True))
    for number, error in op.ended.items():
        results[number] = PLATFORM_ERROR + error.model_dump_json(exclude_defaults=True).encode()
    return frames.pack_items([results[number] for number in chunks.numbers(op.record.indices or [])])


def outbox_entry(op: Commit, outcome: str, unix_s: float) -> tuple[str, bytes] | None:
    """Subject and message of what a record emits, whose subject is ``outcome``; None where it emits nothing after all."""
    state = op.entry.state
    items: list[int] = []
    if op.record.indices is None:
        found: list[Bytes] = [emits.packed_in(op.part)]
    else:
        taken = op.done if op.take is None else op.take
        results = chunks.select(op.done, frames.unpack_items(op.part, limits.CHUNK_ITEMS_MAX), taken)
        emitting = [(number, item) for number, item in zip(chunks.numbers(taken), results) if item[0] == emits.STATUS]
        items = [number for number, _ in emitting]
        found = [emits.packed_in(item) for _, item in emitting]
    if not found:
        return None
    entry = OutboxEntry.model_construct(
        tenant=state.tenant, app=state.app, function=state.function, call=state.call, outcome=outcome,
        hops=state.hops + 1, items=items, at_unix_s=unix_s,
    )  # fmt: skip
    subject = EMITTED.build(
        tenant=state.tenant, app=state.app, function=state.function, call=state.call, part=str(op.record.part)
    )
    return subject, frames.pack(entry, found)
