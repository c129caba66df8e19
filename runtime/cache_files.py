"""What the caches of a car have in common: files that appear whole, under a bound, and things that are brought once.

Several agents may share a folder. Files whose names begin with a dot aren't the cache's content.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

Bytes = bytes | bytearray | memoryview


def write(folder: Path, name: str, parts: Sequence[Bytes], disk_bytes_max: int) -> None:
    """Write a file under another name and rename it; others go before, those used longest ago (mtime) first. Blocks.

    OSError when it can't be written: nothing of it is left then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _make_room(folder, sum(map(len, parts)), disk_bytes_max)
    handle, new = tempfile.mkstemp(prefix=".new-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(new, folder / name)
    except OSError:
        Path(new).unlink(missing_ok=True)
        raise


def _make_room(folder: Path, wanted_bytes: int, disk_bytes_max: int) -> None:
    stats = []
    for path in folder.iterdir():
        if not path.name.startswith("."):
            try:
                stats.append((path.stat(), path))
            except FileNotFoundError:
                continue  # Another agent was quicker.
    total = wanted_bytes + sum(stat.st_size for stat, _ in stats)
    for stat, path in sorted(stats, key=lambda pair: pair[0].st_mtime_ns):
        if total <= disk_bytes_max:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size


class Turns:
    """One task at a time for each digest: whoever waited finds what the one before it brought."""

    def __init__(self) -> None:
        self._busy: dict[str, anyio.Event] = {}

    @asynccontextmanager
    async def turn(self, digest: str) -> AsyncIterator[None]:
        """Inside: nobody else is, for this digest."""
        while (busy := self._busy.get(digest)) is not None:
            await busy.wait()
        done = self._busy[digest] = anyio.Event()
        try:
            yield
        finally:
            del self._busy[digest]
            done.set()
