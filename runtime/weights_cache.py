"""Weights of jax programs, on a car: on disk under a quota, or in memory where there is no folder; handed out as open files.

A piece is written part by part as it comes, checked by its digest on the way, and never whole in the agent's memory. Files lie
under their digest, written under another name and renamed: several agents may share a folder. A file that an earlier agent
left is hashed once before it is used; so is one that changed since. Whatever is used longest ago goes first (by its time of
access, which is set here); a file that is open lives on without its name until nobody has it open.

Errors: Refused when there is no room for a piece; ProtocolError when it arrived with another digest; what ``fetch`` raises.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from fleet.protocol.errors import ProtocolError, Refused
from fleet.protocol.limits import MIB, WEIGHTS_PIECES_MAX
from fleet.protocol.units import format_bytes
from runtime import cache_files

log = logging.getLogger("fleet.car")

DISK_BYTES_MAX = 8192 * MIB
DISK_SHARE = 1 / 3
"""Of the space that is free, or taken by this cache."""
MEMORY_BYTES_MAX = 1024 * MIB
"""Without a folder: pieces that no slot and no job needs are forgotten when all are more than this."""
OPEN_MAX = WEIGHTS_PIECES_MAX
"""Files that stay open while no job needs them."""
STALE_S = 3600.0
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Bytes = bytes | bytearray | memoryview
Take = Callable[[Bytes], Awaitable[None]]
Fetch = Callable[[Take], Awaitable[None]]
"""Brings a piece, part by part and in order."""
Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change of a file whose digest was checked."""


class WeightsFile:
    """A piece as an open file that can't be changed through it. Closed when nobody refers to it any more."""

    __slots__ = ("__weakref__", "_descriptor", "digest", "size_bytes")

    def __init__(self, digest: str, size_bytes: int, descriptor: int) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Its descriptor, read-only or sealed."""
        return self._descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)


class WeightsCache:
    """See the module. ``disk_bytes_max`` None: DISK_BYTES_MAX or DISK_SHARE of the free space, whichever is less."""

    def __init__(self, folder: Path | None, *, disk_bytes_max: int | None = None) -> None:
        self._folder = folder
        self._disk_bytes_max = disk_bytes_max
        self._open: weakref.WeakValueDictionary[str, WeightsFile] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, WeightsFile] = OrderedDict()
        self._checked: dict[str, Identity] = {}
        self._turns = cache_files.Turns()
        self._writing_bytes = 0
        self.fetched = 0
        """Pieces that were fetched, since the start."""

    def get(self, digest: str) -> WeightsFile | None:
        """The piece if it is open."""
        found = self._open.get(digest)
        if found is not None:
            self._remember(found)
        return found

    async def load(self, digest: str, size_bytes: int, fetch: Fetch) -> WeightsFile:
        """The piece, from wherever it is nearest. Concurrent loads of one digest fetch it once."""
        async with self._turns.turn(digest):
            found = self.get(digest)
            if found is not None:
                return found
            # Descriptors, because a thread that made a file may refer to it for a while.
            descriptor = await anyio.to_thread.run_sync(self._find, digest, size_bytes)
            if descriptor is None:
                descriptor = await self._bring(digest, size_bytes, fetch)
                self.fetched += 1
                log.info("weights %s fetched, %s", digest[:12], format_bytes(size_bytes))
            found = WeightsFile(digest, size_bytes, descriptor)
            self._open[digest] = found
            self._remember(found)
            return found

    def _remember(self, file: WeightsFile) -> None:
        recent = self._recent
        recent[file.digest] = file
        recent.move_to_end(file.digest)
        while len(recent) > OPEN_MAX or (
            self._folder is None and len(recent) > 1 and self._memory() > MEMORY_BYTES_MAX
        ):
            recent.popitem(last=False)

    def _memory(self) -> int:
        return sum(file.size_bytes for file in self._recent.values())

    # --- what is there -----------------------------------------------------------------------------------------------

    def _find(self, digest: str, size_bytes: int) -> int | None:
        """The piece on disk, open; hashed unless that was done before. What is damaged is removed."""
        if self._folder is None:
            return None
        path = self._folder / digest
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            stat = os.fstat(descriptor)
            if self._checked.get(digest) != _identity(stat):
                with open(descriptor, "rb", closefd=False) as data:
                    if stat.st_size != size_bytes or hashlib.file_digest(data, "sha256").hexdigest() != digest:
                        log.warning("weights %s were damaged on disk", digest[:12])
                        path.unlink(missing_ok=True)
                        raise OSError(errno.EBADMSG, "damaged")
                self._checked[digest] = _identity(stat)
            os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    # --- what comes --------------------------------------------------------------------------------------------------

    async def _bring(self, digest: str, size_bytes: int, fetch: Fetch) -> int:
        self._writing_bytes += size_bytes
        try:
            await self._make_room(size_bytes)
            descriptor, path = await anyio.to_thread.run_sync(self._begin, size_bytes)
            try:
                await self._receive(digest, size_bytes, fetch, descriptor)
                return await anyio.to_thread.run_sync(self._finish, digest, descriptor, path)
            except BaseException:
                _discard(descriptor, path)
                raise
        except OSError as error:
            raise _no_room(error) from error
        finally:
            self._writing_bytes -= size_bytes

    async def _receive(self, digest: str, size_bytes: int, fetch: Fetch, descriptor: int) -> None:
        hasher = hashlib.sha256()
        received = 0

        def write(data: Bytes) -> None:
            hasher.update(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]

        async def take(data: Bytes) -> None:
            nonlocal received
            received += len(data)
            if received > size_bytes:
                raise ProtocolError(f"weights {digest[:12]} are more than the {size_bytes} bytes that they should be")
            try:
                await anyio.to_thread.run_sync(write, data)
            except OSError as error:
                raise _no_room(error) from error

        await fetch(take)
        if hasher.hexdigest() != digest or received != size_bytes:
            raise ProtocolError(f"weights {digest[:12]} arrived damaged")

    def _begin(self, size_bytes: int) -> tuple[int, Path | None]:
        """A new file, with the space it needs: a full disk is told before anything is fetched."""
        if self._folder is None:
            return os.memfd_create("fleet-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), None
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError:
            _discard(descriptor, Path(name))
            raise
        return descriptor, Path(name)

    def _finish(self, digest: str, descriptor: int, path: Path | None) -> int:
        """Put the file in its place: a descriptor of it that can't write. ``descriptor``, which could, is closed."""
        if path is None or self._folder is None:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            return descriptor
        os.chmod(path, 0o400)
        safe = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.replace(path, self._folder / digest)
        except OSError:
            os.close(safe)
            raise
        self._checked[digest] = _identity(os.fstat(descriptor))
        os.close(descriptor)
        return safe

    async def _make_room(self, size_bytes: int) -> None:
        """Remove what was used longest ago until all that is being written fits; Refused where it can't."""
        if self._folder is None:
            return
        files, free = await anyio.to_thread.run_sync(_look, self._folder)
        kept_bytes = sum(file.size_bytes for file in files)
        limit = self._disk_bytes_max
        if limit is None:
            limit = min(DISK_BYTES_MAX, int((free + kept_bytes) * DISK_SHARE))
        places = {digest: place for place, digest in enumerate(self._recent, 1)}
        gone: list[Path] = []
        for file in sorted(files, key=lambda one: (places.get(one.path.name, 0), one.used_ns)):
            if kept_bytes + self._writing_bytes <= limit:
                break
            self._recent.pop(file.path.name, None)
            if file.path.name not in self._open:  # What a job needs must be there when it runs.
                gone.append(file.path)
                kept_bytes -= file.size_bytes
        if kept_bytes + self._writing_bytes > limit:
            raise Refused(
                f"weights of {format_bytes(size_bytes)} don't fit: this car keeps {format_bytes(limit)} of them",
                hint="give it a larger --weights",
            )
        for path in gone:
            self._checked.pop(path.name, None)
            await anyio.to_thread.run_sync(functools.partial(path.unlink, missing_ok=True))


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of the cache."""

    path: Path
    size_bytes: int
    used_ns: int


def _look(folder: Path) -> tuple[list[_Kept], int]:
    """What is in the folder, and how many bytes are free there. What killed agents left is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for path in folder.iterdir():
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # Another agent was faster.
        if not path.name.startswith("."):
            files.append(_Kept(path, stat.st_size, stat.st_atime_ns))
        elif time.time() - stat.st_mtime > STALE_S:
            path.unlink(missing_ok=True)
    return files, shutil.disk_usage(folder).free


def _discard(descriptor: int, path: Path | None) -> None:
    os.close(descriptor)
    if path is not None:
        path.unlink(missing_ok=True)


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _no_room(error: OSError) -> Refused:
    what = "the disk of this car is full" if error.errno == errno.ENOSPC else f"{error.strerror or error}"
    return Refused(f"weights can't be kept: {what}", hint="free some space, or give it another folder with --cache")
