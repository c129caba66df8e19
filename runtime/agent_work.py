"""The working half of the agent's core: leases on slots, deadlines, outcomes. Pure; driven by ``agent_state.AgentCore``.

Methods append actions to ``out``. ``now_s``, ``unix_s``, ``connected`` and ``eligible`` are set by the core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import INLINE_RESULT_BYTES_MAX, KEPT_MAX, LEASE_S, LEASES_PER_CAR_MAX
from fleet.protocol.messages import RunStatus
from runtime import agent_types as t
from runtime.agent_config import AgentConfig
from runtime.agent_jobs import HELD_BYTES_MAX, Bytes, Job, Key
from runtime.agent_placing import NEVER, Placing
from runtime.agent_slots import Slot
from runtime.agent_streams import Streams
from runtime.outbox import Entry, Outbox, Report

PARTIAL_S = 0.25
"""Finished items of a long chunk are reported this often."""
PARTIAL_BYTES = 1 << 20
_TOO_MANY = 1 << 30
assert PARTIAL_BYTES < INLINE_RESULT_BYTES_MAX


class Work:
    """See the module."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.placing = Placing(self, config)
        self.pool = self.placing.pool
        self.outbox = Outbox()
        self.jobs: dict[Key, Job] = {}
        """Leases that are worked on, oldest first."""
        self._joined: Counter[tuple[str, int]] = Counter()
        """Leases that may run together, by program and size of a batch."""
        self.held_bytes = 0
        """Of large arguments and of values of ``fleet.put``, for these leases."""
        self.waiting = self.placing.waiting
        """Those of them that have all they need but no slot yet."""
        self.connected = False
        self.eligible = False
        self.fenced = 0
        """Leases dropped by the fence, since the start."""
        self.beat_ok_s = -NEVER
        """When the last answered beat was sent."""
        self.now_s = 0.0
        self.unix_s = 0.0
        self.out: list[t.Action] = []
        self.streams = Streams(self)

    @property
    def due_s(self) -> float:
        """When time alone changes something here."""
        due = [self._fence_s(), self.placing.due_s]
        if self.connected:
            due.append(self.outbox.due_s)
        for slot in self.pool.slots.values():
            if slot.jobs:
                head = slot.jobs[0]
                due += (head.kill_s, head.check_s)
                if head.buffer:
                    due.append(head.partial_s + PARTIAL_S)
        return min(due)

    @property
    def room(self) -> int:
        """Leases that may be taken now."""
        if self._shut:
            return 0
        return self.pool.places * (1 + self.config.ahead) - self.leases_held

    def takes(self, job: Job) -> bool:
        """Whether there is room for this lease: in a batch that isn't full, or for one more."""
        filled = self._joined[job.joined] % job.joined[1] if job.joined is not None else 0
        return not self._shut and self.room + bool(filled) > 0

    @property
    def _shut(self) -> bool:
        return not self.eligible or self.outbox.full or self.held_bytes > HELD_BYTES_MAX

    @property
    def leases_held(self) -> int:
        """Leases that are worked on; those that run as one count as one."""
        if len(self.jobs) >= LEASES_PER_CAR_MAX:
            return _TOO_MANY
        joined = sum(self._joined.values())
        return len(self.jobs) - joined + sum(-(-count // size) for (_, size), count in self._joined.items())

    # --- leases ------------------------------------------------------------------------------------------------------

    def _fence_s(self) -> float:
        if not self.jobs:
            return NEVER
        oldest = next(iter(self.jobs.values()))
        return max(self.beat_ok_s, oldest.received_s) + LEASE_S  # a grant is as good as an answered beat

    def fence(self) -> None:
        """Drop the leases, and kill what runs under them, if no beat was answered for LEASE_S."""
        if not self.jobs or self.now_s < self._fence_s():
            return
        self.fenced += len(self.jobs)
        self._forget_all()
        self.placing.kill([slot for slot in self.pool.in_kill_order() if slot.jobs])
        self.placing.fill()

    def take(self, job: Job) -> None:
        """Begin to work on a lease."""
        older = [known for known in self.jobs.values() if known.lease.call == job.lease.call]
        self._end(older)  # a newer lease of the same call: what runs under the older one counts no more
        job.received_s = self.now_s
        self.jobs[job.key] = job
        self.held_bytes += job.weight_bytes
        if job.joined is not None:
            self._joined[job.joined] += 1
        if job.complete:
            self.placing.place(job)
        else:
            self.out.append(t.FetchJob(job))

    def on_fetched(self, event: t.Fetched) -> None:
        job = event.job
        job.bundle, job.args, job.packages, job.refs = event.bundle, event.args, event.packages, event.refs
        job.weights = event.weights
        if self.jobs.get(job.key) is job:
            self.placing.place(job)

    def on_fetch_failed(self, event: t.FetchFailed) -> None:
        self.finish(event.job, RunStatus.ABANDONED, message=event.message)

    def drop(self, counters: Iterable[int]) -> None:
        """Stop working on leases that the control plane ended, without an outcome."""
        wanted = set(counters)
        self._end([job for job in self.jobs.values() if job.lease.counter in wanted])

    def _end(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._forget(job)
            job.cancelled = True
        # Only now: a slot that is replaced hands its other jobs on, and none of these must be among them.
        for job in jobs:
            slot = self.pool.slots.get(job.slot) if job.slot is not None else None
            if slot is None:
                if job in self.waiting:
                    self.waiting.remove(job)
            elif slot.jobs[0] is job and (job.batch is None or len(slot.jobs) == 1):
                self.placing.replace(slot)  # Else others run with it: what is its own is thrown away when it comes.

    def _forget(self, job: Job) -> None:
        del self.jobs[job.key]
        self.held_bytes -= job.weight_bytes
        if job.joined is not None:
            self._joined[job.joined] -= 1
            if not self._joined[job.joined]:
                del self._joined[job.joined]

    def _forget_all(self) -> None:
        self.jobs.clear()
        self.waiting.clear()
        self._joined.clear()
        self.held_bytes = 0

    def give_up_all(self) -> list[Job]:
        """Report finished items and forget every lease; returns the jobs they were for. Slots are dead already."""
        jobs = list(self.jobs.values())
        for job in jobs:
            self.report(job)
        self._forget_all()
        return jobs

    # --- slots -------------------------------------------------------------------------------------------------------

    def _head(self, slot_id: str, run: int) -> tuple[Slot, Job] | None:
        """The slot and its first job, if that is the one of ``run``; a slot that tells of another is killed."""
        slot = self.pool.slots.get(slot_id)
        if slot is None:
            return None  # killed; what it wrote before counts no more
        if slot.jobs and slot.jobs[0].run == run:
            return slot, slot.jobs[0]
        self._fail(slot, f"the slot told of run {run}, which it doesn't run")
        return None

    def _fail(self, slot: Slot, message: str) -> None:
        """A slot that can't be used: another car does its job."""
        if slot.jobs:
            self.finish(slot.jobs[0], RunStatus.ABANDONED, message=message)
        self.placing.replace(slot)

    def on_slot_items(self, event: t.SlotItems) -> None:
        found = self._head(event.slot, event.run)
        if found is None:
            return
        slot, job = found
        self._make_room(job, event.results)
        try:
            job.add_items(event.first, event.results)
        except ProtocolError as error:
            self._fail(slot, str(error))
            return
        if self.jobs.get(job.key) is not job:
            job.buffer.clear()  # cancelled
        elif job.window is not None:
            self.streams.on_items(job)
        elif self.now_s >= job.partial_s + PARTIAL_S or job.buffer_bytes >= PARTIAL_BYTES:
            self.report(job)
            self.flush()

    def _make_room(self, job: Job, results: Bytes) -> None:
        """Report what is there rather than let it grow into a blob: events in it must be read on their way."""
        if job.buffer and job.buffer_bytes + len(results) > INLINE_RESULT_BYTES_MAX and self.jobs.get(job.key) is job:
            self.report(job)

    def on_slot_kept(self, event: t.SlotKept) -> None:
        found = self._head(event.slot, event.run)
        if found is None:
            return
        slot, job = found
        if len(job.kept) == KEPT_MAX or job.items is not None or job.window is not None:
            self._fail(slot, "the slot keeps more than one call may")
        elif all(digest != event.digest for digest, _ in job.kept):
            job.kept.append((event.digest, event.data))
            self.pool.holds(slot, [event.digest])

    def on_slot_done(self, event: t.SlotDone) -> None:
        found = self._head(event.slot, event.run)
        if found is None:
            return
        slot, job = found
        if job.items is not None:
            self._make_room(job, event.result)
            try:
                job.add_items(event.first, event.result)
                if job.finished != job.items:
                    raise ProtocolError(f"the slot ended a chunk of {job.items} items after {job.finished}")
            except ProtocolError as error:
                self._fail(slot, str(error))
                return
        slot.jobs.popleft()
        if slot.jobs:
            self.placing.start_clock(slot.jobs[0])
        if self.waiting:
            self.placing.place_waiting()
        self.finish(
            job, RunStatus.OK, result=event.result, summary=event.summary, run_s=event.run_s,
            memory_bytes=event.memory_bytes,
        )  # fmt: skip

    def on_slot_trapped(self, event: t.SlotTrapped) -> None:
        found = self._head(event.slot, event.run)
        if found is not None:
            slot, job = found
            self.finish(job, RunStatus.TRAP, position=event.position, message=event.message)
            self.placing.replace(slot)

    def on_slot_failed(self, event: t.SlotFailed) -> None:
        found = self._head(event.slot, event.run)
        if found is not None:
            self._fail(found[0], event.message)

    # --- time --------------------------------------------------------------------------------------------------------

    def tick(self, running: Mapping[str, t.Running]) -> None:
        """Deadlines, chunks that are due for a report, outcomes that are due again."""
        self.placing.fill()
        for slot in list(self.pool.slots.values()):
            if slot.jobs:
                self._check(slot, running.get(slot.id))
        if self.connected:
            self._send(self.outbox.resend(self.now_s))
            self.flush()

    def _check(self, slot: Slot, seen: t.Running | None) -> None:
        job = slot.jobs[0]
        if seen is not None and seen.run != job.run:
            seen = None  # it is past this job already, its last words are in the pipe
        if self.now_s >= job.kill_s:
            self.placing.replace(slot)
            return
        if self.now_s >= job.check_s and job.out_of_time(self.now_s, seen.started_s if seen is not None else None):
            if self.placing.separate(slot, seen.position if seen is not None else None):
                self.placing.replace(slot)
                return
            message = f"ran longer than timeout={job.grant.program.timeout_s:g} s"
            self.finish(job, RunStatus.TIMEOUT, position=seen.position if seen else None, message=message)
            self.placing.replace(slot)
            return
        if job.buffer and self.now_s >= job.partial_s + PARTIAL_S:
            self.report(job)

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def finish(
        self, job: Job, status: RunStatus, *, result: Bytes = b"", position: int | None = None, message: str = "",
        summary: str = "", run_s: float = 0.0, memory_bytes: int = 0,
    ) -> None:  # fmt: skip
        """The lease's last outcome; none if the lease was ended meanwhile."""
        if self.jobs.get(job.key) is not job:
            return
        self._forget(job)
        if job.window is not None:
            self.report(job)
            self.streams.save(job)
        done = culprit = None
        if job.items is not None:
            if status in (RunStatus.TRAP, RunStatus.TIMEOUT):
                culprit = job.culprit(position)
            done, result = job.take_items()
        outcome = job.outcome(
            status, unix_s=self.unix_s, done=done, culprit=culprit, message=message, summary=summary, run_s=run_s,
            memory_bytes=memory_bytes,
        )  # fmt: skip
        self._keep(self.outbox.add(outcome, result, job.kept if status is RunStatus.OK else ()))
        self.flush()

    def report(self, job: Job) -> None:
        """Put finished items into the outbox; the lease goes on."""
        if job.buffer:
            done, part = job.take_items()
            job.partial_s = self.now_s
            self._keep(self.outbox.add(job.outcome(RunStatus.PARTIAL, unix_s=self.unix_s, done=done), part))

    def _keep(self, entry: Entry) -> None:
        if entry.part_is_blob:
            self.out.append(t.PutBlob(entry.number, entry.outcome.lease, entry.part))
        for digest, data in entry.kept:
            self.out.append(t.PutBlob(entry.number, entry.outcome.lease, data, kept=digest))

    def flush(self, *, all_now: bool = False) -> None:
        """Send outcomes that may go."""
        if self.connected:
            self._send(self.outbox.take(self.now_s, all_now=all_now))

    def send_again(self) -> None:
        """After a reconnect: nobody knows which reports arrived."""
        self._send(self.outbox.resend(self.now_s, everything=True))
        self.flush()

    def _send(self, reports: list[Report]) -> None:
        for report in reports:
            outcomes = tuple(entry.outcome for entry in report.entries)
            self.out.append(t.SendReport(report.number, outcomes, tuple(entry.part for entry in report.entries)))

    def on_verdicts(self, event: t.Verdicts) -> None:
        stored = self.outbox.committed(event.number, event.committed)
        refused = self.outbox.answered(event.number, event.committed)
        self.streams.on_stored(stored)
        # Finished items refused: the lease isn't the newest any more, what runs under it is for nothing.
        self._end([job for key in {entry.key for entry in refused} if (job := self.jobs.get(key)) is not None])
        self.flush()

    def on_blob_stored(self, event: t.BlobStored) -> None:
        self.outbox.stored(event.entry, event.digest, event.size_bytes, kept=event.kept)
        self.flush()

    def on_blob_refused(self, event: t.BlobRefused) -> None:
        self.outbox.not_stored(event.entry, event.message)
        self.flush()
