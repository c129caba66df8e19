"""How much of the blob store copies of kept values take (``fleet.keep``), and which have to go when it is too much. Pure.

Soft state of one process: what it doesn't know of ends with its time to live.
"""

from __future__ import annotations

from collections import OrderedDict

Key = tuple[str, str]
"""Tenant and digest."""


class KeptCopies:
    """Sizes in bytes, the copy used longest ago first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._sizes: OrderedDict[Key, int] = OrderedDict()
        self.total_bytes = 0

    def used(self, key: Key, size_bytes: int) -> list[Key]:
        """This one was put, or used; those that have to go for it."""
        self.forget(key)
        self._sizes[key] = size_bytes
        self.total_bytes += size_bytes
        gone = []
        while self.total_bytes > self._bytes_max and len(self._sizes) > 1:
            oldest = next(iter(self._sizes))
            self.forget(oldest)
            gone.append(oldest)
        return gone

    def touch(self, key: Key) -> None:
        """It was used, if it is one of them."""
        if key in self._sizes:
            self._sizes.move_to_end(key)

    def forget(self, key: Key) -> None:
        """It is gone, or no mere copy any more."""
        self.total_bytes -= self._sizes.pop(key, 0)
