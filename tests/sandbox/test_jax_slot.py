"""A jax slot as a process: started, locked in, running programs, killed while it compiles."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fleet.protocol import codec, frames
from runtime import slots
from runtime.sandbox import landlock, lockdown, seccomp
from runtime.slots import (
    CompiledMade,
    CompiledWanted,
    Done,
    Exited,
    Failed,
    Items,
    Ready,
    SlotEvent,
    SlotProcess,
)
from tests.sandbox.jax_programs import arguments, bundle, program
from tests.sandbox.test_slots import Desk, ended, proc, value

pytestmark = pytest.mark.anyio
MIB = 1 << 20
WAIT_S = 20.0

DOUBLE = bundle(lambda x: [x * 2.0, x.sum()], ("float32", ("b", 4)), result={"dict": [["twice", 0], ["sum", 1]]})


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class JaxDesk(Desk):
    """A desk whose slot runs jax programs, and which keeps what it compiles as long as the tests run."""

    kept: dict[str, bytes]
    mute: bool

    def note(self, slot: SlotProcess, event: SlotEvent) -> None:
        if isinstance(event, CompiledWanted) and not self.mute:
            slot.compiled(event.key, self.kept.get(event.key, b""))
        elif isinstance(event, CompiledMade):
            self.kept[event.key] = bytes(event.data)
        super().note(slot, event)

    async def give(self, key: str, code: bytes, *arrays: Any, **options: Any) -> Done:
        job = self.submit(program(key, **options), arguments(*arrays), code)
        return await self.wait(Done, ended(job))

    @property
    def process(self) -> SlotProcess:
        assert self.slot is not None
        return self.slot


async def start(kept: dict[str, bytes] | None = None, **options: Any) -> JaxDesk:
    desk = JaxDesk()
    desk.kept, desk.mute = {} if kept is None else kept, False
    desk.slot = await SlotProcess.start(slot_id="s1", image=None, on_event=desk.note, lane="jax-cpu", **options)
    await desk.wait(Ready)
    return desk


async def end(desk: JaxDesk) -> None:
    desk.process.kill()
    with anyio.fail_after(10, shield=True):
        await desk.process.reaped()


@pytest.fixture(scope="module")
async def desk() -> AsyncIterator[JaxDesk]:
    """One slot for all tests that leave it alive."""
    desk = await start()
    yield desk
    await end(desk)


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A program that takes seconds to compile."""
    return bundle(slow_to_compile, ("float32", (64, 64)), platforms=["cpu"])


def raised(done: Done) -> codec.ExceptionData:
    assert bytes(done.result[:1]) == b"\x01"
    return codec.decode_exception(memoryview(done.result)[1:])


async def test_it_says_what_it_is_and_is_locked_in(desk: JaxDesk) -> None:
    ready = desk.of(Ready)[0]
    assert {"session", "descriptors", "rlimits", "nonewprivs", "undumpable", "pdeathsig"} <= set(ready.layers.held)
    assert ("landlock" in ready.layers.held) == (landlock.abi() > 0)
    assert ("seccomp" in ready.layers.held) == seccomp.supported()
    assert ready.device is not None and ready.device["lane"] == "jax-cpu" and ready.device["kind"]
    assert ready.device["memory_bytes"] > MIB and ready.device["jaxlib"] and ready.device["stablehlo"]
    assert 0 < ready.device["calling_convention_min"] <= ready.device["calling_convention_max"]
    assert os.getsid(desk.process.pid) == desk.process.pid
    assert ready.memory_bytes < 450 * MIB


async def test_all_its_threads_are_locked_in(desk: JaxDesk) -> None:
    """XLA's threads start before the last layers: glibc changes the user of all of them, the kernel filters all."""
    tasks = os.listdir(f"/proc/{desk.process.pid}/task")
    assert len(tasks) > 4
    for task in tasks:
        status = proc(desk.process, f"task/{task}/status").decode()
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
        if os.geteuid() == 0:
            nobody = "\t".join([str(lockdown.NOBODY)] * 4)
            assert f"Uid:\t{nobody}" in status and f"Gid:\t{nobody}" in status and "CapEff:\t0000000000000000" in status


async def test_a_program_runs(desk: JaxDesk) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = value(await desk.give("double", DOUBLE, x))
    np.testing.assert_array_equal(found["twice"], 2 * x)
    assert found["sum"] == 28 and found["twice"].dtype == np.float32
    for rows in (1, 3):
        assert value(await desk.give("double", DOUBLE, np.ones((rows, 4), np.float32)))["sum"] == 4 * rows


async def test_kernels_that_need_files_have_them_already(desk: JaxDesk) -> None:
    """What scipy, LAPACK and the compiler load late was loaded before the slot was locked in."""

    def several(x: Any) -> list[Any]:
        square = x.T @ x + jnp.eye(4, dtype=x.dtype)
        linear = [jnp.linalg.inv(square), jnp.linalg.eigvals(square).real, jax.scipy.linalg.schur(square)[0]]
        more = [jnp.linalg.svd(x)[1], jax.scipy.linalg.expm(square), jax.lax.top_k(x, 2)[0], jnp.fft.fft2(x).real]
        return [*linear, *more, jax.random.normal(jax.random.key(0), (3,)), jax.scipy.special.gammaln(x)]

    x = np.random.default_rng(1).random((8, 4))
    done = await desk.give(
        "several",
        bundle(several, ("float64", (8, 4)), result={"list": list(range(9))}, platforms=["cpu"], x64=True),
        x,
    )
    found = value(done)
    np.testing.assert_allclose(found[0], np.linalg.inv(x.T @ x + np.eye(4)), rtol=1e-9)
    np.testing.assert_allclose(found[3], np.linalg.svd(x)[1], rtol=1e-9)
    assert [one.dtype.name for one in found[:7]] == ["float64"] * 7


async def test_no_memory_can_be_written_and_executed(desk: JaxDesk) -> None:
    """With compiled programs in it, and no file open but what it was given and its own statistics."""
    await desk.give("double", DOUBLE, np.ones((2, 4), np.float32))
    rights = [line.split()[1] for line in proc(desk.process, "maps").decode().splitlines()]
    assert any("x" in one for one in rights) and not any("w" in one and "x" in one for one in rights)
    folder = f"/proc/{desk.process.pid}/fd"
    opened = {os.readlink(f"{folder}/{number}").partition(":")[0] for number in os.listdir(folder)}
    assert opened <= {"/dev/null", "/memfd", "socket", "anon_inode", f"/proc/{desk.process.pid}/statm"}


async def test_a_chunk_reports_its_items(desk: JaxDesk) -> None:
    rows = [np.full((1, 4), n, np.float32) for n in range(5)]
    rows[3] = np.ones((1, 3), np.float32)
    job = desk.submit(program("double"), frames.pack_items([arguments(row) for row in rows]), DOUBLE, items=5)
    done = await desk.wait(Done, ended(job))
    items = [one for event in desk.of(Items) if event.job == job for one in frames.unpack_items(event.results, 5)]
    items += frames.unpack_items(done.result, 5)
    assert [item[0] for item in items] == [0, 0, 0, 1, 0] and "float32[b,4]" in done.summary
    assert [float(codec.decode(item[1:])["sum"]) for item in items if item[0] == 0] == [0, 4, 8, 16]


async def test_a_damaged_bundle_is_nobodys_fault(desk: JaxDesk) -> None:
    job = desk.submit(program("damaged"), arguments(), DOUBLE[:-30])
    failed = await desk.wait(Failed)
    assert failed.job == job and "BundleDamaged" in failed.message
    assert value(await desk.give("double", DOUBLE, np.ones((1, 4), np.float32)))["sum"] == 4


async def test_what_was_compiled_is_found_by_the_next_slot(desk: JaxDesk) -> None:
    code = bundle(lambda x: [jnp.linalg.eigh(x)[0]], ("float32", (3, 3)), platforms=["cpu"])
    x = np.diag(np.float32([3, 1, 2]))
    assert value(await desk.give("eigh", code, x)).tolist() == [1, 2, 3]
    made = len(desk.of(CompiledMade))
    other = await start(desk.kept)
    try:
        assert value(await other.give("eigh", code, x)).tolist() == [1, 2, 3]
        assert other.of(CompiledWanted) and not other.of(CompiledMade)
        # Another program's code under a key, or nothing at all: it compiles.
        other.kept = dict.fromkeys(other.kept, b"\x08\x00\x00\x00{}nonsense")
        assert value(await other.give("double", DOUBLE, np.ones((2, 4), np.float32)))["sum"] == 8
        assert len(other.of(CompiledMade)) == 1 and len(desk.of(CompiledMade)) == made
        other.mute = True
        assert value(await other.give("double", DOUBLE, np.ones((7, 4), np.float32)))["sum"] == 28
    finally:
        await end(other)


def slow_to_compile(x: Any) -> list[Any]:
    """Seconds of compiling: many operations that can't become one."""
    for number in range(200):
        x = jnp.sort(jnp.sin(x) * number, axis=number % 2)
    return [x]


async def test_a_slot_that_compiles_can_be_killed(slow: bytes) -> None:
    desk = await start()
    process = desk.process
    job = desk.submit(program("slow"), arguments(np.ones((64, 64), np.float32)), slow)
    await desk.wait(CompiledWanted)
    with pytest.raises(TimeoutError), anyio.fail_after(0.7):
        await desk.wait(Done)
    assert process.progress().job == job and not desk.of(CompiledMade), "it is in the middle of it"
    before = time.monotonic()
    await end(desk)
    assert time.monotonic() - before < 0.5
    exited = desk.of(Exited)[0]
    assert exited.expected and exited.returncode == -signal.SIGKILL and not desk.of(Done)


AGENT = """
import json, sys
import anyio
from runtime.slots import CompiledWanted, Ready, SlotProcess
from runtime.slot_wire import SlotJob, SlotProgram

async def main(bundle, args):
    ready, compiling = anyio.Event(), anyio.Event()
    def on_event(slot, event):
        if isinstance(event, Ready):
            ready.set()
        if isinstance(event, CompiledWanted):
            slot.compiled(event.key, b"")
            compiling.set()
    slot = await SlotProcess.start(slot_id="s1", image=None, on_event=on_event, lane="jax-cpu")
    await ready.wait()
    program = SlotProgram("slow", "", "slow", 1 << 28)
    slot.load(program, bundle)
    slot.run(SlotJob(1, program, args))
    await compiling.wait()
    print(slot.pid, flush=True)
    await anyio.sleep_forever()

anyio.run(main, *map(bytes.fromhex, sys.stdin.read().split()))
"""


def test_a_slot_that_compiles_dies_with_a_killed_agent(slow: bytes) -> None:
    """It doesn't read its pipe: only the parent-death signal ends it, put on anew after its user changed."""
    args = arguments(np.ones((64, 64), np.float32))
    agent = subprocess.Popen([sys.executable, "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdin is not None and agent.stdout is not None
    with agent.stdout, agent.stdin:
        agent.stdin.write(f"{slow.hex()} {args.hex()}".encode())
        agent.stdin.close()
        readable, _, _ = select.select([agent.stdout], [], [], WAIT_S)
        assert readable
        pidfd = os.pidfd_open(int(agent.stdout.readline()))
        try:
            still, _, _ = select.select([pidfd], [], [], 0.5)
            assert not still, "it compiles"
            agent.kill()
            ended, _, _ = select.select([pidfd], [], [], 1.0)
            assert ended, "the slot outlived its agent"
        finally:
            os.close(pidfd)
            agent.kill()
            agent.wait(WAIT_S)


async def test_too_much_memory_ends_the_call_or_the_slot(desk: JaxDesk) -> None:
    """First by the prediction; where that were wrong, by a wall that the slot can't move."""
    big = bundle(lambda x: [jnp.sort(jnp.outer(x, x), axis=0).sum()], ("float32", ("n",)))
    x = np.ones(8192, np.float32)
    told = raised(await desk.give("big", big, x, memory_bytes=100 * MIB))
    assert told.qualname == "MemoryError" and "memory= is 100 MiB" in told.message, told
    assert value(await desk.give("roomy", big, x[:8], memory_bytes=1024 * MIB)) == 64
    bounds = proc(desk.process, "limits").decode().partition("Max data size")[2].split()
    assert 2048 * MIB < int(bounds[0]) < int(bounds[1]) == slots.DATA_BYTES_MAX


async def test_a_wall_stands_where_the_prediction_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes more than the process may have: that call fails, and says what for."""
    desk = await start(data_bytes_max=700 * MIB)
    try:
        big = bundle(lambda x: [jnp.sort(jnp.outer(x, x), axis=0).sum()], ("float32", ("n",)))
        told = raised(await desk.give("big", big, np.ones(16384, np.float32), memory_bytes=4096 * MIB))
        assert told.qualname == "MemoryError" and told.message
        assert value(await desk.give("big", big, np.ones(8, np.float32), memory_bytes=4096 * MIB)) == 64, "it goes on"
    finally:
        await end(desk)


def test_the_end_of_a_slot_without_memory_says_so() -> None:
    which = program("big", memory_bytes=512 * MIB)
    said = "out of memory? The program's memory= is 512 MiB"
    assert slots._explained(-6, "", which) == said
    assert slots._explained(1, "MemoryError", which) == f"MemoryError; {said}"
    assert slots._explained(1, "ValueError: bad", which) == "ValueError: bad"
    assert slots._explained(-6, "LLVM ERROR: out of memory", None) == "LLVM ERROR: out of memory", "it ran nothing"
