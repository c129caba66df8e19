"""An owner drives away, as a developer and an operator see it: through the SDK and the command line alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

import fleet
from fleet._procfs import state_of
from fleet.testing import LocalFleet
from tests.integration import fault_functions as fn

LIMIT_S = 60.0
SIGKILL_S = 0.003
REAPED_S = 0.010 + 0.0001 * 110
BUSY_FACTOR = 20
"""The budgets are p99 of an idle machine (``make bench`` measures them); two shared cores get this much more."""


@pytest.fixture(scope="module")
def local() -> Iterator[LocalFleet]:
    with LocalFleet(cars=2) as started:
        assert fn.add.remote(1) == 2
        yield started


def cli(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fleet.cli.main", *words],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def cars() -> dict[str, Any]:
    return {row["car"]: row for row in json.loads(cli("cars", "--json"))}


def slot_processes(local: LocalFleet) -> list[psutil.Process]:
    """What the agents started, and whatever that started: found from outside, by process tree."""
    return [child for car in local.cars for child in tree_below(car.pid)]


def tree_below(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)  # type: ignore[no-untyped-call]
    return found


@pytest.mark.alone
def test_the_call_moves_on_and_nobody_is_charged(local: LocalFleet) -> None:
    call = fn.busy.spawn(3.0)
    first = local.wait_for(lambda: next((car for car in local.cars if call.id in car.info().running), None), "a car")
    local.wait_for(lambda: call.logs() == ["started"], "the call to be at work")
    held = tree_below(first.pid)
    assert held
    assert json.loads(cli("car", "drive", first.name, "--json"))["cars"] == [first.name]
    # The command answers when the slots are dead, so this holds from the first look on.
    assert [child.pid for child in held if state_of(child.pid) not in ("", "Z")] == []
    row = local.wait_for(
        lambda: found if not (found := cars()[first.name])["slots"] else None, "zero slots in the list"
    )
    assert not row["leases"] and not row["offer"]["slots"]
    assert row["standing"]["reasons"] == ["not_parked", "not_plugged_in"]
    shown = cli("cars")
    assert "away" in shown and "parked" in shown, shown
    assert call.result(timeout=30) == "attempt 1"
    ended = next(row for row in json.loads(cli("calls", "fault_functions.busy", "--json")) if row["call"] == call.id)
    assert ended["car"] not in (None, first.name)
    assert ended.get("attempt", 1) == 1 and not ended.get("losses")
    departure = cars()[first.name]["last_departure"]
    assert 0 < departure["killed_s"] < SIGKILL_S * BUSY_FACTOR, departure
    assert 0 < departure["reaped_s"] < REAPED_S * BUSY_FACTOR, departure
    first.park()


def test_what_was_put_is_there_on_the_next_car(local: LocalFleet) -> None:
    table: Any = fleet.put(list(range(200_000)))
    call = fn.weigh.spawn(table, 2.0)
    first = local.wait_for(lambda: next((car for car in local.cars if call.id in car.info().running), None), "a car")
    local.wait_for(lambda: call.logs() == ["started"], "the call to be at work")
    first.drive_away()
    assert call.result(timeout=30) == sum(range(200_000))
    assert call.logs() == ["started", "started"], "on two cars"
    first.park()


def test_with_every_car_away_calls_wait_and_say_why(local: LocalFleet) -> None:
    running = fn.busy.spawn(1.0)
    local.wait_for(lambda: running.logs() == ["started"], "the call to be at work")
    for car in local.cars:
        car.drive_away()
    assert slot_processes(local) == [], "scale to zero: no sandbox anywhere"
    waiting = [fn.add.spawn(x) for x in range(3)]
    expected = "waits because no car is parked: 2 cars known, 2 online, 0 parked"
    for call in (running, *waiting):
        assert call.status() == "queued"
        local.wait_for(lambda call=call: call.explain() == expected, expected)  # type: ignore[misc]
    explained = json.loads(cli("explain", waiting[0].id, "--json"))
    passing = {row["name"]: (row["passing"], row["of"]) for row in explained["conditions"]}
    assert passing["online"] == (2, 2) and passing["not_parked"] == (0, 2)
    assert "0 parked" in cli("explain", waiting[0].id)
    with pytest.raises(fleet.QueueTimeout, match=r"1(\.0)? s"):
        fn.impatient.remote(1)
    assert slot_processes(local) == [], "calls that wait start nothing"
    local.cars[1].park()
    assert [call.result(timeout=30) for call in waiting] == [1, 2, 3]
    assert running.result(timeout=30) == "attempt 1"
    local.cars[0].park()


def test_different_reasons_are_counted_one_after_another(local: LocalFleet) -> None:
    local.cars[0].drive_away()
    local.cars[1].unplug()
    call = fn.add.spawn(1)
    expected = "waits because no car is plugged in: 2 cars known, 2 online, 1 parked, 0 plugged in"
    local.wait_for(lambda: call.explain() == expected, expected)
    large = fn.hoard.with_options(memory="2GiB").spawn(1)
    local.cars[0].park()
    local.cars[1].plug()
    assert call.result(timeout=30) == 2
    why = large.explain()
    assert "no car is with 2048 MiB" in why and "2 cars known" in why, why
    assert large.cancel()
