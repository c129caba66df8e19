"""What the dispatcher's core is told and what it wants done. Data only.

Events and actions are mutable slotted dataclasses because making frozen ones costs three times as much on the hot path;
nobody changes them once they are handed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fleet.protocol.errors import FleetError
from fleet.protocol.messages import (
    Beat,
    CarHello,
    InvocationState,
    Manifest,
    Offer,
    OutcomeRecord,
    Release,
    RunOutcome,
    WireError,
)
from fnplatform.dispatcher.chunks import Ranges

if TYPE_CHECKING:
    from fnplatform.dispatcher.state import Entry

Verdict = Literal["committed", "refused"]

# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class NewCall:
    """An invocation as the stream holds it. ``backlog``: it was there before this leader led."""

    state: InvocationState
    seq: int
    manifest: Manifest
    backlog: bool = False


@dataclass(slots=True)
class Queued:
    """Invocations are stored. The same (call, seq) twice is a no-op."""

    calls: list[NewCall]


@dataclass(slots=True)
class CaughtUp:
    """Everything that was stored before this leader led has been told."""


@dataclass(slots=True)
class HelloSaid:
    car: str
    hello: CarHello


@dataclass(slots=True)
class Offered:
    car: str
    offer: Offer


@dataclass(slots=True)
class Beaten:
    """A beat; ``reply`` comes back in the BeatAnswer."""

    car: str
    beat: Beat
    reply: Any


@dataclass(slots=True)
class Released:
    car: str
    release: Release


@dataclass(slots=True)
class Result:
    """One outcome of a report. ``part`` is opaque here.

    ``status_byte``: first byte of a single call's result, -1 where there is none. ``failed``: items whose result is an
    exception. ``malformed``: the part doesn't fit what the outcome says. ``emits``: events are to be published with it.
    """

    run: RunOutcome
    part: Any = b""
    status_byte: int = -1
    failed: list[int] = field(default_factory=list)
    malformed: bool = False
    emits: bool = False


@dataclass(slots=True)
class Reported:
    """Outcomes from a car; ``reply`` comes back in Verdicts once every one of them is decided."""

    car: str
    results: list[Result]
    reply: Any


@dataclass(slots=True)
class GrantAnswered:
    """``accepted`` None: no answer in time, or nobody there."""

    grant: Grant
    accepted: list[int] | None


@dataclass(slots=True)
class Stored:
    """A Commit or Requeue is durable. ``seq``: of the record, or the invocation's new one."""

    op: Commit | Requeue
    seq: int = 0


@dataclass(slots=True)
class NotStored:
    """Somebody else wrote first: an outcome exists (Commit), the invocation was replaced or removed (Requeue)."""

    op: Commit | Requeue


@dataclass(slots=True)
class Checked:
    """Answer to Check. ``parts``: (number, indices) of parts of a chunk that are stored.

    ``dead``: items in those beyond ``state.next_part`` that failed for good.
    """

    entry: Entry
    seq: int
    final: bool
    parts: list[tuple[int, Ranges]] = field(default_factory=list)
    checkpoint: bool = False
    dead: Ranges = field(default_factory=list)


@dataclass(slots=True)
class CancelWritten:
    """The outcome ``cancelled`` of this call is stored."""

    tenant: str
    call: str


@dataclass(slots=True)
class Vanished:
    """The invocation's message is gone (``error`` None), or what it names can't be read."""

    entry: Entry
    seq: int
    error: FleetError | None = None


@dataclass(slots=True)
class Checkpointed:
    """A checkpoint of this invocation is stored."""

    seq: int


@dataclass(slots=True)
class Consumed:
    """The caller of a generator is there, and has taken ``items`` of it in all."""

    tenant: str
    call: str
    items: int
    received: int = 0
    """The first so many items are with the caller, all of the parts below ``part``."""
    part: int = 0


@dataclass(slots=True)
class Tick:
    """Time passed."""


Event = (
    Queued | CaughtUp | HelloSaid | Offered | Beaten | Released | Reported | GrantAnswered | Stored | NotStored | Checked
    | CancelWritten | Vanished | Checkpointed | Consumed | Tick
)  # fmt: skip


# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Grant:
    """Ask the car to take these calls (``entry.lease`` of each is the lease); answer with GrantAnswered."""

    car: str
    entries: list[Entry]
    counters: list[int]


@dataclass(slots=True)
class Report:
    """Verdicts that a car waits for."""

    car: str
    reply: Any
    verdicts: list[Verdict]
    open: int
    silent: bool = False
    """Something in it can't be decided yet: no answer, the car sends it again."""


@dataclass(slots=True, eq=False)
class Commit:
    """Store an outcome record unless one is there; answer with Stored or NotStored, however long it takes.

    The part is ``part`` as it is where ``take`` is None; else ``pack_items`` of the items of ``take`` picked from
    ``part`` (whose items are those of ``done``), with ``ended`` (status byte 2) in their places.
    ``dead``: the reason why the call goes to DEAD as well (items of ``dead_items`` if it is a chunk); both are stored first.
    ``emits``: results that are stored may hold events to be published; these are stored in the same step.
    """

    entry: Entry
    record: OutcomeRecord
    part: Any = b""
    done: Ranges = field(default_factory=list)
    take: Ranges | None = None
    ended: dict[int, WireError] = field(default_factory=dict)
    dead: str = ""
    dead_items: Ranges | None = None
    report: Report | None = None
    index: int = 0
    emits: bool = False


@dataclass(slots=True, eq=False)
class Requeue:
    """Replace the invocation by ``state``, whose part holds the items ``take`` (None: as it is)."""

    entry: Entry
    state: InvocationState
    take: Ranges | None = None
    report: Report | None = None
    index: int = 0


@dataclass(slots=True, eq=False)
class Remove:
    """The call is over: settle its message."""

    seq: int


@dataclass(slots=True, eq=False)
class Verdicts:
    car: str
    reply: Any
    verdicts: list[Verdict]


@dataclass(slots=True, eq=False)
class BeatAnswer:
    car: str
    reply: Any
    drop: list[int]
    hello: bool


@dataclass(slots=True, eq=False)
class Drop:
    """Tell the car to kill what runs under these leases."""

    car: str
    counters: list[int]


@dataclass(slots=True, eq=False)
class Credit:
    """Tell the car how many items of the generator under this lease are consumed in all."""

    car: str
    counter: int
    consumed: int


@dataclass(slots=True, eq=False)
class Discard:
    """Remove the parts of a generator that are stored before message ``seq``."""

    entry: Entry
    seq: int


@dataclass(slots=True, eq=False)
class Check:
    """Look whether an outcome (or parts of one) is stored already; answer with Checked."""

    entry: Entry
    seq: int


@dataclass(slots=True, eq=False)
class Note:
    """One line of history, only where it is asked for."""

    kind: str
    fields: dict[str, Any]


Action = Grant | Commit | Requeue | Remove | Verdicts | BeatAnswer | Drop | Credit | Discard | Check | Note
