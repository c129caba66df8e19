"""The shell of the clocks over a store that fails, dies, and forgets to answer; in virtual time."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import Event
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.ids import tick_call_id
from fleet.protocol.messages import InvocationState, Manifest, Program
from fleet.protocol.messages.triggers import AtTrigger, CronTrigger, EveryTrigger, Trigger
from fnplatform.jetstream import StreamFull
from fnplatform.triggers import ticking
from fnplatform.triggers.clocks import ClockState
from fnplatform.triggers.table import Bound, bounds_of
from fnplatform.triggers.ticking import Ticking

START = 1_800_000_000.25
V1, V2 = "1" * 16, "2" * 16
PROGRAM = Program(bundle="0" * 64, bundle_bytes=1, module="m", qualname="f")


def bounds(*triggers: Trigger, function: str = "f", version: str = V1, takes_event: bool = True) -> list[Bound]:
    manifest = Manifest(
        app="app", function=function, display_name=function, program=PROGRAM, triggers=list(triggers),
        takes_event=takes_event,
    )  # fmt: skip
    return bounds_of("default", version, manifest)


class World:
    """Table, ledger, alarm and clock of a Ticking."""

    def __init__(self, live: Sequence[Bound]) -> None:
        self.now = START
        self.live = list(live)
        self.stored: dict[str, ClockState] = {}
        self.calls: list[tuple[InvocationState, bytes]] = []
        self.batches: list[int] = []
        self.armed: float | None = None
        self.fail: list[str] = []
        self.full = False
        self.deployed_unix_s = START
        self.on_store = lambda: None
        self.on_arm = anyio.Event()

    def clocks(self) -> list[Bound]:
        return self.live

    def arm(self, at_unix_s: float | None) -> None:
        self.armed = at_unix_s
        self.on_arm.set()

    def ring(self) -> None: ...

    async def wait(self) -> None:
        await anyio.sleep_forever()

    async def deployed(self, tenant: str, app: str) -> float:
        assert (tenant, app) == ("default", "app")
        return self.deployed_unix_s

    def times(self, function: str = "f") -> list[float]:
        """Scheduled times of a function's calls, from START's whole second."""
        found = []
        for state, payload in self.calls:
            if state.function == function:
                (event,), options = pickle.loads(payload)
                assert isinstance(event, Event) and options == {} and event.time is not None
                found.append(round(event.time.timestamp() - int(START), 3))
        return found


class Ledger:
    def __init__(self, world: World) -> None:
        self.world = world

    async def clocks(self) -> Mapping[str, ClockState]:
        return dict(self.world.stored)

    async def store_ticks(
        self, calls: Sequence[tuple[InvocationState, bytes]], clocks: Mapping[str, ClockState]
    ) -> None:
        world = self.world
        mode = world.fail.pop(0) if world.fail else ""
        if mode == "lost":
            raise FleetUnavailable("no connection")
        if mode == "full":
            raise StreamFull("full")
        world.calls += calls
        world.stored = dict(clocks)
        world.batches.append(len(calls))
        world.on_store()
        if mode == "unanswered":
            raise FleetUnavailable("no answer")


def ticking_of(world: World) -> Ticking:
    return Ticking(world, Ledger(world), world, world.deployed, lambda tenant: not world.full, lambda: world.now)


async def settle(one: Ticking) -> bool:
    try:
        await one.settle()
    except (FleetUnavailable, StreamFull):
        one._stale = True  # as run() does
        return False
    return True


EVERY = EveryTrigger(every_s=1.0, missed="all")


def test_a_tick_is_a_call_with_an_event() -> None:
    async def main() -> None:
        world = World(bounds(CronTrigger(expression="*/5 * * * * *", timezone="Asia/Kolkata")))
        one = ticking_of(world)
        await one.settle()
        assert world.calls == [], "it starts with its deploy"
        world.now = START + 5.125
        await one.settle()
        ((state, payload),) = world.calls
        (event,), _ = pickle.loads(payload)
        assert (event.type, event.source, event.subject) == ("fleet.tick", "/fleet/default/app/f/clock", "")
        assert event.id == event.data["scheduled"] == "2027-01-15T08:00:05Z"
        assert event.data["late_s"] == 0.375 and event.time.isoformat() == "2027-01-15T08:00:05+00:00"
        assert state.call == tick_call_id("default", "app", "f", V1, event.id)
        assert (state.trigger, state.inbox, state.version) == ("cron", "", V1)

    anyio.run(main)


def test_a_function_without_a_parameter_gets_no_event() -> None:
    async def main() -> None:
        world = World(bounds(EVERY, takes_event=False))
        one = ticking_of(world)
        await one.settle()
        world.now += 1
        await one.settle()
        assert [pickle.loads(payload) for _, payload in world.calls] == [((), {})]

    anyio.run(main)


def test_two_clocks_of_a_function_at_one_moment_start_it_once() -> None:
    async def main() -> None:
        clocks = [EVERY, CronTrigger(expression="*/2 * * * * *", missed="all"), EVERY]
        world = World([*bounds(*clocks), *bounds(EVERY, function="g")])
        one = ticking_of(world)
        await one.settle()
        world.now += 4
        await one.settle()
        assert world.times("f") == world.times("g") == [1, 2, 3, 4]
        assert {state.last_unix_s for state in world.stored.values()} == {int(START) + 4.0}
        assert len(world.stored) == 3

    anyio.run(main)


def test_a_new_leader_goes_on_where_the_last_one_stopped() -> None:
    async def main() -> None:
        world = World(bounds(EVERY))
        world.deployed_unix_s = START - 3  # nobody led then
        await ticking_of(world).settle()
        assert world.times() == [-2, -1, 0]
        world.now += 3
        world.deployed_unix_s = START + 2  # what is stored counts, not the newest deploy
        await ticking_of(world).settle()
        assert world.times() == [-2, -1, 0, 1, 2, 3]

    anyio.run(main)


def test_deploys_change_which_clocks_there_are() -> None:
    async def main() -> None:
        old = bounds(EVERY, EveryTrigger(every_s=2, missed="all"))
        world = World([*old, *bounds(EVERY, function="gone")])
        one = ticking_of(world)
        await one.settle()
        world.now += 2
        world.live = bounds(EVERY, EveryTrigger(every_s=3, missed="all"), version=V2)
        world.deployed_unix_s = START + 1.5
        await one.changed()
        await one.settle()
        assert [(state.version, state.function) for state, _ in world.calls] == [(V2, "f")] * 2, "none of the old one"
        assert world.times() == [1, 2], "an unchanged clock goes on"
        assert set(world.stored) == {bound.id for bound in world.live}
        world.live = []
        await one.changed()
        world.now += 100
        await one.settle()
        assert world.stored == {} and len(world.calls) == 2
        world.live, world.deployed_unix_s = old, world.now
        await one.changed()
        await one.settle()
        assert len(world.calls) == 2, "deployed again, it starts with that"

    anyio.run(main)


def test_a_deploy_between_two_batches_ends_the_old_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticking, "SLICE", 4)

    async def main() -> None:
        world = World(bounds(EVERY))
        one = ticking_of(world)
        await one.settle()
        world.now += 10

        def deploy() -> None:
            world.live = bounds(EVERY, version=V2)
            one._stale = True  # what changed() does first

        world.on_store = deploy
        await one.settle()
        world.on_store = lambda: None
        await one.settle()
        assert world.times() == list(range(1, 11))
        assert [state.version for state, _ in world.calls] == [V1] * 4 + [V2] * 6
        assert world.batches == [0, 4, 4, 2]

    anyio.run(main)


def test_a_single_time_that_was_over_at_the_deploy_never_runs() -> None:
    async def main() -> None:
        world = World([*bounds(AtTrigger(at_unix_s=START - 1)), *bounds(AtTrigger(at_unix_s=START + 1), function="g")])
        one = ticking_of(world)
        for _ in range(3):
            await one.settle()
            world.now += 10
        assert [state.function for state, _ in world.calls] == ["g"]

    anyio.run(main)


def test_run_tries_again_and_arms_the_alarm_for_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticking, "RETRY_S", 0.001)

    async def main() -> None:
        world = World([*bounds(EveryTrigger(every_s=10)), *bounds(EveryTrigger(every_s=7), function="g")])
        world.fail = ["lost", "full", "unanswered"]
        async with anyio.create_task_group() as group:
            group.start_soon(ticking_of(world).run)
            with anyio.fail_after(5):
                await world.on_arm.wait()
            group.cancel_scope.cancel()
        assert world.armed == min(10 * (START // 10 + 1), 7 * (START // 7 + 1))
        assert world.fail == [] and len(world.stored) == 2

    anyio.run(main)


def test_ticks_wait_while_their_tenant_has_too_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticking, "SLICE", 4)

    async def main() -> None:
        world = World(bounds(EVERY))
        one = ticking_of(world)
        await one.settle()
        world.now += 10
        world.full = True
        assert await one.settle() == {"default"} and world.calls == []
        world.full = False

        def fill() -> None:
            world.full = True

        world.on_store = fill
        assert await one.settle() == {"default"} and world.times() == [1, 2, 3, 4]
        world.full, world.on_store = False, lambda: None
        assert await one.settle() == set() and world.times() == list(range(1, 11))

    anyio.run(main)


_STEP = st.tuples(
    st.floats(-5.0, 30.0),
    st.sampled_from(["", "", "lost", "full", "unanswered"]),
    st.sampled_from(["", "", "", "crash", "deploy"]),
)


@given(st.lists(_STEP, max_size=30))
@settings(max_examples=60, deadline=None)
def test_every_tick_runs_once_through_crashes_failures_and_deploys(steps: list[tuple[float, str, str]]) -> None:
    async def main() -> None:
        world = World([*bounds(EVERY), *bounds(CronTrigger(expression="* * * * * *", missed="one"), function="g")])
        one = ticking_of(world)
        await one.settle()
        farthest = world.now
        for step_s, failure, what in [*steps, (5.0, "", "crash")]:
            world.now += step_s
            world.fail = [failure] * bool(failure)
            if what == "crash":
                one = ticking_of(world)
            elif what == "deploy":
                world.live = [
                    *bounds(EVERY, version=V2 if world.live[0].version == V1 else V1),
                    *world.live[1:],
                ]
                await one.changed()
            if await settle(one) or failure == "unanswered":
                farthest = max(farthest, world.now)
        world.fail = []
        world.now = max(world.now, farthest)  # the clock may have been set back since
        assert await settle(one)
        assert world.times() == [float(second) for second in range(1, int(world.now) - int(START) + 1)]
        assert max(Counter(world.times("g")).values(), default=1) == 1
        assert max(Counter(state.call for state, _ in world.calls).values(), default=1) == 1

    anyio.run(main)
