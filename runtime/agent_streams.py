"""Generators in the agent's core: reports as their items come, credit, checkpoints that wait for their items. Pure.

A report goes out as soon as nothing of the same lease is on its way; what a generator yields meanwhile shares the next one.
So the first item waits for nobody, and a fast generator makes few large records.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from runtime import agent_types as t
from runtime.agent_jobs import Job
from runtime.outbox import Entry

if TYPE_CHECKING:
    from runtime.agent_work import Work


class Streams:
    """The part of ``Work`` that is about generators."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def on_items(self, job: Job) -> None:
        """Its slot told items, or (none) that it waits."""
        assert job.window is not None
        if job.window.full and job.waits_since_s is None:
            job.waits_since_s = self._work.now_s
        self._report(job)

    def _report(self, job: Job) -> None:
        if job.buffer and job.acked == job.sent:
            self._work.report(job)
            self._work.flush()

    def on_stored(self, entries: Iterable[Entry]) -> None:
        """These outcomes are stored: their items count, and so do checkpoints behind them."""
        for entry in entries:
            job = self._work.jobs.get(entry.key)
            if job is None or job.window is None or not entry.outcome.done:
                continue
            job.acked = entry.outcome.done[-1][1] + 1 - job.grant.skip
            if job.saved is not None and job.saved[0] <= job.acked:
                self.save(job)
            self._report(job)

    def on_credited(self, event: t.Credited) -> None:
        """Callers went on."""
        work = self._work
        for job in list(work.jobs.values()):
            consumed = event.consumed.get(job.lease.counter)
            if consumed is None or job.window is None or not job.window.consume(consumed):
                continue
            if job.waits_since_s is not None and not job.window.full:
                job.waited_s += work.now_s - job.waits_since_s
                job.waits_since_s = None
                job.out_of_time(work.now_s, None)
            if job.slot is not None:
                work.out.append(t.GiveCredit(job.slot, job.run, consumed))

    def on_saved(self, event: t.SlotSaved) -> None:
        """Keep a checkpoint until the items before it are stored; a newer one replaces it."""
        slot = self._work.pool.slots.get(event.slot)
        job = slot.jobs[0] if slot is not None and slot.jobs else None
        if job is None or job.run != event.run or self._work.jobs.get(job.key) is not job:
            return
        job.saved = (job.finished, event.state)
        if job.finished <= job.acked:
            self.save(job)

    def save(self, job: Job) -> None:
        """Send the checkpoint that is kept, if there is one."""
        if job.saved is not None:
            self._work.out.append(t.SendCheckpoint(job.lease, job.saved[1]))
            job.saved = None
