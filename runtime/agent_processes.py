"""The slot processes of an agent: started, fed and killed as the core says; what they tell becomes events. No decision is
made here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fleet.protocol.errors import FleetError
from runtime import agent_types as t
from runtime import slot_events
from runtime.agent_compiled import CompiledDesk
from runtime.agent_jobs import Job
from runtime.agent_link import ControlLink
from runtime.agent_state import AgentCore
from runtime.compiled_cache import CompiledCache
from runtime.slot_sender import Descriptor
from runtime.slot_wire import Bytes, Progress, SlotJob, SlotProgram, StreamStart

log = logging.getLogger("fleet.car")


class SlotPort(Protocol):
    """What the agent needs of a slot process (``runtime.slots.SlotProcess``)."""

    id: str
    program: SlotProgram | None

    def load(
        self, program: SlotProgram, bundle: Bytes, packages: Sequence[Bytes], weights: Mapping[str, Descriptor]
    ) -> int: ...

    def run(self, job: SlotJob) -> None: ...

    def credit(self, job: int, consumed: int) -> None: ...

    def compiled(self, key: str, data: Bytes) -> None: ...

    def set_departing(self, departing: bool) -> None: ...

    def progress(self) -> Progress: ...

    def kill(self) -> None: ...

    async def reaped(self) -> None: ...


OnSlotEvent = Callable[[Any, slot_events.SlotEvent], None]


class SlotStarter(Protocol):
    """Makes slots. ``prepare`` may take long (for wasm it builds the guest once), ``start`` returns after the spawn."""

    async def prepare(self, lane: str) -> None: ...

    async def start(self, slot_id: str, lane: str, on_event: OnSlotEvent) -> SlotPort: ...


class SlotProcesses:
    """See the module. ``slots``: the processes that run, by id."""

    def __init__(
        self,
        core: AgentCore,
        link: ControlLink,
        starter: SlotStarter,
        feed: Callable[[t.Event], None],
        start_soon: Callable[..., None],
        compiled: CompiledCache | None,
    ) -> None:
        self.slots: dict[str, SlotPort] = {}
        self._core = core
        self._link = link
        self._starter = starter
        self._feed = feed
        self._start_soon = start_soon
        self._compiled = CompiledDesk(compiled, start_soon)
        self.actions: dict[type, Callable[[Any], None]] = {
            t.StartSlot: self._start_slot, t.KillSlots: self._kill_slots, t.RunJob: self._run_job,
            t.SetDeparting: self._set_departing, t.GiveCredit: self._give_credit,
        }  # fmt: skip

    def running(self, ahead_s: float) -> dict[str, t.Running]:
        """What each slot with jobs is at; ``ahead_s``: how far the agent's clock is ahead of the machine's."""
        found: dict[str, t.Running] = {}
        for slot in self._core.work.pool.slots.values():
            if slot.jobs and slot.id in self.slots:
                seen = self.slots[slot.id].progress()
                if seen.job:
                    found[slot.id] = t.Running(seen.job, seen.item, seen.started_monotonic_s + ahead_s)
        return found

    def _on_slot_event(self, slot_id: str, event: slot_events.SlotEvent) -> None:
        match event:
            case slot_events.Done():
                self._feed(
                    t.SlotDone(
                        slot_id, event.job, event.result, event.first, event.summary, event.run_s, event.memory_bytes
                    )
                )
            case slot_events.Kept():
                self._feed(t.SlotKept(slot_id, event.job, event.digest, event.data))
            case slot_events.Items():
                self._feed(t.SlotItems(slot_id, event.job, event.first, event.results))
            case slot_events.LogLines():
                if (job := self._running(slot_id, event.job)) is not None:
                    self._link.lines(job.lease, event.lines, job.item_at(event.item))
            case slot_events.Checkpoint():
                if (job := self._running(slot_id, event.job)) is not None:
                    if job.window is not None:
                        self._feed(t.SlotSaved(slot_id, event.job, event.state))
                    else:
                        self._link.checkpoint(job.lease, event.state)
            case slot_events.CompiledWanted() | slot_events.CompiledMade():
                if (job := self._running(slot_id, event.job)) is not None:
                    self._compiled.heard(self.slots[slot_id], job.grant.tenant, job.program_key, event)
            case slot_events.Ready():
                log.info("slot %s ready after %.0f ms", slot_id, event.start_s * 1000)
                self._feed(t.SlotReady(slot_id, event.layers.held, event.layers.missing))
            case slot_events.Trapped():
                self._feed(t.SlotTrapped(slot_id, event.job, event.item, event.message))
            case slot_events.Failed():
                self._feed(t.SlotFailed(slot_id, event.job, event.message))
            case slot_events.Exited():
                self.slots.pop(slot_id, None)
                if not event.expected:
                    log.warning("slot %s ended by itself (%d): %s", slot_id, event.returncode, event.message)
                found = self._core.work.pool.slots.get(slot_id)
                known = found is not None and found.jobs and found.jobs[0].run == event.last.job
                together = event.last.item if known else None
                self._feed(t.SlotExited(slot_id, event.message or f"status {event.returncode}", together))

    def _running(self, slot_id: str, run: int) -> Job | None:
        slot = self._core.work.pool.slots.get(slot_id)
        found = slot.jobs[0] if slot is not None and slot.jobs else None
        return found if found is not None and found.run == run and not found.cancelled else None

    def _start_slot(self, action: t.StartSlot) -> None:
        self._start_soon(self._bring_up, action.slot, action.lane)

    async def _bring_up(self, slot_id: str, lane: str) -> None:
        try:
            await self._starter.prepare(lane)
            if slot_id not in self._core.work.pool.slots:
                self._feed(t.SlotExited(slot_id))
                return
            slot = await self._starter.start(slot_id, lane, lambda _, event: self._on_slot_event(slot_id, event))
        except (OSError, FleetError) as error:
            log.error("a slot can't be started: %s", error)
            self._feed(t.SlotExited(slot_id, str(error)))
            return
        self.slots[slot_id] = slot
        if slot_id not in self._core.work.pool.slots:
            slot.kill()  # the owner left while it was spawned

    def _kill_slots(self, action: t.KillSlots) -> None:
        for slot_id in action.slots:
            slot = self.slots.get(slot_id)
            if slot is not None:
                slot.kill()
        if action.departure:
            self._link.killed()

    def _run_job(self, action: t.RunJob) -> None:
        slot = self.slots.get(action.slot)
        if slot is None:
            return  # its Exited waits behind this event
        job, grant = action.job, action.job.grant
        assert (
            job.bundle is not None and job.args is not None and job.packages is not None and job.weights is not None
        ), "a job is complete before it is placed"
        program = slot.program
        if program is None or program.key != job.program_key:
            program = _program(job)
            passed = slot.load(program, job.bundle, job.packages, job.weights)
            if passed:
                log.info("slot %s got %d pieces of weights", action.slot, passed)
        slot.run(
            SlotJob(
                job.run, program, job.args, call=grant.lease.call, attempt=grant.attempt,
                car=self._core.config.pseudonym(grant.tenant), timeout_s=grant.program.timeout_s, items=job.items,
                item_numbers=grant.item_numbers, item_attempts=grant.item_attempts, exact=grant.exact or job.alone,
                checkpoint=job.checkpoint, refs=job.refs or {},
                stream=None if job.window is None else StreamStart(grant.skip, job.window.consumed),
            )
        )  # fmt: skip

    def _give_credit(self, action: t.GiveCredit) -> None:
        if action.slot in self.slots:
            self.slots[action.slot].credit(action.run, action.consumed)

    def _set_departing(self, action: t.SetDeparting) -> None:
        for slot_id in action.slots:
            if slot_id in self.slots:
                self.slots[slot_id].set_departing(action.departing)


def _program(job: Job) -> SlotProgram:
    """What the slot needs to know of the program of ``job``."""
    wanted, jax = job.grant.program, job.grant.program.jax
    return SlotProgram(
        job.program_key, wanted.module, wanted.qualname, wanted.memory_bytes, wanted.isolation, job.grant.tenant,
        weights=() if jax is None else tuple((piece.digest, piece.size_bytes) for piece in jax.weights),
        batch=None if jax is None or jax.batch is None else (jax.batch.max_size, jax.batch.max_wait_s),
    )  # fmt: skip
