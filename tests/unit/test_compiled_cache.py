"""What was compiled, on a car's disk: found again by whose it is, and only as it was written."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from runtime.agent_compiled import CompiledDesk
from runtime.compiled_cache import CompiledCache
from runtime.slot_events import CompiledMade, CompiledWanted
from runtime.slot_wire import COMPILED_BYTES_MAX, Bytes

KEY = "a" * 64


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def test_it_is_found_by_tenant_program_and_key_alone(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path / "compiled")
    assert cache.read("t", "p", KEY) is None
    cache.write("t", "p", KEY, b"code")
    assert cache.read("t", "p", KEY) == b"code"
    assert CompiledCache(tmp_path / "compiled").read("t", "p", KEY) == b"code", "another agent, the same folder"
    for other in (("t2", "p", KEY), ("t", "p2", KEY), ("t", "p", "b" * 64), ("tp", "", KEY), ("", "tp", KEY)):
        assert cache.read(*other) is None
    assert (tmp_path / "compiled").stat().st_mode & 0o077 == 0
    assert (tmp_path / "compiled" / ".key").stat().st_mode & 0o077 == 0


def test_what_is_not_as_it_was_written_is_removed(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path)
    cache.write("t", "p", KEY, b"code" * 100)
    cache.write("t", "q", KEY, b"evil" * 100)
    first, second = entries(tmp_path)
    whole = first.read_bytes()
    for damaged in (
        whole[:-1],
        whole[:20],
        b"",
        bytes([whole[0] ^ 1]) + whole[1:],
        whole[:-1] + b"\0",
        second.read_bytes(),
    ):
        first.write_bytes(damaged)
        assert {cache.read("t", "p", KEY), cache.read("t", "q", KEY)} & {
            b"code" * 100,
            b"evil" * 100,
        } and not first.exists()
        first.write_bytes(whole)
    assert cache.read("t", "p", KEY) == b"code" * 100, "whole again"
    with open(first, "wb") as file:
        file.truncate(COMPILED_BYTES_MAX + 100)
    cache.read("t", "p", KEY), cache.read("t", "q", KEY)
    assert not first.exists(), "too large: not even read"


def test_a_key_that_others_may_have_seen_is_not_used(tmp_path: Path) -> None:
    CompiledCache(tmp_path).write("t", "p", KEY, b"code")
    key = (tmp_path / ".key").read_bytes()
    (tmp_path / ".key").chmod(0o644)
    cache = CompiledCache(tmp_path)
    assert cache.read("t", "p", KEY) is None
    assert (tmp_path / ".key").read_bytes() != key and (tmp_path / ".key").stat().st_mode & 0o077 == 0


def test_the_quota_lets_go_of_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, disk_bytes_max=3300)
    for number in range(3):
        cache.write("t", str(number), KEY, b"x" * 1000)
        os.utime(max(entries(tmp_path), key=lambda path: path.stat().st_mtime_ns), (number + 1, number + 1))
    assert cache.read("t", "0", KEY) is not None, "used just now"
    cache.write("t", "3", KEY, b"x" * 1000)
    assert [cache.read("t", str(number), KEY) is not None for number in range(4)] == [True, False, True, True]
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 3300


def test_a_folder_that_cannot_be_used_costs_the_cache_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = CompiledCache(tmp_path / "file" / "compiled")
    cache.write("t", "p", KEY, b"code")
    assert cache.read("t", "p", KEY) is None


@dataclass
class Asking:
    """A slot that asks."""

    id: str = "s1"
    answers: list[tuple[str, bytes]] = field(default_factory=list)

    def compiled(self, key: str, data: Bytes) -> None:
        self.answers.append((key, bytes(data)))


def test_a_slot_speaks_for_its_own_program_alone(tmp_path: Path) -> None:
    async def main() -> None:
        slot = Asking()
        async with anyio.create_task_group() as group:
            desk = CompiledDesk(CompiledCache(tmp_path), group.start_soon)
            desk.heard(slot, "t", "p", CompiledMade(1, KEY, b"code"))
        async with anyio.create_task_group() as group:
            desk = CompiledDesk(CompiledCache(tmp_path), group.start_soon)
            desk.heard(slot, "t", "p", CompiledWanted(1, KEY))
            assert not slot.answers, "read in a thread"
        async with anyio.create_task_group() as group:
            CompiledDesk(CompiledCache(tmp_path), group.start_soon).heard(slot, "t", "q", CompiledWanted(1, KEY))
        assert slot.answers == [(KEY, b"code"), (KEY, b"")]
        CompiledDesk(None, pytest.fail).heard(slot, "t", "p", CompiledWanted(2, KEY))
        assert slot.answers[-1] == (KEY, b"")

    anyio.run(main)


def test_a_slot_that_tells_much_is_written_one_at_a_time(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    written: list[str] = []

    class Slow(CompiledCache):
        def write(self, tenant: str, program: str, key: str, data: Bytes) -> None:
            begun.set()
            assert go_on.wait(10)
            written.append(key)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            desk = CompiledDesk(Slow(tmp_path), group.start_soon)
            desk.heard(Asking(), "t", "p", CompiledMade(1, KEY, b"code"))
            await anyio.to_thread.run_sync(begun.wait, 10)
            desk.heard(Asking(), "t", "p", CompiledMade(1, "b" * 64, b"code"))
            desk.heard(Asking("s2"), "t", "p", CompiledMade(1, "c" * 64, b"code"))
            go_on.set()
        assert sorted(written) == [KEY, "c" * 64]

    anyio.run(main)
