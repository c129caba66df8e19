"""Jobs onto slots, and slots into being and out of it: that part of the agent's work. Pure; driven by ``agent_work.Work``.

Slots have lanes. A job whose lane has no process yet waits for one to start, and others pass it meanwhile. A job that finds a
process but no place, because jobs of another lane hold them all, is passed by nobody: so no lane starves another.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.protocol.lanes import WASM
from fleet.protocol.messages import RunStatus
from runtime import agent_types as t
from runtime.agent_config import AgentConfig
from runtime.agent_jobs import Job
from runtime.agent_slots import Slot, SlotPool

if TYPE_CHECKING:
    from runtime.agent_work import Work

CANCEL_GRACE_S = 0.1
"""A call that was cancelled while it waited behind another in its slot is killed when it runs longer than this: most
are shorter, and killing costs a process."""
START_AGAIN_S_MIN = 0.1
START_AGAIN_S_MAX = 5.0
NEVER = float("inf")


@dataclass(slots=True)
class _Starts:
    """When a process of a lane may be started after one that never came up."""

    again_s: float = -NEVER
    pause_s: float = 0.0


class Placing:
    """The part of ``Work`` that is about slots."""

    def __init__(self, work: Work, config: AgentConfig) -> None:
        self._work = work
        self.pool = SlotPool(config.slots, config.spares, config.lanes)
        self.waiting: deque[Job] = deque()
        """Jobs that have all they need but no slot yet."""
        self.dying: set[str] = set()
        """Slots that were killed and aren't reaped yet."""
        self._runs = 0
        self._starts = {lane: _Starts() for lane in config.lanes}

    @property
    def due_s(self) -> float:
        """When a slot that is missing may be started."""
        if not self._work.eligible:
            return NEVER
        return min((self._starts[lane].again_s for lane in self.pool.lacking()), default=NEVER)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def place(self, job: Job) -> None:
        """Send a new job to a slot, or let it wait."""
        # Its lane may be busy and take it behind other jobs: that must not go on for ever while another lane waits.
        behind = any(other.lane != job.lane and self.pool.stalls(other) for other in self.waiting)
        slot = None if behind else self._slot_for(job)
        if slot is not None:
            self._send(slot, job)
            return
        self.waiting.append(job)
        self._want(job)

    def place_waiting(self) -> None:
        """Place what waits, in its order: one that waits for another process is passed, one that waits for a place isn't."""
        shut: set[str] = set()
        for job in list(self.waiting):
            if job.lane in shut:
                continue
            slot = self._slot_for(job)
            if slot is not None:
                self.waiting.remove(job)
                self._send(slot, job)
                continue
            self._want(job)
            if self.pool.stalls(job):
                return
            shut.add(job.lane)

    def _slot_for(self, job: Job) -> Slot | None:
        slot, evicted = self.pool.gathering(job, self._work.now_s), None
        if slot is not None:
            return slot
        if job.grant.program.isolation == "call" and job.lane == WASM:
            slot = self.pool.rested(job.grant.tenant)
        if slot is None:
            slot, evicted = self.pool.choose(job)
        if evicted is not None:
            self.kill([evicted])
            self.fill()
        return slot

    def _send(self, slot: Slot, job: Job) -> None:
        self._runs += 1
        job.run, job.slot = self._runs, slot.id
        self.pool.place(slot, job, self._work.now_s)
        if len(slot.jobs) == 1:
            self.start_clock(job)
        self._work.out.append(t.RunJob(slot.id, job))

    def start_clock(self, job: Job) -> None:
        """The job is the first of its slot from now on."""
        work = self._work
        job.started_s = job.partial_s = work.now_s
        job.started_unix_s = work.unix_s
        job.check_s = work.now_s + job.grant.program.timeout_s
        if job.cancelled:
            job.kill_s = work.now_s + CANCEL_GRACE_S

    # --- slots -------------------------------------------------------------------------------------------------------

    def _want(self, job: Job) -> None:
        """A job waits: see to it that a process of its lane is there, if it can't have one of those that are."""
        if job.lane != WASM and not self.pool.stalls(job):
            self.pool.want(job.lane, sum(other.lane == job.lane for other in self.waiting))
            self.fill()

    def fill(self) -> None:
        """Start the slots that are missing, while the car is eligible."""
        work = self._work
        if not work.eligible:
            return
        for lane in self.pool.lacking():
            if work.now_s >= self._starts[lane].again_s:
                work.out.append(t.StartSlot(self.pool.start(lane).id, lane))

    def kill(self, slots: list[Slot], *, departure: bool = False) -> list[Job]:
        """Kill slots; returns the jobs they had, in order."""
        if slots:
            killed = {slot.id for slot in slots}
            out = self._work.out
            # A job that was placed there in this very moment goes elsewhere: it must not be sent as well.
            out[:] = [one for one in out if not (isinstance(one, t.RunJob) and one.slot in killed)]
            out.append(t.KillSlots(tuple(slot.id for slot in slots), departure))
        self.dying.update(slot.id for slot in slots)
        return [job for slot in slots for job in self.pool.remove(slot)]

    def replace(self, slot: Slot) -> None:
        """Kill a slot; its jobs that are still leased (the first only if it ran with others) go to others, in front of the
        queue."""
        self._requeue(self.kill([slot]))

    def separate(self, slot: Slot, together: int | None) -> bool:
        """A slot ended, or took too long, while its first ``together`` jobs ran as one: nobody knows whose fault that was,
        so each is to run by itself. False where it is known."""
        batch = slot.jobs[0].batch if slot.jobs else None
        if batch is None or not together or together < 2:
            return False
        for job in list(slot.jobs)[:together]:
            job.alone = True
        return True

    def _requeue(self, jobs: list[Job]) -> None:
        left = [job for job in jobs if self._work.jobs.get(job.key) is job]
        assert all(job.finished == 0 for job in left), "a job that began can't be moved"
        self.waiting.extendleft(reversed(left))
        self.fill()
        self.place_waiting()

    def on_ready(self, slot_id: str) -> None:
        """A slot came up."""
        slot = self.pool.slots.get(slot_id)
        if slot is not None and not slot.ready:
            self.pool.ready(slot)
            self._starts[slot.lane].pause_s = 0.0
            self.place_waiting()

    def on_exited(self, event: t.SlotExited) -> None:
        """A process is gone: killed, or by itself."""
        self.dying.discard(event.slot)
        slot = self.pool.slots.get(event.slot)
        if slot is None:
            return
        if not slot.ready:
            # It never came up (image damaged, no memory): try again, ever more slowly.
            starts = self._starts[slot.lane]
            starts.pause_s = min(START_AGAIN_S_MAX, max(START_AGAIN_S_MIN, 2 * starts.pause_s))
            starts.again_s = self._work.now_s + starts.pause_s
        if slot.jobs and not self.separate(slot, event.together):
            message = f"the sandbox process ended by itself: {event.message}"
            self._work.finish(slot.jobs[0], RunStatus.TRAP, message=message)
        jobs = self.pool.remove(slot)
        self.pool.keep_what_is_there(slot.lane)
        if not slot.ready and slot.lane != WASM and not self.pool.of_lane(slot.lane):
            self._give_up(slot.lane, event.message)
        self._requeue(jobs)

    def _give_up(self, lane: str, why: str) -> None:
        """What waits for a lane that doesn't come up goes to other cars."""
        stuck = [job for job in self.waiting if job.lane == lane]
        for job in stuck:
            self.waiting.remove(job)
            self._work.finish(job, RunStatus.ABANDONED, message=f"no {lane} slot comes up on this car: {why}")
