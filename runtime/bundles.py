"""Blobs that several calls use, on a car: code (bundles, packages) and values of ``fleet.put``. In memory, on disk, or fetched;
always checked by digest before use.

They are opaque here: the agent neither unzips nor unpickles them. Files lie under their digest, written under another
name and renamed, so that two agents may share a folder. What is damaged on disk is removed and fetched again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio.to_thread

from fleet.protocol.errors import ProtocolError
from fleet.protocol.ids import digest as digest_of
from fleet.protocol.limits import MIB, PAYLOAD_BYTES_MAX
from runtime import cache_files

MEMORY_BYTES_MAX = PAYLOAD_BYTES_MAX + 64 * MIB
"""Room for the largest value that calls may share, and for code beside it: what isn't here is read again for each call."""
DISK_BYTES_MAX = 1024 * MIB

Bytes = bytes | bytearray | memoryview
Fetch = Callable[[], Awaitable[bytes]]


class BundleCache:
    """See the module. ``folder`` None: in memory alone."""

    def __init__(
        self,
        folder: Path | None,
        *,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        disk_bytes_max: int = DISK_BYTES_MAX,
    ) -> None:
        self._folder = folder
        self._memory: OrderedDict[str, Bytes] = OrderedDict()
        self._memory_bytes = 0
        self._memory_bytes_max = memory_bytes_max
        self._disk_bytes_max = disk_bytes_max
        self._turns = cache_files.Turns()
        self.fetched = 0
        """Blobs that were fetched, since the start."""

    def get(self, digest: str) -> Bytes | None:
        """The blob if it is in memory."""
        found = self._memory.get(digest)
        if found is not None:
            self._memory.move_to_end(digest)
        return found

    def add(self, digest: str, data: Bytes) -> None:
        """Have a blob in memory that was made here and is stored elsewhere; whoever calls has checked its digest."""
        if self.get(digest) is None:
            self._remember(digest, data)

    async def load(self, digest: str, fetch: Fetch) -> Bytes:
        """The blob, from wherever it is nearest. Concurrent loads of one digest fetch it once.

        ProtocolError when what was fetched has another digest; what ``fetch`` raises passes through.
        """
        async with self._turns.turn(digest):
            found = self.get(digest)
            if found is not None:
                return found
            found = await anyio.to_thread.run_sync(self._read, digest)
            if found is None:
                found = await fetch()
                self.fetched += 1
                if await anyio.to_thread.run_sync(digest_of, found) != digest:
                    raise ProtocolError(f"blob {digest[:12]} arrived damaged")
                await anyio.to_thread.run_sync(self._write, digest, found)
            self._remember(digest, found)
            return found

    def _remember(self, digest: str, data: Bytes) -> None:
        self._memory[digest] = data
        self._memory_bytes += len(data)
        while self._memory_bytes > self._memory_bytes_max and len(self._memory) > 1:
            _, dropped = self._memory.popitem(last=False)
            self._memory_bytes -= len(dropped)

    def _read(self, digest: str) -> bytes | None:
        if self._folder is None:
            return None
        path = self._folder / digest
        try:
            if path.stat().st_size > PAYLOAD_BYTES_MAX:
                raise ProtocolError("too large to be a blob")
            data = path.read_bytes()
            if digest_of(data) != digest:
                raise ProtocolError("damaged")
            os.utime(path)  # least recently used goes first
            return data
        except ProtocolError:
            path.unlink(missing_ok=True)
            return None
        except OSError:
            return None

    def _write(self, digest: str, data: bytes) -> None:
        """A full or read-only disk costs the copy on disk, not the call."""
        if self._folder is None:
            return
        try:
            cache_files.write(self._folder, digest, [data], self._disk_bytes_max)
        except OSError:
            return
