"""Write dead letters: calls, items of chunks and events that failed for good. ``frontdoor/dead.py`` reads them.

A call's failure is true once its outcome record is stored; that record carries a ``DeadNote``, and the letter follows from
it and from the arguments in the queue, which stay until the letter is stored. So whoever leads after a crash writes the
letters that are missing, under the same subjects, and none for a failure that didn't become the outcome.

Each part of a chunk has a letter of its own: one of a later part doesn't replace it.
"""

from __future__ import annotations

import logging
import time

from fleet.protocol import frames
from fleet.protocol.errors import FleetError
from fleet.protocol.frames import Bytes
from fleet.protocol.ids import digest, event_key
from fleet.protocol.limits import KIB, RESULT_TTL_S_DEFAULT
from fleet.protocol.messages import CallState, DeadLetter, EventHead, InvocationState, OutcomeRecord, WireError
from fleet.protocol.subjects import DEAD_LETTER, OUTCOME
from fnplatform.jetstream import JetStream, StreamFull, WrongSequence

log = logging.getLogger("fleet.dead")

EVENTS_APP = "_events"
"""Stands for the app in letters of events that never became a call."""
UNDECODABLE = "undecodable"
HOPS = "hops"
RAW_BYTES_MAX = 64 * KIB
"""So much is kept of what can't be decoded."""
NO_VERSION = "0" * 16
REASON_CHARS_MAX = 4000


async def bury_call(js: JetStream, state: InvocationState, record: OutcomeRecord, payload: Bytes) -> bool:
    """Store the letter that ``record`` says is due, unless it is there; False if DEAD is full: the outcome is worth more.

    ``payload``: the arguments, of a chunk those of the items in the note. FleetUnavailable: it may be stored or not.
    """
    note = record.dead
    assert note is not None, record.call
    update: dict[str, object] = {"attempts": note.attempts, "losses": note.losses, "item_attempts": note.item_attempts}
    call = state.call
    if note.items is not None:
        update["pending"] = note.items
        call = f"{call}.{record.part}"
    letter = DeadLetter(state=state.model_copy(update=update), reason=_cut(note.reason), at_unix_s=time.time())
    return await _store(js, state.tenant, state.app, state.function, call, letter, payload)


async def bury_event(
    js: JetStream, tenant: str, kind: str, head: EventHead, data: Bytes, reason: str, *, accepted_unix_s: float = 0.0
) -> bool:
    """Store an event that never became a call; False if DEAD is full. FleetUnavailable: it may be stored or not.

    ``kind``: UNDECODABLE (of its data RAW_BYTES_MAX are kept; ``head`` holds what could be read) or HOPS. The same event
    of the same kind has one letter; one without an id is known by its content.
    """
    size = len(data)
    if kind == UNDECODABLE and size > RAW_BYTES_MAX:
        data = memoryview(data)[:RAW_BYTES_MAX]
        reason = f"{reason} (the first {RAW_BYTES_MAX} of {size} bytes are kept)"
    content = digest(bytes(data))
    key = event_key(head.source, head.id or f"{head.subject}\0{content}")
    now = time.time()
    state = InvocationState(
        tenant=tenant, call=key, app=EVENTS_APP, function=kind, version=NO_VERSION, inbox="", digest=content,
        payload_bytes=size, submitted_unix_s=accepted_unix_s or now, trigger="subject", hops=head.hops,
    )  # fmt: skip
    letter = DeadLetter(state=state, reason=_cut(reason), at_unix_s=now, event=head)
    return await _store(js, tenant, EVENTS_APP, kind, key, letter, data)


async def bury_garbage(
    js: JetStream, *, tenant: str, app: str, function: str, call: str, data: Bytes, error: FleetError
) -> bool:
    """End a call whose message in the queue can't be decoded: its outcome, unless there is one, and a letter with all of it.

    False if DEAD is full. FleetUnavailable: they may be stored or not.
    """
    state = InvocationState(
        tenant=tenant, call=call, app=app, function=function, version=NO_VERSION, inbox="", digest=digest(bytes(data)),
        payload_bytes=len(data), submitted_unix_s=time.time(),
    )  # fmt: skip
    record = OutcomeRecord(
        call=call, app=app, function=function, version=NO_VERSION, state=CallState.FAILED, error=WireError.of(error),
        summary=f"{error.code}: {error.message}",
    )  # fmt: skip
    try:
        subject = OUTCOME.build(tenant=tenant, app=app, function=function, call=call)
        await js.publish(subject, frames.pack(record), expect_last_subject_seq=0, ttl_s=RESULT_TTL_S_DEFAULT)
    except WrongSequence:
        pass  # it has one
    letter = DeadLetter(state=state, reason=_cut(error.message), at_unix_s=time.time(), garbage=True)
    return await _store(js, tenant, app, function, call, letter, data)


async def _store(
    js: JetStream, tenant: str, app: str, function: str, call: str, letter: DeadLetter, data: Bytes
) -> bool:
    subject = DEAD_LETTER.build(tenant=tenant, app=app, function=function, call=call)
    try:
        await js.publish(subject, frames.pack(letter, [data]), expect_last_subject_seq=0)
    except WrongSequence:
        return True  # it is there
    except StreamFull as error:
        log.error("no room for the dead letter of %s.%s, call %s: %s", app, function, call, error.message)
        return False
    return True


def _cut(reason: str) -> str:
    return reason[:REASON_CHARS_MAX]
