"""Slot processes with the real sandbox in them: run, watch, kill, and end with their agent."""

from __future__ import annotations

import io
import json
import os
import pickle
import select
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest

from fleet.protocol import codec, frames
from runtime import slot_spawn
from runtime.guest.build import GuestImage
from runtime.sandbox import landlock, lockdown, seccomp
from runtime.slot_wire import SlotJob, SlotProgram
from runtime.slots import (
    Checkpoint,
    Done,
    Exited,
    Failed,
    Items,
    LogLines,
    Ready,
    SlotEvent,
    SlotProcess,
    Trapped,
    kill_all,
)

pytestmark = pytest.mark.anyio
E = TypeVar("E")
WAIT_S = 20.0
MIB = 1 << 20

SOURCE = """
import os, time
import fleet

def add(x, y=1): return x + y
def fail(): raise ValueError("bad")
def spin():
    while True: pass
def nap(seconds): time.sleep(seconds); return seconds
def echo(data): return data
def say(text): print(text); return len(text)
def leave(): os._exit(3)
def hold(megabytes):
    kept = b"x" * (megabytes << 20)
    print("held", flush=True)
    while kept: pass
def save():
    fleet.current().checkpoint({"at": 7})
    return fleet.current().call_id
def until_departing():
    while not fleet.current().departing: time.sleep(0.001)
    return "seen"
def square_or_spin(n):
    if n == 3:
        while True: pass
    return n * n
def square_or_leave(n):
    if n == 3: os._exit(3)
    return n * n
"""


def bundle(source: str = SOURCE) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("work.py", source)
    return data.getvalue()


BUNDLE = bundle()


def program(function: str, *, key: str = "", **options: Any) -> SlotProgram:
    return SlotProgram(key or f"key-{function}", "work", function, options.pop("memory_bytes", 256 * MIB), **options)


def pickled(*args: Any, **kwargs: Any) -> bytes:
    return pickle.dumps((args, kwargs), protocol=5)


def value(result: SlotEvent) -> Any:
    assert isinstance(result, Done), result
    data = memoryview(result.result)
    assert data[0] == 0, bytes(data[:300])
    return codec.decode(data[1:])


def ended(job: int) -> Callable[[Any], bool]:
    return lambda event: event.job == job


def proc(slot: SlotProcess, name: str) -> bytes:
    return Path(f"/proc/{slot.pid}/{name}").read_bytes()


class Desk:
    """A slot with all its events, and a way to wait for one."""

    def __init__(self) -> None:
        self.events: list[SlotEvent] = []
        self.slot: SlotProcess | None = None
        self._news = anyio.Event()
        self._jobs = 0

    def note(self, slot: SlotProcess, event: SlotEvent) -> None:
        assert self.slot is None or slot is self.slot
        self.events.append(event)
        self._news.set()

    async def wait(self, kind: type[E], where: Callable[[Any], bool] = lambda _: True) -> E:
        with anyio.fail_after(WAIT_S):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and where(event):
                        return event
                assert not isinstance(self.events[-1:] and self.events[-1], Exited), self.events[-3:]
                self._news = anyio.Event()
                await self._news.wait()

    def submit(self, which: SlotProgram, args: bytes, code: bytes = BUNDLE, **options: Any) -> int:
        assert self.slot is not None
        if self.slot.program != which:
            self.slot.load(which, code)
        self._jobs += 1
        self.slot.run(SlotJob(self._jobs, which, args, call=f"call{self._jobs}", timeout_s=60.0, **options))
        return self._jobs

    async def call(self, function: str, *args: Any, **options: Any) -> Done:
        job = self.submit(program(function, **options), pickled(*args))
        return await self.wait(Done, ended(job))

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def a_slot(image: GuestImage, **options: Any) -> AsyncIterator[tuple[SlotProcess, Desk]]:
    desk = Desk()
    slot = desk.slot = await SlotProcess.start(slot_id="s1", image=image, on_event=desk.note, **options)
    try:
        await desk.wait(Ready)
        yield slot, desk
    finally:
        slot.kill()
        with anyio.fail_after(WAIT_S, shield=True):
            await slot.reaped()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_it_is_locked_in_before_it_is_ready(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (slot, desk):
        ready = desk.of(Ready)[0]
        assert slot.ready and slot.layers == ready.layers
        assert {"session", "descriptors", "rlimits", "nonewprivs", "undumpable", "pdeathsig"} <= set(ready.layers.held)
        assert ("landlock" in ready.layers.held) == (landlock.abi() > 0)
        assert ("seccomp" in ready.layers.held) == seccomp.supported()
        assert ("user" in ready.layers.held) == (os.geteuid() == 0)
        status = proc(slot, "status").decode()
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
        assert os.getsid(slot.pid) == slot.pid
        assert 10 * MIB < slot.rss_bytes() < 110 * MIB
        if os.geteuid() == 0:
            assert proc(slot, "environ") == b""
            assert f"Uid:\t{lockdown.NOBODY}\t{lockdown.NOBODY}" in status


async def test_calls_run_in_order_and_programs_can_change(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (slot, desk):
        assert value(await desk.call("add", 2, 3)) == 5
        queued = [desk.submit(program("add"), pickled(n)) for n in range(20)]
        queued.append(desk.submit(program("say"), pickled("hello")))
        queued.append(desk.submit(program("add"), pickled(41)))
        last = await desk.wait(Done, ended(queued[-1]))
        assert value(last) == 42
        done = [e for e in desk.of(Done) if e.job in queued]
        assert [e.job for e in done] == queued
        assert [value(e) for e in done] == [*range(1, 21), 5, 42]
        assert not slot.jobs and slot.progress().job == 0


async def test_an_exception_is_a_result(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (_, desk):
        done = await desk.call("fail")
        assert bytes(done.result[:1]) == b"\x01" and "ValueError: bad" in done.summary
        assert value(await desk.call("nap", 0.02)) == 0.02
        assert desk.of(Done)[-1].run_s >= 0.02


async def test_a_fresh_sandbox_for_every_call(guest_image: GuestImage) -> None:
    counter = "n = 0\ndef count():\n    global n\n    n += 1\n    return n\n"
    async with a_slot(guest_image) as (_, desk):
        for isolation, expected in (("instance", [1, 2, 3]), ("call", [1, 1, 1])):
            seen = []
            for _ in range(3):
                job = desk.submit(program("count", key=isolation, isolation=isolation), pickled(), bundle(counter))
                seen.append(value(await desk.wait(Done, ended(job))))
            assert seen == expected


async def test_a_damaged_bundle_is_nobodys_fault(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (_, desk):
        job = desk.submit(program("add", key="damaged"), pickled(1), BUNDLE[:-30])
        failed = await desk.wait(Failed)
        assert failed.job == job and failed.message
        assert value(await desk.call("add", 1)) == 2


async def test_what_a_function_says_while_it_runs(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (slot, desk):
        assert value(await desk.call("say", "one\ntwo")) == 7
        assert [text for e in desk.of(LogLines) for _, _, text in e.lines] == ["one", "two"]
        assert value(await desk.call("save")) == "call2"
        assert len(desk.of(Checkpoint)) == 1
        job = desk.submit(program("until_departing"), pickled())
        assert slot.progress().job in (0, job)
        slot.set_departing(True)
        assert value(await desk.wait(Done, ended(job))) == "seen"


async def test_finished_items_of_a_chunk_survive_a_kill(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (slot, desk):
        job = desk.submit(
            program("square_or_spin"),
            frames.pack_items([pickled(n) for n in range(5)]),
            items=5,
            item_numbers=[(10, 14)],
            exact=True,
        )
        with anyio.fail_after(WAIT_S):
            while slot.progress().item != 3:  # The shared page has no event: it is what deadlines are checked with.
                await anyio.sleep(0.001)
        running = slot.progress()
        assert running.job == job and 0 <= time.monotonic() - running.started_monotonic_s < WAIT_S
        # Items leave the sandbox in batches: the three before it may still be inside, the rest must be whole.
        slot.kill()
        await slot.reaped()
        done = {
            e.first + n: bytes(item) for e in desk.of(Items) for n, item in enumerate(frames.unpack_items(e.results, 5))
        }
        assert all(codec.decode(item[1:]) == n * n for n, item in done.items())
        assert isinstance(desk.events[-1], Exited) and desk.events[-1].expected
        assert slot.progress().job == 0 and slot.rss_bytes() == 0


async def test_every_item_of_a_chunk_arrives_once(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (_, desk):
        count = 2000
        job = desk.submit(program("add"), frames.pack_items([pickled(n) for n in range(count)]), items=count,
                          item_numbers=[(0, count - 1)])  # fmt: skip
        done = await desk.wait(Done, ended(job))
        batches = [(e.first, e.results) for e in desk.of(Items)] + [(done.first, done.result)]
        seen: list[int] = []
        for first, data in batches:
            assert first == len(seen)
            seen += [codec.decode(item[1:]) for item in frames.unpack_items(data, count)]
        assert seen == list(range(1, count + 1))


async def test_a_trap_names_the_item_and_can_be_followed_by_another_job(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (_, desk):
        desk.submit(program("square_or_leave"), frames.pack_items([pickled(n) for n in range(5)]), items=5,
                    item_numbers=[(0, 4)], exact=True)  # fmt: skip
        trapped = await desk.wait(Trapped)
        assert trapped.item == 3 and trapped.message
        assert value(await desk.call("add", 1)) == 2


@pytest.mark.alone
async def test_payloads_travel_at_memory_speed(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (_, desk):
        data = os.urandom(8 * MIB)
        assert value(await desk.call("echo", data)) == data
        # While a job runs the slot reads nothing: what doesn't fit its pipe waits here, and the loop goes on.
        nap = desk.submit(program("nap"), pickled(1.0))
        begun = time.perf_counter()
        queued = [desk.submit(program("echo"), pickled(data)) for _ in range(3)]
        assert time.perf_counter() - begun < 0.8
        assert value(await desk.wait(Done, ended(nap))) == 1.0
        for job in queued:
            assert value(await desk.wait(Done, ended(job))) == data


@pytest.mark.alone
async def test_a_kill_is_immediate_even_if_the_slot_never_listens(guest_image: GuestImage) -> None:
    sent_s, reaped_s = [], []
    for _ in range(5):
        async with a_slot(guest_image) as (slot, desk):
            job = desk.submit(program("spin"), pickled())
            desk.submit(program("spin"), pickled(b"x" * 4 * MIB))
            with anyio.fail_after(WAIT_S):
                while slot.progress().job != job:
                    await anyio.sleep(0.001)
            begun = time.perf_counter()
            slot.kill()
            sent_s.append(time.perf_counter() - begun)
            slot.kill()
            await slot.reaped()
            reaped_s.append(time.perf_counter() - begun)
            exited = desk.of(Exited)[0]
            assert exited is desk.events[-1] and exited.returncode == -signal.SIGKILL and exited.expected
            assert len(desk.of(Exited)) == 1 and not desk.of(Done)
            with pytest.raises(ProcessLookupError):
                os.kill(slot.pid, 0)
            desk.submit(program("spin"), pickled())  # Sent to a dead slot: its Exited event has told.
    assert statistics.median(sent_s) < 0.002, sent_s
    assert statistics.median(reaped_s) < 0.050, reaped_s


@pytest.mark.alone
async def test_many_are_killed_before_the_first_is_reaped(guest_image: GuestImage) -> None:
    async with a_slot(guest_image) as (one, desk_one), a_slot(guest_image) as (two, desk_two):
        for desk in (desk_one, desk_two):
            desk.submit(program("hold"), pickled(100))
        for desk in (desk_one, desk_two):
            await desk.wait(LogLines)
        assert one.rss_bytes() > 100 * MIB
        begun = time.perf_counter()
        kill_all([one, two])
        sent_s = time.perf_counter() - begun
        await one.reaped()
        await two.reaped()
        assert sent_s < 0.050
        assert time.perf_counter() - begun < 0.500


async def test_the_kernel_bounds_the_memory_of_the_process(guest_image: GuestImage) -> None:
    """Should a sandbox's own limit fail, the machine of the owner is still safe; the function sees MemoryError."""
    async with a_slot(guest_image, data_bytes_max=300 * MIB) as (slot, desk):
        done = await desk.call("hold", 600, memory_bytes=2048 * MIB)
        assert "MemoryError" in done.summary
        assert slot.rss_bytes() < 400 * MIB


async def test_what_a_function_left_in_memory_is_gone_before_the_next(guest_image: GuestImage) -> None:
    code = bundle("def bomb():\n  kept = []\n  while True: kept.append(bytes(1 << 20))\n")
    async with a_slot(guest_image) as (slot, desk):
        await desk.call("add", 1)
        small_bytes = slot.rss_bytes()
        await desk.call("echo", b"x" * (40 * MIB))
        assert slot.rss_bytes() > small_bytes + 80 * MIB
        await desk.call("add", 1)
        assert slot.rss_bytes() < small_bytes + 24 * MIB
        done = await desk.wait(Done, ended(desk.submit(program("bomb"), pickled(), code)))
        assert done.summary == "MemoryError" and slot.rss_bytes() > small_bytes + 150 * MIB
        await desk.call("add", 1)
        assert slot.rss_bytes() < small_bytes + 24 * MIB


# --- ends ------------------------------------------------------------------------------------------------------------


async def test_a_slot_ends_when_its_pipe_is_closed(guest_image: GuestImage) -> None:
    desk = Desk()
    slot = desk.slot = await SlotProcess.start(slot_id="s1", image=guest_image, on_event=desk.note)
    await desk.wait(Ready)
    slot._socket.shutdown(2)
    exited = await desk.wait(Exited)
    assert not exited.expected
    await slot.reaped()


AGENT = """
import json, sys
import anyio
from runtime.slots import *
from runtime.slot_wire import SlotJob, SlotProgram
settings = json.loads(sys.argv[1])

class Image:
    path_aot = settings["path_aot"]

async def main():
    def note(slot, event):
        if isinstance(event, Ready):
            if settings["busy"]:
                program = SlotProgram("k", "work", "spin", 1 << 28)
                slot.load(program, bytes.fromhex(settings["bundle"]))
                slot.run(SlotJob(1, program, bytes.fromhex(settings["args"])))
            ready.set()
    ready = anyio.Event()
    slot = await SlotProcess.start(slot_id="s", image=Image, on_event=note)
    await ready.wait()
    if settings["busy"]:
        while not slot.progress().job:
            await anyio.sleep(0.001)
    print(slot.pid, flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("busy", [True, False])
def test_a_slot_dies_with_a_killed_agent(guest_image: GuestImage, busy: bool) -> None:
    """Busy, it doesn't read its pipe: only the parent-death signal can end it (and setresuid would have cleared it)."""
    settings = {"path_aot": str(guest_image.path_aot), "busy": busy, "bundle": BUNDLE.hex(), "args": pickled().hex()}
    agent = subprocess.Popen([sys.executable, "-c", AGENT, json.dumps(settings)], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    readable, _, _ = select.select([agent.stdout], [], [], WAIT_S)
    assert readable
    pidfd = os.pidfd_open(int(agent.stdout.readline()))
    try:
        agent.kill()
        ended, _, _ = select.select([pidfd], [], [], 1.0)
        assert ended, "the slot outlived its agent"
    finally:
        os.close(pidfd)
        agent.wait(WAIT_S)
        agent.stdout.close()


# --- a slot that was taken over, or broke ------------------------------------------------------------------------------


async def other_process(code: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A real child in place of a slot that runs ``code`` with the pipe as ``pipe``."""

    class NoImage:
        path_aot = "/nonexistent"

    boot = f"import socket, os, struct, time, sys; pipe = socket.socket(fileno=3)\n{code}"
    monkeypatch.setattr(slot_spawn, "_BOOT", boot)
    desk = Desk()
    desk.slot = await SlotProcess.start(slot_id="liar", image=NoImage(), on_event=desk.note)
    return desk


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("pipe.sendall(os.urandom(0) + b'\\xff' * 64); time.sleep(60)", "over the limit"),
        ("pipe.sendall(struct.pack('<BxxxIQ', 99, 0, 0)); time.sleep(60)", "kind 99"),
        ("pipe.sendall(struct.pack('<BxxxIQ', 20, 2, 0) + b'xx'); time.sleep(60)", "malformed"),
        ("pipe.sendall(struct.pack('<BxxxIQ', 20, 28, 1) + bytes(28) + b'r'); time.sleep(60)", "which it doesn't run"),
    ],
)
async def test_a_liar_is_killed(code: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await other_process(code, monkeypatch)
    exited = await desk.wait(Exited)
    assert exited.returncode == -signal.SIGKILL and not exited.expected
    assert message in exited.message
    assert not desk.of(Done)


async def test_a_broken_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await other_process("raise RuntimeError('no such guest')", monkeypatch)
    exited = await desk.wait(Exited)
    assert exited.returncode == 1 and "no such guest" in exited.message


@pytest.mark.alone
async def test_a_flood_does_not_keep_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that writes without end gets its turn and no more: the owner's signal comes through."""
    flood = "pipe.sendall(struct.pack('<BxxxIQ', 16, 20, 0) + struct.pack('<dQI', 0.0, 0, 0))\n"
    flood += "while True: pipe.sendall(struct.pack('<BxxxIQ', 17, 12, 1 << 20) + bytes(12) + bytes(1 << 20))"
    desk = await other_process(flood, monkeypatch)
    assert desk.slot is not None
    desk.slot.jobs.append(0)  # As if it ran the job that it speaks of.
    gaps_s = []
    with anyio.fail_after(WAIT_S):
        while len(desk.of(Items)) < 50:
            begun = time.perf_counter()
            await anyio.lowlevel.checkpoint()
            gaps_s.append(time.perf_counter() - begun)
    desk.slot.kill()
    await desk.slot.reaped()
    assert max(gaps_s) < 0.1
