"""The car's slot processes and which of them a job goes to. Pure.

A slot serves one tenant in its life. At most ``slots`` of them have a tenant, i.e. may run; those without one stand
behind them as spares. Jobs of a slot run in order; ``PIPELINE`` of them are sent ahead, which hides the pipe.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from fleet.protocol.messages import SlotView
from runtime.agent_jobs import Job

PIPELINE = 4


@dataclass(slots=True, eq=False)
class Slot:
    """One process. The first of ``jobs`` runs."""

    id: str
    ready: bool = False
    tenant: str = ""
    program_key: str = ""
    """Program of the job that was sent last."""
    used: int = 0
    """When it got its last job, in placements of the pool."""
    jobs: deque[Job] = field(default_factory=deque)

    def view(self, spare: bool) -> SlotView:
        """For ``fleet cars``."""
        if spare and not self.jobs:
            return SlotView.model_construct(slot=self.id, state="spare", function="")
        if not self.ready:
            return SlotView.model_construct(slot=self.id, state="starting", function="")
        if self.jobs:
            grant = self.jobs[0].grant
            return SlotView.model_construct(slot=self.id, state="running", function=f"{grant.app}.{grant.function}")
        return SlotView.model_construct(slot=self.id, state="idle", function="")


class SlotPool:
    """See the module."""

    def __init__(self, slots: int, spares: int) -> None:
        self.slots_max = slots
        self.processes_max = slots + spares
        self.slots: dict[str, Slot] = {}
        self._made = 0
        self._placed = 0
        self._ready = 0

    @property
    def places(self) -> int:
        """Jobs that can run at once with what is ready now."""
        return self._ready if self._ready < self.slots_max else self.slots_max

    @property
    def missing(self) -> int:
        """Processes to start until the pool is whole."""
        return self.processes_max - len(self.slots)

    def start(self) -> Slot:
        """A new slot, not ready yet."""
        self._made += 1
        slot = Slot(f"s{self._made}")
        self.slots[slot.id] = slot
        return slot

    def ready(self, slot: Slot) -> None:
        """The slot takes jobs from now on."""
        assert not slot.ready, slot.id
        slot.ready = True
        self._ready += 1

    def remove(self, slot: Slot) -> list[Job]:
        """Take a slot out; returns its jobs, without a slot from now on."""
        del self.slots[slot.id]
        self._ready -= slot.ready
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
        if sum(bool(slot.jobs) for slot in self.slots.values()) >= self.slots_max:
            return None
        free = [slot for slot in self.slots.values() if slot.ready and not slot.jobs and slot.tenant in ("", tenant)]
        return min(free, key=lambda slot: slot.used, default=None)

    def place(self, slot: Slot, job: Job) -> None:
        """The job is the slot's from now on."""
        self._placed += 1
        slot.tenant, slot.program_key, slot.used = job.grant.tenant, job.program_key, self._placed
        slot.jobs.append(job)

    def choose(self, tenant: str, program_key: str) -> tuple[Slot | None, Slot | None]:
        """(slot for a job, slot to kill for it first). No slot: the job waits."""
        idle = fresh = same = queue = None
        count = 0
        starting = False
        for slot in self.slots.values():
            if not slot.tenant:
                starting = starting or not slot.ready
                fresh = fresh or (slot if slot.ready else None)
                continue
            count += 1
            if slot.tenant != tenant:
                idle = idle or (None if slot.jobs else slot)
            elif slot.jobs:
                if len(slot.jobs) < PIPELINE and (queue is None or len(slot.jobs) < len(queue.jobs)):
                    queue = slot
            elif slot.program_key == program_key:
                return slot, None  # warm
            else:
                same = same or slot
        if fresh is not None and count < self.slots_max:
            return fresh, None
        if same is not None:
            return same, None
        if fresh is not None and idle is not None:
            return fresh, idle  # a slot never serves a second tenant: kill it and let the spare take its place
        if starting and count < self.slots_max:
            return (
                None,
                None,
            )  # rather a slot that is ready in a moment than behind a job that runs for who knows how long
        if queue is None and idle is not None and not starting:
            return None, idle
        return queue, None

    def views(self) -> tuple[SlotView, ...]:
        """For ``fleet cars``: as many processes as there may be running ones are slots, the others spares."""
        ordered = self.in_kill_order()
        return tuple(slot.view(spare=index >= self.slots_max) for index, slot in enumerate(ordered))
