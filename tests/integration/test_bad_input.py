"""What people get wrong, and what machines run out of: each its own error, nothing lost, nothing half-deployed.

What is refused elsewhere is tested there: no eligible car (test_departure), foreign and missing brokers (test_broker), a port
in use and data of another version of ``fleet dev`` (test_dev), a damaged guest image (test_guest_build).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fleet
from fleet.protocol.limits import PAYLOAD_BYTES_MAX
from fleet.testing import LocalFleet
from tests.integration import fault_functions as fn

LIMIT_S = 60.0
FLEET = (sys.executable, "-P", "-m", "fleet.cli.main")
QUEUE_CALLS_MAX = 60
SHARE = QUEUE_CALLS_MAX // 2


@pytest.fixture(scope="module")
def local() -> Iterator[LocalFleet]:
    with LocalFleet(cars=1, environment={"FLEET_QUEUE_CALLS_MAX": str(QUEUE_CALLS_MAX)}) as started:
        assert fn.add.remote(1) == 2
        yield started


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FLEET, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False)


def said(*words: str) -> str:
    """What a command that fails says on stderr: one sentence, then a hint."""
    done = cli(*words)
    assert done.returncode == 1, (words, done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("error: "), done.stderr
    assert lines[1].startswith("hint: "), done.stderr
    assert len(lines) == 2, done.stderr
    return done.stderr


def ok(*words: str) -> Any:
    done = cli(*words, "--json")
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return json.loads(done.stdout)


# --- nobody there


@contextlib.contextmanager
def listener(answer: bytes) -> Iterator[int]:
    """A port where somebody accepts and says ``answer``, and nothing more."""
    with socket.socket() as accepting:
        accepting.bind(("127.0.0.1", 0))
        accepting.listen()
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection = accepting.accept()[0]
                except OSError:  # the test is over
                    return
                connection.sendall(answer)
                held.append(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield accepting.getsockname()[1]
        for connection in held:
            connection.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO not json\r\n"])
def test_whoever_listens_but_is_no_broker_is_said_within_three_seconds(answer: bytes) -> None:
    with listener(answer) as port:
        began_s = time.monotonic()
        with pytest.raises(
            fleet.FleetUnavailable, match=f"nobody answers at nats://127.0.0.1:{port}.*hint: "
        ) as caught:
            fleet.connect(f"nats://127.0.0.1:{port}")
        assert time.monotonic() - began_s < 3.0 + 0.5
        assert caught.value.hint


# --- what isn't there, and what doesn't fit


def deployed(tmp_path: Path, source: str, name: str = "bad_shop") -> Path:
    path = tmp_path / f"{name}.py"
    path.write_text("import fleet\n\n\n" + source)
    return path


PRICE = "@fleet.function\ndef price(n: int, tax: int = 0) -> int:\n    return n + tax\n"


def test_unknown_function_app_and_version(local: LocalFleet, tmp_path: Path) -> None:
    ok("deploy", str(deployed(tmp_path, PRICE)))
    for app, function, version in (
        ("bad_shop", "prize", None),
        ("no_shop", "price", None),
        ("bad_shop", "price", "0123456789abcdef"),
    ):
        wanted = fleet.Function.from_name(app, function, version)
        with pytest.raises(fleet.NotDeployed, match=r"hint: .*fleet list") as caught:
            wanted.remote(1)
        assert (version or (function if app == "bad_shop" else app)) in caught.value.message
    assert "prize" in said("call", "bad_shop.prize", "1")
    assert "no_shop" in said("history", "no_shop")
    assert "no_shop" in said("delete", "no_shop")
    assert "9" in said("rollback", "bad_shop", "9")
    assert "no_such_call" in cli("explain", "no_such_call").stderr
    assert fleet.Function.from_name("bad_shop", "price").remote(1) == 1
    ok("delete", "bad_shop")


def test_wrong_arguments_are_named(local: LocalFleet, tmp_path: Path) -> None:
    with pytest.raises(fleet.WrongArguments, match=r"add\(\) missing 1 required positional argument: 'x'"):
        fn.add.remote()  # type: ignore[call-arg]
    with pytest.raises(fleet.WrongArguments, match=r"add\(\) takes .* 3"):
        fn.add.remote(1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(fleet.WrongArguments, match=r"add\(\) got an unexpected keyword argument 'z'"):
        fn.add.remote(1, z=2)  # type: ignore[call-arg]
    path = deployed(tmp_path, PRICE)
    ok("deploy", str(path))
    by_name = fleet.Function.from_name("bad_shop", "price")
    with pytest.raises(TypeError, match=r"price\(\) got an unexpected keyword argument 'z'"):
        by_name.remote(1, z=2)
    with pytest.raises(TypeError, match=r"price\(\) takes .* 3"):
        by_name.remote(1, 2, 3)
    assert "argument" in said("run", f"{path}::price")
    assert "argument" in said("run", f"{path}::price", "1", "2", "3")
    assert "'one' can't be read as int" in said("run", f"{path}::price", "one")
    ok("delete", "bad_shop")


def test_files_that_cannot_be_deployed(local: LocalFleet, tmp_path: Path) -> None:
    assert "defines no function" in said("deploy", str(deployed(tmp_path, "x = 1\n", "bad_empty")))
    twice = PRICE + "\n\n" + PRICE.replace("def price", "def other").replace("function\n", "function(name='price')\n")
    assert "two functions of the name 'price'" in said("deploy", str(deployed(tmp_path, twice, "bad_twice")))
    assert "division by zero" in said("deploy", str(deployed(tmp_path, "x = 1 / 0\n", "bad_broken")))
    assert "no file" in said("deploy", str(tmp_path / "bad_missing.py"))
    assert "timeout" in said(
        "deploy", str(deployed(tmp_path, PRICE.replace("function\n", "function(timeout=-1)\n"), "bad_o"))
    )
    assert {row["manifest"]["app"] for row in ok("list")} <= {"bad_shop", "bad_half"}, "nothing was half-deployed"


def test_an_interrupted_deploy_leaves_the_old_version_live(local: LocalFleet, tmp_path: Path) -> None:
    """Killed at several moments; whatever it got done, both functions are of one version."""
    source = "\n\n".join(f"@fleet.function\ndef {name}() -> int:\n    return VERSION\n" for name in ("one", "two"))
    path = deployed(tmp_path, f"VERSION = 0\n\n\n{source}", "bad_half")
    ok("deploy", str(path))
    one, two = (fleet.Function.from_name("bad_half", name) for name in ("one", "two"))
    assert (one.remote(), two.remote()) == (0, 0)
    shortest_s = 0.15
    live = 0
    for version, delay_s in enumerate((shortest_s, 0.25, 0.3, 0.35, 0.4), 1):
        path.write_text(path.read_text().replace(f"VERSION = {version - 1}\n", f"VERSION = {version}\n"))
        process = subprocess.Popen([*FLEET, "deploy", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
        process.kill()
        process.wait()
        got = (one.remote(), two.remote())
        assert got in ((live, live), (version, version)), "never one of each"
        live = got[0]
    ok("deploy", str(path))
    assert (one.remote(), two.remote()) == (5, 5)
    ok("delete", "bad_half")


# --- too much


def test_arguments_over_the_limit_are_refused_before_they_travel(local: LocalFleet) -> None:
    before = local.platform().stream_bytes
    with pytest.raises(fleet.PayloadTooLarge, match=r"the limit is 256 MiB.*hint: split them"):
        fn.length.remote(bytes(PAYLOAD_BYTES_MAX + 1))
    assert local.platform().stream_bytes["BLOBS"] == before["BLOBS"]
    assert fn.length.remote(b"x") == 1


def test_results_that_cannot_leave_the_sandbox(local: LocalFleet) -> None:
    with pytest.raises(fleet.ResultNotPortable, match=r"rows.*1.*hint: return built-in values"):
        fn.unportable.remote()
    with pytest.raises((MemoryError, fleet.PayloadTooLarge, fleet.SandboxTrap)):
        fn.blob.remote(PAYLOAD_BYTES_MAX + 1)
    assert fn.add.remote(1) == 2


def accepted(x: int) -> fleet.Call[int] | None:
    """A call that the platform has taken; None where its queue is full."""
    call = fn.add.spawn(x)
    try:
        call.explain()  # waits until the platform has answered the submit
    except fleet.QueueFull:
        return None
    return call


def test_a_full_queue_loses_nothing(local: LocalFleet) -> None:
    car = local.cars[0]
    car.drive_away()
    taken: list[fleet.Call[int]] = []
    while call := accepted(len(taken)):
        taken.append(call)
        assert len(taken) <= SHARE, "one tenant holds at most half of the queue"
    # What ended within the last second may count as well: the platform never errs to the other side.
    while len(taken) < SHARE:
        taken.append(local.wait_for(lambda: accepted(len(taken)), "a place in the queue"))
    with pytest.raises(fleet.QueueFull, match=rf"{SHARE} may.*hint: wait until calls have run") as caught:
        fn.add.spawn(1000).result(timeout=30)
    assert caught.value.retryable
    with pytest.raises(fleet.QueueFull):
        fn.add.remote(1000)
    assert taken.pop(0).cancel() is True
    more = local.wait_for(lambda: accepted(7), "a call to be accepted again")
    car.park()
    assert [call.result(timeout=30) for call in taken] == list(range(2, SHARE + 1))
    assert more.result(timeout=30) == 8


# --- a full disk

DISK_BYTES = 320 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, small enough to be filled; where it can't be mounted the test is skipped, aloud."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode
    if mounted:
        pytest.skip("a full disk can only be tested where a tmpfs can be mounted (root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int) -> None:
    """Somebody else's file takes the disk."""
    with (folder / "filler").open("ab") as file:
        while (left := shutil.disk_usage(folder).free - leave_bytes) > 0:
            try:
                file.write(bytes(min(left, 1 << 20)))
                file.flush()
            except OSError:
                return


def test_a_full_disk_is_said_and_loses_nothing(small_disk: Path) -> None:
    with LocalFleet(cars=1, data=small_disk) as local:
        assert fn.add.remote(1) == 2
        local.cars[0].drive_away()
        taken = [fn.add.spawn(x) for x in range(50)]
        local.wait_for(lambda: local.platform().waiting == 50, "all to wait")
        fill(small_disk, 100 << 20)
        local.wait_for(lambda: accepted(0) is None, "submits to be refused")
        with pytest.raises(
            fleet.QueueFull, match=r"the disk of the platform is full: \d+ MiB free.*hint: free the disk"
        ):
            fn.length.remote(os.urandom(5_000_000))
        local.cars[0].park()
        assert [call.result(timeout=30) for call in taken] == list(range(1, 51)), "the reserve is for outcomes"
        # Now somebody takes the reserve, too: the broker's streams break, and come back with the room.
        local.cars[0].drive_away()
        (small_disk / "filler").unlink()
        waiting = local.wait_for(lambda: accepted(41), "room again")
        fill(small_disk, 0)
        local.wait_for(lambda: accepted(0) is None, "submits to be refused")
        with pytest.raises(fleet.QueueFull, match="the disk of the platform is full: 0 MiB free"):
            fn.add.remote(0)
        filler = small_disk / "filler"
        os.truncate(filler, filler.stat().st_size - (1 << 20))  # room for a line of the supervisor's own log
        local.wait_for(lambda: "the broker's disk is full" in local.stderr(), "the supervisor to notice")
        filler.unlink()
        local.wait_for(lambda: local.state()["starts"]["broker"] == 2, "the broker to be started again")
        local.wait_for(lambda: local.platform().leader, "the platform to be back")
        local.cars[0].park()
        assert waiting.result(timeout=30) == 42
        assert fn.add.remote(2) == 3
