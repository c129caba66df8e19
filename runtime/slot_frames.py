"""Frames between agent and slot: bytes of a stream in, frames out. No I/O.

Frame:    kind u8 | flags u8 | reserved u16 | head length u32 | body length u64, then head, then body. Little endian.
Errors:   ProtocolError for a length over the limits, before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from fleet.protocol import limits
from fleet.protocol.errors import ProtocolError

Bytes = bytes | bytearray | memoryview

FRAME = struct.Struct("<BxxxIQ")
HEAD_BYTES_MAX = limits.MIB
BODY_BYTES_MAX = limits.PAYLOAD_BYTES_MAX + limits.MIB
_SMALL_BYTES = 64 * limits.KIB
"""Frames up to this size are gathered in one buffer; a larger one is received straight into its own."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received. ``body`` is a copy of its own, or the buffer it was received into."""

    kind: int
    head: bytes
    body: Bytes = field(repr=False)


class FrameBuffer:
    """Bytes of a stream in, frames out; no I/O. Receive into ``target()``, tell how much with ``received``, ``take``.

    ProtocolError for a length over the limits, before anything is allocated.
    """

    def __init__(self, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._body_bytes_max = body_bytes_max
        self._small = bytearray(2 * _SMALL_BYTES)
        self._start = 0
        self._end = 0
        self._large: bytearray | None = None
        self._large_end = 0

    def target(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty."""
        if self._large is not None:
            return memoryview(self._large)[self._large_end :]
        return memoryview(self._small)[self._end :]

    def received(self, count: int) -> None:
        """``count`` bytes were written to the front of ``target()``."""
        if self._large is not None:
            self._large_end += count
        else:
            self._end += count

    def take(self) -> Frame | None:
        """The next whole frame, None while there is none."""
        if self._large is not None:
            return self._take_large()
        have = self._end - self._start
        if have < FRAME.size:
            self._compact()
            return None
        kind, head_bytes, body_bytes = FRAME.unpack_from(self._small, self._start)
        if head_bytes > HEAD_BYTES_MAX or body_bytes > self._body_bytes_max:
            raise ProtocolError(f"a frame of {head_bytes} + {body_bytes} bytes is over the limit")
        size = FRAME.size + head_bytes + body_bytes
        if size > _SMALL_BYTES:
            return self._begin_large(size, have)
        if have < size:
            self._compact()
            return None
        at = self._start + FRAME.size
        head = bytes(self._small[at : at + head_bytes])
        body = bytes(self._small[at + head_bytes : at + head_bytes + body_bytes])
        self._start += size
        if self._start == self._end:
            self._start = self._end = 0
        return Frame(kind, head, body)

    def _compact(self) -> None:
        # Room for one whole small frame behind what is there already.
        if self._start > len(self._small) - _SMALL_BYTES:
            rest = self._small[self._start : self._end]
            self._small[: len(rest)] = rest
            self._start, self._end = 0, len(rest)

    def _begin_large(self, size: int, have: int) -> Frame | None:
        taken = min(size, have)
        self._large = bytearray(size)
        self._large[:taken] = memoryview(self._small)[self._start : self._start + taken]
        self._large_end = taken
        self._start += taken
        if self._start == self._end:
            self._start = self._end = 0
        return self._take_large()

    def _take_large(self) -> Frame | None:
        assert self._large is not None
        if self._large_end < len(self._large):
            return None
        view = memoryview(self._large)
        kind, head_bytes, _ = FRAME.unpack_from(view)
        at = FRAME.size + head_bytes
        self._large = None
        return Frame(kind, bytes(view[FRAME.size : at]), view[at:])


def frame(kind: int, head: bytes, body: Sequence[Bytes] = ()) -> list[Bytes]:
    """The buffers of one frame, for ``sendmsg``. Small bodies are joined: one buffer is sent faster than three."""
    size = sum(map(len, body))
    start = FRAME.pack(kind, len(head), size) + head
    if size <= _SMALL_BYTES:
        return [b"".join((start, *body))]
    return [start, *body]
