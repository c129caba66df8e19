"""What a function keeps stays in the slot: used there without a copy, by the copy in another slot, until it has to go."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import AsyncIterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fleet.protocol import codec
from runtime import slot_wire
from runtime.slot_events import Kept
from runtime.slot_wire import SlotJob
from runtime.slots import Done
from tests.sandbox.jax_programs import MIB, arguments, bundle, program
from tests.sandbox.test_jax_slot import JaxDesk, end, proc, start
from tests.sandbox.test_slots import ended, value

pytestmark = pytest.mark.anyio

STEP = bundle(
    lambda a, n, x: [x.sum(), a + x, n + 1],
    ("float32", ("k",)), ("int32", ()), ("float32", ("k",)),
    result={"tuple": [0, {"keep": {"dict": [["a", 1], ["n", 2]]}}]},
)  # fmt: skip
PROGRAM = program("step")
LARGE = {"tuple": [0, {"keep": 1}]}
X = np.ones(4, np.float32)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def desk() -> AsyncIterator[JaxDesk]:
    """One slot for all tests: they leave it alive."""
    desk = await start()
    yield desk
    await end(desk)


async def run(desk: JaxDesk, args: bytes, refs: dict[str, bytes], **more: Any) -> Done:
    slot = desk.process
    if slot.program != PROGRAM:
        slot.load(PROGRAM, STEP)
    number = 1 + max([event.job for event in desk.of(Done)], default=0)
    slot.run(SlotJob(number, PROGRAM, args, refs=refs, **more))
    return await desk.wait(Done, ended(number))


def entry(digest: str, data: bytes) -> dict[str, Any]:
    return {"ref": digest, "bytes": len(data), "arrays": 2}


async def kept(desk: JaxDesk, start: float = 0.0) -> tuple[str, bytes]:
    """Digest and copy of a fresh state that the slot keeps."""
    done = await run(desk, arguments(np.full(4, start, np.float32), np.int32(0), X), {})
    total, record = value(done)
    event = desk.of(Kept)[-1]
    data = bytes(event.data)
    assert event.job == done.job and total == 4
    assert record == {"ref": event.digest, "bytes": len(data), "arrays": [["float32", [4]], ["int32", []]]}
    return event.digest, data


async def test_a_copy_is_told_and_the_next_job_uses_what_is_there(desk: JaxDesk) -> None:
    digest, data = await kept(desk)
    assert hashlib.sha256(data).hexdigest() == digest
    a, n = codec.decode(data)
    assert a.tolist() == [1, 1, 1, 1] and n == 1
    sent = desk.process.values_sent
    for number in range(2, 5):
        await run(desk, arguments(entry(digest, data), X), {digest: data})
        event = desk.of(Kept)[-1]
        digest, data = event.digest, bytes(event.data)
        a, n = codec.decode(data)
        assert a.tolist() == [number] * 4 and n == number
    assert desk.process.values_sent == sent


async def test_it_is_the_array_on_the_device_that_is_used(desk: JaxDesk) -> None:
    """Whatever bytes the agent has for a digest that the slot keeps, they don't get there."""
    digest, data = await kept(desk, 5.0)
    await run(desk, arguments(entry(digest, data), X), {digest: b"not the copy"})
    assert codec.decode(desk.of(Kept)[-1].data)[0].tolist() == [7] * 4


async def test_what_has_to_go_is_sent_again(desk: JaxDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, data = await kept(desk, 20.0)
    monkeypatch.setattr(slot_wire, "HELD_BYTES_MAX", 1)
    await kept(desk, 30.0)  # takes its place
    sent = desk.process.values_sent
    await run(desk, arguments(entry(digest, data), X), {digest: data})
    assert desk.process.values_sent == sent + 1
    assert codec.decode(desk.of(Kept)[-1].data)[0].tolist() == [22] * 4


async def test_what_is_kept_has_a_bound_of_its_own(desk: JaxDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait in the pipe keep theirs before they hear what has to go; the wall stands round all of it."""
    monkeypatch.setattr(slot_wire, "HELD_BYTES_MAX", 64 * MIB)
    large = bundle(lambda x: [x.sum(), jnp.zeros(8 << 20, jnp.float32) + x], ("float32", ()), result=LARGE)
    which = program("large", memory_bytes=128 * MIB)
    desk.process.load(which, large)
    first = 1 + max([event.job for event in desk.of(Done)], default=0)
    before = data_bytes(desk)
    for number in range(first, first + 8):
        desk.process.run(SlotJob(number, which, arguments(np.float32(number))))
    await desk.wait(Done, ended(first + 7))
    assert [value(event)[0] for event in desk.of(Done)[-8:]] == list(range(first, first + 8))
    await kept(desk)  # what had to go is gone
    assert data_bytes(desk) - before < (64 + 2 * 32 + 64) * MIB


def data_bytes(desk: JaxDesk) -> int:
    return int(proc(desk.process, "statm").split()[5]) * resource.getpagesize()


async def test_a_value_that_is_nowhere_is_the_call_s_error(desk: JaxDesk) -> None:
    done = await run(desk, arguments(entry("f" * 64, b""), X), {})
    assert "LookupError" in done.summary and "not among those" in done.summary


async def test_map_has_no_place_for_it(desk: JaxDesk) -> None:
    from runtime.guest.inside.wire import pack_items

    args = pack_items([arguments(np.zeros(4, np.float32), np.int32(0), X)])
    done = await run(desk, args, {}, items=1)
    assert "map has no place" in done.summary and not any(event.job == done.job for event in desk.of(Kept))
