"""What functions print, on its way to the control plane: gathered for LOG_S, bounded.

A batch that isn't answered, because the connection is broken or nobody leads, is sent again; up to PENDING_BYTES_MAX of all
calls together wait. Sent again it may be stored twice: whoever reads leaves copies out. A slot is not trusted: of what it
says of one call, or of one item of a chunk, CALL_BYTES_MAX are passed on. Where something is left out, a line says so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from fleet.protocol.limits import KIB, LOG_BYTES_PER_CALL_MAX, LOG_LINE_BYTES_MAX, MESSAGE_BYTES_MAX, MIB
from fleet.protocol.messages import Lease, LogLines

LOG_S = 0.05
"""Lines wait this long for company; the end of a call doesn't wait."""
LOG_RETRY_S = 0.5
LOG_ANSWER_S = 2.0
"""A batch that isn't answered for so long is sent again."""
FLUSH_BYTES = 512 * KIB
"""So many wait no longer."""
CALL_BYTES_MAX = LOG_BYTES_PER_CALL_MAX + 64 * KIB
"""The guest cuts before, with a line that says so."""
PENDING_BYTES_MAX = 4 * MIB
CALLS_KNOWN_MAX = 4096

Line = tuple[float, Literal["stdout", "stderr"], str]
_Of = tuple[int, int, int | None]
"""Lease, and item of the chunk."""

# A character may take six bytes in JSON; a last batch of lines and the header come on top.
assert 6 * (FLUSH_BYTES + 2 * LOG_LINE_BYTES_MAX) < MESSAGE_BYTES_MAX


@dataclass(slots=True)
class _Batch:
    lease: Lease
    lines: list[Line] = field(default_factory=list)
    items: list[tuple[int, int]] = field(default_factory=list)
    size_bytes: int = 0


Answered = Callable[[bool], None]
"""Told once whether a batch arrived."""


class LogBatches:
    """Lines by lease. ``send`` gets one batch of one lease; ``retry`` is called when some must be flushed again later."""

    def __init__(self, send: Callable[[LogLines, Answered], None], retry: Callable[[], None]) -> None:
        self._send = send
        self._retry = retry
        self._batches: dict[tuple[int, int], _Batch] = {}
        self._failed: list[_Batch] = []
        self._bytes = 0
        self._spent: OrderedDict[_Of, int] = OrderedDict()
        self.dropped = 0
        """Lines over the bounds, since the start."""

    @property
    def empty(self) -> bool:
        """Whether nothing new waits."""
        return not self._batches

    def add(self, lease: Lease, lines: Iterable[tuple[float, int, str]], item: int | None = None) -> None:
        """Take lines of a slot (stream 1 is stdout), of ``item`` of a chunk."""
        of = (lease.epoch, lease.counter, item)
        spent = self._spent.pop(of, 0)
        for at_unix_s, stream, text in lines:
            cut = text[:LOG_LINE_BYTES_MAX]
            if spent > CALL_BYTES_MAX or self._bytes > PENDING_BYTES_MAX:
                self.dropped += 1
                continue
            spent += len(cut) + 1
            self._put(lease, item, (at_unix_s, "stdout" if stream == 1 else "stderr", cut))
            if spent > CALL_BYTES_MAX or self._bytes > PENDING_BYTES_MAX:
                self._put(lease, item, (at_unix_s, "stderr", "(output cut: more than its car could pass on)"))
        self._spent[of] = spent
        if len(self._spent) > CALLS_KNOWN_MAX:
            self._spent.popitem(last=False)

    def _put(self, lease: Lease, item: int | None, line: Line) -> None:
        batch = self._batches.get((lease.epoch, lease.counter))
        if batch is None:
            batch = self._batches[lease.epoch, lease.counter] = _Batch(lease)
        batch.lines.append(line)
        if item is not None:
            if batch.items and batch.items[-1][0] == item:
                batch.items[-1] = (item, batch.items[-1][1] + 1)
            else:
                batch.items.append((item, 1))
        size_bytes = len(line[2].encode("utf-8", "replace")) + 32
        batch.size_bytes += size_bytes
        self._bytes += size_bytes
        if batch.size_bytes > FLUSH_BYTES:
            self._pass_on(lease.epoch, lease.counter)

    def _pass_on(self, epoch: int, counter: int) -> None:
        self._try(self._batches.pop((epoch, counter)))

    def _try(self, batch: _Batch) -> None:
        def answered(arrived: bool) -> None:
            if arrived:
                self._bytes -= batch.size_bytes
            else:
                self._failed.append(batch)
                self._retry()

        self._send(LogLines.model_construct(lease=batch.lease, lines=batch.lines, items=batch.items), answered)

    def flush(self) -> None:
        """Send all that isn't under way."""
        failed, self._failed = self._failed, []
        for batch in failed:
            self._try(batch)
        for key in list(self._batches):
            self._pass_on(*key)
