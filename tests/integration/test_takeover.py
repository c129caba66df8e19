"""What runs goes on while the platform around it dies: killed and frozen leaders, a standby, a killed broker.

Every claim about leases is read from the history that the dispatchers write (``fnplatform/history.py``), and judged by the
checker of the chaos run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fleet
from fleet._procfs import state_of
from fleet.protocol import frames
from fleet.protocol.limits import ADOPTION_S, LEADER_TTL_S, LEASE_S
from fleet.protocol.messages import OutcomeRecord, ResultReply, ResultRequest
from fleet.protocol.subjects import ApiVerb
from fleet.testing import LocalCar, LocalFleet
from fnplatform.history import ENV
from tests.chaos.checker import check, read
from tests.integration import chain_functions as chains
from tests.integration import fault_functions as fn
from tests.integration.test_emitting import emitted

CALL_S = LEADER_TTL_S + ADOPTION_S + 3.5
"""Longer than a takeover, and longer than a lease lives without one."""
LIMIT_S = 60.0
EMITS = 150
assert CALL_S > LEASE_S + 0.5 + 2


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("history") / "history.jsonl"


@pytest.fixture(scope="module")
def local(history: Path) -> Iterator[LocalFleet]:
    with LocalFleet(cars=2, environment={ENV: str(history)}) as started:
        assert fn.add.remote(1) == 2
        yield started


def started_call(local: LocalFleet, seconds: float) -> tuple[fleet.Call[str], LocalCar]:
    call = fn.busy.spawn(seconds)
    car = local.wait_for(lambda: next((car for car in local.cars if call.id in car.info().running), None), "a car")
    local.wait_for(lambda: call.logs() == ["started"], "the call to be at work")
    return call, car


def record_of(local: LocalFleet, call: fleet.Call[str]) -> OutcomeRecord:
    """The durable record of its outcome."""
    assert local._api is not None
    reply, parts = local._call(local._api.ask, ApiVerb.RESULT, ResultRequest(call=call.id), ResultReply)
    assert reply.known and len(parts) == 1
    return frames.unpack(bytes(parts[0]), OutcomeRecord)[0]


def assert_never_started_again(local: LocalFleet, call: fleet.Call[str], car: LocalCar) -> None:
    assert call.result(timeout=LIMIT_S) == "attempt 1"
    assert call.logs() == ["started"]
    metering = record_of(local, call).metering
    assert metering is not None
    assert (metering.car, metering.attempt, metering.departures) == (car.name, 1, 0)


def rows_of(history: Path, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in read(history) if all(row.get(key) == value for key, value in wanted.items())]


@pytest.mark.parametrize("part", ["control", "broker"])
def test_a_long_call_survives_a_kill(local: LocalFleet, history: Path, part: str) -> None:
    call, car = started_call(local, CALL_S if part == "control" else LEASE_S)
    slots = car.slots()
    waiting = [fn.busy.spawn(0.01) for _ in range(20)]
    subject = f"takeover.{part}"
    emitting = [chains.slowly.spawn(number, subject) for number in range(EMITS)]
    assert emitting[EMITS // 10].result(timeout=LIMIT_S).subject == subject
    process = local.control if part == "control" else local.broker
    process.kill()
    process.wait_restarted()
    assert_never_started_again(local, call, car)
    assert set(slots) & set(car.slots()), "its slot was never replaced"
    assert [one.result(timeout=LIMIT_S) for one in waiting] == ["attempt 1"] * 20
    assert len(rows_of(history, event="grant", call=call.id)) == 1
    # What these emit is published once, whoever dies between their outcomes and their events.
    assert [json.loads(one.result(timeout=LIMIT_S).body) for one in emitting] == list(range(EMITS))
    events = emitted(local, subject, EMITS)
    assert sorted(json.loads(data) for _, data in events) == list(range(EMITS))
    assert {event.head.id for event, _ in events} == {f"{one.id}.0" for one in emitting}
    if part == "control":
        assert len(rows_of(history, event="adopt", call=call.id)) == 1
    assert len(rows_of(history, event="commit", call=call.id, final=True)) == 1


@contextmanager
def second_control_plane(local: LocalFleet, history: Path) -> Iterator[subprocess.Popen[str]]:
    """Another ``fleet serve`` at the broker of ``local``; ready means that it answers developers."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fleet.cli.main", "serve", "--no-http", "--nats", local.url, "--data", str(local.data)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, ENV: str(history)},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("control plane ready"), line
        yield process
    finally:
        process.kill()
        process.communicate()


def leader_of(history: Path) -> tuple[int, int]:
    """Process id and epoch of the newest leader."""
    newest = rows_of(history, event="lead")[-1]
    return newest["pid"], newest["epoch"]


def test_a_standby_takes_over_from_a_frozen_leader_and_from_a_killed_one(local: LocalFleet, history: Path) -> None:
    frozen_pid = local.control.pid
    assert leader_of(history)[0] == frozen_pid
    with second_control_plane(local, history) as standby:
        call, car = started_call(local, 2 * CALL_S)
        calls = [fn.busy.spawn(0.05) for _ in range(30)]
        os.kill(frozen_pid, signal.SIGSTOP)
        try:
            local.wait_for(lambda: leader_of(history)[0] == standby.pid, "the standby to lead")
            epoch = leader_of(history)[1]
            # What the frozen one accepted goes on, and developers are answered although it holds their requests, too.
            assert [one.result(timeout=LIMIT_S) for one in calls] == ["attempt 1"] * 30
        finally:
            os.kill(frozen_pid, signal.SIGCONT)
        late = [fn.busy.spawn(0.01) for _ in range(10)]
        assert [one.result(timeout=LIMIT_S) for one in late] == ["attempt 1"] * 10
        assert local.platform().epoch == epoch, "the thawed one did not take it back"
        decided = [row for row in rows_of(history, pid=frozen_pid) if row["event"] in ("grant", "commit", "requeue")]
        lead_s = rows_of(history, event="lead", epoch=epoch)[0]["unix_s"]
        assert [row for row in decided if row["unix_s"] > lead_s] == []
        # Now the other way round: the thawed one stands by.
        assert state_of(frozen_pid) not in ("", "T", "Z")
        standby.kill()
        local.wait_for(lambda: leader_of(history)[1] > epoch, "the first one to lead again")
        assert_never_started_again(local, call, car)
    assert len(rows_of(history, event="adopt", call=call.id)) == 2


def test_the_history_of_all_this_has_no_violation(local: LocalFleet, history: Path) -> None:
    """Runs last: judges what the tests above left."""
    decided = [
        row for row in read(history) if row.get("event") in ("grant", "adopt", "end", "requeue", "commit", "refuse")
    ]
    commits = [row for row in decided if row["event"] == "commit" and row.get("final", True)]
    client = [{"who": "client", "event": "submit", "call": row["call"], "expect": 1} for row in commits]
    got = [{"who": "client", "event": "outcome", "call": row["call"], "value": 1} for row in commits]
    stored = [
        {
            "who": "store",
            "event": "stored",
            "call": row["call"],
            "counter": row["counter"],
            "epoch": row.get("epoch", 0),
        }
        for row in commits
    ]
    assert len(commits) >= 60
    assert check([*client, *decided, *got, *stored]).violations == []
