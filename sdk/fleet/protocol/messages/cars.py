"""Cars: offers, leases, beats, grants, reports, departures."""

from __future__ import annotations

import enum
from typing import Literal

from pydantic import Field

from fleet.protocol import limits
from fleet.protocol.messages.base import BlobRef, Digest, Message, Reply, Token, Version
from fleet.protocol.messages.functions import Program


class Device(Message):
    """What runs jax programs in one lane of a car, and which modules it can read."""

    lane: Literal["jax-cpu", "jax-gpu"]
    kind: str = ""
    """``NVIDIA H200``, or the processor's name."""
    memory_bytes: int = 0
    jaxlib: str = ""
    calling_convention_min: int = 0
    calling_convention_max: int = 0
    stablehlo: str = ""
    """The newest artifact version that it reads."""


class Offer(Message):
    """What a car can run right now: the whole of it, replacing what it said before. ``slots`` 0: nothing."""

    slots: int = 0
    ahead: int = 1
    """Leases a slot takes beyond the one it runs."""
    lanes: list[str] = ["wasm"]
    """``wasm``, ``jax-cpu``, ``jax-gpu``."""
    devices: list[Device] = Field([], max_length=4)
    """One for each jax lane."""
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
    lane: str = "wasm"
    state: Literal["starting", "idle", "running", "spare"]
    function: str = ""


class Beat(Message):
    """Sent every BEAT_S: every lease the car holds, its offer and its standing."""

    boot: Token
    leases: list[Lease] = Field([], max_length=limits.LEASES_PER_CAR_MAX)
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

    ``item_numbers``: ranges of the chunk's items in the part, None for a single call; ``item_attempts``: which attempt of an
    item this is, where it isn't ``attempt``. ``refs``, and the program's bundle
    and packages, are fetched under the lease, too, unless the car has them. ``stream``: a generator, of which
    ``skip`` items are stored and ``consumed`` of them taken; its PARTIAL outcomes go on with item ``skip``.
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
    stream: bool = False
    skip: int = 0
    consumed: int = 0
    checkpoint: bool = False
    """A part with the saved state follows directly behind the arguments."""
    departures: int = 0
    submitted_unix_s: float = 0.0
    granted_unix_s: float = 0.0
    refs: list[BlobRef] = []


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


class CarCredit(Message):
    """How many items of a generator its caller has taken in all, by the counter of the lease."""

    consumed: dict[int, int]


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

    For TIMEOUT and TRAP of a chunk ``culprit`` is the item that was running, None if it isn't known exactly. ``items``, when
    a generator ends: how many items there are before this outcome, those of earlier leases included.
    """

    lease: Lease
    status: RunStatus
    done: list[tuple[int, int]] | None = None
    culprit: int | None = None
    items: int = 0
    message: str = ""
    summary: str = ""
    blob: Digest | None = None
    blob_bytes: int = 0
    kept: list[BlobRef] = Field([], max_length=limits.KEPT_MAX)
    """Values that stay on the car's device (``fleet.keep``), stored as blobs too."""
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

    leases: list[Lease] = Field([], max_length=4 * limits.LEASES_PER_CAR_MAX)
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
    """What a function printed: (unix time in s, stream, text) lines.

    ``items``: of a chunk, which item printed how many of the lines, in their order.
    """

    lease: Lease
    lines: list[tuple[float, Literal["stdout", "stderr"], str]]
    items: list[tuple[int, int]] = []


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
