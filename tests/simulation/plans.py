"""A plan of what happens to a simulated fleet, drawn from a seed, and the judgement of how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fnplatform.dispatcher import chunks, events
from tests.chaos.checker import check
from tests.simulation.cars import SimulatedCar
from tests.simulation.world import FLAKY, World

STORM_S = 40.0
END_S = 400.0


def calm(world: World) -> None:
    """Calls arrive and owners come and go: nothing else happens, so nothing may count against any call."""
    _calls(world)
    for car in world.cars.values():
        _fate_of_car(world, car, ("drive",))
    _heartbeats(world)


def takeover(world: World) -> None:
    """Long calls run, and the leader is killed, at whatever moment between two beats: nothing else happens."""
    for _ in range(3):
        world.clock.after(world.clock.random.uniform(0.5, 1.5), lambda: world.submit("long"))
    world.clock.after(world.clock.random.uniform(1.6, 4.5), world.crash)
    _heartbeats(world)


def storm(world: World) -> None:
    """Calls arrive, owners come and go, cars die, freeze and lose their network, the leader is killed."""
    clock, rng = world.clock, world.clock.random
    _calls(world)
    for car in world.cars.values():
        _fate_of_car(world, car, ("drive", "drive", "drive", "freeze", "cut", "kill"))
    for _ in range(rng.randint(0, 2)):
        clock.after(rng.uniform(5, STORM_S), world.crash)
    kinds = (events.Commit, events.Requeue, events.Grant, events.Check)
    world.crash_at = {kind: rng.randint(1, 30) for kind in rng.sample(kinds, rng.randint(0, 2))}
    _heartbeats(world)


def _calls(world: World) -> None:
    clock, rng = world.clock, world.clock.random
    for _ in range(rng.randint(20, 60)):
        function = rng.choice(("quick", "quick", "slow", "flaky", "single", "tensor", "tensor", "keyed", "keyed"))
        items = rng.choice((None, None, 1, 2, 7, 20)) if function in ("quick", "flaky", "tensor") else None
        if function == "keyed":
            key, items = rng.choice("ab"), rng.choice((None, None, None, 3))
            # Several at once: else each is over before the next one comes.
            at_s, count = rng.uniform(0.5, STORM_S), rng.randint(1, 3)
            for _ in range(count):
                clock.after(at_s, lambda k=key, i=items: world.submit("keyed", items=i, key=k))
            continue
        clock.after(rng.uniform(0.5, STORM_S), lambda f=function, i=items: world.submit(f, items=i))


def _fate_of_car(world: World, car: SimulatedCar, fates: tuple[str, ...]) -> None:
    clock, rng = world.clock, world.clock.random
    at_s = rng.uniform(1, 6)
    while at_s < STORM_S:
        away_s = rng.uniform(0.1, 8)
        what = rng.choice(fates)
        begin, end = {
            "drive": (lambda: _drive(car, True), lambda: _drive(car, False)),
            "freeze": (car.freeze, car.thaw),
            "cut": (car.cut, car.heal),
            "kill": (car.kill, car.boot),
        }[what]
        clock.after(at_s, begin)
        clock.after(at_s + away_s, end)
        at_s += away_s + rng.uniform(0.5, 8)


def _drive(car: SimulatedCar, driving: bool) -> None:
    car.driving = driving
    car.signal()


def _heartbeats(world: World) -> None:
    """Sources repeat what they said, so that signals don't go stale."""

    def beat() -> None:
        for car in world.cars.values():
            if not car.frozen:
                car.signal()
        world.clock.after(10.0, beat)

    world.clock.after(10.0, beat)


def all_ended(world: World) -> bool:
    """Whether every accepted call has its outcome and nothing of it is left in the queue."""
    store = world.store
    return world.clock.now_s > STORM_S + 10 and all(call in store.outcomes for call in world.accepted)


def judge(world: World) -> list[str]:
    """Every rule that the run broke."""
    bad = list(world.violations)
    store = world.store
    for call, state in world.accepted.items():
        final = store.outcomes.get(call)
        if final is None:
            bad.append(f"lost: {call} ({state.function}) has no outcome")
            continue
        if final.error is not None and final.error.code not in ("car_lost", "sandbox_trap"):
            bad.append(f"wrong: {call} ended with {final.error.code}")
        lost = final.error is not None and final.error.code == "car_lost"
        if state.function not in FLAKY and final.state == "failed" and not lost:
            bad.append(f"wrong: {call} of {state.function} failed: {final.summary}")
        if state.items is not None:
            bad += _judge_items(world, call, state.items)
    bad += check([*world.history, *_ends(world)]).violations
    if all_ended(world) and world.leader is not None and world.leader.board.entries:
        left = [entry.state.call for entry in world.leader.board.entries.values()]
        bad.append(f"leak: the leader still knows {left}")
    return bad


def _ends(world: World) -> list[dict[str, Any]]:
    """What the client heard and what the store holds, as rows of the history."""
    rows: list[dict[str, Any]] = []
    for call, record in world.store.outcomes.items():
        counter = record.metering.lease if record.metering is not None else 0
        rows.append({"who": "client", "event": "outcome", "call": call, "value": None})
        rows.append({"who": "store", "event": "stored", "call": call, "counter": counter})
    return rows


def _judge_items(world: World, call: str, items: int) -> list[str]:
    records = [*world.store.parts.get(call, []), world.store.outcomes[call]]
    seen: list[int] = []
    for record in records:
        seen += chunks.numbers(chunks.normal(list(record.indices or [])))
    if sorted(seen) != list(range(items)):
        return [f"items: {call} of {items} has outcomes of {sorted(seen)}"]
    return []


def run(seed: int, plan: Callable[[World], None] = storm) -> World:
    """One plan from beginning to end."""
    world = World(seed)
    plan(world)
    world.clock.run_until(END_S, lambda: all_ended(world))
    if all_ended(world):
        end_s = world.clock.now_s + 5
        world.clock.run_until(end_s, lambda: False)
    return world
