"""What waits, in the order in which it goes: first in first out within a function, turns between tenants and functions.

Pure. Everything here costs O(log n) or less per call, also with 100,000 calls waiting: heaps forget lazily and are swept
when most of what they hold no longer counts.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fleet.protocol.limits import TIMEOUT_S_MAX
from fleet.protocol.messages import Manifest, Program
from fnplatform.dispatcher.matching import Need, need_of

if TYPE_CHECKING:
    from fnplatform.dispatcher.batching import Gathering
    from fnplatform.dispatcher.state import Entry

SHORT_RUN_S = 0.02
"""Calls of functions measured shorter than this may wait on a car behind others, so that it never idles between them."""
EWMA_WEIGHT = 0.2
UNKNOWN_RUN_S = 1e6
"""What a call counts whose function was never measured."""
_SWEEP_MIN = 256


class EntryHeap:
    """Calls by a number (a time, an order). An item counts only while ``live(entry, number)`` holds."""

    def __init__(self, live: Callable[[Entry, float], bool]) -> None:
        self._heap: list[tuple[float, int, int, Entry]] = []
        self._live = live
        self._pushed = 0
        self._sweep_at = _SWEEP_MIN

    def push(self, number: float, entry: Entry) -> None:
        """Add a call; ties go in the order of their submits, whoever was pushed again since."""
        self._pushed += 1
        heapq.heappush(self._heap, (number, entry.first_seq, self._pushed, entry))
        if len(self._heap) > self._sweep_at:
            self._heap = [item for item in self._heap if self._live(item[3], item[0])]
            heapq.heapify(self._heap)
            self._sweep_at = max(_SWEEP_MIN, 2 * len(self._heap))

    def peek(self) -> tuple[float, Entry] | None:
        """The smallest that counts."""
        heap = self._heap
        while heap:
            number, _, _, entry = heap[0]
            if self._live(entry, number):
                return number, entry
            heapq.heappop(heap)
        return None

    def pop(self) -> Entry | None:
        """Take the smallest that counts."""
        return heapq.heappop(self._heap)[3] if self.peek() else None

    def pop_until(self, number: float) -> Entry | None:
        """Take the smallest that counts, if it is not above ``number``."""
        found = self.peek()
        if found is None or found[0] > number:
            return None
        return heapq.heappop(self._heap)[3]


class Limit:
    """How many calls of a function run over the whole fleet, all its versions together."""

    __slots__ = ("parked", "running")

    def __init__(self) -> None:
        self.running = 0
        self.parked: list[FunctionQueue] = []
        """Queues that wait for this to go down."""


def _is_waiting(entry: Entry, number: float) -> bool:
    return entry.queued and entry.order == number


def _for_cars(program: Program) -> Program:
    """``program`` without what cars read in its bundle: the description of arguments and results may have 56 KiB."""
    jax = program.jax
    if jax is None:
        return program
    slim = jax.model_copy(update={"why_not": {}, "inputs": [], "outputs": [], "arguments": ""})
    return program.model_copy(update={"jax": slim})


class FunctionQueue:
    """Waiting calls of one version of one function, oldest submit first."""

    __slots__ = (
        "batch", "calls", "function", "gathering", "heap", "in_ring", "key", "last_car", "limit", "manifest", "need", "parked",
        "program", "run_s", "served_at", "tenant", "waiting",
    )  # fmt: skip

    def __init__(self, tenant: str, function: str, version: str, manifest: Manifest, limit: Limit) -> None:
        self.tenant = tenant
        self.function = function
        """``app.function``."""
        self.key = (tenant, manifest.app, manifest.function, version)
        self.manifest = manifest
        self.need: Need = need_of(manifest)
        self.limit = limit
        self.heap = EntryHeap(_is_waiting)
        self.waiting = 0
        self.calls = 0
        """Calls of this version that are not over, waiting or not."""
        self.in_ring = False
        self.parked = False
        self.run_s: float | None = None
        """Measured time of one item (a single call is one), a moving average."""
        self.last_car = ""
        self.served_at = 0
        """Its last turn, as ``Turns`` counts them."""
        self.program = _for_cars(manifest.program)
        """As it stands in grants."""
        jax = manifest.program.jax
        self.batch = None if jax is None else jax.batch
        self.gathering: Gathering | None = None
        """A batch of its calls that more may join."""

    def measured(self, run_s: float) -> None:
        """One more item took this long; a car that says nonsense isn't heard."""
        if not 0 <= run_s <= TIMEOUT_S_MAX:
            return
        self.run_s = run_s if self.run_s is None else self.run_s + EWMA_WEIGHT * (run_s - self.run_s)

    @property
    def short(self) -> bool:
        """Whether its calls may wait behind others on a car."""
        return self.batch is not None or (self.run_s is not None and self.run_s < SHORT_RUN_S)

    @property
    def at_limit(self) -> bool:
        """Whether ``max_concurrency`` of its calls run."""
        most = self.manifest.max_concurrency
        return most is not None and self.limit.running >= most


RingKey = tuple[Need, bool]
"""What calls ask for, and whether they are short."""


class _TenantRing:
    """Queues of one tenant under one ring key, in turns."""

    __slots__ = ("queues", "stamp", "tenant")

    def __init__(self, tenant: str, stamp: int) -> None:
        self.tenant = tenant
        self.stamp = stamp
        self.queues: deque[FunctionQueue] = deque()


class _Head(NamedTuple):
    """Who is next among those that ask for the same."""

    tenant_at: int
    function_at: int
    tenant: str
    key: RingKey


def _turn(head: _Head) -> tuple[int, int, str]:
    return head[:3]


class Turns:
    """Turns between tenants, then between the functions of a tenant, over all that could go if a car had a place."""

    def __init__(self) -> None:
        self._rings: dict[RingKey, list[tuple[int, str]]] = {}
        self._tenants: dict[tuple[RingKey, str], _TenantRing] = {}
        self._stamps: dict[str, int] = {}
        self._clock = 0

    def add(self, queue: FunctionQueue) -> None:
        """``queue`` has a waiting call. No-op if it takes part already."""
        if queue.in_ring:
            return
        queue.in_ring = True
        key = (queue.need, queue.short)
        ring = self._tenants.get((key, queue.tenant))
        if ring is None:
            stamp = self._stamps.get(queue.tenant, 0)
            ring = self._tenants[key, queue.tenant] = _TenantRing(queue.tenant, stamp)
            heapq.heappush(self._rings.setdefault(key, []), (stamp, queue.tenant))
        ring.queues.append(queue)

    def served(self, queue: FunctionQueue) -> None:
        """A call of this function goes."""
        self._clock += 1
        self._stamps[queue.tenant] = queue.served_at = self._clock

    def asked(self) -> list[RingKey]:
        """What the waiting calls ask for."""
        return list(self._rings)

    def take(self, keys: list[RingKey], accept: Callable[[FunctionQueue], bool]) -> FunctionQueue | None:
        """The queue whose turn it is among ``keys``, taken out; add it again if more of it waits.

        ``accept`` says whether a queue can go right now; others keep their place in the turns.
        """
        skipped: list[FunctionQueue] = []
        taken = None
        while taken is None:
            # One tenant's functions may ask for different things, and have their turns all the same.
            best = min((head for key in keys if (head := self._head(key)) is not None), key=_turn, default=None)
            if best is None:
                break
            queue = self._pop(best.key, best.tenant)
            if accept(queue):
                taken = queue
            else:
                skipped.append(queue)
        for queue in skipped:
            self.add(queue)
        return taken

    def _head(self, key: RingKey) -> _Head | None:
        """The tenant of this ring that was served longest ago. Stamps in the heap may be old: they are refreshed here."""
        heap = self._rings.get(key)
        while heap:
            stamp, tenant = heap[0]
            now = self._stamps.get(tenant, 0)
            if stamp == now:
                return _Head(stamp, self._tenants[key, tenant].queues[0].served_at, tenant, key)
            heapq.heapreplace(heap, (now, tenant))
        return None

    def _pop(self, key: RingKey, tenant: str) -> FunctionQueue:
        ring = self._tenants[key, tenant]
        queue = ring.queues.popleft()
        queue.in_ring = False
        if not ring.queues:
            heapq.heappop(self._rings[key])
            del self._tenants[key, tenant]
            if not self._rings[key]:
                del self._rings[key]
        return queue
