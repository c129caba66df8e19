"""Lock this process in for good: what is left of it is arithmetic, its memory, and the pipe to its agent.

wasmtime is the first wall around a developer's code, this is the second: whoever breaks out of the sandbox finds a
process without files, network, children, credentials and privileges, which dies with its agent. Each layer is tried;
those that this kernel or user can't have are named in ``Layers.missing`` and shown by ``fleet cars``.

Order matters: files are opened and mapped before; ``setresuid`` clears the parent-death signal, so that comes after;
Landlock and seccomp come last, since they forbid the calls that the others need.
A jax slot can't be locked in at once: its imports need files and start threads, and Landlock binds one thread. So the half
that threads inherit comes first (``lock_before_threads``: only what is imported can be read), the rest when jax is warm.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runtime.sandbox import landlock, seccomp
from runtime.slot_wire import Layers

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_NO_NEW_PRIVS = 1, 4, 15, 38
NOBODY = 65534
STDERR_BYTES_MAX = 64 * 1024
FILES_MAX = 64

LAYERS = (
    "session", "descriptors", "rlimits", "user", "nonewprivs", "undumpable", "pdeathsig", "landlock", "landlock-net",
    "landlock-scope", "seccomp",
)  # fmt: skip
"""Names of all layers, in the order they are put on."""

READABLE = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/dev/urandom",
    "/proc",
    "/sys/devices/system",
)
"""What a slot that imports behind Landlock reads beside its import folders: libraries, facts on processor and memory."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What stays: ``scratch`` is a writable folder, ``file_bytes_max`` the largest file, ``data_bytes_max`` the memory."""

    parent_pid: int
    scratch: str | None = None
    file_bytes_max: int = STDERR_BYTES_MAX
    files_max: int = FILES_MAX
    data_bytes_max: int | None = None
    """Bound on private writable memory. Address space can't be bounded: wasmtime reserves 4 GiB and more of it."""


class Orphaned(Exception):
    """The agent ended while this process was starting."""


def _prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc.prctl(ctypes.c_int(option), argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL for this process when the thread that started it ends; Orphaned when that happened already.

    ``setresuid`` and friends clear it: call it again after them.
    """
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent_pid:  # It went before the kernel was told: nobody would send the signal.
        raise Orphaned(f"the agent {parent_pid} is gone")


def prepare(name: str, keep: Iterable[int]) -> list[str]:
    """First steps of a fresh process, before it opens anything: own session, no inherited descriptors or environment.

    Descriptors 0 to 2 and ``keep`` stay open. Returns the layers that hold.
    """
    held = []
    _prctl(_PR_SET_NAME, name.encode()[:15])
    try:
        os.setsid()
        held.append("session")
    except PermissionError:  # Leads a group already: not ours to change.
        if os.getsid(0) == os.getpid():
            held.append("session")
    low = 3
    for descriptor in [*sorted(keep), 1 << 20]:
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.environ.clear()
    held.append("descriptors")
    try:  # When memory runs out, the kernel takes slots before anything of the owner's.
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as adjust:
            adjust.write(b"1000")
    except OSError:
        pass  # No procfs here. It protects the owner's comfort, it isn't a wall.
    return held


def lock(plan: Plan, prepared: Iterable[str] = ()) -> Layers:
    """Put every layer on, behind those of ``prepare``. No foreign byte may be read before, no file be opened after.

    Orphaned when the agent is gone; OSError where a layer that every kernel has doesn't work (parent death, no new
    privileges): a slot without it must not run.
    """
    _assert_one_thread()
    held = list(prepared)
    _attempt(held, "rlimits", lambda: set_limits(plan))
    _attempt(held, "user", become_nobody)
    set_no_new_privs()
    held.append("nonewprivs")
    _attempt(held, "undumpable", lambda: _prctl(_PR_SET_DUMPABLE, 0))
    die_with_parent(plan.parent_pid)
    held.append("pdeathsig")
    try:
        held += landlock.restrict(plan.scratch)
    except OSError:
        pass  # Named among the missing.
    if seccomp.supported():
        # With a scratch folder file calls are allowed, which is only sound behind Landlock.
        _attempt(held, "seccomp", lambda: seccomp.install(scratch=plan.scratch is not None and "landlock" in held))
    return _layers(held)


def lock_before_threads(
    plan: Plan, prepared: Iterable[str], readable: Iterable[str], devices: Iterable[str] = ()
) -> list[str]:
    """The layers that bind a thread and what it starts, for a process whose imports start threads; returns those held.

    ``readable``: files and folders that what is imported needs; nothing else is to be had from here on. ``lock_threads``
    follows when all is imported, and before a foreign byte is read. ``devices``: what the process computes on.
    """
    _assert_one_thread()
    held = list(prepared)
    _attempt(held, "rlimits", lambda: set_limits(plan))
    set_no_new_privs()
    held.append("nonewprivs")
    try:
        held += landlock.restrict(plan.scratch, readable, devices)
    except OSError:
        pass  # Named among the missing.
    return held


def lock_threads(plan: Plan, held: list[str], *, jit: bool, devices: bool = False) -> Layers:
    """The rest of the layers, in all threads that there are by now. As ``lock``, no file can be opened after.

    glibc changes the user of all threads, the kernel shares dumpability between them and is told to with seccomp;
    the parent-death signal is the process'.
    """
    _attempt(held, "user", become_nobody)
    _attempt(held, "undumpable", lambda: _prctl(_PR_SET_DUMPABLE, 0))
    die_with_parent(plan.parent_pid)
    held.append("pdeathsig")
    if "landlock" in held:
        landlock.restrict()  # This thread, which parses what is foreign, needs none of the files any more.
    if seccomp.supported():
        _attempt(held, "seccomp", lambda: seccomp.install(scratch=False, jit=jit, devices=devices))
    return _layers(held)


def _assert_one_thread() -> None:
    tasks = "/proc/self/task"
    assert not os.path.exists(tasks) or len(os.listdir(tasks)) == 1, "Landlock binds one thread: lock before the second"


def _attempt(held: list[str], layer: str, step: Callable[[], None]) -> None:
    try:
        step()
    except OSError:
        return
    held.append(layer)


def _layers(held: list[str]) -> Layers:
    assert set(held) <= set(LAYERS), held
    return Layers(tuple(filter(held.__contains__, LAYERS)), tuple(layer for layer in LAYERS if layer not in held))


def set_no_new_privs() -> None:
    """No exec will ever give this process more rights; Landlock and seccomp ask for it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_limits(plan: Plan) -> None:
    """Resource limits, soft and hard alike: no core dump, few and small files. Children are seccomp's to forbid:
    RLIMIT_NPROC counts threads too, and those of all slots and of whatever else runs as this user."""
    limits = {
        resource.RLIMIT_CORE: 0,  # A core dump would write the tenant's memory to the owner's disk.
        resource.RLIMIT_NOFILE: plan.files_max,
        resource.RLIMIT_FSIZE: plan.file_bytes_max,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if plan.data_bytes_max is not None:
        limits[resource.RLIMIT_DATA] = plan.data_bytes_max
    for which, most in limits.items():
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def become_nobody() -> None:
    """Give up root for good; PermissionError where there is none to give up."""
    if os.geteuid() != 0:
        raise PermissionError("only root can change its user")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def describe() -> str:
    """Kernel and machine, for ``fleet doctor``."""
    return f"{platform.system()} {platform.release()} {platform.machine()}, Landlock ABI {landlock.abi()}"
