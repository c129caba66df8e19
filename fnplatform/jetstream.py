"""JetStream over ``fleet.transport.Bus``: publish with expectations, direct gets, key-value. Consumers: ``consumer.py``.

Written against the JetStream API itself (JSON requests on ``$JS.API.>``) instead of nats-py's context, because the hot
path needs publishes whose acknowledgement is a plain callback, and because priority, batch get and per-message TTL have
no place in nats-py 2.16. Only the control plane has JetStream rights.

Errors: WrongSequence (an expectation failed), StreamFull (bounded: nothing was stored), FleetUnavailable (no answer: it
may or may not have been stored), JetStreamError (anything else the server refuses).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from fleet.protocol.errors import FleetError, FleetUnavailable
from fleet.protocol.limits import REQUEST_S
from fleet.transport import Bus, Payload, Request

API = "$JS.API."

_WRONG_SEQUENCE = frozenset({10071, 10164})
_FULL = frozenset({10047, 10077, 10023, 10122})
_NOT_FOUND = frozenset({10059, 10037, 10014})
_TOO_MANY = 413
"""Status: a batched read of the newest messages matches more than 1,024 subjects."""
_EACH_MAX = 1000


class JetStreamError(FleetError):
    """The server refused; ``err_code`` is its number."""

    code = "jetstream_error"

    def __init__(self, message: str, err_code: int = 0) -> None:
        super().__init__(message, hint="")
        self.err_code = err_code


class WrongSequence(JetStreamError):
    """The expected last sequence was another: ``last_seq``, if the server says."""

    code = "wrong_sequence"

    def __init__(self, message: str, err_code: int = 0) -> None:
        super().__init__(message, err_code)
        found = re.search(r"(\d+)\s*$", message)
        self.last_seq = int(found[1]) if found else None


class StreamFull(JetStreamError):
    """The stream, its subject, or the disk holds no more. Nothing was stored."""

    code = "stream_full"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of a stream. ``operation``: ``DEL`` or ``PURGE`` where a key-value entry was deleted."""

    subject: str
    seq: int
    data: bytes | bytearray
    time: str
    operation: str = ""
    ttl_s: float | None = None
    """The life that it was stored with; None: no end."""


def _raise_error(error: dict[str, Any]) -> None:
    raise error_of(error)


def error_of(error: dict[str, Any]) -> JetStreamError:
    """The exception for an error in an answer of the broker."""
    err_code = int(error.get("err_code", 0))
    text = str(error.get("description", "refused"))
    if err_code in _WRONG_SEQUENCE:
        return WrongSequence(text, err_code)
    if err_code in _FULL or "no space left" in text:
        return StreamFull(text, err_code)
    return JetStreamError(f"the broker refused: {text}", err_code)


OnStored = Callable[[int | FleetError], None]


class JetStream:
    """The JetStream API on one connection."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    # --- publishing ---------------------------------------------------------------------------------------------

    def publish_then(
        self,
        subject: str,
        data: Payload,
        on_stored: OnStored,
        *,
        expect_last_subject_seq: int | None = None,
        ttl_s: float | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_S,
    ) -> None:
        """Publish; ``on_stored`` is called once, with the stream sequence or an error. Never raises by itself."""

        def on_reply(reply: Request | FleetUnavailable) -> None:
            if not isinstance(reply, Request):
                on_stored(reply)
                return
            answer = json.loads(reply.data)
            error = answer.get("error")
            on_stored(error_of(error) if error else int(answer["seq"]))

        all_headers = dict(headers or {})
        if expect_last_subject_seq is not None:
            all_headers["Nats-Expected-Last-Subject-Sequence"] = str(expect_last_subject_seq)
        if ttl_s is not None:
            all_headers["Nats-TTL"] = f"{max(1, round(ttl_s))}s"
        self.bus.ask(subject, data, on_reply, timeout_s=timeout_s, headers=all_headers or None)

    async def publish(
        self,
        subject: str,
        data: Payload,
        *,
        expect_last_subject_seq: int | None = None,
        ttl_s: float | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_S,
    ) -> int:
        """Publish and wait until it is stored; its stream sequence."""
        all_headers = dict(headers or {})
        if expect_last_subject_seq is not None:
            all_headers["Nats-Expected-Last-Subject-Sequence"] = str(expect_last_subject_seq)
        if ttl_s is not None:
            all_headers["Nats-TTL"] = f"{max(1, round(ttl_s))}s"
        reply = await self.bus.request(subject, data, timeout_s=timeout_s, headers=all_headers or None)
        answer = json.loads(reply.data)
        if "error" in answer:
            _raise_error(answer["error"])
        return int(answer["seq"])

    # --- the API ------------------------------------------------------------------------------------------------

    async def api(self, verb: str, body: dict[str, Any] | None = None, timeout_s: float = REQUEST_S) -> dict[str, Any]:
        """One request of the JetStream API; JetStreamError where the server refuses."""
        reply = await self.bus.request(API + verb, json.dumps(body).encode() if body else b"", timeout_s=timeout_s)
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            _raise_error(answer["error"])
        return answer

    async def ensure_stream(self, config: dict[str, Any]) -> bool:
        """Create the stream, or update it to ``config``; whether it was created."""
        name = config["name"]
        try:
            await self.api(f"STREAM.INFO.{name}")
        except JetStreamError as error:
            if error.err_code not in _NOT_FOUND:
                raise
            await self.api(f"STREAM.CREATE.{name}", config, timeout_s=4 * REQUEST_S)
            return True
        await self.api(f"STREAM.UPDATE.{name}", config, timeout_s=4 * REQUEST_S)
        return False

    async def stream_info(self, stream: str) -> dict[str, Any]:
        """The server's STREAM.INFO answer: ``config`` and ``state`` (messages, bytes, last_seq ...)."""
        return await self.api(f"STREAM.INFO.{stream}")

    async def subjects(self, stream: str, subject_filter: str) -> dict[str, int]:
        """Messages per subject that matches the filter."""
        found: dict[str, int] = {}
        while True:
            body = {"subjects_filter": subject_filter, "offset": len(found)}
            answer = await self.api(f"STREAM.INFO.{stream}", body)
            page = answer["state"].get("subjects") or {}
            found.update(page)
            if not page or len(found) >= answer.get("total", 0):
                return found

    async def purge(self, stream: str, subject_filter: str, *, before_seq: int | None = None) -> int:
        """Remove every message of the filter; how many."""
        body: dict[str, Any] = {"filter": subject_filter}
        if before_seq is not None:
            body["seq"] = before_seq
        answer = await self.api(f"STREAM.PURGE.{stream}", body)
        return int(answer.get("purged", 0))

    async def delete_seq(self, stream: str, seq: int) -> bool:
        """Remove one message; whether it was there."""
        try:
            answer = await self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
        except JetStreamError as error:
            if error.err_code in (10043, 10057) or error.err_code in _NOT_FOUND:
                return False
            raise
        return bool(answer.get("success"))

    # --- reading ------------------------------------------------------------------------------------------------

    async def get_last(self, stream: str, subject: str) -> StoredMessage | None:
        """The newest message of ``subject`` (no wildcards), or None."""
        return _stored(await self.bus.request(f"{API}DIRECT.GET.{stream}.{subject}"))

    async def get_seq(self, stream: str, seq: int) -> StoredMessage | None:
        """The message with this sequence number, or None."""
        return _stored(await self.bus.request(f"{API}DIRECT.GET.{stream}", json.dumps({"seq": seq}).encode()))

    async def get_next(self, stream: str, subject: str, seq: int = 1) -> StoredMessage | None:
        """The first message at or after ``seq`` whose subject matches (wildcards allowed), or None."""
        body = json.dumps({"seq": seq, "next_by_subj": subject}).encode()
        return _stored(await self.bus.request(f"{API}DIRECT.GET.{stream}", body))

    async def get_last_of_each(self, stream: str, subjects: list[str], limit: int = 1000) -> list[StoredMessage]:
        """The newest message of up to ``limit`` subjects that match one of ``subjects`` (wildcards allowed), by sequence."""
        try:
            return await self._batch(stream, {"multi_last": subjects, "batch": limit})
        except JetStreamError as error:
            if error.err_code != _TOO_MANY:
                raise
        names = sorted({name for one in subjects for name in await self.subjects(stream, one)})[:limit]
        found: list[StoredMessage] = []
        for first in range(0, len(names), _EACH_MAX):
            found += await self._batch(stream, {"multi_last": names[first : first + _EACH_MAX], "batch": _EACH_MAX})
        return sorted(found, key=lambda message: message.seq)

    async def get_range(
        self, stream: str, subject: str, *, seq: int | None = None, start_time: str | None = None, limit: int = 1000,
        bytes_max: int | None = None,
    ) -> list[StoredMessage]:  # fmt: skip
        """Messages of ``subject`` (wildcards allowed) from ``seq`` or an RFC 3339 ``start_time`` on, in order.

        At most ``limit`` of them, and no more once they have ``bytes_max`` together (the broker has a bound of its own as
        well): that there are no more is known when none comes.
        """
        body: dict[str, Any] = {"next_by_subj": subject, "batch": limit}
        if bytes_max is not None:
            body["max_bytes"] = bytes_max
        if start_time is not None:
            body["start_time"] = start_time
        else:
            body["seq"] = seq or 1
        return await self._batch(stream, body)

    async def _batch(self, stream: str, body: dict[str, Any]) -> list[StoredMessage]:
        """A batched direct get: many replies on one inbox, the last one with status 204."""
        found: list[StoredMessage] = []
        problem: list[int] = []
        done = anyio.Event()
        inbox = f"{self.bus.inbox}.b.{id(found):x}"

        def on_message(request: Request) -> None:
            if request.status in (204, 404):
                done.set()
            elif request.status:
                problem.append(request.status)
                done.set()
            else:
                message = _stored(request)
                if message is not None:
                    found.append(message)

        listening = await self.bus.listen(inbox, on_message)
        try:
            self.bus.publish(f"{API}DIRECT.GET.{stream}", json.dumps(body).encode(), reply=inbox)
            with anyio.move_on_after(REQUEST_S) as scope:
                await done.wait()
            if scope.cancelled_caught:
                raise FleetUnavailable("the broker did not answer in time")
        finally:
            await listening.close()
        if problem and problem[0] != 408:
            raise JetStreamError(f"the broker refused a batched read (status {problem[0]})", problem[0])
        return found

    # --- key-value ----------------------------------------------------------------------------------------------

    async def ensure_bucket(
        self, bucket: str, *, ttl_s: float | None = None, max_bytes: int = -1, history: int = 1
    ) -> bool:
        """Create a key-value bucket, or update it; whether it was created. ``ttl_s``: age at which entries go."""
        return await self.ensure_stream(
            {
                "name": f"KV_{bucket}", "subjects": [f"$KV.{bucket}.>"], "retention": "limits", "storage": "file",
                "max_msgs_per_subject": history, "max_age": int((ttl_s or 0) * 1e9), "max_bytes": max_bytes,
                "discard": "new", "allow_direct": True, "allow_rollup_hdrs": True, "deny_delete": True,
                "allow_msg_ttl": True, "num_replicas": 1, "max_consumers": -1, "max_msgs": -1,
                "duplicate_window": int(min(120.0, ttl_s or 120.0) * 1e9),
            }
        )  # fmt: skip

    async def kv_get(self, bucket: str, key: str) -> tuple[bytes, int] | None:
        """Value and revision of a key, or None."""
        found = await self.get_last(f"KV_{bucket}", f"$KV.{bucket}.{key}")
        return None if found is None or found.operation else (bytes(found.data), found.seq)

    async def kv_put(self, bucket: str, key: str, value: bytes, *, ttl_s: float | None = None) -> int:
        """Set a key; its revision."""
        return await self.publish(f"$KV.{bucket}.{key}", value, ttl_s=ttl_s)

    async def kv_create(self, bucket: str, key: str, value: bytes) -> int:
        """Set a key that doesn't exist (or was deleted); its revision, else WrongSequence."""
        subject = f"$KV.{bucket}.{key}"
        try:
            return await self.publish(subject, value, expect_last_subject_seq=0)
        except WrongSequence:
            found = await self.get_last(f"KV_{bucket}", subject)
            if found is None or not found.operation:
                raise
            return await self.publish(subject, value, expect_last_subject_seq=found.seq)

    async def kv_update(self, bucket: str, key: str, value: bytes, revision: int) -> int:
        """Compare-and-set; the new revision, else WrongSequence."""
        return await self.publish(f"$KV.{bucket}.{key}", value, expect_last_subject_seq=revision)

    async def kv_delete(self, bucket: str, key: str, revision: int | None = None) -> None:
        """Delete a key (leaves a marker); with ``revision`` only if it is still that one."""
        await self.publish(
            f"$KV.{bucket}.{key}", b"", expect_last_subject_seq=revision, headers={"KV-Operation": "DEL"}
        )

    async def kv_entries(self, bucket: str, prefix: str = "", limit: int = 100_000) -> dict[str, bytes]:
        """Keys and values under ``prefix`` (whole tokens, ending in a dot, or empty)."""
        head = f"$KV.{bucket}."
        found = await self.get_last_of_each(f"KV_{bucket}", [f"{head}{prefix}>"], limit)
        return {message.subject[len(head) :]: bytes(message.data) for message in found if not message.operation}

    # --- consuming ----------------------------------------------------------------------------------------------

    async def reset_consumer(self, stream: str, name: str, subject_filter: str) -> None:
        """Make the durable consumer anew, so that everything unsettled is delivered again."""
        try:
            await self.api(f"CONSUMER.DELETE.{stream}.{name}")
        except JetStreamError as error:
            if error.err_code not in _NOT_FOUND:
                raise
        config = {
            "durable_name": name, "name": name, "ack_policy": "explicit", "ack_wait": int(3600e9),
            "max_ack_pending": -1, "max_deliver": -1, "deliver_policy": "all", "filter_subject": subject_filter,
            "replay_policy": "instant", "max_waiting": 512,
        }  # fmt: skip
        await self.api(f"CONSUMER.CREATE.{stream}.{name}.{subject_filter}", {"stream_name": stream, "config": config})


def _stored(reply: Request) -> StoredMessage | None:
    if reply.status in (404, 408):
        return None
    if reply.status:
        raise JetStreamError(f"the broker refused a read (status {reply.status})")
    if not reply.headers:  # an API error comes as JSON
        answer = json.loads(reply.data) if reply.data.startswith(b"{") else {}
        if "error" in answer:
            if answer["error"].get("err_code") in _NOT_FOUND or answer["error"].get("code") == 404:
                return None
            _raise_error(answer["error"])
        raise JetStreamError("the broker answered a read without a subject")
    operation = reply.header("KV-Operation") or ("MARKER" if reply.header("Nats-Marker-Reason") else "")
    return StoredMessage(
        subject=reply.header("Nats-Subject") or "",
        seq=int(reply.header("Nats-Sequence") or 0),
        data=reply.data,
        time=reply.header("Nats-Time-Stamp") or "",
        operation=operation,
        ttl_s=_seconds(reply.header("Nats-TTL")),
    )


def _seconds(text: str | None) -> float | None:
    """A time to live as we write it: ``90s``."""
    return float(text[:-1]) if text and text.endswith("s") and text[:-1].isdecimal() else None
