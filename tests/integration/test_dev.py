"""``fleet dev`` and ``fleet.testing`` for real: what dies comes back, and nothing is ever left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet._procfs import descendants_of, state_of
from fleet.testing import LocalFleet
from tests.integration.processes import all_end

LIMIT_S = 60.0
FLEET = (sys.executable, "-P", "-m", "fleet.cli.main")


@pytest.fixture(scope="module")
def fleet_of_two() -> Iterator[LocalFleet]:
    with LocalFleet(cars=2) as fleet:
        yield fleet


def start_dev(data: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FLEET, "dev", "--port", "0", "--cars", "1", "--data", str(data), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_ready_line_then_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = start_dev(tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("fleet ready nats://127.0.0.1:"), process.communicate(timeout=LIMIT_S)
    pids = descendants_of(process.pid)
    assert len(pids) >= 5, "supervisor, broker, control plane, car, slot"
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert rest == "", "the ready line is all there is on stdout"
    assert all_end(pids, 0.0) == []
    assert not (tmp_path / "dev.json").exists()


def test_kill_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    process = start_dev(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline()
    pids = descendants_of(process.pid)
    process.kill()
    process.wait(LIMIT_S)
    assert all_end(pids) == []
    process.communicate()


HOLDER = """
import signal
from fleet.testing import LocalFleet
with LocalFleet(cars=1) as fleet:
    print(*fleet.pids(), flush=True)
    fleet.cars[0].freeze()
    print("frozen", flush=True)
    signal.pause()
"""


def test_kill_of_the_test_process_leaves_nothing_not_even_what_is_frozen(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert holder.stdout is not None
    pids = [int(word) for word in holder.stdout.readline().split()]
    assert len(pids) >= 5
    assert holder.stdout.readline() == "frozen\n"
    holder.kill()
    holder.wait(LIMIT_S)
    assert all_end(pids, 30.0) == []


def test_port_in_use_is_one_sentence_with_a_hint(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*FLEET, "dev", "--port", str(port), "--data", str(tmp_path)],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"error: port {port}"), done.stderr
    assert lines[1].startswith("hint: "), done.stderr


def test_data_of_another_version_is_one_sentence_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("fnplatform-data 0\n")
    done = subprocess.run(
        [*FLEET, "dev", "--port", "0", "--data", str(tmp_path)],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "another version" in done.stderr
    assert "hint: " in done.stderr


def test_a_car_leaves_and_returns(fleet_of_two: LocalFleet) -> None:
    car = fleet_of_two.cars[0]
    before = car.slots()
    assert before
    car.drive_away()
    assert car.slots() == []
    assert all_end(before, 0.0) == []
    assert not car.info().standing.eligible
    assert car.info().standing.reasons
    car.park()
    assert car.info().standing.eligible
    assert car.slots()
    assert not set(car.slots()) & set(before)


def test_a_car_is_unplugged_and_plugged_in(fleet_of_two: LocalFleet) -> None:
    car = fleet_of_two.cars[1]
    car.unplug()
    assert car.slots() == []
    assert "not_plugged_in" in car.info().standing.reasons
    car.plug()
    assert car.info().standing.eligible


def test_freeze_and_thaw(fleet_of_two: LocalFleet) -> None:
    car = fleet_of_two.cars[0]
    pids = [car.pid, *car.slots()]
    car.freeze()
    assert {state_of(pid) for pid in pids} == {"T"}
    car.thaw()
    assert "T" not in {state_of(pid) for pid in pids}


def test_what_is_killed_comes_back(fleet_of_two: LocalFleet) -> None:
    for process in (fleet_of_two.cars[1], fleet_of_two.control, fleet_of_two.broker):
        before = process.pid
        process.kill()
        assert state_of(before) in ("", "Z")
        process.wait_restarted()
        assert process.pid != before
        assert fleet_of_two.state()["starts"][process.name] == 2
    assert fleet_of_two.platform().leader


def test_two_supervisors_of_one_data_directory(fleet_of_two: LocalFleet) -> None:
    done = subprocess.run(
        [*FLEET, "dev", "--port", "0", "--data", str(fleet_of_two.data)],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "in use by another fleet dev" in done.stderr
    assert fleet_of_two.platform().leader, "the first one is unharmed"
