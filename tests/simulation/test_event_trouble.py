"""Trouble that one tenant makes is its own: the routing of events goes on, for the others at once. In virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest

from fleet.protocol.ids import event_call_id
from fleet.protocol.messages import SubjectTrigger
from fleet.protocol.subjects import INVOCATION
from fnplatform.jetstream import StoredMessage
from fnplatform.triggers import plans
from tests.simulation.events_world import APP, TENANTS, Leader, World
from tests.simulation.virtual_loop import VirtualLoop

ACME, ZEBRA = TENANTS
LARGE = b"x" * 100_000
Story = Callable[[World, "list[Leader]", anyio.abc.TaskGroup], Awaitable[None]]


def told(story: Story) -> World:
    """The world after a story that begins with one leader, and two tenants with a function for everything."""
    world = World(1)
    for tenant in TENANTS:
        world.deploy(tenant, {"all": [SubjectTrigger(subject=">")]})

    async def main() -> None:
        async with anyio.create_task_group() as group:
            leader = Leader(world, 1, 0.0)
            group.start_soon(leader.run)
            await anyio.sleep(1.0)
            await story(world, [leader], group)
            group.cancel_scope.cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    return world


def queued_before(world: World, name: str) -> None:
    """The queue holds a call that has the name of an event's."""
    call = event_call_id(ACME, APP, "all", "/sim", name)
    subject = INVOCATION.build(partition="0", tenant=ACME, app=APP, function="all", call=call)
    world.last_seq += 1
    world.queue[subject] = StoredMessage(subject, world.last_seq, b"", "")


def started(world: World, tenant: str) -> list[str]:
    """The events that started something, each as often as it did."""
    counts = world.starts()
    return sorted(name for (owner, name, _), count in counts.items() if owner == tenant for _ in range(count))


def events_of(world: World) -> Counter[str]:
    """How many events were started by tenant; those whose arguments are blobs as well."""
    found: Counter[str] = Counter()
    for _, state, _ in world.stored:
        found[state.tenant] += state.items or 1
    return found


def test_a_call_that_is_there_already_stops_nothing() -> None:
    async def story(world: World, leaders: list[Leader], group: anyio.abc.TaskGroup) -> None:
        first = leaders[0].service.life
        for number in range(2, 12):
            queued_before(world, f"e{number}")
        for _ in range(12):
            world.publish(ACME, "s")
        world.publish(ZEBRA, "s")
        await anyio.sleep(1.0)
        assert leaders[0].service.life is first

    world = told(story)
    assert started(world, ZEBRA) == ["e13"]
    assert started(world, ACME) == ["e1", "e12"]


def test_nor_does_it_stop_a_trigger_that_lags() -> None:
    async def story(world: World, leaders: list[Leader], group: anyio.abc.TaskGroup) -> None:
        queued_before(world, "e1")
        leaders[0].term.pressed = True
        for _ in range(12):
            world.publish(ACME, "s")
        await anyio.sleep(3.0)
        assert started(world, ACME) == []
        leaders[0].term.pressed = False
        await anyio.sleep(1.0)
        world.publish(ZEBRA, "s")
        await anyio.sleep(1.0)

    world = told(story)
    assert started(world, ZEBRA) == ["e13"]
    assert started(world, ACME) == sorted(f"e{number}" for number in range(2, 13))


def test_a_trigger_that_was_changed_finishes_under_the_next_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "CALLS_MAX", 4)

    seen: list[str] = []

    async def story(world: World, leaders: list[Leader], group: anyio.abc.TaskGroup) -> None:
        for _ in range(600):
            world.publish(ACME, "s")
        life = leaders[0].service.life
        assert life is not None
        while life.router.waiting < 100:
            await anyio.sleep(0.0001)
        world.deploy(ACME, {"all": [SubjectTrigger(subject="other")]})
        await leaders[0].service.reload(ACME, APP)
        stamp, head = life.router.durable.stamp, life.router.head
        while life.router.durable.stamp < stamp + 2:  # one may have been on its way
            await anyio.sleep(0.0001)
        assert life.router.durable.seq < head
        leaders[0].scope.cancel()
        world.finish_some(1000)
        leaders.append(Leader(world, 2, 0.0))
        group.start_soon(leaders[1].run)
        await anyio.sleep(3.0)
        world.publish(ACME, "s")
        seen.extend([*(f"e{number}" for number in range(1, head + 1)), world.publish(ACME, "other")])
        await anyio.sleep(3.0)

    assert started(told(story), ACME) == sorted(seen)


def test_large_events_without_room_hold_up_their_own_trigger_alone() -> None:
    async def story(world: World, leaders: list[Leader], group: anyio.abc.TaskGroup) -> None:
        world.no_blobs.add(ACME)
        for _ in range(3):
            world.publish(ACME, "s", LARGE)
        await anyio.sleep(0.1)
        for _ in range(40):
            world.publish(ZEBRA, "s")
            await anyio.sleep(0.25)
        await anyio.sleep(1.0)
        assert events_of(world) == {ZEBRA: 40}
        world.no_blobs.clear()
        await anyio.sleep(20.0)

    assert events_of(told(story)) == {ACME: 3, ZEBRA: 40}
