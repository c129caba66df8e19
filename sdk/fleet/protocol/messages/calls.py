"""Calls: submits, states, outcomes, and what the queue holds of them."""

from __future__ import annotations

from pydantic import Field

from fleet.protocol import limits
from fleet.protocol.messages.base import BlobRef, CallState, Digest, Message, Reply, Token, Version, WireError


class SubmitCall(Message):
    """One call, or one chunk of a map when ``items`` is set. Its part holds the arguments, unless ``blob`` names them.

    The part of a single call is a pickle of ``(args, kwargs)``; that of a chunk is ``pack_items`` of such pickles.
    ``digest`` is the sha256 of the part (or of the blob). ``refs``: blobs that the pickles refer to (``fleet.put``).
    ``stream``: the function is a generator, its outcome comes in parts as it yields, and it waits for ``ConsumeRequest``.
    """

    call: Token
    app: Token
    function: Token
    version: Version | None = None
    digest: Digest
    payload_bytes: int
    blob: bool = False
    items: int | None = Field(None, ge=1, le=limits.CHUNK_ITEMS_MAX)
    group: Token | None = None
    refs: list[BlobRef] = Field([], max_length=limits.REFS_MAX)
    stream: bool = False


class SubmitRequest(Message):
    """Parts: one for each call, in order (empty where ``blob``). ``inbox``: where outcomes are pushed, best effort.

    ``fresh``: these call ids were made a moment ago and are sent for the first time, so no outcome can exist and none is
    looked for. Never set it when sending again.
    """

    calls: list[SubmitCall] = Field(min_length=1, max_length=limits.SUBMIT_CALLS_MAX)
    inbox: str
    fresh: bool = False
    protocol: int = limits.PROTOCOL


class SubmitResult(Message):
    """``error`` unset means accepted. ``done``: it has an outcome already, ask ``result``. ``blob_missing``: put it.

    ``refs_missing``: values of ``fleet.put`` that are no longer kept; put them again, then submit again.
    """

    call: Token
    error: WireError | None = None
    done: bool = False
    blob_missing: bool = False
    refs_missing: list[Digest] = []


class SubmitReply(Reply):
    results: list[SubmitResult] = []


class CallRequest(Message):
    """``cancel`` (``calls`` or a whole ``group``) and ``status``."""

    calls: list[Token] = []
    group: Token | None = None


class CallStatus(Message):
    """One row of ``status`` and ``calls``. ``items_done`` counts committed items of a chunk."""

    call: Token
    state: CallState | None = None
    """None: unknown (never was, or its outcome is no longer kept)."""
    app: str = ""
    function: str = ""
    version: str = ""
    group: str | None = None
    items: int | None = None
    items_done: int = 0
    attempt: int = 0
    losses: int = 0
    submitted_unix_s: float = 0.0
    finished_unix_s: float | None = None
    car: str | None = None
    error: str = ""
    trigger: str = ""
    """What started it: the kind of a trigger; "" for a call."""


class StatusReply(Reply):
    calls: list[CallStatus] = []


class CallsRequest(Message):
    """Recent and present calls, newest first."""

    app: Token | None = None
    function: Token | None = None
    group: Token | None = None
    limit: int = Field(50, ge=1, le=limits.LIST_ROWS_MAX)


class CancelReply(Reply):
    """Calls that were ended by this request; the others had an outcome before."""

    cancelled: list[Token] = []


class ExplainRequest(Message):
    call: Token


class Condition(Message):
    """One condition of the matcher: how many of the known cars pass it, having passed those before it."""

    name: str
    text: str
    passing: int
    of: int


class ExplainReply(Reply):
    """``sentence`` names the blocking condition; ``conditions`` in the order the matcher asks them."""

    sentence: str = ""
    state: CallState | None = None
    conditions: list[Condition] = []


class ResultRequest(Message):
    """Outcome records of a call with part number >= ``part_from``. Answered at once."""

    call: Token
    part_from: int = 0


class ResultReply(Reply):
    """Parts of the reply: each is one stored outcome record (a packed OutcomeRecord), ``more`` if there are more."""

    known: bool = True
    more: bool = False


class StreamPosition(Message):
    """How far the caller of a generator is: it consumed ``items`` in all, and has the first ``received``, which came in the
    parts below ``part``.
    """

    call: Token
    items: int = Field(ge=0)
    received: int = Field(0, ge=0)
    part: int = Field(0, ge=0)


class ConsumeRequest(Message):
    """Sent while generators are iterated, every STREAM_BEAT_S at least: without it they end. Answered by a Reply."""

    positions: list[StreamPosition] = Field(min_length=1, max_length=limits.LIST_ROWS_MAX)


class Metering(Message):
    """What usage is derived from."""

    car: str
    slot: str = ""
    lease: int
    epoch: int
    attempt: int
    submitted_unix_s: float
    granted_unix_s: float
    started_unix_s: float
    finished_unix_s: float
    run_s: float
    """How long the function ran: what the car made ready for it (a sandbox, a program read, compiled) isn't in it."""
    memory_bytes: int = 0
    departures: int = 0
    """How often an owner's departure moved this call on before this lease."""


class DeadNote(Message):
    """Stands in the outcome of what failed for good: what its dead letter says, beside the arguments.

    ``items``: of a chunk, which of its items. ``attempts``: failures of the function, ``item_attempts`` those of items.
    """

    reason: str
    items: list[tuple[int, int]] | None = None
    attempts: int = 0
    losses: int = 0
    item_attempts: dict[int, int] = {}


class OutcomeRecord(Message):
    """The one outcome of a call, or one part of a chunk's (then ``indices`` says which items, as [first, last] ranges).

    A generator's parts are like a chunk's of unknown size, in the order of their items; the record that ends it has no
    items, only what the generator raised, if it did.

    Part 0, if any: for a single call the result bytes as the guest made them, for a chunk ``pack_items`` of one per item.
    Result bytes are one status byte and the codec's bytes: 0 value, 1 exception that the function raised. An item
    the platform ended (timeout, cancel, car lost ...) has status byte 2 and a packed WireError in JSON. 3 is a value that is
    events to be published: their length (u32) and they themselves (``_event.pack_emits``) stand before the codec's bytes.
    ``error`` is set when the platform ended the whole call. ``blob``: the part was too large and is this blob instead.
    """

    call: Token
    app: Token
    function: Token
    version: Version
    state: CallState
    part: int = 0
    final: bool = True
    indices: list[tuple[int, int]] | None = None
    error: WireError | None = None
    summary: str = ""
    """``ValueError: bad`` for listings."""
    blob: Digest | None = None
    blob_bytes: int = 0
    kept: list[BlobRef] = Field([], max_length=limits.KEPT_MAX)
    """Values that the result refers to instead of holding them (``fleet.keep``)."""
    items: int | None = None
    """How many items the whole chunk has, or the generator yielded."""
    group: Token | None = None
    metering: Metering | None = None
    submit_digest: str = ""
    trigger: str = ""
    """What started it: the kind of a trigger; "" for a call."""
    dead: DeadNote | None = None
    """There is, or will be in a moment, a dead letter of it."""


class InvocationState(Message):
    """What the queue holds of a call; part 0 is the arguments (empty where ``blob``).

    ``pending``: item numbers still to run, as [first, last] ranges, in the order of the part's items.
    ``attempts``: failures of the function so far. ``item_attempts``: the same for single items of a chunk.
    """

    tenant: Token
    call: Token
    app: Token
    function: Token
    version: Version
    inbox: str
    digest: Digest
    payload_bytes: int
    blob: bool = False
    submitted_unix_s: float
    expires_unix_s: float | None = None
    """When queue_timeout ends it."""
    not_before_unix_s: float = 0.0
    items: int | None = None
    pending: list[tuple[int, int]] | None = None
    next_part: int = 0
    attempts: int = 0
    item_attempts: dict[int, int] = {}
    losses: int = 0
    departures: int = 0
    exact: bool = False
    """Report every item before it runs: a sandbox died in this chunk, and the item it died on must be known."""
    group: Token | None = None
    checkpoint: bool = False
    refs: list[BlobRef] = []
    stream: bool = False
    delivered: int = 0
    """Items of a generator that are stored as parts: a run begins behind them."""
    consumed: int = 0
    """Of these, what the caller had taken when this was written."""
    trigger: str = ""
    """What started it: the kind of a trigger; "" for a call. Nobody waits then, and ``inbox`` is empty."""
    key: str = ""
    """Digest of the key: calls of a function with the same one run one after the other, by ``order``."""
    order: int = 0
    hops: int = 0
    """Of the event that started it."""
