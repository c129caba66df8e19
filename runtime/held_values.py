"""Which values of ``fleet.put`` another party keeps for us, a slot process or a sandbox. Pure: whoever uses it sends them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

Bytes = bytes | bytearray | memoryview


class HeldValues:
    """Sizes of what is kept, by digest, the one used longest ago first."""

    __slots__ = ("_sizes", "total_bytes")

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.total_bytes = 0

    def use(self, refs: Mapping[str, Bytes], bytes_max: int) -> tuple[list[str], list[str]]:
        """A job uses ``refs``: (what has to go first, what is to be sent then).

        What it uses stays, even if that alone is more than ``bytes_max``; the rest only as long as all is no more.
        """
        new = []
        for digest, data in refs.items():
            if digest not in self._sizes:
                new.append(digest)
                self._sizes[digest] = len(data)
                self.total_bytes += len(data)
            self._sizes.move_to_end(digest)
        gone = []
        while self.total_bytes > bytes_max and len(self._sizes) > len(refs):
            digest, size_bytes = self._sizes.popitem(last=False)
            self.total_bytes -= size_bytes
            gone.append(digest)
        return gone, new
