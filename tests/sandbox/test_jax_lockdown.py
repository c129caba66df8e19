"""The walls of a jax slot, proved by attempts from inside: while jax starts, and once it has."""

from __future__ import annotations

import os

from runtime.sandbox import landlock, lockdown
from tests.sandbox.test_lockdown import needs_landlock, needs_seccomp, run_locked


@needs_landlock
@needs_seccomp
def test_nothing_is_left_but_to_compile() -> None:
    forbidden = [
        "read_passwd", "list_root", "stat_passwd", "write_file", "read_own_memory", "read_parent_environment",
        "read_package", "list_tasks", "thread_of_before", "socket_inet", "socket_unix", "connect", "fork", "exec",
        "kill_parent", "kill_group", "ptrace", "executable_memory", "map_file_as_code", "make_all_executable",
        "make_only_executable", "setuid", "raise_limit", "clear_pdeathsig", "memfd", "many_files",
    ]  # fmt: skip
    allowed = ["nothing", "random", "abort_self", "thread", "make_executable"]
    before = ["read_package", "read_passwd", "list_root", "write_file", "exec", "kill_parent", "connect"]
    report = run_locked("jax", [*allowed, *forbidden], before=before)
    assert {name for name, what in report["attempts"].items() if what == "allowed"} == set(allowed)
    assert {name for name, what in report["before"].items() if what == "allowed"} == {"read_package"} | (
        set() if landlock.abi() >= 6 else {"kill_parent"}
    )
    assert report["held"] == [layer for layer in lockdown.LAYERS if layer in report["held"]]
    if landlock.abi() >= 6:
        assert report["missing"] == ([] if os.geteuid() == 0 else ["user"])


@needs_landlock
def test_a_slot_that_computes_on_a_device_opens_that_alone() -> None:
    report = run_locked(["devices"], ["use_device", "use_other_device", "read_passwd"])
    assert report["attempts"] == {"use_device": "allowed", "use_other_device": "EACCES", "read_passwd": "EACCES"}
