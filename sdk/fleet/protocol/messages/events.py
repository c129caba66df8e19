"""Events: how they are published, stored, and handed on; tokens for HTTP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fleet.protocol import limits
from fleet.protocol.messages.base import Message, Reply, Token


class EventHead(Message):
    """A CloudEvent (1.0) without its data, which is the part behind it.

    ``subject`` is the subject on the bus, by which triggers find it. ``extensions``: further attributes, as texts.
    """

    id: str = Field("", max_length=limits.EVENT_ATTRIBUTE_CHARS_MAX)
    source: str = Field("", max_length=limits.EVENT_ATTRIBUTE_CHARS_MAX)
    type: str = Field("fleet.event", min_length=1, max_length=limits.EVENT_ATTRIBUTE_CHARS_MAX)
    subject: str = Field("", max_length=limits.EVENT_SUBJECT_CHARS_MAX)
    time: str | None = Field(None, max_length=64)
    """RFC 3339."""
    datacontenttype: str | None = Field(None, max_length=limits.EVENT_ATTRIBUTE_CHARS_MAX)
    dataschema: str | None = Field(None, max_length=limits.EVENT_ATTRIBUTE_CHARS_MAX)
    extensions: dict[str, str] = Field({}, max_length=limits.EVENT_EXTENSIONS_MAX)
    hops: int = Field(0, ge=0)
    """How many functions it came through: set by the platform for events that functions emit, else 0."""


class PublishRequest(Message):
    """Parts: the data of each event, in order. An event without ``id`` gets one, and so can't be told from its copies."""

    events: list[EventHead] = Field(min_length=1, max_length=limits.PUBLISH_EVENTS_MAX)
    protocol: int = limits.PROTOCOL


class PublishReply(Reply):
    """Every event is stored: from now on it starts, once, each function whose trigger matches.

    ``ids`` in the order of the events; ``duplicates``: those of them that had been accepted before.
    """

    ids: list[str] = []
    duplicates: list[str] = []


class StoredEvent(Message):
    """What EVENTS holds, with the data as part 0."""

    tenant: Token
    head: EventHead
    accepted_unix_s: float


class OutboxEntry(Message):
    """Stored in one step with an outcome that holds events to be emitted; removed once they are in EVENTS.

    Parts: the events of the call, or of each item of a chunk that emits (``items`` says which ones), as in the result bytes.
    They are here once more because the outcome may be gone before they are published. ``hops``: that of the events.
    """

    tenant: Token
    app: Token
    function: Token
    call: Token
    outcome: str
    """Subject of the record in OUTCOMES."""
    hops: int
    items: list[int] = Field([], max_length=limits.CHUNK_ITEMS_MAX)
    at_unix_s: float = 0.0
    """When the outcome was stored: the time of the events."""


class TokenInfo(Message):
    """A bearer token without its secret."""

    id: Token
    name: str = Field("", max_length=200)
    created_unix_s: float = 0.0
    expires_unix_s: float | None = None


class TokenRequest(Message):
    """Bearer tokens of a tenant for HTTP. ``create`` takes the hash of a secret that the asker made and keeps to itself.

    ``check`` asks whether ``secret_sha256`` is that of token ``id``.
    """

    action: Literal["create", "revoke", "list", "check"] = "list"
    id: Token | None = None
    name: str = Field("", max_length=200)
    secret_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    ttl_s: float | None = Field(None, gt=0)


class TokenReply(Reply):
    """``valid`` answers ``check``."""

    tokens: list[TokenInfo] = []
    valid: bool = False
