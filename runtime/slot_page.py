"""One page of memory that agent and slot share: what runs, and whether the owner is about to leave.

The slot writes what it runs (two counters and a time), the agent writes one flag: neither asks the kernel, so a chunk
of a map can report every item. The agent reads plain numbers and believes none more than the slot itself. The memory
is a sealed memfd: a slot that could shrink it would kill the agent with SIGBUS.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os

from runtime.slot_wire import Progress

PAGE_BYTES = 4096
_SEQUENCE, _JOB, _ITEM, _STARTED = 0, 1, 2, 3  # 64-bit words; _STARTED is a float
_DEPARTING = 64  # word, on a cache line of its own
_READS_MAX = 8


def make_page() -> int:
    """Descriptor of a new zeroed page whose size nobody can change."""
    descriptor = os.memfd_create("fleet-slot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, PAGE_BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


class Page:
    """The mapped page, for either side. The descriptor can be closed afterwards."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self._floats = memoryview(self._map).cast("d")
        self._last = Progress()

    def write_progress(self, job: int, item: int | None, started_monotonic_s: float) -> None:
        """The slot begins ``job``, or ``item`` of it; job 0 when it is idle."""
        words = self._words
        words[_SEQUENCE] += 1  # Odd: being written.
        words[_JOB] = job
        words[_ITEM] = 0 if item is None else item + 1
        self._floats[_STARTED] = started_monotonic_s
        words[_SEQUENCE] += 1

    def read_progress(self) -> Progress:
        """What the slot runs; the previous answer if the slot is just writing, or died while it wrote."""
        words = self._words
        for _ in range(_READS_MAX):
            before = words[_SEQUENCE]
            job, item, started = words[_JOB], words[_ITEM], self._floats[_STARTED]
            if before % 2 == 0 and words[_SEQUENCE] == before:
                if not math.isfinite(started):
                    started = 0.0  # A lie; long ago is the answer that ends it.
                self._last = Progress(job, item - 1 if item else None, started)
                break
        return self._last

    @property
    def departing(self) -> bool:
        """Whether the owner is about to leave."""
        return self._words[_DEPARTING] != 0

    @departing.setter
    def departing(self, value: bool) -> None:
        self._words[_DEPARTING] = int(value)

    def close(self) -> None:
        """Unmap. No other method may follow."""
        self._words.release()
        self._floats.release()
        self._map.close()
