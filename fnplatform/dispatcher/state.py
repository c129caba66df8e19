"""The dispatcher's memory: calls, cars, leases and what indexes them. Pure; the other modules of the core change it.

Units: ``now_s`` is monotonic (leases, beats), ``unix_s`` since 1970 (what is stored: expiry, back-off).
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fleet.protocol.messages import (
    CallState,
    CarHello,
    InvocationState,
    Lease,
    Offer,
    SlotView,
    Standing,
)
from fnplatform.dispatcher.chunks import Ranges
from fnplatform.dispatcher.events import Action, Commit, Grant, Note, Requeue
from fnplatform.dispatcher.kept import KeptOnCars
from fnplatform.dispatcher.leases import Order, first_counter
from fnplatform.dispatcher.matching import OfferClass, class_of
from fnplatform.dispatcher.queues import EntryHeap, FunctionQueue, Limit, Turns

if TYPE_CHECKING:
    from fnplatform.dispatcher.keys import KeyLine

KeyId = tuple[str, str, str, str]
"""Tenant, app, function and key."""
ENDED_MAX = 20_000
"""Calls that ended lately are remembered, to answer reports that come twice and to list them."""
AHEAD_LOAD_S = 0.15
"""A busy slot takes more work only while what it holds lasts no longer than this."""


NO_OFFER = OfferClass((), 0, "")


class Phase(enum.Enum):
    """Where a call is."""

    HELD = "held"
    """It was there before this leader led: a car may hold a lease of it."""
    CHECKING = "checking"
    """The shell looks whether it has an outcome."""
    BLOCKED = "blocked"
    """Waits for an earlier call of its key."""
    DELAYED = "delayed"
    """Waits for ``not_before``."""
    WAITING = "waiting"
    LEASED = "leased"
    ENDING = "ending"
    """Nobody may run it: its outcome or its next state is on the way to the stream."""
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Held:
    """The current lease of a call, on the dispatcher's side."""

    lease: Lease
    order: Order
    car: Car
    granted_unix_s: float
    seen_s: float
    """When the car last showed that it holds it."""
    estimate_s: float
    items: Ranges | None
    accepted: bool = False
    rider: bool = False
    """It runs as part of a batch that another lease opened, and takes no place of its own."""


@dataclass(slots=True, eq=False)
class Entry:
    """One call that isn't over."""

    state: InvocationState
    seq: int
    queue: FunctionQueue
    order: float
    phase: Phase
    checked: bool
    """Whether it is sure that nothing is stored of it that isn't in ``state``."""
    first_seq: int = 0
    """Sequence of the message that this leader met first: the order of submits of the same moment."""
    queued: bool = False
    lease: Held | None = None
    fence: Order = (0, 0)
    """No lease up to this one holds any more."""
    started: bool = False
    """A car took it once: queue_timeout no longer applies."""
    attempts: int = 0
    losses: int = 0
    departures: int = 0
    next_part: int = 0
    exact: bool = False
    checkpoint: bool = False
    remaining: Ranges = field(default_factory=list)
    """Items of a chunk without a final result."""
    item_attempts: dict[int, int] = field(default_factory=dict)
    holds: dict[int, float] = field(default_factory=dict)
    """Items that failed, and when (unix) they may run again."""
    failed_items: int = 0
    delivered: int = 0
    """Items of a generator that are stored, or on the way there: the next one that is wanted."""
    consumed: int = 0
    """Items of a generator that its caller has taken."""
    consumer_s: float = 0.0
    """When the caller of a generator was last heard."""
    parts: list[tuple[int, int, int]] = field(default_factory=list)
    """Parts of a generator that this leader stored and that weren't removed: number, sequence, bytes."""
    not_before: float = 0.0
    ops: list[Commit | Requeue] = field(default_factory=list)
    """What has to become durable, one after another."""

    @property
    def attempt(self) -> int:
        """The number of the run that comes or goes on, from 1."""
        return self.attempts + 1

    def load(self, state: InvocationState, seq: int) -> None:
        """Take over what the stream holds."""
        self.state = state
        self.seq = seq
        self.attempts = state.attempts
        self.losses = state.losses
        self.departures = state.departures
        self.next_part = state.next_part
        self.exact = state.exact
        self.checkpoint = state.checkpoint
        self.not_before = state.not_before_unix_s
        self.item_attempts = state.item_attempts
        self.delivered = state.delivered
        self.consumed = max(self.consumed, state.consumed)
        if state.items is not None:
            attempts_max = self.queue.manifest.retries.max_attempts
            self.failed_items = sum(failures >= attempts_max for failures in state.item_attempts.values())
            self.remaining = list(state.pending) if state.pending is not None else [(0, state.items - 1)]


@dataclass(slots=True, eq=False)
class Car:
    """One car, as it told."""

    name: str
    boot: str = ""
    offer: Offer = field(default_factory=Offer)
    offer_class: OfferClass = NO_OFFER
    offer_valid: bool = False
    standing: Standing = field(default_factory=lambda: Standing(eligible=False))
    slots: list[SlotView] = field(default_factory=list)
    hello: CarHello | None = None
    online: bool = False
    heard_s: float = 0.0
    heard_unix_s: float = 0.0
    leases: dict[int, Entry] = field(default_factory=dict)
    riders: int = 0
    """Those of its leases that take no place."""
    load_s: float = 0.0
    avoid: dict[str, float] = field(default_factory=dict)
    """Versions that it couldn't start, until when (now_s)."""
    now_s: float = 0.0
    last_departure: dict[str, float] = field(default_factory=dict)

    @property
    def able(self) -> bool:
        """Whether it may be granted anything at all, if it has a place."""
        return self.online and self.offer_valid and self.standing.eligible

    @property
    def places_taken(self) -> int:
        """Leases, those that run as one counted once."""
        return len(self.leases) - self.riders

    @property
    def has_place(self) -> bool:
        """A slot of it is free."""
        return self.able and self.places_taken < self.offer.slots

    @property
    def has_place_ahead(self) -> bool:
        """All slots are busy, but with short work only, and there is room behind it."""
        slots = self.offer.slots
        taken = self.places_taken
        return self.able and slots <= taken < slots * (1 + self.offer.ahead) and self.load_s <= AHEAD_LOAD_S * slots

    def avoids(self, version: str) -> bool:
        """Whether it failed to start this version a moment ago."""
        return bool(self.avoid) and self.avoid.get(version, 0.0) > self.now_s

    def offers(self, offer: Offer) -> None:
        """It says what it can run."""
        if offer != self.offer or not self.offer_class.readers:
            self.offer = offer
            self.offer_class = class_of(offer)
        self.offer_valid = True


@dataclass(slots=True)
class Ended:
    """What is remembered of a call that is over. ``order``: the lease that its outcome came under."""

    state: InvocationState
    seq: int
    outcome: CallState
    order: Order
    car: str
    finished_unix_s: float
    error: str
    attempt: int


@dataclass(slots=True)
class Counters:
    """For ``fleet status`` and tests."""

    granted: int = 0
    refused: int = 0
    lapsed: int = 0
    released: int = 0
    committed: int = 0
    adopted: int = 0
    voided: int = 0
    forged: int = 0


def _is_delayed(entry: Entry, number: float) -> bool:
    return entry.phase is Phase.DELAYED and entry.not_before == number


def _may_expire(entry: Entry, number: float) -> bool:
    return entry.phase is not Phase.GONE and not entry.started


class Board:
    """Everything one leader knows, for one term of leadership."""

    def __init__(self, epoch: int, key: bytes, now_s: float, unix_s: float, *, notes: bool = False) -> None:
        self.epoch = epoch
        self.key = key
        self.led_s = now_s
        self.now_s = now_s
        self.unix_s = unix_s
        self.counter = first_counter(epoch)
        self.caught_up = False
        self.adopting = True
        self.notes = notes
        self.entries: dict[tuple[str, str], Entry] = {}
        self.by_seq: dict[int, Entry] = {}
        self.calls_of: Counter[str] = Counter()
        """How many of these each tenant has."""
        self.groups: dict[tuple[str, str], dict[str, Entry]] = {}
        self.streams: dict[Entry, None] = {}
        """Generators, the one whose caller was heard longest ago first."""
        self.lines: dict[KeyId, KeyLine] = {}
        """Calls with a key, by it."""
        self.held: list[Entry] = []
        self.orphans: dict[int, tuple[Lease, str]] = {}
        """Leases that cars showed of calls that haven't been told yet."""
        self.delayed = EntryHeap(_is_delayed)
        self.expiring = EntryHeap(_may_expire)
        self.checks = 0
        self.queues: dict[tuple[str, str, str, str], FunctionQueue] = {}
        self.limits: dict[tuple[str, str, str], Limit] = {}
        self.turns = Turns()
        self.cars: dict[str, Car] = {}
        self.heard: OrderedDict[str, Car] = OrderedDict()
        """Cars that are online, the one heard longest ago first."""
        self.free: dict[OfferClass, dict[str, Car]] = {}
        self.ahead: dict[OfferClass, dict[str, Car]] = {}
        self.avoiding: dict[str, Car] = {}
        self.changed: dict[str, Car] = {}
        """Cars that have got a place since calls were last matched."""
        self.outbox: dict[str, Grant] = {}
        self.woken: list[FunctionQueue] = []
        """Queues that were at their max_concurrency and no longer are."""
        self.kept = KeptOnCars()
        self.ended: OrderedDict[tuple[str, str], Ended] = OrderedDict()
        self.ended_seqs: dict[int, Ended] = {}
        self.counters = Counters()
        self.out: list[Action] = []

    def note(self, kind: str, **fields: object) -> None:
        """One line of history."""
        if self.notes:
            self.out.append(Note(kind, fields))

    def place(self, car: Car) -> None:
        """Put the car where its free places say, after anything about it changed."""
        for index, has_place in ((self.free, car.has_place), (self.ahead, car.has_place_ahead)):
            cars = index.get(car.offer_class)
            if not has_place:
                if cars is not None:
                    cars.pop(car.name, None)
                continue
            if cars is None:
                cars = index[car.offer_class] = {}
            if car.name not in cars:
                cars[car.name] = car
                # What waits didn't fit any car that had a place: only one that gains a place needs looking at.
                self.changed[car.name] = car

    def displace(self, car: Car) -> None:
        """Take the car out of all places, before its offer changes its kind."""
        self.changed.pop(car.name, None)
        for index in (self.free, self.ahead):
            cars = index.get(car.offer_class)
            if cars is not None and cars.pop(car.name, None) is not None and not cars:
                del index[car.offer_class]

    def remember(self, ended: Ended) -> None:
        """Keep what a call that is over was, for a while."""
        key = (ended.state.tenant, ended.state.call)
        self.forget(key)
        self.ended[key] = ended
        self.ended_seqs[ended.seq] = ended
        if len(self.ended) > ENDED_MAX:
            _, oldest = self.ended.popitem(last=False)
            self.ended_seqs.pop(oldest.seq, None)

    def forget(self, key: tuple[str, str]) -> None:
        """As if nothing had been remembered of this call."""
        ended = self.ended.pop(key, None)
        if ended is not None:
            self.ended_seqs.pop(ended.seq, None)
