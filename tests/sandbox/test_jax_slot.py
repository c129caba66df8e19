"""A jax slot as a process: started, locked in, running programs, killed while it compiles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import numpy as np
import pytest

from runtime.sandbox import landlock, seccomp
from runtime.slots import Done, Ready, SlotProcess
from tests.sandbox.jax_programs import arguments, bundle, program
from tests.sandbox.test_slots import Desk, ended, value

pytestmark = pytest.mark.anyio
MIB = 1 << 20

DOUBLE = bundle(lambda x: [x * 2.0, x.sum()], ("float32", ("b", 4)), result={"dict": [["twice", 0], ["sum", 1]]})


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class JaxDesk(Desk):
    """A desk whose slot runs jax programs."""

    async def give(self, key: str, code: bytes, *arrays: Any, **options: Any) -> Done:
        job = self.submit(program(key, **options), arguments(*arrays), code)
        return await self.wait(Done, ended(job))

    @property
    def process(self) -> SlotProcess:
        assert self.slot is not None
        return self.slot


async def start() -> JaxDesk:
    desk = JaxDesk()
    desk.slot = await SlotProcess.start(slot_id="s1", image=None, on_event=desk.note, lane="jax-cpu")
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


async def test_it_says_what_it_is_and_is_locked_in(desk: JaxDesk) -> None:
    ready = desk.of(Ready)[0]
    assert {"session", "descriptors", "rlimits", "nonewprivs", "undumpable", "pdeathsig"} <= set(ready.layers.held)
    assert ("landlock" in ready.layers.held) == (landlock.abi() > 0)
    assert ("seccomp" in ready.layers.held) == seccomp.supported()
    assert ready.device is not None and ready.device["lane"] == "jax-cpu" and ready.device["kind"]
    print(ready)


async def test_a_program_runs(desk: JaxDesk) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = value(await desk.give("double", DOUBLE, x))
    np.testing.assert_array_equal(found["twice"], 2 * x)
    assert found["sum"] == 28 and found["twice"].dtype == np.float32
