"""A dispatcher core in virtual time, with a stream and cars that answer at once. No I/O."""

from __future__ import annotations

from typing import Any, TypeVar

from fleet.protocol import limits
from fleet.protocol.messages import (
    Beat,
    CarHello,
    InvocationState,
    Lease,
    Manifest,
    Offer,
    Program,
    Release,
    Requires,
    Retries,
    RunOutcome,
    RunStatus,
    Standing,
)
from fnplatform.dispatcher import events
from fnplatform.dispatcher.core import DispatcherCore
from fnplatform.dispatcher.events import Action, Commit, Event, Grant, Requeue

KEY = b"k" * 32
VERSION = "0" * 16
DIGEST = "0" * 64
HERE = Standing(eligible=True)
AWAY = Standing(eligible=False, reasons=["not_parked"])
A = TypeVar("A")


def manifest(function: str = "f", **options: Any) -> Manifest:
    """A version of a function."""
    program = Program(bundle=DIGEST, bundle_bytes=1, module="m", qualname=function)
    if "memory_bytes" in options:
        program = program.model_copy(update={"memory_bytes": options.pop("memory_bytes")})
    if "region" in options:
        options["requires"] = Requires(region=options.pop("region"))
    return Manifest(app="app", function=function, display_name=function, program=program, **options)


def state(call: str, *, tenant: str = "default", function: str = "f", at: float = 0.0, **more: Any) -> InvocationState:
    """A call as the stream holds it."""
    return InvocationState(
        tenant=tenant, call=call, app="app", function=function, version=VERSION, inbox=f"_INBOX_dev_{tenant}.x",
        digest=DIGEST, payload_bytes=1, submitted_unix_s=at, **more,
    )  # fmt: skip


class Rig:
    """Feeds events; keeps what the core asked for and has not been answered."""

    def __init__(self, epoch: int = 1, *, adopting: bool = False, now_s: float = 100.0, seq: int = 0) -> None:
        self.now_s = now_s
        self.core = DispatcherCore(epoch, KEY, now_s, self.unix_s, notes=False)
        self.seq = seq
        self.actions: list[Action] = []
        self.done: list[Commit | Requeue] = []
        if not adopting:
            self.tell(events.CaughtUp())
            self.pass_s(limits.ADOPTION_S + 0.01)

    @property
    def unix_s(self) -> float:
        """Wall clock: far from the monotonic one, so that mixing them up shows."""
        return self.now_s + 1_000_000.0

    @property
    def board(self) -> Any:
        return self.core.board

    def tell(self, event: Event) -> list[Action]:
        """One event; what it caused."""
        actions = self.core.handle(event, self.now_s, self.unix_s)
        self.actions += actions
        return actions

    def take(self, kind: type[A]) -> list[A]:
        """Actions of this kind that weren't taken yet."""
        found: list[A] = []
        for action in self.actions:
            if isinstance(action, kind):
                found.append(action)
        self.actions = [action for action in self.actions if not isinstance(action, kind)]
        return found

    def pass_s(self, seconds: float, *beating: str) -> None:
        """Time passes in steps of a beat; the named cars beat on."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 1.0)
            for name in beating:
                self.beat(name)
            self.tell(events.Tick())

    # --- calls

    def submit(self, *calls: InvocationState, of: Manifest | None = None, backlog: bool = False) -> list[int]:
        """Store and queue calls; their sequence numbers."""
        new = []
        for call in calls:
            self.seq += 1
            made = of or manifest(call.function)
            new.append(events.NewCall(call, self.seq, made, backlog))
        self.tell(events.Queued(new))
        return [call.seq for call in new]

    # --- cars

    def car(self, name: str, slots: int = 1, **offer: Any) -> None:
        """A car that may work says hello."""
        made = Offer(slots=slots, **{"ahead": 1, **offer})
        self.tell(events.HelloSaid(name, CarHello(boot=f"boot-{name}", standing=HERE, offer=made)))

    def beat(self, name: str, leases: list[Lease] | None = None) -> events.BeatAnswer:
        """A beat with every lease the car holds (or just ``leases``)."""
        car = self.board.cars.get(name)
        held = leases
        if held is None:
            held = [entry.lease.lease for entry in car.leases.values()] if car else []
        offer = car.offer if car else Offer(slots=1)
        standing = car.standing if car else HERE
        boot = car.boot if car else f"boot-{name}"
        self.tell(events.Beaten(name, Beat(boot=boot, leases=held, standing=standing, offer=offer), None))
        return self.take(events.BeatAnswer)[-1]

    def leave(self, name: str, *leases: Lease) -> None:
        """The owner drives away."""
        self.tell(events.Released(name, Release(leases=list(leases), standing=AWAY)))

    def accept(self) -> list[Lease]:
        """Cars take everything that was granted; the leases."""
        leases = []
        for grant in self.take(Grant):
            leases += [entry.lease.lease for entry in grant.entries if entry.lease is not None]
            self.tell(events.GrantAnswered(grant, list(grant.counters)))
        return leases

    def report(self, lease: Lease, status: RunStatus = RunStatus.OK, *, byte: int = 0, **more: Any) -> list[str] | None:
        """An outcome of a single call, or of a chunk (``done``); the verdicts, None if none was told yet."""
        failed = more.pop("failed", [])
        run = RunOutcome(lease=lease, status=status, run_s=more.pop("run_s", 1.0), **more)
        result = events.Result(run, bytes([byte]), byte, failed)
        self.tell(events.Reported(lease.car, [result], None))
        return self.verdicts()

    def verdicts(self) -> list[str] | None:
        """The verdicts of the newest answered report."""
        found = self.take(events.Verdicts)
        return list(found[-1].verdicts) if found else None

    # --- the stream

    def store(self) -> list[Commit | Requeue]:
        """Everything that is to become durable does, also what follows from it; what it was."""
        stored: list[Commit | Requeue] = []
        while ops := [action for action in self.actions if isinstance(action, Commit | Requeue)]:
            self.actions = [action for action in self.actions if not isinstance(action, Commit | Requeue)]
            for op in ops:
                if isinstance(op, Requeue):
                    self.seq += 1
                self.tell(events.Stored(op, self.seq))
                stored.append(op)
        self.done += stored
        return stored

    def run(self, status: RunStatus = RunStatus.OK, **more: Any) -> list[Commit | Requeue]:
        """Every granted call runs to this end, and what follows is stored."""
        for lease in self.accept():
            self.report(lease, status, **more)
        return self.store()


def retries(attempts: int, delay_s: float = 0.0) -> Retries:
    """``attempts`` in all."""
    return Retries(max_attempts=attempts, delay_s=delay_s)
