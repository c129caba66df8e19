"""What a function prints: cut into lines, stamped, bounded, and told to the host in batches.

A line goes out at once when nothing did for ``FLUSH_S``; what follows sooner waits for the next write, ``flush`` or the
end of the item. Nothing is written anywhere else.
"""

from __future__ import annotations

import io
import struct
import sys
import time
from typing import Any

from fleet.protocol.limits import LOG_BYTES_PER_CALL_MAX, LOG_LINE_BYTES_MAX

from . import wire

FLUSH_S = 0.05
FLUSH_BYTES = 8192
_HEAD = struct.Struct("<dBI")


class Output:
    """Collects the lines of the running call, or of the running item of a chunk."""

    def __init__(self) -> None:
        self.position = wire.NONE
        self._lines: list[bytes] = []
        self._bytes = 0
        self._left = LOG_BYTES_PER_CALL_MAX
        self._flushed_s = 0.0
        self.streams = (Stream(self, 1, "<stdout>"), Stream(self, 2, "<stderr>"))

    def begin(self, position: int) -> None:
        """What is printed from now on belongs to ``position``."""
        self.position = position
        self._left = LOG_BYTES_PER_CALL_MAX

    def end(self) -> None:
        """The item is over: its unfinished lines are lines, too, and all of them go out."""
        for stream in self.streams:
            if stream.rest:
                stream.finish()
        if self._lines:
            self.flush()

    def line(self, stream: int, text: str) -> None:
        """Take one line; over the limit of the call only one more, which says so."""
        if self._left <= 0:
            return
        data = text.encode("utf-8", "backslashreplace")
        if len(data) > LOG_LINE_BYTES_MAX:
            cut = data[: LOG_LINE_BYTES_MAX - 64].decode("utf-8", "ignore").encode()
            data = cut + f" ... ({len(data) - len(cut)} bytes cut)".encode()
        self._left -= len(data) + 1
        self._add(stream, data)
        if self._left <= 0:
            self._add(2, f"(output cut: more than {LOG_BYTES_PER_CALL_MAX >> 10} KiB)".encode())

    def _add(self, stream: int, data: bytes) -> None:
        self._lines += (_HEAD.pack(time.time(), stream, len(data)), data)
        self._bytes += len(data)
        if self._bytes > FLUSH_BYTES or time.monotonic() - self._flushed_s > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Tell the host now."""
        data = b"".join(self._lines)
        self._lines.clear()
        self._bytes = 0
        self._flushed_s = time.monotonic()
        if data:
            wire.tell(wire.LOG, self.position, data)


class _Buffer(io.RawIOBase):
    """``sys.stdout.buffer``: bytes, taken as UTF-8."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = bytes(data)
        self._stream.write(view.decode("utf-8", "backslashreplace"))
        return len(view)

    def flush(self) -> None:
        self._stream.flush()


class Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of the guest. It can be closed and still be written to: calls share it."""

    errors = "backslashreplace"
    encoding = "utf-8"

    def __init__(self, output: Output, number: int, name: str) -> None:
        self._output = output
        self._number = number
        self.name = name
        self.mode = "w"
        self.rest = ""
        self.buffer = _Buffer(self)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Take text; whole lines are passed on."""
        if type(text) is not str:
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if "\n" in text:
            *lines, rest = (self.rest + text).split("\n")
            self.rest = rest
            for line in lines:
                self._output.line(self._number, line)
        elif len(self.rest) <= 2 * LOG_LINE_BYTES_MAX:  # A longer line is cut anyway.
            self.rest += text
        return len(text)

    def finish(self) -> None:
        """Make the unfinished line a line."""
        rest, self.rest = self.rest, ""
        self._output.line(self._number, rest)

    def flush(self) -> None:
        """Pass on what waits. An unfinished line goes on growing."""
        self._output.flush()

    def close(self) -> None:
        """Nothing is closed: the next call prints here as well."""

    def isatty(self) -> bool:
        return False

    def reconfigure(self, **_options: Any) -> None:
        """Accept what programs like to set (encoding, buffering): lines are told as UTF-8, whatever it is."""


def install(output: Output) -> None:
    """Let the interpreter print here."""
    sys.stdout = sys.__stdout__ = output.streams[0]  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = output.streams[1]  # type: ignore[misc,assignment]
    sys.stdin = sys.__stdin__ = io.StringIO()  # type: ignore[misc,assignment]
