"""Every message between developers, control plane and cars, and every record that is stored.

Models are frozen; readers ignore fields they don't know; fields at their default are not sent. What ``parts`` a message
carries behind its header stands in its docstring. The JSON Schemas are golden files (``tests/golden``): a diff there is a
protocol change.

Units: ``*_s`` seconds (durations), ``*_unix_s`` seconds since 1970, ``*_bytes`` bytes.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fleet.protocol import limits
from fleet.protocol.errors import FleetError, from_code

Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""First 16 hex digits of the sha256 of a function's manifest."""


class Message(BaseModel):
    """Base: frozen, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants", protected_namespaces=())


class CallState(enum.StrEnum):
    """Where a call is, as ``Call.status()`` tells."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class WireError(Message):
    """A FleetError on the wire."""

    code: str
    message: str
    hint: str = ""
    details: dict[str, Any] = {}

    def to_error(self) -> FleetError:
        """The exception this stands for."""
        return from_code(self.code, self.message, self.hint, self.details)

    @classmethod
    def of(cls, error: FleetError) -> WireError:
        """The wire form of ``error``."""
        return cls(code=error.code, message=error.message, hint=error.hint, details=error.details)


class Reply(Message):
    """Base of every reply: ``error`` set means that nothing was done."""

    error: WireError | None = None


# --- functions -------------------------------------------------------------------------------------------------------


class Retries(Message):
    """When a function's own errors are tried again: attempts in all, and the pause before attempt n."""

    max_attempts: int = Field(1, ge=1, le=100)
    delay_s: float = Field(1.0, ge=0)
    backoff: float = Field(2.0, ge=1)
    max_delay_s: float = Field(60.0, ge=0)


class Requires(Message):
    """What a car must offer."""

    region: str | None = None
    min_stay_s: float | None = None


class Program(Message):
    """What a slot needs to make an instance of one version of one function."""

    runtime: Literal["wasm"] = "wasm"
    bundle: Digest
    bundle_bytes: int
    module: str
    qualname: str
    memory_bytes: int = limits.MEMORY_BYTES_DEFAULT
    timeout_s: float = limits.TIMEOUT_S_DEFAULT
    isolation: Literal["instance", "call"] = "instance"


class Manifest(Message):
    """One version of one function. Immutable; ``version`` is a digest of all the rest (see ``registry.version_of``)."""

    app: Token
    function: Token
    display_name: str
    program: Program
    retries: Retries = Retries()
    requires: Requires = Requires()
    queue_timeout_s: float | None = None
    max_concurrency: int | None = Field(None, ge=1)
    result_ttl_s: float = limits.RESULT_TTL_S_DEFAULT
    signature: str = ""
    """For people: ``(x: int, y: int = 1) -> int``."""
    doc: str = ""
    python: str = ""
    sdk: str = ""


class FunctionRef(Message):
    """A function, at the version that is live unless ``version`` says which."""

    app: Token
    function: Token
    version: Version | None = None


class RegisterRequest(Message):
    """Make versions callable by digest without deploying them (a script's first ``.remote()``)."""

    manifests: list[Manifest]
    protocol: int = limits.PROTOCOL


class RegisterReply(Reply):
    """``missing``: bundle digests that must be put first; then ask again. ``versions``: in the order asked."""

    missing: list[Digest] = []
    versions: list[Version] = []


class DeployRequest(Message):
    """Make ``manifests`` the whole of ``app``, in one step."""

    app: Token
    manifests: list[Manifest]
    protocol: int = limits.PROTOCOL


class AppVersion(Message):
    """One deploy of an app: its number, counting from 1, and its functions' versions by token."""

    number: int
    created_unix_s: float
    functions: dict[str, Version]
    note: str = ""


class AppRecord(Message):
    """What the registry stores of an app. ``live`` is the number of the live version."""

    app: Token
    live: int
    versions: list[AppVersion]


class DeployReply(Reply):
    """``missing`` as in RegisterReply: nothing was deployed."""

    missing: list[Digest] = []
    app_version: AppVersion | None = None
    unchanged: bool = False


class FunctionsRequest(Message):
    """Functions that are live (of ``app``, or all); with ``function`` and ``version`` exactly that one."""

    app: Token | None = None
    function: Token | None = None
    version: Version | None = None


class FunctionInfo(Message):
    """One function of a listing."""

    manifest: Manifest
    version: Version
    app_number: int | None = None


class FunctionsReply(Reply):
    functions: list[FunctionInfo] = []


class HistoryRequest(Message):
    app: Token


class HistoryReply(Reply):
    record: AppRecord | None = None


class RollbackRequest(Message):
    """Make an earlier version live again: ``number``, or the one before the live one."""

    app: Token
    number: int | None = None


class RollbackReply(Reply):
    app_version: AppVersion | None = None


class DeleteRequest(Message):
    """Remove an app. Refused while calls of it wait or run, unless ``cancel``."""

    app: Token
    cancel: bool = False


class DeleteReply(Reply):
    cancelled: int = 0


# --- calls -----------------------------------------------------------------------------------------------------------


class SubmitCall(Message):
    """One call, or one chunk of a map when ``items`` is set. Its part holds the arguments, unless ``blob`` names them.

    The part of a single call is a pickle of ``(args, kwargs)``; that of a chunk is ``pack_items`` of such pickles.
    ``digest`` is the sha256 of the part (or of the blob).
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
    """``error`` unset means accepted. ``done``: it has an outcome already, ask ``result``. ``blob_missing``: put it."""

    call: Token
    error: WireError | None = None
    done: bool = False
    blob_missing: bool = False


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
    memory_bytes: int = 0
    departures: int = 0
    """How often an owner's departure moved this call on before this lease."""


class OutcomeRecord(Message):
    """The one outcome of a call, or one part of a chunk's (then ``indices`` says which items, as [first, last] ranges).

    Part 0, if any: for a single call the result bytes as the guest made them, for a chunk ``pack_items`` of one per item.
    Result bytes are one status byte and the codec's bytes: 0 value, 1 exception that the function raised. An item
    the platform ended (timeout, cancel, car lost ...) has status byte 2 and a packed WireError in JSON.
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
    items: int | None = None
    """How many items the whole chunk has."""
    group: Token | None = None
    metering: Metering | None = None
    submit_digest: str = ""


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


# --- cars ------------------------------------------------------------------------------------------------------------


class Offer(Message):
    """What a car can run right now: the whole of it, replacing what it said before. ``slots`` 0: nothing."""

    slots: int = 0
    ahead: int = 1
    """Leases a slot takes beyond the one it runs."""
    lanes: list[str] = ["wasm"]
    memory_bytes: int = limits.MEMORY_BYTES_DEFAULT
    """The largest ``memory`` a function may ask for."""
    region: str = ""
    expected_stay_s: float | None = None


class Standing(Message):
    """Whether the owner's rules let the car work. ``reasons``: codes of why not."""

    eligible: bool
    reasons: list[str] = []
    since_unix_s: float = 0.0


class Lease(Message):
    """The right to run one call on one car, newest by (epoch, counter). ``mac`` is made under a control-plane key.

    ``seq`` is the sequence number of the invocation's message: a requeue changes it, which voids older leases durably.
    """

    call: Token
    seq: int
    epoch: int
    counter: int
    car: Token
    mac: str


class CarHello(Message):
    """First words of an agent, and again after every reconnect. ``boot`` changes with every start of the agent."""

    boot: Token
    protocol: int = limits.PROTOCOL
    version: str = ""
    isolation: list[str] = []
    """Layers that hold in its slots: ``landlock``, ``seccomp``, ``rlimits``, ``session`` ..."""
    isolation_missing: list[str] = []
    simulated: bool = False
    standing: Standing
    offer: Offer = Offer()


class CarReply(Reply):
    """Answer to hello, offer, release, log and checkpoint."""

    epoch: int = 0


class SlotView(Message):
    """One slot for ``fleet cars``."""

    slot: str
    state: Literal["starting", "idle", "running", "spare"]
    function: str = ""


class Beat(Message):
    """Sent every BEAT_S: every lease the car holds, its offer and its standing."""

    boot: Token
    leases: list[Lease] = []
    standing: Standing
    offer: Offer = Offer()
    slots: list[SlotView] = []


class BeatReply(Reply):
    """``drop``: counters of leases that are not valid (any more): kill what runs under them. ``hello``: say hello."""

    epoch: int = 0
    drop: list[int] = []
    hello: bool = False


class LeaseGrant(Message):
    """One granted call; its part holds the arguments (empty: fetch ``blob`` under the lease).

    ``item_numbers``: ranges of the chunk's items in the part, None for a single call.
    """

    lease: Lease
    tenant: Token
    app: Token
    function: Token
    version: Version
    program: Program
    attempt: int = 1
    item_attempts: dict[int, int] = {}
    item_numbers: list[tuple[int, int]] | None = None
    exact: bool = False
    blob: Digest | None = None
    payload_bytes: int = 0
    checkpoint: bool = False
    """A part with the saved state follows directly behind the arguments."""
    departures: int = 0
    submitted_unix_s: float = 0.0
    granted_unix_s: float = 0.0


class GrantRequest(Message):
    """Parts: arguments of each lease in order, each followed by its checkpoint where it has one."""

    leases: list[LeaseGrant]
    epoch: int


class GrantReply(Reply):
    """Counters of the leases the car takes; all others are refused with ``reason``."""

    accepted: list[int] = []
    reason: str = ""


class CarCancel(Message):
    """Kill what runs under these leases."""

    counters: list[int]


class RunStatus(enum.StrEnum):
    """How a run on a slot ended."""

    OK = "ok"
    """The guest answered: value or exception of the function, see the status byte."""
    TIMEOUT = "timeout"
    TRAP = "trap"
    """The sandbox ended by itself."""
    PARTIAL = "partial"
    """Some items are done; the lease goes on, or a release follows."""
    ABANDONED = "abandoned"
    """The car couldn't run it (bundle damaged or missing, no memory): nobody's fault, try another car."""


class RunOutcome(Message):
    """What came of one lease. Part: result bytes (single), or ``pack_items`` of the items in ``done`` in order.

    For TIMEOUT and TRAP of a chunk ``culprit`` is the item that was running, None if it isn't known exactly.
    """

    lease: Lease
    status: RunStatus
    done: list[tuple[int, int]] | None = None
    culprit: int | None = None
    message: str = ""
    summary: str = ""
    blob: Digest | None = None
    blob_bytes: int = 0
    slot: str = ""
    started_unix_s: float = 0.0
    finished_unix_s: float = 0.0
    run_s: float = 0.0
    memory_bytes: int = 0


class OutcomeReport(Message):
    """Parts: one for each outcome, in order (empty where there is none)."""

    outcomes: list[RunOutcome] = Field(min_length=1, max_length=limits.OUTCOMES_PER_REPORT_MAX)


class OutcomeReply(Reply):
    """Verdict for each outcome, in order: only then does the car forget it."""

    verdicts: list[Literal["committed", "refused"]] = []


class Release(Message):
    """The owner leaves (or the agent stops): all leases are given back at once. Never counts against a call."""

    leases: list[Lease] = []
    standing: Standing
    reason: str = ""
    signal_unix_s: float = 0.0
    """When the source said so; with ``killed_s`` and ``reaped_s``, seconds after it, what departure cost."""
    killed_s: float = 0.0
    reaped_s: float = 0.0


class CheckpointPut(Message):
    """Part: the state that the function saved (opaque)."""

    lease: Lease


class LogLines(Message):
    """What a function printed: (unix time in s, stream, text) lines."""

    lease: Lease
    lines: list[tuple[float, Literal["stdout", "stderr"], str]]


class Simulate(Message):
    """Change simulated signals of a car by hand: ``fleet car drive|park|plug|unplug|pause|resume``."""

    action: Literal["drive", "park", "plug", "unplug", "pause", "resume"]
    car: Token | None = None


class SimulateReply(Reply):
    cars: list[str] = []


class CarInfo(Message):
    """One row of ``fleet cars``."""

    car: str
    online: bool
    standing: Standing
    slots: list[SlotView] = []
    offer: Offer = Offer()
    leases: int = 0
    running: list[str] = []
    isolation: list[str] = []
    isolation_missing: list[str] = []
    simulated: bool = False
    version: str = ""
    heard_unix_s: float = 0.0
    last_departure: dict[str, float] = {}


class CarsRequest(Message):
    pass


class CarsReply(Reply):
    cars: list[CarInfo] = []


# --- blobs, logs, platform -------------------------------------------------------------------------------------------


class BlobPut(Message):
    """One part of a blob (message part 0); ``lease`` when a car puts a result. The last part's reply says ``stored``."""

    digest: Digest
    size_bytes: int = Field(ge=0, le=limits.PAYLOAD_BYTES_MAX)
    part: int = 0
    lease: Lease | None = None


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
    """One stored batch of lines of one attempt."""

    app: str
    function: str
    call: str
    attempt: int = 1
    car: str = ""
    lines: list[tuple[float, Literal["stdout", "stderr"], str]] = []


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
    depth: dict[str, int] = {}
    """Waiting calls by ``app.function``."""
    dropped_replies: int = 0
    stream_bytes: dict[str, int] = {}
    uptime_s: float = 0.0


class DeadRequest(Message):
    """What failed for good: list, show, replay or drop."""

    action: Literal["list", "show", "replay", "drop"] = "list"
    calls: list[Token] = []
    limit: int = Field(50, ge=1, le=limits.LIST_ROWS_MAX)


class DeadLetter(Message):
    """Stored in DEAD with the arguments as part 0."""

    state: InvocationState
    reason: str
    at_unix_s: float


class DeadReply(Reply):
    letters: list[DeadLetter] = []
    replayed: list[Token] = []
