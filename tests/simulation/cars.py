"""One simulated car: the agent's own core, slots whose work is a timer, signals that chance sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fleet.protocol.frames import pack_items
from fleet.protocol.lanes import WASM
from fleet.protocol.messages import Beat, CarHello, Device, LeaseGrant, OutcomeReport, Release
from runtime import agent_types as t
from runtime.agent_config import AgentConfig
from runtime.agent_jobs import Job
from runtime.agent_state import AgentCore
from runtime.signals.model import Charging, Gear, Signals
from runtime.standing import OwnerPolicy
from tests.simulation.clockwork import Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

SLOT_START_S = 0.25
JAX_START_S = 2.0
REAP_S = 0.005
PUT_S = 0.02
TICK_S_MIN = 0.001


class SimulatedCar:
    """See the module. ``frozen``: nothing of it moves, its messages wait."""

    def __init__(self, world: World, name: str, policy: OwnerPolicy, devices: tuple[Device, ...] = ()) -> None:
        self.world = world
        self.name = name
        self.policy = policy
        self.devices = devices
        self.boots = 0
        self.frozen = False
        self.dead = False
        self.driving = False
        self.up = Wire(world.clock)
        self.down = Wire(world.clock)
        self._waiting: list[Callable[[], None]] = []
        self._tick_at_s = float("inf")
        self.alive: dict[str, str] = {}
        """Lanes of the slot processes that exist."""
        self.running: dict[str, Job] = {}
        self.boot()

    # --- life --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the agent (again)."""
        self.boots += 1
        self.dead = False
        self.alive, self.running = {}, {}
        self._waiting.clear()
        config = AgentConfig(
            self.name, f"boot{self.boots}", slots=1, spares=1, ahead=3, policy=self.policy,
            lanes=(WASM, *(device.lane for device in self.devices)), devices=self.devices,
        )  # fmt: skip
        self.core = AgentCore(config)
        self._tick_at_s = float("inf")
        self.feed(t.Connected())
        self.signal()

    def kill(self) -> None:
        """kill -9 of the agent: its slots die with it."""
        self.dead = True
        for job in self.running.values():
            self.world.stopped(self.name, job)
        self.alive, self.running = {}, {}
        self.up.break_off()
        self.down.break_off()

    def freeze(self) -> None:
        """Everything stops where it is."""
        self.frozen = True

    def thaw(self) -> None:
        """Everything goes on; what waited arrives now."""
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            act()

    def cut(self) -> None:
        """The network is gone."""
        self.up.cut = self.down.cut = True
        self.up.break_off()
        self.down.break_off()
        self.feed(t.Disconnected())

    def heal(self) -> None:
        """The network is back."""
        self.up.cut = self.down.cut = False
        if not self.dead:
            self.do(lambda: self.feed(t.Connected()))

    def signal(self) -> None:
        """The source tells the car's state."""
        parked = not self.driving
        gear = Gear.PARK if parked else Gear.DRIVE
        self.feed(
            t.SignalHeard(
                Signals(
                    self.world.clock.unix_s, gear=gear, plugged_in=parked, soc_pct=80.0, wifi=True, fast_charging=False,
                    charging=Charging.CHARGING if parked else Charging.DISCONNECTED, battery_c=20.0, cabin_c=20.0,
                )
            )
        )  # fmt: skip

    def do(self, act: Callable[[], None]) -> None:
        """Do something on the car: now, at thaw, or never if it dies before."""
        boot = self.boots

        def if_same() -> None:
            if not self.dead and self.boots == boot:
                act()

        if self.frozen:
            self._waiting.append(if_same)
        else:
            if_same()

    # --- the core ----------------------------------------------------------------------------------------------------

    def feed(self, event: t.Event) -> None:
        """One event, and all that follows from it."""
        if self.dead:
            return
        if self.frozen:
            self._waiting.append(lambda: self.feed(event))
            return
        clock = self.world.clock
        for action in self.core.handle(event, clock.now_s + 1000.0, clock.unix_s):
            self._act(action)
        self.world.check_car(self)
        due_s = self.core.due_s - 1000.0
        if due_s < self._tick_at_s:
            self._tick_at_s = due_s
            boot = self.boots
            clock.after(max(TICK_S_MIN, due_s - clock.now_s), lambda: self._tick(boot, due_s))

    def _tick(self, boot: int, due_s: float) -> None:
        if boot == self.boots and due_s == self._tick_at_s:
            self._tick_at_s = float("inf")
            self.do(lambda: self.feed(t.Tick()))

    def _act(self, action: Any) -> None:
        world = self.world
        match action:
            case t.StartSlot(slot, lane):
                self.alive[slot] = lane
                start_s = SLOT_START_S if lane == WASM else JAX_START_S
                world.clock.after(start_s, lambda: self.do(lambda: self._slot_ready(slot)))
            case t.KillSlots(slots):
                for slot in slots:
                    self._kill_slot(slot)
            case t.RunJob(slot, job):
                self._run(slot, job)
            case t.ReplyGrant(reply, accepted, _):
                self.up.send(lambda: world.grant_answered(reply, list(accepted)))
            case t.SendHello(standing, offer):
                hello = CarHello(boot=self.core.config.boot, standing=standing, offer=offer)
                self._ask(lambda answer: world.hear_hello(self.name, hello, answer), self._hello_answered)
            case t.SendOffer(offer):
                self.up.send(lambda: world.hear_offer(self.name, offer))
            case t.SendBeat(leases, standing, offer, _):
                beat = Beat(boot=self.core.config.boot, leases=list(leases), standing=standing, offer=offer)
                sent_s = world.clock.now_s + 1000.0
                self._ask(
                    lambda answer: world.hear_beat(self.name, beat, answer),
                    lambda got: self.feed(t.BeatAnswered(sent_s, got[0], tuple(got[1]), got[2])),
                )
            case t.SendRelease(number, leases, standing, reason):
                release = Release(leases=list(leases), standing=standing, reason=reason)
                self._ask(
                    lambda answer: world.hear_release(self.name, release, answer),
                    lambda _: self.feed(t.ReleaseAnswered(number)),
                )
            case t.PutBlob(entry, kept=str(digest), data=data):
                stored = t.BlobStored(entry, digest, len(data), kept=True)
                world.clock.after(PUT_S, lambda: self.do(lambda: self.feed(stored)))
            case t.SendReport(number, outcomes, parts):
                report = OutcomeReport.model_construct(outcomes=list(outcomes))
                copies = [memoryview(bytes(part)) for part in parts]
                self._ask(
                    lambda answer: world.hear_report(self.name, report, copies, answer),
                    lambda verdicts: self.feed(t.Verdicts(number, tuple(v == "committed" for v in verdicts))),
                )

    def _hello_answered(self, epoch: int) -> None:
        self.feed(t.HelloAnswered(epoch))

    def _ask(self, ask: Callable[[Callable[[Any], None]], None], on_answer: Callable[[Any], None]) -> None:
        """A request: the answer finds its way back unless something on the way is lost."""
        self.up.send(lambda: ask(lambda got: self.down.send(lambda: self.do(lambda: on_answer(got)))))

    # --- slots -------------------------------------------------------------------------------------------------------

    def _slot_ready(self, slot: str) -> None:
        if slot in self.alive:
            self.feed(t.SlotReady(slot))

    def _kill_slot(self, slot: str) -> None:
        if slot in self.alive:
            del self.alive[slot]
            job = self.running.pop(slot, None)
            if job is not None:
                self.world.stopped(self.name, job)
            self.world.clock.after(REAP_S, lambda: self.do(lambda: self.feed(t.SlotExited(slot))))

    def _run(self, slot: str, job: Job) -> None:
        if slot not in self.alive:
            return
        if slot not in self.running:
            self._begin(slot, job)

    def _begin(self, slot: str, job: Job) -> None:
        world, clock = self.world, self.world.clock
        self.running[slot] = job
        world.started(self, slot, job)
        run = job.run
        fate = world.fate_of(job)
        if job.items is not None and job.items > 1:
            half = job.items // 2
            results = pack_items([world.result_of(job, index) for index in range(half)])

            def partial() -> None:
                if self.running.get(slot) is job and job.run == run:
                    self.feed(t.SlotItems(slot, run, 0, results))

            clock.after(fate.run_s / 2, lambda: self.do(partial))
        clock.after(fate.run_s, lambda: self.do(lambda: self._end(slot, job, run, fate.trap)))

    def _end(self, slot: str, job: Job, run: int, trap: bool) -> None:
        if self.running.get(slot) is not job or job.run != run:
            return
        world = self.world
        del self.running[slot]
        world.stopped(self.name, job)
        if trap:
            self.feed(t.SlotTrapped(slot, run, None if job.items is None else job.finished, "trap"))
            return
        if job.items is None:
            if job.grant.function == "tensor":
                self.feed(t.SlotKept(slot, run, world.state_after(job), b"state"))
            self.feed(t.SlotDone(slot, run, world.result_of(job, 0)))
        else:
            first = job.items // 2 if job.items > 1 else 0
            rest = pack_items([world.result_of(job, index) for index in range(first, job.items)])
            self.feed(t.SlotDone(slot, run, rest, first))
        following = self.core.work.pool.slots.get(slot)
        if following is not None and following.jobs and slot in self.alive and slot not in self.running:
            self._begin(slot, following.jobs[0])


def make_job(grant: LeaseGrant) -> Job:
    """What the agent's shell makes of a granted lease."""
    return Job(grant, b"", b"", program_key=grant.version)
