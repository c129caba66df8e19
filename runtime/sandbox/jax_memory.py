"""How much memory this process may have: what it has, and what the program that it runs asked for.

XLA takes what a program needs, which is predicted and compared with ``memory=`` before it runs. Where that was wrong, or
compiling takes too much, this is the wall: an allocation fails, which ends the call, or the process.
"""

from __future__ import annotations

import os
import resource

from fleet.protocol.limits import MIB

HOST_BYTES = 1024 * MIB
"""Beside a program's own memory: compiling, arguments and results on their way."""


class MemoryWall:
    """Make it while files can be opened. Without procfs the bound that the process started with is all there is."""

    def __init__(self) -> None:
        try:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._statm = -1
        self._page_bytes = resource.getpagesize()

    def data_bytes(self) -> int:
        """Private memory that counts against the bound by now."""
        return int(os.pread(self._statm, 256, 0).split()[5]) * self._page_bytes

    def move(self, memory_bytes: int) -> None:
        """A program with that much memory is next. What earlier ones left (weights, code) isn't taken from its share."""
        if self._statm < 0:
            return
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = self.data_bytes() + HOST_BYTES + memory_bytes
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
