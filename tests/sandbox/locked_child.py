"""Run by test_lockdown.py as a child: put layers on, try what they forbid, print what came of it as JSON.

Arguments: JSON {"layers": [...], "all" or "jax", "attempts": [...], "scratch": folder or null}. ``jax``: all layers, as a
slot of that lane puts them on, round the start of jax. Each attempt is answered with
"allowed", or the name of the errno.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import queue
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable

from runtime.sandbox import landlock, lockdown, seccomp

SETTINGS = json.loads(sys.argv[1])
SCRATCH: str | None = SETTINGS["scratch"]
LIBC = ctypes.CDLL(None, use_errno=True)
EARLIER: Earlier


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def connect() -> None:
    with socket.socket(socket.AF_INET) as s:
        s.connect(("127.0.0.1", 9))


def executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_executable(protection: int = 5) -> None:
    # Address of a page-aligned anonymous map: what code that escaped would do with what it has just written.
    area = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    checked(LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), ctypes.c_int(protection)))


def map_file_as_code() -> None:
    mmap.mmap(0, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def grow_file() -> None:
    descriptor = os.memfd_create("big")
    os.pwrite(descriptor, b"x", lockdown.STDERR_BYTES_MAX)


def many_files() -> None:
    opened: list[int] = []
    try:
        while len(opened) <= lockdown.FILES_MAX:
            opened.append(os.dup(2))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def write_scratch() -> None:
    assert SCRATCH is not None
    with open(os.path.join(SCRATCH, "note"), "w") as note:
        note.write("kept")


def link_out_of_scratch() -> None:
    assert SCRATCH is not None
    os.symlink("/etc/passwd", os.path.join(SCRATCH, "out"))


def thread() -> None:
    # Threads are wanted (wasmtime sleeps with them), and are as locked in as the first.
    answers: list[str] = []
    one = threading.Thread(target=lambda: answers.append(attempt("read_passwd")))
    one.start()
    one.join()
    if answers == ["allowed"]:
        raise OSError(errno.ENOTRECOVERABLE, "a thread got out")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "read_passwd": lambda: open("/etc/passwd").close(),
    "list_root": lambda: os.listdir("/"),
    "stat_passwd": lambda: os.stat("/etc/passwd"),
    "write_file": lambda: open("/tmp/fleet-must-not-exist", "w").close(),
    "read_own_memory": lambda: open("/proc/self/mem", "rb").close(),
    "read_parent_environment": lambda: open(f"/proc/{os.getppid()}/environ", "rb").close(),
    "socket_inet": lambda: socket.socket(socket.AF_INET).close(),
    "socket_unix": lambda: socket.socketpair()[0].close(),
    "connect": connect,
    "fork": fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill_parent": lambda: os.kill(os.getppid(), 0),
    "kill_group": lambda: os.kill(0, 0),
    "ptrace": lambda: checked(LIBC.ptrace(0, 0, None, None)),
    "executable_memory": executable_memory,
    "make_executable": make_executable,
    "make_all_executable": lambda: make_executable(7),
    "make_only_executable": lambda: make_executable(4),
    "map_file_as_code": map_file_as_code,
    "use_device": lambda: os.write(os.open("/dev/null", os.O_WRONLY), b"x"),
    "use_other_device": lambda: os.open("/dev/zero", os.O_RDONLY),
    "read_package": lambda: open(landlock.__file__).close(),
    "list_tasks": lambda: os.listdir("/proc/self/task"),
    "thread_of_before": lambda: EARLIER.attempt(),
    "setuid": lambda: os.setuid(0),
    "raise_limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)),
    "clear_pdeathsig": lambda: checked(LIBC.prctl(1, 0, 0, 0, 0)),
    "memfd": lambda: os.close(os.memfd_create("x")),
    "grow_file": grow_file,
    "many_files": many_files,
    "write_scratch": write_scratch,
    "link_out_of_scratch": link_out_of_scratch,
    "abort_self": lambda: signal.raise_signal(signal.SIGCONT),
    "thread": thread,
    "random": lambda: os.urandom(8),
}


class Earlier:
    """A thread that was there before the last layers."""

    def __init__(self) -> None:
        self._go, self._answers = threading.Event(), queue.Queue[str]()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._go.wait()
        self._answers.put(attempt("read_package"))

    def attempt(self) -> None:
        self._go.set()
        if self._answers.get(timeout=10) == "allowed":
            raise AssertionError("a thread got out")
        raise PermissionError(errno.EPERM, "as it should be")


def attempt(name: str) -> str:
    try:
        ATTEMPTS[name]()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except ValueError as error:  # What setrlimit makes of EPERM.
        return str(error)
    return "allowed"


def lock_jax(plan: lockdown.Plan, report: dict[str, object]) -> None:
    readable = [*sys.path, sys.prefix, sys.base_prefix, *lockdown.READABLE]
    held = lockdown.lock_before_threads(plan, lockdown.prepare("fleet-test", []), filter(None, readable))
    report["before"] = {name: attempt(name) for name in SETTINGS["before"]}
    from runtime.sandbox import jax_start

    jax_start.start("jax-cpu")
    global EARLIER
    EARLIER = Earlier()
    layers = lockdown.lock_threads(plan, held, jit=True)
    report["held"], report["missing"] = layers.held, layers.missing


def main() -> None:
    wanted = SETTINGS["layers"]
    plan = lockdown.Plan(os.getppid(), SCRATCH)
    report: dict[str, object] = {}
    if wanted == "jax":
        lock_jax(plan, report)
    elif wanted == "all":
        layers = lockdown.lock(plan, lockdown.prepare("fleet-test", []))
        report["held"], report["missing"] = layers.held, layers.missing
    else:
        lockdown.set_no_new_privs()
        steps: dict[str, Callable[[], object]] = {
            "rlimits": lambda: lockdown.set_limits(plan),
            "user": lockdown.become_nobody,
            "landlock": lambda: landlock.restrict(SCRATCH),
            "devices": lambda: landlock.restrict(None, (), ["/dev/null", "/dev/none"]),
            "seccomp": lambda: seccomp.install(scratch=SCRATCH is not None),
        }
        for layer in wanted:
            steps[layer]()
    report["ids"] = [os.getpid(), os.getuid()] if isinstance(wanted, list) else [os.getpid()]
    report["attempts"] = {name: attempt(name) for name in SETTINGS["attempts"]}
    os.write(1, json.dumps(report).encode())
    os._exit(0)


main()
