"""What goes into the agent's core (events), and what comes out of it (actions).

``now_s`` and every ``*_s`` point in time is the agent's monotonic clock. Bytes of developers are opaque here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fleet.protocol.messages import Lease, Offer, RunOutcome, SlotView, Standing
from runtime.agent_jobs import Job
from runtime.signals.model import Signals

if TYPE_CHECKING:
    from runtime.weights_cache import WeightsFile

Bytes = bytes | bytearray | memoryview

# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignalHeard:
    """A source told the car's state."""

    signals: Signals


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection to the broker stands (again)."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection broke."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a slot said about itself when the event was made: run number, position (of a chunk; of a single call how many run
    together with it), when that began."""

    run: int
    position: int | None
    started_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went on. ``running``: what each slot with jobs is at."""

    running: Mapping[str, Running] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant request. ``jobs`` are made by the shell, with bundle and arguments as far as it has them at hand."""

    epoch: int
    reply: str
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a job lacked is here."""

    job: Job
    bundle: Bytes
    args: Bytes
    packages: list[Bytes] = field(default_factory=list, repr=False)
    refs: dict[str, Bytes] = field(default_factory=dict, repr=False)
    weights: dict[str, WeightsFile] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """What a job lacks can't be had."""

    job: Job
    message: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """The control plane ended these leases (cancel, drop)."""

    counters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Credited:
    """How many items of generators their callers have taken, by the counters of their leases."""

    consumed: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Refresh:
    """The control plane wants to hear hello again."""


@dataclass(frozen=True, slots=True)
class HelloAnswered:
    epoch: int


@dataclass(frozen=True, slots=True)
class BeatAnswered:
    """The beat that was sent at ``sent_s`` was answered by a leader."""

    sent_s: float
    epoch: int
    drop: tuple[int, ...] = ()
    hello: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseAnswered:
    number: int


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Answer to report ``number``: for each outcome, whether it was committed. Empty: not answered as it should be."""

    number: int
    committed: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class BlobStored:
    entry: int
    digest: str
    size_bytes: int
    kept: bool = False
    """It was a value that a slot keeps, not the result itself."""


@dataclass(frozen=True, slots=True)
class BlobRefused:
    entry: int
    message: str


@dataclass(frozen=True, slots=True)
class SlotReady:
    slot: str
    held: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotItems:
    """Finished items of run ``run`` from position ``first`` on (``pack_items``)."""

    slot: str
    run: int
    first: int
    results: Bytes


@dataclass(frozen=True, slots=True)
class SlotSaved:
    """The generator of run ``run`` saved a checkpoint, behind the items that were told before."""

    slot: str
    run: int
    state: Bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SlotKept:
    """The slot keeps a part of what run ``run`` gives, ``data`` is the copy; the digest isn't checked yet."""

    slot: str
    run: int
    digest: str
    data: Bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SlotDone:
    """Run ``run`` ended; ``result`` is a single call's bytes or the chunk's rest from ``first`` (``pack_items``)."""

    slot: str
    run: int
    result: Bytes
    first: int = 0
    summary: str = ""
    run_s: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SlotTrapped:
    """The sandbox died under run ``run``, at item ``position`` if that is known."""

    slot: str
    run: int
    position: int | None
    message: str


@dataclass(frozen=True, slots=True)
class SlotFailed:
    """The slot couldn't run it: nobody's fault but this car's."""

    slot: str
    run: int
    message: str


@dataclass(frozen=True, slots=True)
class SlotExited:
    """The process is gone and reaped."""

    slot: str
    message: str = ""
    together: int | None = None
    """How many jobs ran as one, the first of the slot and those behind it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The agent is to end."""


Event = (
    SignalHeard | Connected | Disconnected | Tick | Granted | Fetched | FetchFailed | Dropped | Refresh | HelloAnswered
    | BeatAnswered | ReleaseAnswered | Verdicts | BlobStored | BlobRefused | SlotReady | SlotItems | SlotSaved | SlotKept
    | SlotDone | SlotTrapped | SlotFailed | SlotExited | Credited | Stop
)  # fmt: skip

# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartSlot:
    slot: str
    lane: str


@dataclass(frozen=True, slots=True)
class KillSlots:
    """SIGKILL all of them before anything else, in this order. ``departure``: measure how long it took."""

    slots: tuple[str, ...]
    departure: bool = False


@dataclass(frozen=True, slots=True)
class RunJob:
    slot: str
    job: Job


@dataclass(frozen=True, slots=True)
class SetDeparting:
    slots: tuple[str, ...]
    departing: bool


@dataclass(frozen=True, slots=True)
class FetchJob:
    """Get what the job lacks; answered by Fetched or FetchFailed."""

    job: Job


@dataclass(frozen=True, slots=True)
class ReplyGrant:
    reply: str
    accepted: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SendHello:
    standing: Standing
    offer: Offer
    held: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SendOffer:
    offer: Offer


@dataclass(frozen=True, slots=True)
class SendBeat:
    leases: tuple[Lease, ...]
    standing: Standing
    offer: Offer
    slots: tuple[SlotView, ...]


@dataclass(frozen=True, slots=True)
class SendRelease:
    """Give leases back. ``heard_s``: when the cause was heard; ``reaped_s`` after that (0: not yet)."""

    number: int
    leases: tuple[Lease, ...]
    standing: Standing
    reason: str
    heard_s: float
    signal_unix_s: float
    reaped_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SendReport:
    """Send outcomes with their parts; answered by Verdicts, or sent again."""

    number: int
    outcomes: tuple[RunOutcome, ...]
    parts: tuple[Bytes, ...]


@dataclass(frozen=True, slots=True)
class GiveCredit:
    """Tell a slot how many items of its run were consumed in all."""

    slot: str
    run: int
    consumed: int


@dataclass(frozen=True, slots=True)
class SendCheckpoint:
    """Have a checkpoint stored."""

    lease: Lease
    state: Bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PutBlob:
    """Store ``data`` under the lease; answered by BlobStored or BlobRefused with ``entry``."""

    entry: int
    lease: Lease
    data: Bytes = field(repr=False)
    kept: str | None = None
    """The digest that a slot said it has, of a value that the slot keeps: refused if it has another."""


Action = (
    StartSlot | KillSlots | RunJob | SetDeparting | FetchJob | ReplyGrant | SendHello | SendOffer | SendBeat | SendRelease
    | SendReport | PutBlob | GiveCredit | SendCheckpoint
)  # fmt: skip
