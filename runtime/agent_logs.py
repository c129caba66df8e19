"""What functions print, on its way to the control plane: gathered for LOG_S, bounded, best effort."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from fleet.protocol.limits import LOG_BYTES_PER_CALL_MAX, LOG_LINE_BYTES_MAX
from fleet.protocol.messages import Lease, LogLines

LOG_S = 0.05
"""Lines wait this long for company; the end of a call doesn't wait."""

Line = tuple[float, Literal["stdout", "stderr"], str]


class LogBatches:
    """Lines by lease. ``send`` gets one batch of one lease."""

    def __init__(self, send: Callable[[LogLines], None]) -> None:
        self._send = send
        self._lines: dict[tuple[int, int], tuple[Lease, list[Line]]] = {}
        self._bytes = 0
        self.dropped = 0
        """Lines over the bound, since the start."""

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._lines

    def add(self, lease: Lease, lines: Iterable[tuple[float, int, str]]) -> None:
        """Take lines of a slot (stream 1 is stdout). A slot is not trusted: what is too long is cut, too much dropped."""
        for at_unix_s, stream, text in lines:
            if self._bytes > LOG_BYTES_PER_CALL_MAX:
                self.dropped += 1
                continue
            cut = text[:LOG_LINE_BYTES_MAX]
            self._bytes += len(cut) + 32
            _, known = self._lines.setdefault((lease.epoch, lease.counter), (lease, []))
            known.append((at_unix_s, "stdout" if stream == 1 else "stderr", cut))

    def flush(self) -> None:
        """Send all."""
        lines, self._lines, self._bytes = self._lines, {}, 0
        for lease, batch in lines.values():
            self._send(LogLines.model_construct(lease=lease, lines=batch))
