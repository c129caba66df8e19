"""Every example runs as a plain script against a running fleet; what it prints is checked against a local computation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from examples import many, resume
from examples.demo.records import records_of_function
from fleet.protocol.messages import CallsRequest, StatusReply
from fleet.protocol.subjects import ApiVerb
from fleet.testing import LocalCar, LocalFleet

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RUN_S = 60.0
PRIMES_BELOW = 400_000
PRIMES = 33_860
"""How many primes lie below PRIMES_BELOW (a table's value, not one that our code computed)."""


def run(name: str, fleet: LocalFleet, *words: str) -> list[str]:
    """The lines that ``python examples/NAME.py`` prints, run from a folder that isn't the project's."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *words],
        env={**os.environ, "FLEET_URL": fleet.url}, cwd="/", capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_hello(shared_fleet: LocalFleet) -> None:
    (line,) = run("hello", shared_fleet)
    assert line.startswith("Hello Ada, from ")
    assert not line.endswith("from local")


def test_many(shared_fleet: LocalFleet) -> None:
    lines = run("many", shared_fleet)
    steps = [many.collatz_steps.local(start) for start in range(1, 2001)]
    longest = max(steps)
    assert lines[0] == f"of 2000 numbers, {steps.index(longest) + 1} takes the most steps: {longest}"
    assert lines[1] == "0.5"
    assert lines[2].startswith("ZeroDivisionError: ")
    assert lines[3] == "0.75"


def test_asynchronous(shared_fleet: LocalFleet) -> None:
    assert run("asynchronous", shared_fleet) == [
        "tea 0, tea 1, tea 2", "coffee 0, coffee 1, coffee 2", "mate 0, mate 1, mate 2", "cocoa 0, cocoa 1, cocoa 2",
    ]  # fmt: skip


def test_group(shared_fleet: LocalFleet) -> None:
    assert run("group", shared_fleet) == ["one call: 21 letters, succeeded", "a group of four: [6, 4, 7, 9]"]


def test_stream(shared_fleet: LocalFleet) -> None:
    lines = run("stream", shared_fleet)
    assert lines[:3] == ["3 and 5", "5 and 7", "11 and 13"]
    assert lines[-2:] == ["71 and 73", "101 and 103"]


def test_sessions(shared_fleet: LocalFleet) -> None:
    lines = run("sessions/score", shared_fleet)
    assert lines[0] == "sessions read: 27407"
    assert any(line.startswith("best station for computing: ") for line in lines)


def running_car(fleet: LocalFleet, function: str) -> LocalCar | None:
    """The car that runs a call of ``function`` right now."""
    listed = fleet.ask(ApiVerb.CALLS, CallsRequest(app="resume", function=function), StatusReply)
    on = {status.car for status in listed.calls if status.state == "running"}
    return next((car for car in fleet.cars if car.name in on), None)


@pytest.mark.local_fleet(cars=2)
def test_resume_across_a_departure(local_fleet: LocalFleet) -> None:
    call = resume.count_primes.spawn(PRIMES_BELOW)
    first = local_fleet.wait_for(lambda: running_car(local_fleet, "count_primes"), "the call to run")
    # Beyond its first checkpoint: it must not begin anew on the other car.
    local_fleet.wait_for(lambda: call.logs(), "a checkpoint")
    first.drive_away()
    found, cars = call.result(timeout=RUN_S)
    assert found == PRIMES
    assert len(cars) == 2, cars
    (record,) = anyio.run(records_of_function, local_fleet.url, "resume", "count_primes")
    assert record.metering is not None
    assert record.metering.departures == 1
    assert record.metering.attempt == 1, "a departure was charged as an attempt"
    assert record.metering.car != first.name
