"""Room on the disk that the broker writes to: new work is refused while there is still room to finish the old.

Measured with nats-server 2.15.1: a stream that met a full disk once answers no publish any more, not even when there is
room again; only a restart helps. So the platform never fills the disk itself: submits, code and payloads are refused from
DISK_RESERVE_BYTES on, and what runs may still store its outcomes. Should others fill it, see ``Broker.wait``.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from fleet.protocol.errors import QueueFull
from fleet.protocol.limits import MIB

DISK_RESERVE_BYTES = 128 * MIB
LOOK_EVERY_S = 0.5


def free_bytes(path: Path) -> int:
    """Bytes that can still be written where ``path`` lies; 0 if it can't be asked."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


class DiskRoom:
    """Says whether new work may be stored. ``path`` None: the broker is elsewhere, its disk can't be asked."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._looked_s = -LOOK_EVERY_S
        self._free_bytes = 0

    def check(self) -> None:
        """QueueFull when only the reserve is left. Looks at the disk at most every LOOK_EVERY_S."""
        if self._path is None:
            return
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s, self._free_bytes = now_s, free_bytes(self._path)
        if self._free_bytes < DISK_RESERVE_BYTES:
            raise QueueFull(
                f"the disk of the platform is full: {self._free_bytes // MIB} MiB free,"
                f" {DISK_RESERVE_BYTES // MIB} MiB are kept for what runs already",
                hint="free the disk that --data lies on; what was accepted goes on by itself",
            )
