"""Ids and tokens: calls (UUIDv7), digests, names that fit a subject. Standard library only."""

from __future__ import annotations

import hashlib
import os
import re
import time

from fleet.protocol.errors import InvalidOption
from fleet.protocol.limits import EVENT_SUBJECT_CHARS_MAX, EVENT_SUBJECT_TOKENS_MAX, TOKEN_CHARS_MAX

TOKEN = re.compile(r"[A-Za-z0-9_-]{1,%d}\Z" % TOKEN_CHARS_MAX)


def new_call_id(unix_ms: int | None = None) -> str:
    """A UUIDv7 (RFC 9562) as 32 hex digits: sorts by time, unique without coordination."""
    ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    value = (ms & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def call_id_unix_s(call: str) -> float:
    """When a UUIDv7 call id was made, in seconds since 1970; ValueError for another one."""
    if call[12:13] != "7":
        raise ValueError(f"{call!r} is no UUIDv7")
    return int(call[:12], 16) / 1000


def derived_call_id(*parts: str) -> str:
    """The call id that follows from ``parts`` alone, a UUIDv8 as 32 hex digits: asked for again, it is the same call."""
    value = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:16], "big")
    value = value & ~(0xF << 76) | 0x8 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def event_call_id(tenant: str, app: str, function: str, source: str, event: str) -> str:
    """The call that event ``event`` of ``source`` starts."""
    return derived_call_id("event", tenant, app, function, source, event)


def tick_call_id(tenant: str, app: str, function: str, version: str, scheduled: str) -> str:
    """The call of a clock's tick; ``scheduled`` is RFC 3339 in UTC."""
    return derived_call_id("tick", tenant, app, function, version, scheduled)


def event_key(source: str, event: str) -> str:
    """A token for an event: CloudEvents of one source and id are the same event."""
    return hashlib.sha256(f"{source}\0{event}".encode()).hexdigest()[:32]


def digest(data: bytes | bytearray | memoryview) -> str:
    """sha256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def is_token(text: str) -> bool:
    """Whether ``text`` may stand in a subject as one token."""
    return TOKEN.match(text) is not None


def check_token(text: str, what: str) -> str:
    """``text``, or InvalidOption that names ``what`` and the allowed form."""
    if not is_token(text):
        raise InvalidOption(f"{what} {text!r} is not allowed: 1 to {TOKEN_CHARS_MAX} of the characters A-Z a-z 0-9 _ -")
    return text


def check_event_subject(subject: str) -> str:
    """``subject``, or InvalidOption unless an event may be published on it: tokens with dots between them, no wildcards."""
    tokens = subject.split(".") if isinstance(subject, str) else []
    few = 0 < len(tokens) <= EVENT_SUBJECT_TOKENS_MAX
    if few and len(subject) <= EVENT_SUBJECT_CHARS_MAX and all(map(is_token, tokens)):
        return subject
    raise InvalidOption(
        f"subject={subject!r:.300} is not allowed for an event: 1 to {EVENT_SUBJECT_TOKENS_MAX} names of the characters"
        f" A-Z a-z 0-9 _ - with dots between them, at most {EVENT_SUBJECT_CHARS_MAX} characters",
        hint='as in "sensors.7.temperature"',
    )


def token_of(display: str) -> str:
    """A token for any display name: itself if it fits, else a readable stem and a digest (``lambda-3f9a01c2``)."""
    if is_token(display):
        return display
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", display).strip("-")[:40] or "fn"
    return f"{stem}-{digest(display.encode())[:8]}"
