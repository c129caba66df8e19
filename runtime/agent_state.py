"""What the agent of a car decides: a pure state machine. No clock, no I/O, no await, no randomness.

``AgentCore.handle(event, now_s, unix_s)`` returns the actions that follow, to be done in their order before the next
event. ``due_s`` says until when a Tick must come. The shell (``agent.py``) holds no decision, so the simulator runs
this very module.

Before every event, whatever it is, come two checks, in this order:
1. the fence: leases for which no beat was answered for LEASE_S are dropped and what runs under them is killed. An agent
   that was frozen finds a queue of old events at thaw; none of them is believed before this.
2. standing: signals may have gone stale.

Order of a departure: all slots are killed (running ones first), then finished items of chunks are reported, then one
release gives all leases back. When the last process is reaped a second release, without leases, says how long it took.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleet.protocol.lanes import WASM, lane_for
from fleet.protocol.limits import BEAT_RETRY_S, BEAT_S, LEASES_PER_CAR_MAX, OUTCOME_RESEND_S
from fleet.protocol.messages import Offer, Program
from runtime import agent_types as t
from runtime.agent_config import AgentConfig
from runtime.agent_jobs import Job
from runtime.agent_placing import NEVER
from runtime.agent_work import Work
from runtime.signals.model import Signals
from runtime.standing import StandingState, evaluate

HELLO_AGAIN_S = 1.0


class AgentCore:
    """State of one agent. All attributes may be read, none written from outside."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.work = Work(config)
        self.state = StandingState()
        self.signals: Signals | None = None
        self.known = False
        """Hello was answered on this connection."""
        self.epoch = 0
        """The newest that was heard of."""
        self.stopping = False
        self._heard_s = -NEVER
        self._beat_due_s = NEVER
        self._hello_due_s = NEVER
        self._told_slots = 0
        self._refused = False
        self._layers: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        """Isolation of each lane's slots: what is held, what is missing."""
        self._release: t.SendRelease | None = None
        """The last one; kept until answered."""
        self._release_answered = True
        self._release_sent_s = 0.0
        self._releases = 0
        self._leaving: set[str] = set()
        """Slots of the last departure that aren't reaped yet."""
        work = self.work
        self._handlers: dict[type, Callable[[Any], None]] = {
            t.SignalHeard: self._on_signal, t.Connected: self._on_connected, t.Disconnected: self._on_disconnected,
            t.Tick: self._on_tick, t.Granted: self._on_granted, t.Fetched: work.on_fetched,
            t.FetchFailed: work.on_fetch_failed, t.Dropped: self._on_dropped, t.Refresh: self._on_connected,
            t.HelloAnswered: self._on_hello_answered, t.BeatAnswered: self._on_beat_answered,
            t.ReleaseAnswered: self._on_release_answered, t.Verdicts: work.on_verdicts,
            t.BlobStored: work.on_blob_stored, t.BlobRefused: work.on_blob_refused, t.SlotReady: self._on_slot_ready,
            t.SlotItems: work.on_slot_items, t.SlotSaved: work.streams.on_saved, t.Credited: work.streams.on_credited,
            t.SlotDone: work.on_slot_done, t.SlotKept: work.on_slot_kept, t.SlotTrapped: work.on_slot_trapped,
            t.SlotFailed: work.on_slot_failed, t.SlotExited: self._on_slot_exited, t.Stop: self._on_stop,
        }  # fmt: skip

    def handle(self, event: t.Event, now_s: float, unix_s: float) -> list[t.Action]:
        """What follows from ``event``; ``now_s`` never goes back."""
        work = self.work
        assert now_s >= work.now_s, (now_s, work.now_s)
        work.now_s, work.unix_s = now_s, unix_s
        out: list[t.Action] = []
        work.out = out
        work.fence()
        if now_s >= self.state.due_s:
            self._evaluate()
        self._handlers[type(event)](event)
        self._tell_offer()
        return out

    @property
    def due_s(self) -> float:
        """When the next Tick must come at the latest."""
        due = [self.state.due_s, self.work.due_s, self._hello_due_s]
        if self.work.connected:
            if self.known:
                due.append(self._beat_due_s)
            if not self._release_answered:
                due.append(self._release_sent_s + OUTCOME_RESEND_S)
        return min(due)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to tell and no process to reap: a stopping agent may go."""
        work = self.work
        return not (work.jobs or work.placing.dying or work.pool.slots or len(work.outbox)) and self._release_answered

    # --- standing ----------------------------------------------------------------------------------------------------

    def _on_signal(self, event: t.SignalHeard) -> None:
        self.signals, self._heard_s = event.signals, self.work.now_s
        self._evaluate()

    def _on_stop(self, _: t.Stop) -> None:
        self.stopping = True
        self._evaluate()

    def _evaluate(self) -> None:
        work, before = self.work, self.state
        self.state = after = evaluate(
            self.config.policy, before, self.signals, heard_s=self._heard_s, now_s=work.now_s, unix_s=work.unix_s,
            stopping=self.stopping,
        )  # fmt: skip
        if (after.eligible, after.reasons) == (before.eligible, before.reasons):
            return
        work.eligible = after.eligible
        if after.eligible:
            self._set_departing(False)
            work.placing.fill()
        elif after.may_finish:
            self._set_departing(True)
        elif before.eligible or work.pool.slots or work.jobs:
            self._depart()
            return  # its release tells the standing
        self._beat()

    def _set_departing(self, departing: bool) -> None:
        ids = tuple(self.work.pool.slots)
        if ids:
            self.work.out.append(t.SetDeparting(ids, departing))

    def _depart(self) -> None:
        work = self.work
        slots = work.pool.in_kill_order()
        self._leaving = {slot.id for slot in slots}
        work.placing.kill(slots, departure=True)
        jobs = work.give_up_all()
        leases = tuple(job.lease for job in jobs)
        work.flush(all_now=True)
        for job in jobs:
            work.streams.save(job)
        if self._release is not None and not self._release_answered:
            leases = self._release.leases + leases
        self._told_slots = 0  # a release says so
        # Not the signals' own time: a replayed record's is years ago, a cloud's may be off.
        signal_unix_s = work.unix_s
        self._releases += 1
        self._send_release(
            t.SendRelease(
                self._releases, leases, self.state.standing, self.state.reasons[0].value, work.now_s, signal_unix_s
            )
        )

    def _reaped(self) -> None:
        """Every process of the departure is gone: say how long that took."""
        assert self._release is not None, "nobody left"
        last = self._release
        self._releases += 1
        self._send_release(
            t.SendRelease(
                self._releases, () if self._release_answered else last.leases, self.state.standing, last.reason,
                last.heard_s, last.signal_unix_s, reaped_s=max(self.work.now_s - last.heard_s, 1e-6),
            )
        )  # fmt: skip

    def _send_release(self, release: t.SendRelease) -> None:
        self._release, self._release_answered, self._release_sent_s = release, False, self.work.now_s
        if self.work.connected:
            self.work.out.append(release)

    def _on_release_answered(self, event: t.ReleaseAnswered) -> None:
        if self._release is not None and event.number == self._release.number:
            self._release_answered = True

    # --- the control plane -------------------------------------------------------------------------------------------

    def _slots_offered(self) -> int:
        work = self.work
        return work.pool.places if work.eligible and not work.outbox.full else 0

    def _offer(self) -> Offer:
        self._told_slots = self._slots_offered()
        return self.config.offer(self._told_slots)

    def _tell_offer(self) -> None:
        """Say so when what the car can run changed, or when it has room again after it refused."""
        if not self.known:
            return
        if self._slots_offered() != self._told_slots or (self._refused and self.work.room > 0):
            self._refused = False
            self.work.out.append(t.SendOffer(self._offer()))

    def _isolation(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What every slot is locked in by, and what some slot lacks."""
        told = list(self._layers.values())
        missing = dict.fromkeys(layer for _, lacks in told for layer in lacks)
        held = dict.fromkeys(layer for holds, _ in told for layer in holds if layer not in missing)
        return tuple(held), tuple(missing)

    def _hello(self) -> None:
        self._hello_due_s = self.work.now_s + HELLO_AGAIN_S
        self.work.out.append(t.SendHello(self.state.standing, self._offer(), *self._isolation()))

    def _on_connected(self, _: t.Connected | t.Refresh) -> None:
        self.work.connected, self.known = True, False
        self._hello()
        if self._release is not None and not self._release_answered:
            self._send_release(self._release)
        self.work.send_again()

    def _on_disconnected(self, _: t.Disconnected) -> None:
        self.work.connected = self.known = False
        self._hello_due_s = NEVER

    def _on_hello_answered(self, event: t.HelloAnswered) -> None:
        self.epoch = max(self.epoch, event.epoch)
        if self.work.connected:
            self.known, self._hello_due_s = True, NEVER
            self._beat()  # a new leader adopts leases by what it hears in beats

    def _beat(self) -> None:
        if not (self.work.connected and self.known):
            return
        self._beat_due_s = self.work.now_s + BEAT_RETRY_S  # unless it is answered
        leases = [job.lease for job in self.work.jobs.values()] + self.work.outbox.final_leases()
        self.work.out.append(
            t.SendBeat(
                tuple(leases[:LEASES_PER_CAR_MAX]), self.state.standing, self._offer(), self.work.pool.views()
            )
        )  # fmt: skip

    def _on_beat_answered(self, event: t.BeatAnswered) -> None:
        self.epoch = max(self.epoch, event.epoch)
        self.work.beat_ok_s = max(self.work.beat_ok_s, event.sent_s)
        self._beat_due_s = max(self._beat_due_s, event.sent_s + BEAT_S)
        if event.drop:
            self.work.drop(event.drop)
        if event.hello and self.work.connected:
            self._hello()

    def _on_dropped(self, event: t.Dropped) -> None:
        self.work.drop(event.counters)

    def _on_granted(self, event: t.Granted) -> None:
        accepted: list[int] = []
        reason = "" if event.epoch >= self.epoch else "a newer leader was heard"
        jobs = event.jobs if not reason else ()
        self.epoch = max(self.epoch, event.epoch)
        for job in jobs:
            refusal = self._refusal(job)
            if refusal:
                reason = refusal
                continue
            accepted.append(job.lease.counter)
            if job.key not in self.work.jobs:
                self.work.take(job)
        self._refused = self._refused or bool(reason)
        # Last, so that "accepted" is said when the jobs are on their slots' pipes.
        self.work.out.append(t.ReplyGrant(event.reply, tuple(accepted), reason))

    def _refusal(self, job: Job) -> str:
        if job.key in self.work.jobs:
            return ""
        if not self.state.eligible:
            return "not eligible: " + ", ".join(self.state.reasons)
        if job.lease.car != self.config.car:
            return "the lease is for another car"
        if job.grant.program.memory_bytes > self.config.memory_bytes:
            return "the function wants more memory than this car gives"
        lane = self._lane(job.grant.program)
        if lane is None:
            return "this car has no lane for this program"
        job.lane = lane
        return "" if self.work.takes(job) else "no room"

    def _lane(self, program: Program) -> str | None:
        if program.runtime == WASM:
            return WASM if WASM in self.config.lanes else None
        return lane_for(program, self.config.offer(self.config.slots))

    # --- slots and time ----------------------------------------------------------------------------------------------

    def _on_slot_ready(self, event: t.SlotReady) -> None:
        slot = self.work.pool.slots.get(event.slot)
        if slot is not None:
            before = self._isolation()
            self._layers[slot.lane] = (event.held, event.missing)
            if self._isolation() != before and self.work.connected:
                self._hello()
        self.work.placing.on_ready(event.slot)

    def _on_slot_exited(self, event: t.SlotExited) -> None:
        self.work.placing.on_exited(event)
        if event.slot in self._leaving:
            self._leaving.discard(event.slot)
            if not self._leaving:
                self._reaped()

    def _on_tick(self, event: t.Tick) -> None:
        now_s = self.work.now_s
        self.work.tick(event.running)
        if self.work.connected:
            if now_s >= self._hello_due_s:
                self._hello()
            if self.known and now_s >= self._beat_due_s:
                self._beat()
            if not self._release_answered and now_s >= self._release_sent_s + OUTCOME_RESEND_S:
                assert self._release is not None, "an unanswered release exists"
                self._send_release(self._release)
