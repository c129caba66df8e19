"""Weights on a car's disk: fetched once, checked, within a quota, read-only, kept while they are needed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet.parts import PARTS_AT_ONCE, stream
from fleet.protocol.errors import FleetUnavailable, ProtocolError, Refused
from runtime.weights_cache import Take, WeightsCache, WeightsFile

pytestmark = pytest.mark.anyio
SIZE = 10_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def piece(number: int) -> tuple[str, bytes]:
    data = bytes([number]) * SIZE
    return hashlib.sha256(data).hexdigest(), data


class Source:
    """Where pieces come from, in three parts; counts who asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate: anyio.Event | None = None

    def __call__(self, digest: str, data: bytes) -> Callable[[Take], Any]:
        async def fetch(take: Take) -> None:
            self.asked.append(digest)
            for start in range(0, len(data), 4000):
                if self.gate is not None:
                    await self.gate.wait()
                await take(data[start : start + 4000])

        return fetch


async def load(cache: WeightsCache, source: Source, number: int) -> WeightsFile:
    digest, data = piece(number)
    return await cache.load(digest, SIZE, source(digest, data))


def content(file: WeightsFile) -> bytes:
    """As a slot reads it."""
    with mmap.mmap(file.fileno(), file.size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
        return bytes(mapped)


def kept(folder: Path) -> set[int]:
    names = {piece(number)[0]: number for number in range(10)}
    return {names[path.name] for path in folder.iterdir()}


@pytest.mark.parametrize("on_disk", [True, False])
async def test_a_piece_is_fetched_once_and_cannot_be_changed(on_disk: bool, tmp_path: Path) -> None:
    source = Source()
    cache = WeightsCache(tmp_path / "weights" if on_disk else None)
    file = await load(cache, source, 1)
    assert content(file) == piece(1)[1] and cache.get(piece(1)[0]) is file
    assert await load(cache, source, 1) is file and len(source.asked) == cache.fetched == 1
    with pytest.raises(OSError):
        os.write(file.fileno(), b"x")
    with pytest.raises(OSError):
        os.ftruncate(file.fileno(), 1)
    if on_disk:
        assert fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert kept(tmp_path / "weights") == {1}


async def test_who_comes_at_once_waits_for_the_first(tmp_path: Path) -> None:
    source = Source()
    source.gate = anyio.Event()
    cache = WeightsCache(tmp_path)
    files: list[WeightsFile] = []

    async def get() -> None:
        files.append(await load(cache, source, 1))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(get)
            await anyio.wait_all_tasks_blocked()
            source.gate.set()
    assert len(source.asked) == 1 and all(one is files[0] for one in files) and len(files) == 5


async def test_what_an_earlier_agent_left_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    await load(WeightsCache(tmp_path), source, 1)
    hashed: list[int] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, how: (hashed.append(1), real(file, how))[1])
    cache = WeightsCache(tmp_path)
    for _ in range(3):
        assert content(await load(cache, source, 1)) == piece(1)[1]
        cache._recent.clear()  # As if others had taken its place: it isn't open any more.
        assert cache.get(piece(1)[0]) is None
    assert len(hashed) == 1 and len(source.asked) == 1


@pytest.mark.parametrize("damage", ["other bytes", "cut short"])
@pytest.mark.parametrize("same_agent", [True, False])
async def test_what_was_damaged_is_fetched_again(damage: str, same_agent: bool, tmp_path: Path) -> None:
    source = Source()
    cache = WeightsCache(tmp_path)
    digest, data = piece(1)
    await load(cache, source, 1)
    cache._recent.clear()
    path = tmp_path / digest
    path.chmod(0o600)
    path.write_bytes(data[:-1] + (b"x" if damage == "other bytes" else b""))
    cache = cache if same_agent else WeightsCache(tmp_path)
    assert content(await load(cache, source, 1)) == data
    assert source.asked == [digest, digest] and path.read_bytes() == data


async def test_the_quota_holds_and_the_one_used_longest_ago_goes_first(tmp_path: Path) -> None:
    source = Source()
    cache = WeightsCache(tmp_path, disk_bytes_max=3 * SIZE)
    for number in (1, 2, 3):
        await load(cache, source, number)
    await load(cache, source, 1)
    await load(cache, source, 4)
    assert kept(tmp_path) == {1, 3, 4}
    later = WeightsCache(tmp_path, disk_bytes_max=3 * SIZE)
    await load(later, source, 3)
    await load(later, source, 5)
    assert kept(tmp_path) == {3, 4, 5}, "1 was used before 4 came"


async def test_what_a_job_needs_stays(tmp_path: Path) -> None:
    source = Source()
    cache = WeightsCache(tmp_path, disk_bytes_max=2 * SIZE)
    needed = [await load(cache, source, number) for number in (1, 2)]
    with pytest.raises(Refused, match="don't fit"):
        await load(cache, source, 3)
    assert kept(tmp_path) == {1, 2} and source.asked == [piece(1)[0], piece(2)[0]]
    del needed[0]
    await load(cache, source, 3)
    assert kept(tmp_path) == {2, 3} and content(needed[0]) == piece(2)[1]


async def test_without_a_folder_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.weights_cache.MEMORY_BYTES_MAX", 2 * SIZE)
    source = Source()
    cache = WeightsCache(None)
    for number in (1, 2, 3):
        await load(cache, source, number)
    assert [cache.get(piece(number)[0]) is not None for number in (1, 2, 3)] == [False, True, True]


@pytest.mark.parametrize("where", ["posix_fallocate", "write"])
async def test_a_full_disk_is_an_error_that_says_so(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, where, full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Refused, match="disk of this car is full"):
        await load(WeightsCache(tmp_path), Source(), 1)
    monkeypatch.undo()
    assert not os.listdir(tmp_path) and len(os.listdir("/proc/self/fd")) == before


async def test_what_does_not_arrive_whole_leaves_nothing(tmp_path: Path) -> None:
    source, cache = Source(), WeightsCache(tmp_path)
    (digest, data), (_, other) = piece(1), piece(2)
    for wrong in (other, data[:-1], data + b"x"):
        with pytest.raises(ProtocolError):
            await cache.load(digest, SIZE, source(digest, wrong))

    async def lost(take: Take) -> None:
        await take(data[:4000])
        raise FleetUnavailable("gone")

    with pytest.raises(FleetUnavailable):
        await cache.load(digest, SIZE, lost)
    source.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(cache.load, digest, SIZE, source(digest, data))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert not os.listdir(tmp_path) and cache.fetched == 0
    source.gate = None
    assert content(await load(cache, source, 1)) == data


async def test_a_folder_that_cannot_be_used_is_an_error_that_says_so() -> None:
    with pytest.raises(Refused, match="can't be kept"):
        await load(WeightsCache(Path("/proc/none")), Source(), 1)


async def test_parts_come_in_their_order_and_few_at_a_time() -> None:
    waiting: dict[int, anyio.Event] = {}
    taken: list[int] = []
    most = 0

    async def get_part(part: int) -> bytes:
        nonlocal most
        waiting[part] = anyio.Event()
        most = max(most, len(waiting))
        await waiting[part].wait()
        return bytes([part])

    async def take(data: Any) -> None:
        taken.append(data[0])

    async def release() -> None:
        for _ in range(9):
            await anyio.wait_all_tasks_blocked()
            last = max(waiting)  # The other way round.
            waiting.pop(last).set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(stream, bytes(1), 10, get_part, take)
            group.start_soon(release)
    assert taken == list(range(10)) and most <= PARTS_AT_ONCE
