"""A seccomp allow-list, assembled by hand: what a slot may ask of the kernel once it is locked in.

Everything else fails with EPERM, another architecture's calls end the process. Memory can't become executable any
more: whatever escapes the sandbox can't bring native code of its own. (In a slot of the jax lane it can: see ``assemble``.)
No path can be opened unless there is a scratch
folder (and then Landlock says which), no process started, no socket made, no signal sent but to itself. Threads are
allowed: wasmtime starts them when a guest first sleeps, and they inherit the filter.
Numbers from the kernel's ``syscall_64.tbl`` and ``asm-generic/unistd.h``; semantics from seccomp(2) and bpf(4).
"""

# ruff: noqa: C408, SIM905 - tables of system calls read best as written here
from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF opcodes on 32-bit words
_AT_NR, _AT_ARCH, _AT_ARGS = 0, 4, 16  # offsets in struct seccomp_data; arguments are 64 bits, low word first
_PROT_READ, _PROT_EXEC = 1, 4
_AT_EMPTY_PATH = 0x1000
_X32_BIT = 0x40000000
_F_DUPFD_CLOEXEC = 1030
_THREAD_FLAGS = (0x3D0F00, 0x7D0F00)
"""What glibc and musl hand to clone(2) for a thread: every part of the process shared, nothing else."""
_CLONE3 = 435  # On all machines. Its flags lie in memory, where no filter can look.
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_PR_SET_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}

_ANYTIME = (
    "recvfrom recvmsg sendto sendmsg read write readv writev futex clock_gettime clock_nanosleep nanosleep "
    "clock_getres madvise munmap mremap brk rt_sigreturn rt_sigaction rt_sigprocmask sigaltstack getrandom "
    "ppoll poll epoll_wait epoll_pwait epoll_ctl epoll_create1 eventfd2 sched_yield sched_getaffinity "
    "getpid gettid getrusage close fstat lseek pread64 membarrier rseq set_robust_list exit exit_group restart_syscall"
).split()
_SCRATCH = (
    "openat openat2 newfstatat statx getdents64 unlinkat mkdirat renameat renameat2 ftruncate fallocate utimensat "
    "readlinkat fsync fdatasync pwrite64 preadv pwritev dup"
).split()

_X86_64 = dict(
    read=0, write=1, close=3, fstat=5, poll=7, lseek=8, mmap=9, mprotect=10, munmap=11, brk=12, rt_sigaction=13,
    rt_sigprocmask=14, rt_sigreturn=15, pread64=17, pwrite64=18, readv=19, writev=20, sched_yield=24, mremap=25,
    madvise=28, dup=32, nanosleep=35, getpid=39, sendto=44, recvfrom=45, sendmsg=46, recvmsg=47, clone=56, exit=60,
    fcntl=72, fsync=74, fdatasync=75, ftruncate=77, getrusage=98, sigaltstack=131, gettid=186, futex=202,
    sched_getaffinity=204, getdents64=217, clock_gettime=228, clock_getres=229, clock_nanosleep=230, exit_group=231,
    epoll_wait=232, epoll_ctl=233, tgkill=234, openat=257, mkdirat=258, newfstatat=262, unlinkat=263, renameat=264,
    readlinkat=267, ppoll=271, set_robust_list=273, utimensat=280, epoll_pwait=281, fallocate=285, eventfd2=290,
    epoll_create1=291, preadv=295, pwritev=296, renameat2=316, getrandom=318, membarrier=324, statx=332, rseq=334,
    ioctl=16, restart_syscall=219, prlimit64=302, openat2=437,
)  # fmt: skip
_AARCH64 = dict(
    eventfd2=19, epoll_create1=20, epoll_ctl=21, epoll_pwait=22, dup=23, fcntl=25, mkdirat=34, unlinkat=35,
    renameat=38, ftruncate=46, fallocate=47, openat=56, close=57, getdents64=61, lseek=62, read=63, write=64,
    readv=65, writev=66, pread64=67, pwrite64=68, preadv=69, pwritev=70, ppoll=73, readlinkat=78, newfstatat=79,
    fstat=80, fsync=82, fdatasync=83, utimensat=88, exit=93, exit_group=94, futex=98, set_robust_list=99,
    nanosleep=101, clock_gettime=113, clock_getres=114, clock_nanosleep=115, sched_getaffinity=123, sched_yield=124,
    tgkill=131, sigaltstack=132, rt_sigaction=134, rt_sigprocmask=135, rt_sigreturn=139, getrusage=165, getpid=172,
    gettid=178, sendto=206, recvfrom=207, sendmsg=211, recvmsg=212, brk=214, munmap=215, mremap=216, clone=220,
    mmap=222, mprotect=226, madvise=233, renameat2=276, getrandom=278, membarrier=283, statx=291, rseq=293,
    ioctl=29, restart_syscall=128, prlimit64=261, openat2=437,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Machine:
    audit_arch: int
    numbers: dict[str, int]
    x32: bool


_MACHINES = {
    "x86_64": _Machine(0xC000003E, _X86_64, x32=True),
    "aarch64": _Machine(0xC00000B7, _AARCH64, x32=False),
}


def supported() -> bool:
    """Whether there is a table for this machine."""
    return platform.machine() in _MACHINES


def assemble(machine: str, *, pid: int, scratch: bool, jit: bool = False, devices: bool = False) -> bytes:
    """The BPF program for a process ``pid`` on ``machine``; ``scratch`` allows file calls (Landlock bounds them).

    ``jit``: the process compiles. What XLA makes is written first, then made executable and read-only by mprotect, so
    exactly that is allowed. Nothing is ever writable and executable at once, and no file can be mapped as code; but
    whoever already makes system calls of his choice in there can bring code of his own, as he can't in the wasm lane. All
    the other walls stand around it alike: still no files, network, processes or privileges. And it bounds its own memory
    anew for each program, beneath the bound that it started with.

    ``devices``: the process computes on devices that it has opened. Their drivers are spoken to by ioctl, whose commands no
    filter can tell apart: what may be said to whom is bounded by which files are open.
    """
    target = _MACHINES[machine]
    numbers = target.numbers
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _AT_ARCH),
        (_JUMP_EQ, 1, 0, target.audit_arch),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _AT_NR),
    ]
    if target.x32:  # The x32 calls share the architecture's number and have a bit set.
        code += [(_JUMP_GE, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL_PROCESS)]
    names = _ANYTIME + (_SCRATCH if scratch else []) + (["ioctl"] if devices else [])
    for name in names:
        if name in numbers:  # aarch64 has no poll and no epoll_wait.
            code += [(_JUMP_EQ, 0, 1, numbers[name]), (_RETURN, 0, 0, _ALLOW)]
    code += _when(numbers["mmap"], 2, _JUMP_ANY_BIT, [_PROT_EXEC], then=_EPERM, otherwise=_ALLOW)
    if jit:
        code += _own_limit(numbers["prlimit64"], resource.RLIMIT_DATA)
        code += _jit_mprotect(numbers["mprotect"])
    else:
        code += _when(numbers["mprotect"], 2, _JUMP_ANY_BIT, [_PROT_EXEC], then=_EPERM, otherwise=_ALLOW)
    code += _when(numbers["tgkill"], 0, _JUMP_EQ, [pid], then=_ALLOW, otherwise=_EPERM)  # abort()
    code += _when(numbers["fcntl"], 1, _JUMP_EQ, [_F_DUPFD_CLOEXEC, fcntl.F_GETFL, fcntl.F_GETFD], then=_ALLOW)
    code += _when(numbers["clone"], 0, _JUMP_EQ, _THREAD_FLAGS, then=_ALLOW)
    code += [(_JUMP_EQ, 0, 1, _CLONE3), (_RETURN, 0, 0, _ENOSYS)]  # Then libc falls back to clone.
    if not scratch:  # fstat() of today's libc is newfstatat(fd, "", AT_EMPTY_PATH).
        code += _when(numbers["newfstatat"], 3, _JUMP_ANY_BIT, [_AT_EMPTY_PATH], then=_ALLOW)
    code.append((_RETURN, 0, 0, _EPERM))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _own_limit(number: int, which: int) -> list[tuple[int, int, int, int]]:
    """prlimit of this process itself, of one resource. Its hard bound can't be raised without privileges."""
    return [
        (_JUMP_EQ, 0, 6, number),
        (_LOAD, 0, 0, _AT_ARGS),
        (_JUMP_EQ, 0, 3, 0),
        (_LOAD, 0, 0, _AT_ARGS + 8),
        (_JUMP_EQ, 0, 1, which),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]


def _jit_mprotect(number: int) -> list[tuple[int, int, int, int]]:
    """mprotect to what isn't executable, or to what can be read and executed, and nothing else."""
    return [
        (_JUMP_EQ, 0, 5, number),
        (_LOAD, 0, 0, _AT_ARGS + 8 * 2),
        (_JUMP_EQ, 2, 0, _PROT_READ | _PROT_EXEC),
        (_JUMP_ANY_BIT, 0, 1, _PROT_EXEC),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _when(
    number: int, argument: int, test: int, values: Sequence[int], *, then: int, otherwise: int = _EPERM
) -> list[tuple[int, int, int, int]]:
    """For call ``number``: ``then`` if its argument passes ``test`` with any of the values, else ``otherwise``."""
    code = [(_LOAD, 0, 0, _AT_ARGS + 8 * argument)]
    for value in values:
        code += [(test, 0, 1, value), (_RETURN, 0, 0, then)]
    code.append((_RETURN, 0, 0, otherwise))
    return [(_JUMP_EQ, 0, len(code), number), *code]


def install(*, scratch: bool, jit: bool = False, devices: bool = False) -> None:
    """Install the filter for good, in all threads of this process. Needs ``no_new_privs``. OSError when refused."""
    machine = platform.machine()
    program = ctypes.create_string_buffer(assemble(machine, pid=os.getpid(), scratch=scratch, jit=jit, devices=devices))
    header = struct.pack("<HxxxxxxQ", (len(program) - 1) // 8, ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    call: Callable[..., int] = libc.syscall
    number = _PR_SET_SECCOMP_CALL[machine]
    if call(ctypes.c_long(number), ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_FLAG_TSYNC), header) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")
