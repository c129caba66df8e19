"""``fleet.enable_output()``: what remote functions print appears on the caller's stderr, as they print it."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from fleet.protocol import frames
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import LogEntry
from fleet.transport import Request

log = logging.getLogger("fleet.client")
_enabled = False


class Output:
    """Returned by ``enable_output``; as a context manager it disables the output again at its end."""

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        disable_output()


def enable_output() -> Output:
    """Show what remote functions print on this process's stderr, from now on or within a ``with``."""
    global _enabled
    _enabled = True
    return Output()


def disable_output() -> None:
    """Show nothing any more."""
    global _enabled
    _enabled = False


def on_push(request: Request) -> None:
    """Lines that the platform pushed to the inbox."""
    if not _enabled:
        return
    try:
        entry, _ = frames.unpack(request.data, LogEntry)
    except ProtocolError as error:
        log.warning("log lines can't be read: %s", error)
        return
    sys.stderr.write("".join(f"{line}\n" for _, _, line in entry.lines))
    sys.stderr.flush()
