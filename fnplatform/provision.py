"""Make the streams and buckets that the platform lives in; check that the broker can hold them. Idempotent.

Errors: Refused, in one sentence, where the broker is too old, has no JetStream, carries too small messages, is too small
for our streams, or holds what another version of the platform made; FleetUnavailable while it doesn't answer.
"""

from __future__ import annotations

import re
from typing import Any

from fleet.protocol import limits, subjects
from fleet.protocol.errors import Refused
from fnplatform.jetstream import JetStream, JetStreamError, WrongSequence

SERVER_VERSION_MIN = (2, 14, 3)
SCHEMA = "1"
"""Version of what is stored. Another one is never touched."""
SCHEMA_KEY = "schema"
DEAD_BYTES_MAX = 1024 * limits.MIB
DEAD_S_MAX = 30 * 24 * 3600.0
LOGS_S_MAX = 7 * 24 * 3600.0
CHECKPOINTS_BYTES_MAX = 2048 * limits.MIB
CHECKPOINTS_S_MAX = 7 * 24 * 3600.0


def _stream(name: str, subject: str, **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": name, "subjects": [subject], "storage": "file", "retention": "limits", "discard": "new",
        "num_replicas": 1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
        "max_consumers": -1, "allow_direct": True,
    }  # fmt: skip
    return {**base, **more}


def streams(queue_calls_max: int = limits.QUEUE_CALLS_MAX) -> list[dict[str, Any]]:
    """Configuration of every stream."""
    return [
        # One message per subject: a requeue replaces the one before in one step, also when the queue is full.
        _stream(
            subjects.STREAM_INVOCATIONS,
            subjects.INVOCATION.wildcard(),
            retention="workqueue",
            max_msgs_per_subject=1,
            max_msgs=queue_calls_max,
            max_bytes=limits.QUEUE_BYTES_MAX,
            allow_atomic=True,
        )
        # With it, in one step: how far events and clocks became invocations.
        | {"subjects": [subjects.INVOCATION.wildcard(), subjects.CURSOR.wildcard(), subjects.CLOCKS.wildcard()]},
        # First writer wins by expected sequence 0; what is kept goes by the time to live of each record.
        _stream(
            subjects.STREAM_OUTCOMES,
            "out.>",
            max_bytes=limits.OUTCOMES_BYTES_MAX,
            allow_msg_ttl=True,
            allow_atomic=True,
        )
        | {"subjects": ["out.>", subjects.EMITTED.wildcard()]},
        # One message per event: its copies find the subject taken.
        _stream(
            subjects.STREAM_EVENTS,
            subjects.STORED_EVENT.wildcard(),
            max_msgs_per_subject=1,
            max_msgs=limits.EVENTS_MAX,
            max_bytes=limits.EVENTS_BYTES_MAX,
            max_age=int(limits.EVENTS_S_MAX * 1e9),
            allow_atomic=True,
        ),
        # Schedules of the broker that wake us. What they are about stands with the cursor.
        _stream(
            subjects.STREAM_SCHEDULES,
            "sch.>",
            discard="old",
            max_msgs_per_subject=1,
            max_bytes=limits.MIB,
            allow_msg_schedules=True,
            allow_msg_ttl=True,
        ),
        _stream(
            subjects.STREAM_DEAD,
            subjects.DEAD_LETTER.wildcard(),
            max_msgs_per_subject=1,
            max_bytes=DEAD_BYTES_MAX,
            max_age=int(DEAD_S_MAX * 1e9),
        ),
        # What functions print is worth less than what runs: the oldest goes.
        _stream(
            subjects.STREAM_LOGS,
            subjects.LOG.wildcard(),
            discard="old",
            max_bytes=limits.LOGS_BYTES_MAX,
            max_age=int(LOGS_S_MAX * 1e9),
        ),
        _stream(
            subjects.STREAM_BLOBS,
            subjects.BLOB_PART.wildcard(),
            max_msgs_per_subject=1,
            max_bytes=limits.BLOBS_BYTES_MAX,
            allow_msg_ttl=True,
        ),
    ]


def parse_version(text: str) -> tuple[int, int, int]:
    """``2.15.1-beta.2`` as (2, 15, 1); zeros where it says nothing."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)


async def check_server(js: JetStream) -> None:
    """Refused unless the broker is new enough, has JetStream for us, and carries our messages."""
    bus = js.bus
    if parse_version(bus.server_version) < SERVER_VERSION_MIN:
        least = ".".join(map(str, SERVER_VERSION_MIN))
        raise Refused(
            f"the broker at {bus.url} is nats-server {bus.server_version or 'of unknown version'}, {least} is needed",
            hint="upgrade it, or let fleet serve start its own",
        )
    if bus.payload_bytes_max < limits.MESSAGE_BYTES_MAX:
        raise Refused(
            f"the broker at {bus.url} carries messages of {bus.payload_bytes_max} bytes, {limits.MESSAGE_BYTES_MAX} are needed",
            hint=f"set max_payload: {limits.MESSAGE_BYTES_MAX} in its configuration",
        )
    try:
        await js.api("INFO")
    except JetStreamError as error:
        raise Refused(
            f"the broker at {bus.url} has no JetStream for this user: {error.message}",
            hint="enable jetstream in its configuration, and allow $JS.API.> to this user",
        ) from error


async def _check_schema(js: JetStream) -> None:
    try:
        await js.kv_create(subjects.BUCKET_PLATFORM, SCHEMA_KEY, SCHEMA.encode())
    except WrongSequence:
        found = await js.kv_get(subjects.BUCKET_PLATFORM, SCHEMA_KEY)
        stored = found[0].decode(errors="replace") if found else ""
        if stored != SCHEMA:
            raise Refused(
                f"the broker at {js.bus.url} holds data of another version of the platform"
                f" (schema {stored!r}, this is {SCHEMA!r})",
                hint="run the version that made it, or use another broker or data folder",
            ) from None


async def provision(js: JetStream, queue_calls_max: int = limits.QUEUE_CALLS_MAX) -> bool:
    """Create or update everything; whether anything was created (then sync it to disk). Refused where it can't."""
    await check_server(js)
    try:
        created = await js.ensure_bucket(subjects.BUCKET_PLATFORM)
        await _check_schema(js)
        for config in streams(queue_calls_max):
            created |= await js.ensure_stream(config)
        created |= await js.ensure_bucket(subjects.BUCKET_FUNCTIONS)
        created |= await js.ensure_bucket(subjects.BUCKET_TOKENS)
        created |= await js.ensure_bucket(subjects.BUCKET_CARS, ttl_s=limits.CAR_RECORD_TTL_S)
        created |= await js.ensure_bucket(
            subjects.BUCKET_CHECKPOINTS, ttl_s=CHECKPOINTS_S_MAX, max_bytes=CHECKPOINTS_BYTES_MAX
        )
        created |= await js.ensure_bucket(subjects.BUCKET_PARTITIONS, ttl_s=limits.LEADER_TTL_S)
    except JetStreamError as error:
        raise Refused(
            f"the broker at {js.bus.url} can't hold the platform's streams: {error.message}",
            hint="look at its JetStream limits and free disk",
        ) from error
    return created
