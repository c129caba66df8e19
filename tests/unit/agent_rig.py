"""A car in virtual time: the agent's core, its clock, and the slots it asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pytest

from fleet.protocol.limits import MIB
from fleet.protocol.messages import Batch, BlobRef, Device, JaxModule, JaxProgram, Lease, LeaseGrant, Program, RunStatus
from runtime import agent_types as t
from runtime.agent_config import AgentConfig
from runtime.agent_jobs import Job
from runtime.agent_state import AgentCore
from runtime.signals.model import Gear, Signals
from runtime.standing import OwnerPolicy

A = TypeVar("A")
UNIX_S = 1_700_000_000.0
CAR = "car-1"
_CPU = Device(lane="jax-cpu", calling_convention_min=9, calling_convention_max=10, stablehlo="1.13.4")
DEVICES = {"jax-cpu": _CPU, "jax-gpu": _CPU.model_copy(update={"lane": "jax-gpu", "memory_bytes": 8 << 30})}


def lease(counter: int, epoch: int = 1, call: str = "") -> Lease:
    return Lease(call=call or f"call-{epoch}-{counter}", seq=counter, epoch=epoch, counter=counter, car=CAR, mac="m")


def job(
    counter: int, *, epoch: int = 1, call: str = "", items: list[tuple[int, int]] | None = None, program: str = "a",
    timeout_s: float = 60.0, tenant: str = "default", exact: bool = False, complete: bool = True, memory: int = 64 * MIB,
    car: str = CAR, refs_bytes: int = 0, stream: bool = False, skip: int = 0, consumed: int = 0, jax: str = "",
    batch: tuple[int, float] | None = None,
) -> Job:  # fmt: skip
    modules = [JaxModule(platforms=[jax], calling_convention=10, stablehlo="1.10.0")] if jax else []  # type: ignore[list-item]
    gathered = Batch(max_size=batch[0], max_wait_s=batch[1]) if batch else None
    grant = LeaseGrant(
        lease=lease(counter, epoch, call).model_copy(update={"car": car}), tenant=tenant, app="app", function=program,
        version=f"{ord(program):016x}", item_numbers=items, exact=exact, stream=stream, skip=skip, consumed=consumed,
        program=Program(
            bundle="0" * 64, bundle_bytes=1, module="m", qualname="f", timeout_s=timeout_s, memory_bytes=memory,
            runtime="jax" if jax else "wasm", jax=JaxProgram(modules=modules, batch=gathered) if jax else None,
        ),
        refs=[BlobRef(digest="a" * 64, size_bytes=refs_bytes)] if refs_bytes else [],
    )  # fmt: skip
    return Job(grant, b"args", b"bundle" if complete else None, program_key=program)


class Car:
    """A core, its clock, and the slots it asked for."""

    def __init__(
        self,
        *,
        slots: int = 1,
        spares: int = 1,
        ahead: int = 2,
        come_back_s: float = 0.0,
        lanes: Sequence[str] = ("wasm",),
    ) -> None:
        policy = OwnerPolicy(come_back_s=come_back_s)
        self.core = AgentCore(
            AgentConfig(
                CAR, "boot", slots=slots, spares=spares, ahead=ahead, simulated=True, policy=policy, lanes=tuple(lanes),
                devices=tuple(DEVICES[lane] for lane in lanes if lane in DEVICES),
            )
        )  # fmt: skip
        self.now_s = 1000.0
        self.did: list[t.Action] = []
        self.alive: list[str] = []
        self.killed: list[str] = []

    def tell(self, *events: t.Event) -> list[t.Action]:
        did: list[t.Action] = []
        for event in events:
            some = self.core.handle(event, self.now_s, UNIX_S + self.now_s)
            sent = [action for action in some if isinstance(action, t.RunJob)]
            assert all(one.job.slot == one.slot for one in sent), "sent to a slot that dies in the same moment"
            did += some
        for action in did:
            if isinstance(action, t.StartSlot):
                self.alive.append(action.slot)
            elif isinstance(action, t.KillSlots):
                self.killed += action.slots
                self.alive = [slot for slot in self.alive if slot not in action.slots]
        self.did += did
        return did

    def wait(
        self, seconds: float, running: dict[str, t.Running] | None = None, *, beats: bool = True
    ) -> list[t.Action]:
        """Let time pass as the shell would: a Tick whenever the core is due; beats are answered."""
        did: list[t.Action] = []
        until_s = self.now_s + seconds
        for _ in range(1000):
            due_s = max(self.now_s, self.core.due_s)
            if due_s > until_s:
                break
            self.now_s = due_s
            some = self.tell(t.Tick(running or {}))
            did += some
            if beats and of(some, t.SendBeat):
                self.tell(t.BeatAnswered(self.now_s, 1))
        else:
            pytest.fail("the core is due again and again without moving")
        self.now_s = until_s
        return did

    def hear(self, *, plugged_in: bool = True, departing: bool = False) -> list[t.Action]:
        return self.tell(
            t.SignalHeard(
                Signals(
                    at_unix_s=UNIX_S + self.now_s, gear=Gear.PARK, plugged_in=plugged_in, fast_charging=False, soc_pct=80,
                    departing=departing,
                )
            )
        )  # fmt: skip

    def up(self) -> Car:
        """Eligible, connected, known, all slots ready."""
        self.hear()
        self.tell(t.Connected(), t.HelloAnswered(1))
        self.ready()
        return self

    def ready(self) -> list[t.Action]:
        return self.tell(*(t.SlotReady(slot) for slot in self.alive if not self.core.work.pool.slots[slot].ready))

    def grant(self, *jobs: Job, epoch: int = 1) -> list[t.Action]:
        return self.tell(t.Granted(epoch, "reply", jobs))

    def done(self, given: Job, result: bytes = b"\x00r") -> list[t.Action]:
        assert given.slot is not None
        return self.tell(t.SlotDone(given.slot, given.run, result))

    def commit(self, *, but: Sequence[int] = ()) -> list[t.Action]:
        """Answer all reports that fly; those of the counters in ``but`` are refused."""
        did: list[t.Action] = []
        for report in list(self.core.work.outbox._flying.values()):
            verdicts = tuple(entry.outcome.lease.counter not in but for entry in report.entries)
            did += self.tell(t.Verdicts(report.number, verdicts))
        return did


def of(actions: Sequence[object], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def names(actions: Sequence[object]) -> list[str]:
    return [type(action).__name__ for action in actions]


def outcomes(actions: Sequence[object]) -> list[tuple[int, RunStatus]]:
    return [(o.lease.counter, o.status) for report in of(actions, t.SendReport) for o in report.outcomes]
