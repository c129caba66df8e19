"""See an instance's linear memory from the host, so that payloads are copied once instead of translated byte by byte.

wasmtime reserves the 4 GiB that a 32-bit guest can address (plus guards) in one piece, which never moves. Where that
piece lies is read from ``/proc/self/maps`` and proved by a probe: the guest is asked to keep 32 random bytes and says
where; exactly the right base shows them there. From then on address ``a`` of the guest is ``base + a``.

Safety: an address is 32 bits wide, so whatever a hostile guest says lies inside its own reservation; ``read`` and
``write`` check that the end does, too. A page there that isn't mapped ends the process, as a trap would.
"""

from __future__ import annotations

import ctypes
import os
import re

_SPACE_BYTES = 1 << 32
_maps_fd = -1
_WRITABLE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) rw", re.MULTILINE)


class Window:
    """Copies between the host and one instance's memory."""

    __slots__ = ("_base", "mapped_bytes")

    def __init__(self, base: int, mapped_bytes: int) -> None:
        self._base = base
        self.mapped_bytes = mapped_bytes
        """Size of the guest's memory when it was last measured."""

    @staticmethod
    def supported() -> bool:
        """Whether this process can see its own map; opens it, for a lock-down may follow."""
        global _maps_fd
        if _maps_fd < 0:
            try:
                _maps_fd = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        return True

    @classmethod
    def find(cls, signs: list[tuple[int, bytes]]) -> Window | None:
        """The window that shows each content at its address; None if no mapping of this process does."""
        for start, end in _writable_runs():
            if all(
                address + len(content) <= end - start and ctypes.string_at(start + address, len(content)) == content
                for address, content in signs
            ):
                return cls(start, end - start)
        return None

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of guest memory."""
        assert address >= 0 and size_bytes >= 0 and address + size_bytes <= _SPACE_BYTES, (address, size_bytes)
        return ctypes.string_at(self._base + address, size_bytes)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> int:
        """Copy ``data`` into guest memory; its size."""
        size = len(data)
        assert address >= 0 and address + size <= _SPACE_BYTES, (address, size)
        if isinstance(data, bytes):
            ctypes.memmove(self._base + address, data, size)
        elif size:
            memoryview((ctypes.c_char * size).from_address(self._base + address)).cast("B")[:] = data
        return size

    def measure(self) -> None:
        """Look again how large the guest's memory is (0.2 ms)."""
        for start, end in _writable_runs():
            if start == self._base:
                self.mapped_bytes = end - start


def _writable_runs() -> list[tuple[int, int]]:
    """Where readable and writable mappings lie, adjoining ones as one."""
    runs: list[tuple[int, int]] = []
    for low_hex, high_hex in _WRITABLE.findall(_maps()):
        low, high = int(low_hex, 16), int(high_hex, 16)
        if runs and runs[-1][1] == low:
            runs[-1] = (runs[-1][0], high)
        else:
            runs.append((low, high))
    return runs


def _maps() -> bytes:
    """The whole map; the kernel gives it a page at a time."""
    found = b""
    while piece := os.pread(_maps_fd, 1 << 16, len(found)):
        found += piece
    return found
