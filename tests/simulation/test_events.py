"""Every event starts each matching function exactly once, whatever happens in between: seeds in virtual time."""

from __future__ import annotations

import asyncio
import os

import anyio
import anyio.abc
import pytest

from fleet.protocol.messages import SubjectTrigger
from tests.simulation.events_world import APP, TENANTS, Leader, World
from tests.simulation.virtual_loop import VirtualLoop

SEEDS = int(os.environ.get("FLEET_EVENT_SEEDS", "240"))
SLICES = 4
EVENTS = 120
STEADY = {
    "all": [SubjectTrigger(subject=">")],
    "some": [SubjectTrigger(subject="s.*.t"), SubjectTrigger(subject="s.7.*")],
    "one": [SubjectTrigger(subject="s.7.t")],
}
SUBJECTS = ("s.7.t", "s.8.t", "s.7.u", "x")
WANTED = {"s.7.t": {"all", "some", "one"}, "s.8.t": {"all", "some"}, "s.7.u": {"all", "some"}, "x": {"all"}}


async def _publish(world: World) -> None:
    """Events in bursts and one by one."""
    rng = world.random
    left = EVENTS
    while left:
        burst = min(left, rng.choice((1, 1, 1, 2, 5, 40)))
        left -= burst
        for _ in range(burst):
            tenant, subject = rng.choice(TENANTS), rng.choice(SUBJECTS)
            wanted = set(WANTED[subject])
            name = world.publish(tenant, subject)
            world.expected[tenant, name] = wanted
        await anyio.sleep(rng.choice((0.0002, 0.002, 0.02, 0.2, 1.5)))


async def _disturb(world: World, group: anyio.abc.TaskGroup, leaders: list[Leader]) -> None:
    """Leaders die or freeze, the queue fills up, tenants have too much in it, versions change."""
    rng = world.random
    while True:
        await anyio.sleep(rng.choice((0.001, 0.01, 0.1, 0.7)))
        what = rng.choice(("crash", "usurp", "finish", "finish", "full", "room", "press", "release", "deploy"))
        if what == "crash":
            leaders[-1].scope.cancel()
            await anyio.sleep(rng.choice((0.0, 0.01, 1.0)))
            _lead(world, group, leaders)
        elif what == "usurp":  # the one before goes on as if nothing had happened
            _lead(world, group, leaders)
        elif what == "finish":
            world.finish_some(rng.choice((1, 10, 1000)))
        elif what in ("full", "room"):
            world.room = len(world.queue) + rng.choice((0, 3)) if what == "full" else 10**9
        elif what in ("press", "release"):
            leaders[-1].term.pressed = what == "press"
        else:
            tenant = rng.choice(TENANTS)
            world.deploy(tenant, STEADY)
            await leaders[-1].service.reload(tenant, APP)


def _lead(world: World, group: anyio.abc.TaskGroup, leaders: list[Leader]) -> None:
    leader = Leader(world, len(leaders) + 1, world.random.choice((0.0, 0.02, 0.2)))
    leaders.append(leader)
    group.start_soon(leader.run)


async def _settled(world: World, leader: Leader) -> None:
    """Until the last leader has done all there is."""
    with anyio.fail_after(120):
        while True:
            await anyio.sleep(1.0)
            life = leader.service.life
            if life is None:
                continue
            router = life.router
            if router.durable.seq == len(world.events) and not router.durable.lagging and not router.under_way:
                return


async def storm(world: World) -> None:
    for tenant in TENANTS:
        world.deploy(tenant, STEADY)
    async with anyio.create_task_group() as group:
        leaders: list[Leader] = []
        _lead(world, group, leaders)
        async with anyio.create_task_group() as weather:
            weather.start_soon(_disturb, world, group, leaders)
            await _publish(world)
            weather.cancel_scope.cancel()
        world.room = 10**9
        for leader in leaders[:-1]:
            leader.term.pressed = False
        leaders[-1].scope.cancel()
        _lead(world, group, leaders)
        leaders[-1].line.faults = 0.0
        await _settled(world, leaders[-1])
        await anyio.sleep(5.0)  # what was held back arrives
        group.cancel_scope.cancel()


def judge(world: World) -> list[str]:
    """What is wrong."""
    starts = world.starts()
    wrong = [f"{key} was started {count} times" for key, count in starts.items() if count != 1]
    for (tenant, name), functions in world.expected.items():
        got = {function for function in WANTED[">"] if (tenant, name, function) in starts}
        if got != functions:
            wrong.append(f"{name} of {tenant} started {sorted(got)}, not {sorted(functions)}")
    calls = [(subject, state.version) for subject, state, _ in world.stored]
    wrong += [
        f"{subject} was stored twice" for subject in {s for s, _ in calls} if sum(s == subject for s, _ in calls) > 1
    ]
    return wrong


WANTED[">"] = set(STEADY)


@pytest.mark.parametrize("part", range(SLICES))
def test_every_event_starts_each_function_once_through_crashes_and_lost_answers(part: int) -> None:
    for seed in range(part, SEEDS, SLICES):
        world = World(seed)
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(storm(world))
        assert judge(world) == [], f"seed {seed}: {judge(world)[:5]}"
