"""Thousands of seeded plans over the cores that the shells import, in virtual time; and faults that must be caught."""

from __future__ import annotations

import os

import pytest

from tests.simulation.mutations import MUTATIONS, Plant
from tests.simulation.plans import calm, judge, run, storm, takeover
from tests.simulation.world import World

SEEDS = int(os.environ.get("FLEET_SIMULATION_SEEDS", "600"))
SEEDS_CALM = SEEDS // 6
SEEDS_TO_CATCH = 120
SLICES = 6


def _why(seed: int, world: World) -> str:
    return f"seed {seed}: {judge(world)[:5]}"


@pytest.mark.parametrize("part", range(SLICES))
def test_every_rule_holds_through_departures_deaths_partitions_and_crashes(part: int) -> None:
    for seed in range(part, SEEDS, SLICES):
        world = run(seed, storm)
        assert judge(world) == [], _why(seed, world)


def test_a_departure_counts_against_nobody() -> None:
    for seed in range(SEEDS_CALM):
        world = run(seed, calm)
        assert judge(world) == [], _why(seed, world)
        assert world.leader is not None
        assert world.leader.board.counters.lapsed == 0, f"seed {seed}: a lease was lost though only owners left"


def test_no_running_call_starts_again_because_the_leader_was_killed() -> None:
    adopted = 0
    for seed in range(SEEDS_CALM):
        world = run(seed, takeover)
        assert judge(world) == [], _why(seed, world)
        grants = [row["call"] for row in world.history if row["event"] == "grant"]
        assert sorted(grants) == sorted(world.accepted), f"seed {seed}: a call was granted more than once"
        adopted += sum(row["event"] == "adopt" for row in world.history)
    assert adopted > SEEDS_CALM


def test_the_plans_reach_what_they_are_meant_to_reach() -> None:
    """A simulation in which nothing happens proves nothing."""
    counts = {"release": 0, "lapse": 0, "void": 0}
    adopted = requeued = refused = terms = parts = tensors = drawn = behind = 0
    for seed in range(40):
        world = run(seed, storm)
        terms += world.store.epoch - 1
        drawn += world.drawn
        behind += world.behind
        parts += sum(map(len, world.store.parts.values()))
        tensors += sum(world.accepted[call].function == "tensor" for call in world.store.outcomes)
        for row in world.history:
            adopted += row["event"] == "adopt"
            requeued += row["event"] == "requeue"
            refused += row["event"] == "refuse"
            if row["event"] == "end" and row["why"] in counts:
                counts[row["why"]] += 1
    assert all(counts.values()), counts
    reached = (adopted, requeued, refused, terms, parts, tensors, drawn, behind)
    assert all(reached), reached


def test_a_seed_is_a_run() -> None:
    """The same seed gives the same history: a violation can be looked at again."""
    assert run(7, storm).history == run(7, storm).history


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_planted_fault_is_caught(mutation: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    for seed in range(SEEDS_TO_CATCH):
        for plan in (storm, calm):
            try:
                world = run(seed, plan)
            except AssertionError:
                return  # the core's own assertion caught it
            lapsed = world.leader.board.counters.lapsed if world.leader is not None else 0
            if judge(world) or (plan is calm and lapsed):
                return
    pytest.fail(f"{mutation.__name__} went unnoticed through {SEEDS_TO_CATCH} seeds")
