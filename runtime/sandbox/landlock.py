"""Landlock by raw system calls: no path of the file system, no TCP, no signals or abstract sockets beyond the slot.

Source: the kernel's ``Documentation/userspace-api/landlock.rst`` and ``include/uapi/linux/landlock.h``. The system
calls have the same numbers on all architectures. Landlock binds the calling thread and what it starts later: call it
while the process has one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_FS_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Every right that an ABI version knows: REFER came with 2, TRUNCATE with 3, IOCTL_DEV with 5."""
_NET_RIGHTS = 0b11  # BIND_TCP, CONNECT_TCP: since ABI 4.
_SCOPES = 0b11  # ABSTRACT_UNIX_SOCKET, SIGNAL: since ABI 6.

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = 1 << 6, 1 << 9, 1 << 10, 1 << 11, 1 << 12
_IOCTL_DEV = 1 << 15
_NEVER_IN_SCRATCH = _EXECUTE | _MAKE_CHAR | _MAKE_SOCK | _MAKE_FIFO | _MAKE_BLOCK | _MAKE_SYM | _IOCTL_DEV

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def abi() -> int:
    """The kernel's Landlock version, 0 where it has none or it is switched off."""
    try:
        return _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_CREATE_RULESET_VERSION))
    except OSError:
        return 0


def restrict(
    writable_folder: str | None = None, readable: Iterable[str] = (), devices: Iterable[str] = ()
) -> list[str]:
    """Give up all that this kernel's version can take away; files beneath ``writable_folder`` stay usable.

    ``readable``: files, and folders with all beneath them, that can still be read; those that don't exist are left out.
    ``devices``: files of devices that can still be opened, written to and told by ioctl what to do.

    Returns the layers that hold now: of ``landlock`` (files), ``landlock-net``, ``landlock-scope``; none without
    Landlock. Needs ``no_new_privs``. OSError when the kernel has it and refuses.
    """
    version = abi()
    if version == 0:
        return []
    rights = _FS_RIGHTS_BY_ABI[max(known for known in _FS_RIGHTS_BY_ABI if known <= version)]
    net = _NET_RIGHTS if version >= 4 else 0
    scopes = _SCOPES if version >= 6 else 0
    # A kernel takes a shorter struct than its own, and refuses a longer one whose tail isn't zero.
    attributes = struct.pack("<QQQ", rights, net, scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:
        if writable_folder is not None:
            _allow_beneath(ruleset, writable_folder, rights & ~_NEVER_IN_SCRATCH)
        for path in readable:
            with contextlib.suppress(FileNotFoundError):
                _allow_beneath(ruleset, path, _READ_FILE | _READ_DIR)
        for path in devices:
            with contextlib.suppress(FileNotFoundError):
                _allow_beneath(ruleset, path, (_READ_FILE | _WRITE_FILE | _IOCTL_DEV) & rights)
        _syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)
    held = ["landlock"]
    if net:
        held.append("landlock-net")
    if scopes:
        held.append("landlock-scope")
    return held


def _allow_beneath(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= ~_READ_DIR  # A file has no such right.
        rule = struct.pack("<Qi", rights, parent)
        _syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(parent)
