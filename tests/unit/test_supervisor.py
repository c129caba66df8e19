"""The supervisor of fleet dev with real, small child processes; what needs no broker."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

from fleet import _lifeline
from fleet._procfs import children_of, descendants_of, state_of
from fleet.protocol.errors import InvalidOption, Refused
from fnplatform.dev import DevSettings, free_port, locked
from fnplatform.supervisor import BACKOFF_S_MAX, BACKOFF_S_MIN, HEALTHY_S, Child, Supervisor, backoff_s, spawn

LIMIT_S = 20.0
SLEEPER = (sys.executable, "-c", "import sys; sys.stdin.read()")


async def until(check: Callable[[], object]) -> None:
    with anyio.fail_after(LIMIT_S):
        while not check():
            await anyio.sleep(0.005)


def test_backoff_grows_to_its_bound_and_starts_anew_after_a_long_life() -> None:
    pauses = [0.0]
    for _ in range(10):
        pauses.append(backoff_s(pauses[-1], lived_s=0.1))
    assert pauses[1] == BACKOFF_S_MIN
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] == BACKOFF_S_MAX
    assert backoff_s(BACKOFF_S_MAX, HEALTHY_S) == BACKOFF_S_MIN


def test_a_killed_child_comes_back_and_stop_leaves_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(tmp_path / "dev.json", {"url": "nats://h:1"}, ready=True)
        child = Child("car-1", partial(spawn, SLEEPER), tier=0)
        async with anyio.create_task_group() as group:
            await group.start(supervisor.keep, child)
            assert child.running is not None
            first = child.running.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: child.starts == 2)
            assert child.running is not None
            second = child.running.pid
            state = json.loads((tmp_path / "dev.json").read_text())
            assert state["pids"] == {"car-1": second}
            assert state["starts"] == {"car-1": 2}
            assert state["url"] == "nats://h:1"
            assert second != first
            await supervisor.stop()
            group.cancel_scope.cancel()
        assert not state_of(first)
        assert not state_of(second)

    anyio.run(scenario)


def test_stop_ends_a_frozen_child_and_one_that_ignores_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fnplatform.supervisor.STOP_S", 0.3)

    async def scenario() -> None:
        supervisor = Supervisor(tmp_path / "dev.json", {}, ready=True)
        deaf = tmp_path / "deaf"
        stubborn = f"import signal; signal.signal(15, signal.SIG_IGN); open({str(deaf)!r}, 'w'); signal.pause()"
        children = [
            Child("frozen", partial(spawn, SLEEPER), tier=0),
            Child("stubborn", partial(spawn, (sys.executable, "-c", stubborn)), tier=1),
        ]
        async with anyio.create_task_group() as group:
            for child in children:
                await group.start(supervisor.keep, child)
            pids = [child.running.pid for child in children if child.running]
            os.kill(pids[0], signal.SIGSTOP)
            await until(lambda: state_of(pids[0]) == "T" and deaf.exists())
            await supervisor.stop()
            group.cancel_scope.cancel()
        assert [state_of(pid) for pid in pids] == ["", ""]

    anyio.run(scenario)


@pytest.mark.parametrize(("ready", "gives_up"), [(False, True), (True, False)])
def test_an_explained_end_before_readiness_ends_all(tmp_path: Path, ready: bool, gives_up: bool) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(tmp_path / "dev.json", {}, ready=ready)
        child = Child("control", partial(spawn, (sys.executable, "-c", "raise SystemExit(1)")), tier=0)
        async with anyio.create_task_group() as group:
            await group.start(supervisor.keep, child)
            await until(lambda: supervisor.over.is_set() or child.starts > 1)
            await supervisor.stop()
            group.cancel_scope.cancel()
        assert (supervisor.failure is not None) is gives_up
        assert (child.starts > 1) is not gives_up

    anyio.run(scenario)


PARENT = """
import subprocess, sys, os
from fleet import _lifeline
child = "import signal; from fleet._lifeline import tie_from_environment as tie; tie(); print(1, flush=True); signal.pause()"
process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           env=_lifeline.environment(dict(os.environ), death_signal=DEATH))
process.stdout.readline()
print(process.pid, flush=True)
process.wait()
"""


@pytest.mark.parametrize(("death_signal", "frozen"), [(True, True), (True, False), (False, False)])
def test_a_tied_child_ends_with_its_killed_parent(death_signal: bool, frozen: bool) -> None:
    code = PARENT.replace("DEATH", str(death_signal))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    handle = os.pidfd_open(child)
    try:
        assert child in descendants_of(parent.pid)
        assert children_of(parent.pid) == [child]
        if frozen:
            os.kill(child, signal.SIGSTOP)
        parent.kill()
        parent.wait(LIMIT_S)
        assert select.select([handle], [], [], LIMIT_S)[0], "the child outlived its parent"
    finally:
        os.close(handle)
        parent.stdout.close()


def test_the_variable_is_taken_out_and_bytecode_is_allowed() -> None:
    env = _lifeline.environment({"PYTHONDONTWRITEBYTECODE": "1", "A": "b"}, death_signal=False)
    assert env == {"A": "b", _lifeline.VARIABLE: "pipe"}


def test_a_port_in_use_is_refused_with_a_hint() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"port {port}") as caught:
            free_port("127.0.0.1", port)
    assert "--port" in caught.value.hint
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0


def test_a_data_directory_serves_one_supervisor(tmp_path: Path) -> None:
    with locked(tmp_path / "data"), pytest.raises(Refused, match="in use by another"), locked(tmp_path / "data"):
        pass
    with locked(tmp_path / "data"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="can't be used"), locked(tmp_path / "file"):
        pass


@pytest.mark.parametrize("wrong", [{"cars": -1}, {"cars": 1000}, {"slots": 0}, {"port": 70000}, {"speed": 0.0}])
def test_settings_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidOption):
        DevSettings(tmp_path, **wrong)  # type: ignore[arg-type]
