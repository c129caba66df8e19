"""The guest's cache: what is damaged is noticed before it is mapped, what can't be used is told in a sentence."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from runtime.guest import build
from runtime.guest.build import GuestBuildError, GuestImage, ensure_guest


class Rebuild(Exception):
    """Stands for the half minute of a build."""


@pytest.fixture
def copied(guest_image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own with the real guest in it; building again is only noted."""
    source = Path(guest_image.path_aot).parent
    shutil.copytree(source, tmp_path / "guest" / source.name)
    shutil.copy2(source.parent / "key", tmp_path / "guest" / "key")

    def note(*_args: object) -> GuestImage:
        raise Rebuild

    monkeypatch.setattr(build, "_build", note)
    return tmp_path


def test_an_undamaged_guest_is_used_as_it_is(copied: Path, guest_image: GuestImage) -> None:
    said: list[str] = []
    image = ensure_guest(copied, said.append)
    assert image.sha256 == guest_image.sha256 and Path(image.path_aot).is_relative_to(copied)
    assert said == []
    assert Path(image.path_aot).stat().st_mode & 0o222 == 0, "nobody may write it"


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1,)))


@pytest.mark.parametrize("at", [0, 1000, 30_000_000])
def test_one_flipped_bit_is_noticed_and_said(copied: Path, at: int) -> None:
    flip(next(copied.glob("guest/*/guest.cwasm")), at)
    said: list[str] = []
    with pytest.raises(Rebuild):
        ensure_guest(copied, said.append)
    assert said == ["the cached sandbox is damaged (its content isn't what was built): building it again"]


@pytest.mark.parametrize("name", ["guest.cwasm", "seal.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b"\xff"])
def test_missing_and_mangled_files_are_noticed(copied: Path, name: str, content: bytes | None) -> None:
    path = next(copied.glob(f"guest/*/{name}"))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    said: list[str] = []
    with pytest.raises(Rebuild):
        ensure_guest(copied, said.append)
    assert len(said) == 1 and said[0].startswith("the cached sandbox is damaged (")


def test_a_guest_sealed_with_another_key_is_not_used(copied: Path) -> None:
    (copied / "guest" / "key").unlink()
    with pytest.raises(Rebuild):
        ensure_guest(copied)
    assert (copied / "guest" / "key").stat().st_mode & 0o077 == 0


def test_a_key_that_others_can_read_is_no_key(copied: Path) -> None:
    (copied / "guest" / "key").chmod(0o644)
    with pytest.raises(Rebuild):
        ensure_guest(copied)


def test_a_cache_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "guest").write_text("a file, not a folder")
    with pytest.raises(GuestBuildError, match="can't be used") as caught:
        ensure_guest(tmp_path)
    assert "FLEET_CACHE" in caught.value.hint


def test_a_failing_build_step_shows_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(GuestBuildError, match=r"exit status 3\): no such luck"):
        build._child([sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"], tmp_path)


def test_what_a_killed_build_left_is_removed(copied: Path) -> None:
    left = copied / "guest" / "build-abc" / "stage"
    left.mkdir(parents=True)
    (left / "guest.wasm").write_bytes(b"half")
    ensure_guest(copied)
    assert not left.parent.exists()


AGENT = """
import signal, sys, anyio, anyio.to_thread
from runtime.guest.build import ensure_guest

def build(): ensure_guest(sys.argv[1], lambda line: print(line, flush=True))

async def main():
    with anyio.open_signal_receiver(signal.SIGTERM) as received:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: anyio.to_thread.run_sync(build, abandon_on_cancel=True))
            async for _ in received:
                group.cancel_scope.cancel()

anyio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_ends_with_whoever_started_it(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-P", "-c", AGENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as agent:
        assert agent.stdout is not None and b"1/2" in agent.stdout.readline()
        steps: list[psutil.Process] = []
        while not steps:  # It copies its sources first.
            with pytest.raises(subprocess.TimeoutExpired):
                agent.wait(0.01)
            steps = psutil.Process(agent.pid).children()  # type: ignore[no-untyped-call]
        handles = [os.pidfd_open(step.pid) for step in steps]
        agent.send_signal(number)
        agent.wait(5)
        for handle in handles:
            assert select.select([handle], [], [], 5)[0], "a step of the build outlived it"
            os.close(handle)
    left = list(tmp_path.glob("guest/build-*"))
    assert bool(left) == (number == signal.SIGKILL)


def test_whoever_comes_second_waits_for_the_first(copied: Path, guest_image: GuestImage) -> None:
    waiting = threading.Event()
    found: list[GuestImage] = []
    with open(copied / "guest" / "lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: found.append(ensure_guest(copied, lambda _line: waiting.set())))
        second.start()
        assert waiting.wait(20)
        assert found == []
        fcntl.flock(held, fcntl.LOCK_UN)
        second.join(20)
    assert found[0].sha256 == guest_image.sha256


def test_the_digest_covers_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.inputs_digest()
    assert build.inputs_digest() == before
    monkeypatch.setattr(build, "CONFIG_ID", "other settings")
    assert build.inputs_digest() != before


def test_asking_for_the_guest_does_not_load_the_compiler() -> None:
    """wasmtime and its heap belong into slots and into the build's children, not into the agent."""
    heavy = "('wasmtime', 'componentize_py', 'pydantic')"
    script = f"import sys, runtime.guest.build; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
    found = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, env=dict(os.environ))
    assert found.stdout.strip() == "[]", found.stderr
