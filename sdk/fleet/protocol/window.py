"""How far a generator may run ahead of whoever iterates it. Standard library only: the wasm guest imports this too.

Guest and agent count alike: the guest, to stop before it yields more; the agent, to know that it has stopped (then its
time doesn't run) and that it doesn't lie about it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fleet.protocol.limits import STREAM_WINDOW_BYTES, STREAM_WINDOW_ITEMS


class StreamWindow:
    """Items that were yielded and not consumed yet. Items are counted from 0 over all runs of a call.

    ``told`` is how many a consumer was told of, ``consumed`` how many of them it has taken.
    """

    __slots__ = ("_bytes", "_sizes", "consumed", "told")

    def __init__(self, told: int, consumed: int) -> None:
        self.told = told
        self.consumed = consumed
        self._sizes: deque[int] = deque()
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether nothing more may be yielded until some of it is consumed. One item always may."""
        return self.told - self.consumed >= STREAM_WINDOW_ITEMS or self._bytes >= STREAM_WINDOW_BYTES

    def add(self, sizes_bytes: Iterable[int]) -> None:
        """Items of these sizes were yielded."""
        for size in sizes_bytes:
            self._sizes.append(size)
            self._bytes += size
            self.told += 1

    def consume(self, consumed: int) -> bool:
        """``consumed`` items were taken in all; whether that is more than was known."""
        if consumed <= self.consumed:
            return False
        self.consumed = consumed
        sizes = self._sizes
        while len(sizes) > max(0, self.told - consumed):
            self._bytes -= sizes.popleft()
        return True
