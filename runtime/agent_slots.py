"""The car's slot processes and which of them a job goes to. Pure.

A slot is of one lane and serves one tenant in its life. At most ``slots`` of all lanes together have jobs at a time. Of the
wasm lane ``slots`` processes and the spares behind them exist as long as the car is eligible. A jax lane begins without any:
a process is started when a job finds none, at most ``slots`` of them, and from then on as many are kept. Jobs of a slot run
in order; ``PIPELINE`` of them are sent ahead, which hides the pipe.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fleet.protocol.lanes import WASM
from fleet.protocol.messages import SlotView
from runtime.agent_jobs import Job

PIPELINE = 4
HELD_MAX = 64


@dataclass(slots=True, eq=False)
class Slot:
    """One process. The first of ``jobs`` runs."""

    id: str
    lane: str = WASM
    ready: bool = False
    tenant: str = ""
    program_key: str = ""
    """Program of the job that was sent last."""
    held: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Digests of values that it had last, of its own or sent with a job. Some may be gone: it is only a preference."""
    used: int = 0
    """When it got its last job, in placements of the pool."""
    jobs: deque[Job] = field(default_factory=deque)
    batch_key: str = ""
    """Program of a batch that more calls may join, in this slot, until ``batch_end_s``."""
    batch_jobs: int = 0
    batch_end_s: float = 0.0

    def view(self, spare: bool) -> SlotView:
        """For ``fleet cars``."""
        make = functools.partial(SlotView.model_construct, slot=self.id, lane=self.lane, function="")
        if spare and not self.jobs:
            return make(state="spare")
        if not self.ready:
            return make(state="starting")
        if self.jobs:
            grant = self.jobs[0].grant
            return make(state="running", function=f"{grant.app}.{grant.function}")
        return make(state="idle")


def _suits(slot: Slot, job: Job) -> tuple[bool, bool]:
    """How well an idle slot suits a job: it has values that the job takes; it has its program."""
    has_values = any(ref.digest in slot.held for ref in job.grant.refs)
    return has_values, slot.program_key == job.program_key


class SlotPool:
    """See the module."""

    def __init__(self, slots: int, spares: int, lanes: Sequence[str] = (WASM,)) -> None:
        self.slots_max = slots
        self.processes_max = slots + spares
        """Of the wasm lane; of each other one ``slots_max``."""
        self.slots: dict[str, Slot] = {}
        self._kept = {lane: self.processes_max if lane == WASM else 0 for lane in lanes}
        self._made = 0
        self._placed = 0
        self._ready = 0
        """Of the wasm lane."""

    @property
    def places(self) -> int:
        """Jobs that can run at once with what is ready now; jax slots are started when a job comes."""
        if WASM not in self._kept:
            return self.slots_max
        return self._ready if self._ready < self.slots_max else self.slots_max

    @property
    def full(self) -> bool:
        """Whether as many slots have jobs as may."""
        return sum(bool(slot.jobs) for slot in self.slots.values()) >= self.slots_max

    def of_lane(self, lane: str) -> list[Slot]:
        """The processes of one lane, oldest first."""
        return [slot for slot in self.slots.values() if slot.lane == lane]

    def lacking(self) -> list[str]:
        """The lane of each process that is missing, first those that are always there."""
        lacks: list[str] = []
        for lane, kept in self._kept.items():
            lacks += [lane] * (kept - len(self.of_lane(lane)))
        return lacks

    def want(self, lane: str, jobs: int) -> None:
        """``jobs`` of this lane wait for a process: keep another one, unless enough are starting or there may be no more."""
        there = self.of_lane(lane)
        if lane == WASM or len(there) >= self.slots_max:
            return
        if sum(not slot.ready for slot in there) < jobs:
            self._kept[lane] = max(self._kept[lane], len(there) + 1)

    def keep_what_is_there(self, lane: str) -> None:
        """A process of this lane ended by itself: the next job has another one started, nothing else does."""
        if lane != WASM:
            self._kept[lane] = len(self.of_lane(lane))

    def start(self, lane: str) -> Slot:
        """A new slot, not ready yet."""
        self._made += 1
        slot = Slot(f"s{self._made}", lane)
        self.slots[slot.id] = slot
        return slot

    def ready(self, slot: Slot) -> None:
        """The slot takes jobs from now on."""
        assert not slot.ready, slot.id
        slot.ready = True
        self._ready += slot.lane == WASM

    def remove(self, slot: Slot) -> list[Job]:
        """Take a slot out; returns its jobs, without a slot from now on."""
        del self.slots[slot.id]
        self._ready -= slot.ready and slot.lane == WASM
        jobs = list(slot.jobs)
        slot.jobs.clear()
        for job in jobs:
            job.rewind()
        return jobs

    def in_kill_order(self) -> list[Slot]:
        """All slots: running ones first, then those that ran, then spares."""
        return sorted(self.slots.values(), key=lambda slot: (not slot.jobs, not slot.tenant))

    def rested(self, tenant: str) -> Slot | None:
        """The slot for a call that wants a fresh instance: the one that had the longest time to make it, spares included.

        Making an instance takes 6 ms after a call: with a spare the calls take turns and none waits for it. None: as
        many run as may, or nothing is free.
        """
        if self.full:
            return None
        free = [slot for slot in self._idle(WASM) if slot.tenant in ("", tenant)]
        return min(free, key=lambda slot: slot.used, default=None)

    def _idle(self, lane: str) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.ready and not slot.jobs and slot.lane == lane]

    def stalls(self, job: Job) -> bool:
        """Whether a job that waits lacks nothing but the end of another job, of whatever lane."""
        return any(slot.tenant in ("", job.grant.tenant) for slot in self._idle(job.lane)) and self.full

    def place(self, slot: Slot, job: Job, now_s: float) -> None:
        """The job is the slot's from now on."""
        self._placed += 1
        batch = job.batch
        if batch is None:
            slot.batch_key = ""
        elif self.joins(slot, job, now_s):
            slot.batch_jobs += 1
        else:
            slot.batch_key, slot.batch_jobs, slot.batch_end_s = job.program_key, 1, now_s + batch.max_wait_s
        slot.tenant, slot.program_key, slot.used = job.grant.tenant, job.program_key, self._placed
        slot.jobs.append(job)
        if job.grant.refs:
            self.holds(slot, [ref.digest for ref in job.grant.refs])

    def holds(self, slot: Slot, digests: Iterable[str]) -> None:
        """The slot has these values."""
        for digest in digests:
            slot.held[digest] = None
            slot.held.move_to_end(digest)
            if len(slot.held) > HELD_MAX:
                slot.held.popitem(last=False)

    def joins(self, slot: Slot, job: Job, now_s: float) -> bool:
        """Whether the job becomes part of the batch that gathers in this slot."""
        return (
            job.batch is not None
            and slot.batch_key == job.program_key
            and bool(slot.jobs)
            and slot.batch_jobs < job.batch.max_size
            and now_s <= slot.batch_end_s
        )

    def gathering(self, job: Job, now_s: float) -> Slot | None:
        """The slot where a batch gathers that the job may join."""
        if job.batch is None:
            return None
        return next((slot for slot in self.slots.values() if self.joins(slot, job, now_s)), None)

    def choose(self, job: Job) -> tuple[Slot | None, Slot | None]:
        """(slot for a job, slot to kill for it first). No slot: the job waits."""
        tenant, lane = job.grant.tenant, job.lane
        idle = fresh = same = queue = None
        count = busy = there = 0
        starting = False
        for slot in self.slots.values():
            busy += bool(slot.jobs)
            if slot.lane != lane:
                continue
            there += 1
            if not slot.tenant:
                starting = starting or not slot.ready
                fresh = fresh or (slot if slot.ready else None)
                continue
            count += 1
            if slot.tenant != tenant:
                idle = idle or (None if slot.jobs else slot)
            elif slot.jobs:
                if len(slot.jobs) < _depth(slot, job) and (queue is None or len(slot.jobs) < len(queue.jobs)):
                    queue = slot
            elif same is None or _suits(slot, job) > _suits(same, job):
                same = slot
        if busy >= self.slots_max:
            return queue, None
        if same is not None and any(_suits(same, job)):
            return same, None  # warm
        if fresh is not None and count < self.slots_max:
            return fresh, None
        if same is not None:
            return same, None
        if fresh is not None and idle is not None:
            return fresh, idle  # a slot never serves a second tenant: kill it and let the spare take its place
        if count < self.slots_max and (starting or (lane != WASM and there < self.slots_max)):
            # Rather a slot that is ready in a moment than behind a job that runs for who knows how long.
            return None, None
        if queue is None and idle is not None and not starting:
            return None, idle
        return queue, None

    def views(self) -> tuple[SlotView, ...]:
        """For ``fleet cars``: as many wasm processes as there may be running ones are slots, the others spares."""
        seen = 0
        views = []
        for slot in self.in_kill_order():
            seen += slot.lane == WASM
            views.append(slot.view(spare=slot.lane == WASM and seen > self.slots_max))
        return tuple(views)


def _depth(slot: Slot, job: Job) -> int:
    """Jobs that a slot has at most when ``job`` is sent to it ahead: behind a batch of its program there may be another."""
    if job.batch is None or slot.program_key != job.program_key:
        return PIPELINE
    return max(PIPELINE, 2 * job.batch.max_size)
