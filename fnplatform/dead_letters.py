"""Dead letters of events that never became a call."""

from __future__ import annotations

import time

from fleet.protocol import frames
from fleet.protocol.ids import digest, event_key
from fleet.protocol.messages import DeadLetter, EventHead, InvocationState
from fleet.protocol.subjects import DEAD_LETTER
from fnplatform.jetstream import JetStream, WrongSequence

APP = "_events"
"""Stands for the app in the letter of an event that no function got."""
_NO_VERSION = "0" * 16


async def bury_event(js: JetStream, tenant: str, kind: str, head: EventHead, data: bytes, reason: str) -> None:
    """Store the letter of an event: ``kind`` (a token) says what became of it, ``reason`` says why in a sentence.

    Buried again, it is the same letter. JetStreamError or FleetUnavailable where it can't be stored.
    """
    key = event_key(head.source, head.id)
    now_unix_s = time.time()
    state = InvocationState(
        tenant=tenant, call=key, app=APP, function=kind, version=_NO_VERSION, inbox="", digest=digest(data),
        payload_bytes=len(data), submitted_unix_s=now_unix_s, trigger="subject", hops=head.hops,
    )  # fmt: skip
    letter = DeadLetter(state=state, reason=reason, at_unix_s=now_unix_s, event=head)
    subject = DEAD_LETTER.build(tenant=tenant, app=APP, function=kind, call=key)
    try:
        await js.publish(subject, frames.pack(letter, [data]), expect_last_subject_seq=0)
    except WrongSequence:
        pass  # it lies there already
