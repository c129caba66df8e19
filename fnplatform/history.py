"""A JSONL history of what the dispatcher decided, for an independent checker (``tests/chaos``). Off unless asked for.

``FLEET_HISTORY=path`` turns it on. Every line is one JSON object with ``unix_s``, ``who`` ("dispatcher"), ``pid`` and:

==========  =========================================================================================================
event       fields
==========  =========================================================================================================
``lead``    epoch: this process leads from now on
``grant``   call, seq, epoch, counter, car: a lease was made and sent
``adopt``   call, seq, epoch, counter, car: a new leader took over a lease that a beat proved
``end``     call, counter, why: the lease is over (``release``, ``lapse``, ``void``, ``drop``, ``cancel``)
``requeue`` call, seq (new), losses, attempts: the next state is durable
``commit``  call, counter, state: an outcome under this lease is durable (``counter`` 0: ended by the platform)
``refuse``  call, counter, why: an outcome was refused
==========  =========================================================================================================

One ``write`` of less than PIPE_BUF bytes on an O_APPEND file: lines of several processes don't mix, and a ``kill -9``
loses nothing that was written before.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

ENV = "FLEET_HISTORY"


class History:
    """Appends lines to a file; does nothing without one."""

    def __init__(self, path: str | None = None) -> None:
        self._fd = -1 if not path else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @classmethod
    def from_environment(cls) -> History:
        """The history that FLEET_HISTORY names, or one that keeps nothing."""
        return cls(os.environ.get(ENV))

    @property
    def on(self) -> bool:
        """Whether lines are kept: ask before building expensive fields."""
        return self._fd >= 0

    def write(self, event: str, **fields: Any) -> None:
        """Append one line."""
        if self._fd < 0:
            return
        row = {"unix_s": round(time.time(), 6), "who": "dispatcher", "pid": os.getpid(), "event": event, **fields}
        os.write(self._fd, json.dumps(row, separators=(",", ":")).encode() + b"\n")
