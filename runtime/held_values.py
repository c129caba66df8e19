"""Which values another party has for us, a slot process or a sandbox: of ``fleet.put``, its own (``fleet.keep``), pieces of
weights. Pure: whoever uses it sends them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping


class HeldValues:
    """Sizes of what is kept, by digest, the one used longest ago first."""

    __slots__ = ("_sizes", "total_bytes")

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.total_bytes = 0

    def use(self, sizes: Mapping[str, int], bytes_max: int) -> tuple[list[str], list[str]]:
        """A job uses what has these sizes in bytes, by digest: (what has to go first, what is to be sent then).

        What it uses stays, even if that alone is more than ``bytes_max``; the rest only as long as all is no more.
        """
        new = []
        for digest, size_bytes in sizes.items():
            if digest not in self._sizes:
                new.append(digest)
                self._sizes[digest] = size_bytes
                self.total_bytes += size_bytes
            self._sizes.move_to_end(digest)
        return self._let_go(len(sizes), bytes_max), new

    def keep(self, digest: str, size_bytes: int, bytes_max: int) -> list[str]:
        """It has this of its own accord; what has to go for it."""
        if digest not in self._sizes:
            self._sizes[digest] = size_bytes
            self.total_bytes += size_bytes
        self._sizes.move_to_end(digest)
        return self._let_go(1, bytes_max)

    def _let_go(self, used: int, bytes_max: int) -> list[str]:
        gone = []
        while self.total_bytes > bytes_max and len(self._sizes) > used:
            digest, size_bytes = self._sizes.popitem(last=False)
            self.total_bytes -= size_bytes
            gone.append(digest)
        return gone
