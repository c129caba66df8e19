"""Blobs, logs, dead letters, and the platform as a whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fleet.protocol import limits
from fleet.protocol.messages.base import Digest, Message, Reply, Token, WireError
from fleet.protocol.messages.calls import InvocationState
from fleet.protocol.messages.cars import Lease
from fleet.protocol.messages.events import EventHead


class BlobPut(Message):
    """One part of a blob (message part 0); ``lease`` when a car puts a result. The last part's reply says ``stored``."""

    digest: Digest
    size_bytes: int = Field(ge=0, le=limits.PAYLOAD_BYTES_MAX)
    part: int = 0
    lease: Lease | None = None
    kept: bool = False
    """It is the copy of what stays on a device (``fleet.keep``): it lives KEPT_TTL_S from its last put or use."""


class BlobPutReply(Reply):
    """``have``: the whole blob is stored (and its life renewed)."""

    have: bool = False


class BlobGet(Message):
    digest: Digest
    part: int = 0
    lease: Lease | None = None


class BlobGetReply(Reply):
    """Message part 0: the bytes of that part. ``parts``: how many there are."""

    parts: int = 0
    size_bytes: int = 0


class LogsRequest(Message):
    """Stored lines of an app, a function or a call, oldest first; live ones are pushed to ``follow``.

    ``follow`` is an inbox of the asker; each push is a packed LogEntry. It ends after LOG_FOLLOW_S unless asked again
    with the same inbox, which then only prolongs it (and answers no stored lines).
    """

    app: Token | None = None
    function: Token | None = None
    call: Token | None = None
    since_unix_s: float = 0.0
    limit: int = Field(1000, ge=1, le=10_000)
    follow: str | None = None


class LogEntry(Message):
    """One stored batch of lines of one attempt. ``car`` is a pseudonym, as ``fleet.current().car`` is.

    ``items``: of a chunk, which item printed how many of the lines, in their order; ``attempts``: which attempts of these items
    they are of, where it isn't the first.
    """

    app: str
    function: str
    call: str
    attempt: int = 1
    car: str = ""
    lines: list[tuple[float, Literal["stdout", "stderr"], str]] = []
    items: list[tuple[int, int]] = []
    attempts: dict[int, int] = {}

    def by_item(self) -> list[tuple[int | None, int, tuple[float, Literal["stdout", "stderr"], str]]]:
        """(item, attempt, line) of each line; ``item`` None for a call that is no chunk."""
        if sum(count for _, count in self.items) != len(self.lines):
            return [(None, self.attempt, line) for line in self.lines]
        items = [item for item, count in self.items for _ in range(count)]
        return [(item, self.attempts.get(item, 1), line) for item, line in zip(items, self.lines, strict=True)]


class LogsReply(Reply):
    entries: list[LogEntry] = []


class PlatformRequest(Message):
    pass


class PlatformReply(Reply):
    """What ``fleet status`` shows."""

    version: str = ""
    protocol: int = limits.PROTOCOL
    protocol_min: int = limits.PROTOCOL_MIN
    tenant: str = ""
    broker_version: str = ""
    durability: str = ""
    leader: bool = False
    epoch: int = 0
    cars: int = 0
    eligible: int = 0
    waiting: int = 0
    running: int = 0
    events_waiting: int = 0
    """Events that triggers haven't handled yet, at most; right within a second."""
    depth: dict[str, int] = {}
    """Waiting calls by ``app.function``."""
    dropped_replies: int = 0
    http_url: str = ""
    """Where the HTTP gateway listens."""
    stream_bytes: dict[str, int] = {}
    stream_bytes_max: dict[str, int] = {}
    """Of streams that are bounded."""
    stream_messages: dict[str, int] = {}
    uptime_s: float = 0.0


class DeadRequest(Message):
    """What failed for good: list, show, replay or drop.

    ``calls``: those of ``show``, ``replay`` and ``drop``. With ``every`` instead, at most ``limit`` letters that match
    ``app``, ``function`` and ``before_unix_s`` are replayed or dropped, the oldest first: asked again until ``next_seq`` is 0.
    """

    action: Literal["list", "show", "replay", "drop"] = "list"
    calls: list[Token] = Field([], max_length=limits.LIST_ROWS_MAX)
    limit: int = Field(50, ge=1, le=limits.LIST_ROWS_MAX)
    app: Token | None = None
    function: Token | None = None
    every: bool = False
    before_unix_s: float | None = None
    """Only letters written before."""
    from_seq: int = Field(0, ge=0)
    """With ``every``: where to go on, as ``next_seq`` of the last reply said."""


class DeadLetter(Message):
    """Stored in DEAD with the arguments as part 0; of a chunk those of the items in ``state.pending``."""

    state: InvocationState
    reason: str
    at_unix_s: float
    event: EventHead | None = None
    """An event that never became a call: ``state`` only says whose it was, part 0 is its data."""
    garbage: bool = False
    """Part 0 is a message that can't be decoded, ``state`` only says where it was."""


class DeadProblem(Message):
    """A letter that couldn't be replayed, and stays."""

    call: Token
    error: WireError


class DeadReply(Reply):
    """``letters``: those found, or done with. Parts: with ``show``, the arguments of each letter."""

    letters: list[DeadLetter] = []
    replayed: list[Token] = []
    """New calls, or ids of events published anew."""
    problems: list[DeadProblem] = []
    next_seq: int = 0
    """With ``every``: where to go on; 0 where nothing is left."""
