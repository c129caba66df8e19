"""The simulated world: the dispatcher's core and the agents' cores, their own code, under seeded chance.

Simulated are the network, the store, the slots' work and the owners. Every decision is made by the modules that the
shells import: ``fnplatform.dispatcher.core`` and ``runtime.agent_state``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleet.protocol.lanes import WASM, lane_for
from fleet.protocol.limits import GRANT_ACCEPT_S, LEADER_TTL_S
from fleet.protocol.messages import (
    Batch,
    Beat,
    CarHello,
    Device,
    InvocationState,
    JaxModule,
    JaxProgram,
    Manifest,
    Offer,
    OutcomeReport,
    Program,
    Release,
    Retries,
)
from fnplatform.dispatcher import chunks, events, wire
from fnplatform.dispatcher.core import DispatcherCore
from runtime import agent_types as t
from runtime.agent_jobs import Job, cut
from runtime.standing import OwnerPolicy
from tests.simulation.cars import SimulatedCar, make_job
from tests.simulation.clockwork import Clockwork
from tests.simulation.store import Store

KEY = b"simulated-key-of-the-control-plane"
TICK_S = 0.1
_NEW = Device(lane="jax-cpu", calling_convention_min=9, calling_convention_max=10, stablehlo="1.13.0")
_OLD = _NEW.model_copy(update={"calling_convention_max": 9})
DEVICES: tuple[tuple[Device, ...], ...] = ((_NEW,), (), (_NEW,), (_OLD,))
"""What the cars have in turn: half of them can run ``tensor``."""
TENSOR = JaxProgram(
    modules=[JaxModule(platforms=["cpu", "cuda"], calling_convention=10, stablehlo="1.10.0")],
    batch=Batch(max_size=4, max_wait_s=0.2),
)
Answer = Callable[[Any], None]
FLAKY = ("flaky", "keyed")
"""Functions that fail now and then, and are tried again."""


@dataclass(frozen=True)
class Fate:
    """How a run goes."""

    run_s: float
    trap: bool


class World:
    """One platform with its cars. ``violations`` names every rule that was broken."""

    def __init__(self, seed: int, *, cars: int = 4) -> None:
        self.clock = Clockwork(seed)
        self.store = Store()
        self.violations: list[str] = []
        self.accepted: dict[str, InvocationState] = {}
        self.newest: dict[str, tuple[int, int]] = {}
        """Newest lease ever made for each call, by (epoch, counter): what the world knows and no dispatcher may forget."""
        self.on_cars: dict[str, dict[str, tuple[int, int]]] = {}
        """call -> car -> lease it runs under right now."""
        self.history: list[dict[str, Any]] = []
        """What the dispatcher decided, for ``tests.chaos.checker``, which judges the real chaos run as well."""
        self.crash_at: dict[type, int] = {}
        """Kill the leader right after its n-th action of a kind: chance alone seldom hits the worst moment."""
        self.behind = 0
        """Calls with a key that were submitted while an earlier one of it wasn't over."""
        self.drawn = 0
        """Calls that were granted to the car that kept what they go on from."""
        self.leader: DispatcherCore | None = None
        self._terms = 0
        self._grants: dict[str, events.Grant] = {}
        self._functions()
        policy = OwnerPolicy(come_back_s=0.2)
        self.cars = {
            f"car-{n}": SimulatedCar(self, f"car-{n}", policy, DEVICES[n % len(DEVICES)]) for n in range(1, cars + 1)
        }
        self.clock.after(0.0, self.lead)

    def _functions(self) -> None:
        for name, limit, attempts in (
            ("quick", None, 1),
            ("slow", None, 1),
            ("long", None, 1),
            ("flaky", None, 3),
            ("keyed", None, 3),
            ("single", 1, 1),
            ("tensor", None, 1),
        ):
            program = Program(
                bundle="0" * 64, bundle_bytes=0, module="m", qualname=name, timeout_s=30.0,
                runtime="jax" if name == "tensor" else "wasm", jax=TENSOR if name == "tensor" else None,
            )  # fmt: skip
            self.store.manifests[name] = Manifest(
                app="app", function=name, display_name=name, program=program, max_concurrency=limit,
                retries=Retries(max_attempts=attempts, delay_s=0.5),
            )  # fmt: skip

    # --- what functions do ------------------------------------------------------------------------------------------

    def fate_of(self, job: Job) -> Fate:
        """How this run goes: by function, with chance."""
        rng = self.clock.random
        run_s = {"quick": 0.005, "slow": 4.0, "long": 15.0, "flaky": 0.05, "keyed": 0.2, "single": 0.3, "tensor": 0.05}[
            job.grant.function
        ]
        return Fate(run_s * rng.uniform(0.5, 1.5), job.grant.function in FLAKY and rng.random() < 0.1)

    def result_of(self, job: Job, index: int) -> bytes:
        """A value, or now and then an exception."""
        fails = job.grant.function in FLAKY and self.clock.random.random() < 0.2
        item = index
        if job.grant.item_numbers is not None:
            item = cut(job.grant.item_numbers, index, 1)[0][0]
        return (b"\x01" if fails else b"\x00") + f"{job.lease.call}/{item}".encode()

    def state_after(self, job: Job) -> str:
        """Digest of what a ``tensor`` keeps: of the state it began with, and its own call."""
        return hashlib.sha256("".join([*(ref.digest for ref in job.grant.refs), job.lease.call]).encode()).hexdigest()

    # --- developers --------------------------------------------------------------------------------------------------

    def submit(self, function: str, *, tenant: str = "default", items: int | None = None, key: str = "") -> None:
        """A call is accepted: durable, and told to the leader if there is one. A ``tensor`` goes on from what
        the last one kept."""
        call = f"call{len(self.accepted)}"
        ended = [one.kept[0] for one in self.store.outcomes.values() if one.kept] if function == "tensor" else []
        refs = [ended[-1]] if ended and items is None else []
        state = InvocationState(
            tenant=tenant, call=call, app="app", function=function, version="0" * 16, inbox="", digest="0" * 64,
            payload_bytes=0, submitted_unix_s=self.clock.unix_s, items=items, refs=refs,
            key=key, order=len(self.accepted) if key else 0,
        )  # fmt: skip
        self.behind += any(self._before(state))
        seq = self.store.add(state)
        self.accepted[call] = state
        self.history.append({"who": "client", "event": "submit", "call": call, "expect": None})
        if self.leader is not None:
            self.tell(events.Queued([events.NewCall(state, seq, self.store.manifests[function])]))

    # --- the leader --------------------------------------------------------------------------------------------------

    def lead(self) -> None:
        """A process takes over: all it knows is what is stored."""
        self.store.epoch += 1
        self._terms += 1
        term = self._terms
        self.leader = DispatcherCore(self.store.epoch, KEY, self.clock.now_s, self.clock.unix_s, notes=True)
        backlog = sorted(self.store.invocations.values(), key=lambda found: found[0])
        known = self.store.manifests
        if backlog:
            calls = [events.NewCall(state, seq, known[state.function], backlog=True) for seq, state in backlog]
            self.tell(events.Queued(calls))
        self.tell(events.CaughtUp())
        self._tick(term)

    def crash(self) -> None:
        """kill -9 of the leader; another one leads after the key's time to live."""
        if self.leader is None:
            return
        self.leader = None
        self._terms += 1
        self._grants.clear()
        self.clock.after(LEADER_TTL_S + self.clock.random.uniform(0, 0.2), self.lead)

    def _tick(self, term: int) -> None:
        if term == self._terms and self.leader is not None:
            self.tell(events.Tick())
            self.clock.after(TICK_S, lambda: self._tick(term))

    def tell(self, event: events.Event) -> None:
        """One event for the leader, and all that follows."""
        if self.leader is None:
            return
        for action in self.leader.handle(event, self.clock.now_s, self.clock.unix_s):
            self._act(action)
            self._crash_after(type(action))

    def _crash_after(self, kind: type) -> None:
        left = self.crash_at.get(kind, 0) - 1
        if left >= 0:
            self.crash_at[kind] = left
        if left == 0:
            self.clock.after(0.0, self.crash)

    def _act(self, action: events.Action) -> None:
        match action:
            case events.Grant():
                self._grant(action)
            case events.Commit():
                self._later(lambda: self.store.commit(action.record), lambda ok: self._committed(action, ok))
            case events.Requeue():
                expected = action.entry.seq
                self._later(lambda: self.store.replace(action.state, expected), lambda seq: self._requeued(action, seq))
            case events.Remove(seq):
                self._later(lambda: self.store.remove(seq), lambda _: None)
            case events.Verdicts(_, reply, verdicts):
                reply(list(verdicts))
            case events.BeatAnswer(_, reply, drop, hello):
                assert self.leader is not None
                reply((self.leader.board.epoch, list(drop), hello))
            case events.Drop(car, counters):
                target = self.cars[car]
                target.down.send(lambda: target.do(lambda: target.feed(t.Dropped(tuple(counters)))))
            case events.Check(entry, seq):
                self._later(lambda: self._look(entry), lambda got: self.tell(events.Checked(entry, seq, *got)))
            case events.Note():
                self._note(action)

    def _later(self, act: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Something of the store: done a moment from now, told another moment later, if the leader still lives."""
        term = self._terms
        clock = self.clock

        def done() -> None:
            result = act()
            clock.after(clock.random.uniform(0.0001, 0.002), lambda: then(result) if term == self._terms else None)

        def reached() -> None:
            if term == self._terms or clock.random.random() < 0.5:  # a crash may come before or after the store has it
                done()

        clock.after(clock.random.uniform(0.0001, 0.002), reached)

    def _look(self, entry: Any) -> tuple[bool, list[tuple[int, chunks.Ranges]]]:
        call = entry.state.call
        parts = [(record.part, list(record.indices or [])) for record in self.store.parts.get(call, [])]
        return call in self.store.outcomes, parts

    def _committed(self, op: events.Commit, ok: bool) -> None:
        self.tell(events.Stored(op) if ok else events.NotStored(op))

    def _requeued(self, op: events.Requeue, seq: int) -> None:
        self.tell(events.Stored(op, seq) if seq else events.NotStored(op))

    def _note(self, note: events.Note) -> None:
        self.history.append({"who": "dispatcher", "event": note.kind, **note.fields})

    def _grant(self, action: events.Grant) -> None:
        assert self.leader is not None
        grants = [
            wire.lease_grant(entry, by_blob=False, payload_bytes=0, with_checkpoint=False) for entry in action.entries
        ]
        for grant in grants:
            lease = grant.lease
            self._check_grant(grant.function, lease.call, (lease.epoch, lease.counter), lease.car)
        reply = f"{self._terms}.{self.clock.now_s}.{action.counters[0]}"
        self._grants[reply] = action
        epoch, car = self.leader.board.epoch, self.cars[action.car]
        jobs = tuple(make_job(grant) for grant in grants)
        car.down.send(lambda: car.do(lambda: car.feed(t.Granted(epoch, reply, jobs))))
        self.clock.after(GRANT_ACCEPT_S, lambda: self.grant_answered(reply, None))

    def grant_answered(self, reply: str, accepted: list[int] | None) -> None:
        """The car's answer, or none in time."""
        action = self._grants.pop(reply, None)
        if action is not None:
            self.tell(events.GrantAnswered(action, accepted))

    # --- what cars say ----------------------------------------------------------------------------------------------

    def hear_hello(self, car: str, hello: CarHello, answer: Answer) -> None:
        if self.leader is not None:
            self.tell(events.HelloSaid(car, hello))
            answer(self.leader.board.epoch)

    def hear_offer(self, car: str, offer: Offer) -> None:
        self.tell(events.Offered(car, offer))

    def hear_beat(self, car: str, beat: Beat, answer: Answer) -> None:
        self.tell(events.Beaten(car, beat, answer))

    def hear_release(self, car: str, release: Release, answer: Answer) -> None:
        if self.leader is not None:
            self.tell(events.Released(car, release))
            answer(None)

    def hear_report(self, car: str, report: OutcomeReport, parts: list[memoryview], answer: Answer) -> None:
        def judged(verdicts: list[str]) -> None:
            for run, verdict in zip(report.outcomes, verdicts, strict=True):
                order = (run.lease.epoch, run.lease.counter)
                if verdict == "committed" and run.done is None and order < self.newest[run.lease.call]:
                    self.violations.append(f"stale: {run.lease.call} taken under {order} of {car}")
            answer(verdicts)

        self.tell(events.Reported(car, wire.results_of(report, parts), judged))

    # --- rules that hold at every moment -----------------------------------------------------------------------------

    def _check_grant(self, function: str, call: str, order: tuple[int, int], car: str) -> None:
        assert self.leader is not None
        if order <= self.newest.get(call, (0, 0)):
            self.violations.append(f"lease order: {call} granted as {order} after {self.newest[call]}")
        for other, lease in self.on_cars.get(call, {}).items():
            holder = self.leader.board.cars.get(other)
            if holder is not None and lease[1] in holder.leases and other != car:
                self.violations.append(f"double grant: {call} granted to {car} while {other} holds {lease}")
        entry = self.leader.board.entries.get(("default", call))
        if entry is not None and entry.lease is not None and (entry.lease.order != order):
            self.violations.append(f"double grant: {call} granted twice in one step")
        if lane_for(self.store.manifests[function].program, self.cars[car].core.config.offer(1)) is None:
            self.violations.append(f"lane: {call} of {function} granted to {car}, which can't run it")
        self._check_kept(call, car)
        for earlier in self._before(self.accepted[call]):
            self.violations.append(f"key: {call} granted to {car} before {earlier}, which isn't over")
        self.newest[call] = order
        limit = self.store.manifests[function].max_concurrency
        if limit is not None:
            held = sum(
                entry.lease is not None and entry.state.function == function
                for entry in self.leader.board.entries.values()
            )
            adopted = self.leader.board.counters.adopted
            if held > limit + adopted:
                self.violations.append(f"max_concurrency: {held} of {function} run, {limit} may")

    def _before(self, state: InvocationState) -> list[str]:
        """Calls of the same key that were accepted earlier and aren't over."""
        if not state.key:
            return []
        return [
            call
            for call, one in self.accepted.items()
            if (one.function, one.key) == (state.function, state.key)
            and one.order < state.order
            and call not in self.store.outcomes
        ]

    def _check_kept(self, call: str, car: str) -> None:
        """What a call goes on from draws it to the car that has it, if that could take it."""
        assert self.leader is not None
        board = self.leader.board
        for name in board.kept.cars_with("default", self.accepted[call].refs):
            keeper = board.cars.get(name)
            self.drawn += name == car
            if name != car and keeper is not None and keeper.has_place and not keeper.avoids("0" * 16):
                self.violations.append(f"kept: {call} granted to {car} though {name} has a place and its state")

    def started(self, car: SimulatedCar, slot: str, job: Job) -> None:
        """A slot begins to work on a job."""
        lane = lane_for(job.grant.program, car.core.config.offer(1))
        if lane is None or car.alive[slot] != lane:
            self.violations.append(f"lane: {job.lease.call} started on {car.name} in lane {car.alive[slot]}")
        if len(car.running) > car.core.config.slots:
            self.violations.append(f"bound: {car.name} runs {len(car.running)} jobs at once")
        if car.driving:
            self.violations.append(f"eligibility: {job.lease.call} started on {car.name}, which is driven")
        self.on_cars.setdefault(job.lease.call, {})[car.name] = (job.lease.epoch, job.lease.counter)

    def stopped(self, car: str, job: Job) -> None:
        """It no longer does."""
        self.on_cars.get(job.lease.call, {}).pop(car, None)

    def check_car(self, car: SimulatedCar) -> None:
        """After every event of a car."""
        told = car.core.signals is not None and car.core.signals.gear != "P"
        if car.driving and told and car.alive and not car.frozen:
            self.violations.append(f"eligibility: {car.name} is driven and has slots {sorted(car.alive)}")
        config = car.core.config
        of_wasm = sum(lane == WASM for lane in car.alive.values())
        if of_wasm > config.slots + config.spares or len(car.alive) - of_wasm > config.slots:
            self.violations.append(f"bound: {car.name} has slot processes of lanes {sorted(car.alive.values())}")
        if car.core.work.leases_held > config.slots * (1 + config.ahead):
            self.violations.append(f"bound: {car.name} holds {len(car.core.work.jobs)} leases")
