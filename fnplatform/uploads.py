"""Blobs that are being put in several parts: hashed as they come, so that nothing is read again to verify them.

What counts is what this process hashed itself, part by part, each acknowledged by JetStream as new. Anything else
(a part twice, out of order, through another process, after a restart) leaves verifying to a reading of all parts.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread

from fleet.protocol.frames import Bytes
from fleet.protocol.limits import MIB

UPLOADS_MAX = 1024
HELD_BYTES_MAX = 64 * MIB
"""Parts of unfinished uploads in memory; whoever asks for a blob that was just put finds it there."""

Key = tuple[str, str]


class Upload:
    """One of them. ``in_order``: all that came so far is new and in the hash. ``held``: its parts, if there is room.
    ``coming``: parts that are being stored right now. ``ttl_s``: the shortest life that a part was stored with.
    """

    __slots__ = (
        "_looking",
        "_there",
        "_turn",
        "began_unix_s",
        "coming",
        "hashed",
        "hasher",
        "held",
        "in_order",
        "ttl_s",
    )

    def __init__(self, began_unix_s: float) -> None:
        self.hasher = hashlib.sha256()
        self.hashed = 0
        self.in_order = True
        self.coming = 0
        self.held: list[Bytes] | None = []
        self.began_unix_s = began_unix_s
        self.ttl_s = float("inf")
        self._there: bool | None = None
        self._looking = anyio.Lock()
        self._turn = anyio.Lock()

    async def is_there(self, ask: Callable[[], Awaitable[bool]]) -> bool:
        """Whether the blob is stored already: asked once for all parts."""
        async with self._looking:
            if self._there is None:
                self._there = await ask()
        return self._there

    async def hash(self, part: int, data: Bytes) -> bool:
        """Take a part that was just stored; whether it was the next one."""
        async with self._turn:  # first come, first served
            if not self.in_order or part != self.hashed:
                self.in_order = False
                return False
            await anyio.to_thread.run_sync(self.hasher.update, data)
            self.hashed += 1
        return True


class Uploads:
    """All that go on, the oldest forgotten when there are too many."""

    def __init__(self) -> None:
        self._uploads: OrderedDict[Key, Upload] = OrderedDict()
        self._held_bytes = 0

    def of(self, key: Key, part: int, now_unix_s: float) -> Upload | None:
        """The upload that ``part`` belongs to; None if this process didn't see its beginning."""
        found = self._uploads.get(key)
        if part == 0 and (found is None or found.hashed or not found.in_order):
            self.end(key)
            found = self._uploads[key] = Upload(now_unix_s)
            if len(self._uploads) > UPLOADS_MAX:
                self.end(next(iter(self._uploads)))
        return found

    async def add(self, upload: Upload, part: int, data: Bytes) -> None:
        """Hash a part that was just stored, and hold it."""
        if not await upload.hash(part, data) or upload.held is None:
            return
        upload.held.append(data)
        self._held_bytes += len(data)
        for other in self._uploads.values():
            if self._held_bytes <= HELD_BYTES_MAX:
                break
            self._release(other)

    def end(self, key: Key) -> list[Bytes]:
        """It is over; the parts that were held."""
        upload = self._uploads.pop(key, None)
        return self._release(upload) if upload is not None else []

    def _release(self, upload: Upload) -> list[Bytes]:
        held, upload.held = upload.held or [], None
        self._held_bytes -= sum(map(len, held))
        return held
