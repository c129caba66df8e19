"""Waiting for processes to end."""

from __future__ import annotations

import os
import select
import time

from fleet._procfs import state_of


def all_end(pids: list[int], limit_s: float = 15.0) -> list[int]:
    """Those of ``pids`` that still run after ``limit_s``."""
    ends_s = time.monotonic() + limit_s
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            select.select([handle], [], [], max(0.0, ends_s - time.monotonic()))
        finally:
            os.close(handle)
    return [pid for pid in pids if state_of(pid) not in ("", "Z")]
