"""Every layer around a slot, proved by attempts from inside a locked child: first all at once, then each alone."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.sandbox import landlock, lockdown, seccomp

CHILD = Path(__file__).with_name("locked_child.py")

needs_landlock = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not seccomp.supported(), reason="no system call table for this machine")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")


def run_locked(
    layers: list[str] | str, attempts: list[str], scratch: Path | None = None, before: list[str] | None = None
) -> dict[str, Any]:
    folder = None if scratch is None else str(scratch)
    settings = {"layers": layers, "attempts": attempts, "scratch": folder, "before": before or []}
    done = subprocess.run(
        [sys.executable, str(CHILD), json.dumps(settings)], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@needs_landlock
@needs_seccomp
def test_with_all_layers_nothing_is_left() -> None:
    forbidden = [
        "read_passwd", "list_root", "stat_passwd", "write_file", "read_own_memory", "read_parent_environment",
        "socket_inet", "socket_unix", "fork", "exec", "kill_parent", "kill_group", "ptrace", "executable_memory",
        "make_executable", "setuid", "raise_limit", "clear_pdeathsig", "memfd", "many_files",
    ]  # fmt: skip
    report = run_locked("all", ["nothing", "random", "abort_self", "thread", *forbidden])
    assert {name for name, what in report["attempts"].items() if what == "allowed"} == {
        "nothing", "random", "abort_self", "thread",
    }  # fmt: skip
    expected_missing = [] if os.geteuid() == 0 else ["user"]
    if landlock.abi() >= 6:
        assert report["missing"] == expected_missing
    assert report["held"] == [layer for layer in lockdown.LAYERS if layer in report["held"]]
    assert set(report["held"]) | set(report["missing"]) == set(lockdown.LAYERS)


def test_without_layers_the_attempts_succeed() -> None:
    """The control group: what is refused above works where nothing is locked."""
    attempts = ["read_passwd", "list_root", "stat_passwd", "socket_inet", "socket_unix", "fork", "kill_parent"]
    report = run_locked([], [*attempts, "executable_memory", "make_executable", "memfd", "many_files", "grow_file"])
    assert set(report["attempts"].values()) == {"allowed"}


@needs_landlock
def test_landlock_alone_closes_the_file_system() -> None:
    report = run_locked(["landlock"], ["read_passwd", "list_root", "write_file", "exec", "read_own_memory"])
    assert set(report["attempts"].values()) == {"EACCES"}


@pytest.mark.skipif(landlock.abi() < 4, reason="Landlock of this kernel knows no TCP")
def test_landlock_alone_closes_tcp() -> None:
    assert run_locked(["landlock"], ["connect"])["attempts"] == {"connect": "EACCES"}
    assert run_locked([], ["connect"])["attempts"] == {"connect": "ECONNREFUSED"}


@pytest.mark.skipif(landlock.abi() < 6, reason="Landlock of this kernel knows no scopes")
def test_landlock_alone_keeps_signals_inside() -> None:
    assert run_locked(["landlock"], ["kill_parent"])["attempts"] == {"kill_parent": "EPERM"}


@needs_landlock
@pytest.mark.parametrize("layers", [["landlock"], ["landlock", "seccomp"]])
def test_a_scratch_folder_stays_writable(layers: list[str], tmp_path: Path) -> None:
    report = run_locked(layers, ["write_scratch", "link_out_of_scratch", "read_passwd", "write_file"], scratch=tmp_path)
    assert report["attempts"] == {
        "write_scratch": "allowed",
        "link_out_of_scratch": "EACCES" if layers == ["landlock"] else "EPERM",
        "read_passwd": "EACCES",
        "write_file": "EACCES",
    }
    assert (tmp_path / "note").read_text() == "kept"


@needs_seccomp
def test_seccomp_alone_refuses_calls_but_not_the_process() -> None:
    forbidden = [
        "read_passwd", "stat_passwd", "socket_inet", "socket_unix", "fork", "exec", "kill_parent", "ptrace",
        "executable_memory", "make_executable", "memfd", "clear_pdeathsig", "setuid",
    ]  # fmt: skip
    report = run_locked(["seccomp"], [*forbidden, "random", "abort_self"])
    assert {name for name, what in report["attempts"].items() if what == "EPERM"} == set(forbidden)
    assert report["attempts"]["random"] == report["attempts"]["abort_self"] == "allowed"


@needs_root
def test_limits_and_user_alone_stop_growth_and_signals() -> None:
    report = run_locked(["rlimits", "user"], ["grow_file", "many_files", "raise_limit", "kill_parent", "setuid"])
    assert report["attempts"] == {
        "grow_file": "EFBIG",
        "many_files": "EMFILE",
        "raise_limit": "not allowed to raise maximum limit",
        "kill_parent": "EPERM",
        "setuid": "EPERM",
    }
    assert report["ids"][1] == lockdown.NOBODY


# --- the filter itself, on every architecture --------------------------------------------------------------------------

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def verdict(program: bytes, arch: int, number: int, arguments: list[int] | None = None) -> int:
    """Run a BPF program over a struct seccomp_data as the kernel would."""
    values = [*(arguments or []), 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, arch, 0, *values)
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        opcode, on_true, on_false, value = code[at]
        at += 1
        match opcode:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                at += on_true if accumulator == value else on_false
            case 0x35:
                at += on_true if accumulator >= value else on_false
            case 0x45:
                at += on_true if accumulator & value else on_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"opcode {opcode:#x}")


@pytest.mark.parametrize(
    ("machine", "arch", "numbers"),
    [
        (
            "x86_64",
            0xC000003E,
            {"read": 0, "mmap": 9, "openat": 257, "socket": 41, "clone": 56, "execve": 59, "tgkill": 234, "newfstatat": 262},
        ),
        (
            "aarch64",
            0xC00000B7,
            {
                "read": 63,
                "mmap": 222,
                "openat": 56,
                "socket": 198,
                "clone": 220,
                "execve": 221,
                "tgkill": 131,
                "newfstatat": 79,
            },
        ),
    ],
)  # fmt: skip
def test_filter_of_each_architecture(machine: str, arch: int, numbers: dict[str, int]) -> None:
    closed = seccomp.assemble(machine, pid=77, scratch=False)
    scratch = seccomp.assemble(machine, pid=77, scratch=True)
    assert verdict(closed, arch, numbers["read"]) == ALLOW
    assert verdict(closed, arch, numbers["openat"]) == EPERM
    assert verdict(scratch, arch, numbers["openat"]) == ALLOW
    for name in ("socket", "clone", "execve"):  # clone without the flags of a thread is fork.
        assert verdict(closed, arch, numbers[name]) == verdict(scratch, arch, numbers[name]) == EPERM
    assert verdict(closed, arch, numbers["mmap"], [0, 0, 3]) == ALLOW
    assert verdict(closed, arch, numbers["mmap"], [0, 0, 7]) == EPERM
    assert verdict(closed, arch, numbers["tgkill"], [77]) == ALLOW
    assert verdict(closed, arch, numbers["tgkill"], [78]) == EPERM
    assert verdict(closed, arch, numbers["clone"], [0x3D0F00]) == ALLOW
    assert verdict(closed, arch, numbers["clone"], [0x3D0F00 | 0x10000000]) == EPERM  # a new user namespace
    assert verdict(closed, arch, 435) == ENOSYS
    assert verdict(closed, arch, numbers["newfstatat"], [3, 0, 0, 0x1000]) == ALLOW
    assert verdict(closed, arch, numbers["newfstatat"], [3, 0, 0, 0]) == EPERM
    assert verdict(closed, 0x40000003, numbers["read"]) == KILL


@pytest.mark.parametrize(
    ("machine", "arch", "mmap", "mprotect"), [("x86_64", 0xC000003E, 9, 10), ("aarch64", 0xC00000B7, 222, 226)]
)
def test_filter_of_a_compiling_process(machine: str, arch: int, mmap: int, mprotect: int) -> None:
    """Read, write, execute are 1, 2, 4: what is executable is never writable, and comes from mprotect alone."""
    code = seccomp.assemble(machine, pid=77, scratch=False, jit=True)
    assert [verdict(code, arch, mprotect, [0, 0, bits]) for bits in range(8)] == [
        ALLOW, ALLOW, ALLOW, ALLOW, EPERM, ALLOW, EPERM, EPERM,
    ]  # fmt: skip
    assert [verdict(code, arch, mmap, [0, 0, bits]) for bits in range(8)] == [ALLOW] * 4 + [EPERM] * 4
    assert verdict(code, arch, 302 if mprotect == 10 else 261, [0, 2]) == ALLOW, "RLIMIT_DATA of its own"
    assert verdict(code, arch, 302 if mprotect == 10 else 261, [0, 7]) == EPERM
    assert verdict(code, arch, 302 if mprotect == 10 else 261, [1, 2]) == EPERM
    assert verdict(code, arch, mprotect, [0, 0, 5 | 0x01000000]) == EPERM, "growing downwards as well"
    ioctl = 16 if mprotect == 10 else 29
    on_devices = seccomp.assemble(machine, pid=77, scratch=False, jit=True, devices=True)
    assert (verdict(code, arch, ioctl), verdict(on_devices, arch, ioctl)) == (EPERM, ALLOW)
    closed = seccomp.assemble(machine, pid=77, scratch=False)
    assert [verdict(closed, arch, mprotect, [0, 0, bits]) for bits in range(8)] == [ALLOW] * 4 + [EPERM] * 4


def test_filter_refuses_x32_calls() -> None:
    program = seccomp.assemble("x86_64", pid=1, scratch=False)
    assert verdict(program, 0xC000003E, 0x40000000) == KILL


def test_one_thread_only(tmp_path: Path) -> None:
    """Landlock binds one thread: locking with a second one running is our bug, and says so."""
    script = tmp_path / "threads.py"
    script.write_text(
        "import os, threading\n"
        "from runtime.sandbox import lockdown\n"
        "hold = threading.Event()\n"
        "threading.Thread(target=hold.wait, daemon=True).start()\n"
        "try:\n"
        "    lockdown.lock(lockdown.Plan(os.getppid()))\n"
        "except AssertionError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=30, check=False)
    assert b"one thread" in done.stdout, done.stderr
