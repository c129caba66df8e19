"""Several messages of one stream stored in one step, or none of them: JetStream's atomic batches.

Measured (nats-server 2.15.1): 2.0 ms for 2 messages, 3.0 for 65, 5.5 for 257; a publish by itself 0.14 ms. The stream needs
``allow_atomic``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from fleet.protocol.ids import new_call_id
from fleet.protocol.limits import REQUEST_S
from fnplatform.jetstream import JetStream, JetStreamError, error_of

MESSAGES_MAX = 1000
"""What the server takes in one batch."""


class Put(NamedTuple):
    """One message of a batch. ``expect``: last sequence of its subject, 0 for none."""

    subject: str
    data: bytes
    expect: int | None = None
    ttl_s: float | None = None


async def publish_batch(js: JetStream, messages: Sequence[Put]) -> int:
    """Store all; the sequence of the first, the others follow it.

    WrongSequence if an expectation doesn't hold, StreamFull, JetStreamError: nothing was stored. FleetUnavailable: all of
    them may have been stored, may still be, or none.
    """
    assert 1 <= len(messages) <= MESSAGES_MAX, len(messages)
    batch_id = new_call_id()
    for number, message in enumerate(messages[:-1], 1):
        js.bus.publish(message.subject, message.data, headers=batch_headers(message, batch_id, number))
    last = messages[-1]
    headers = {**batch_headers(last, batch_id, len(messages)), "Nats-Batch-Commit": "1"}
    reply = await js.bus.request(last.subject, last.data, timeout_s=REQUEST_S, headers=headers)
    answer = json.loads(reply.data)
    if "error" in answer:
        raise error_of(answer["error"])
    if answer.get("count") != len(messages):
        raise JetStreamError(f"the broker stored {answer.get('count')} of {len(messages)} messages of a batch")
    return int(answer["seq"]) - len(messages) + 1


def batch_headers(message: Put, batch_id: str, number: int) -> dict[str, str]:
    """The headers of message ``number`` (from 1 on) of a batch; the last one has ``Nats-Batch-Commit`` besides."""
    headers = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
    if message.expect is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(message.expect)
    if message.ttl_s is not None:
        headers["Nats-TTL"] = f"{max(1, round(message.ttl_s))}s"
    return headers
