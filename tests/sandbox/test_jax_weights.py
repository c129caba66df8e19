"""Weights in a jax slot: files that the agent passes, mapped where they lie, read by a program; hostile ones."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fleet._jax import params
from fleet.protocol.errors import ProtocolError
from fleet.protocol.safetensors import read_head
from runtime.sandbox.jax_weights import WeightStore
from runtime.slot_wire import SlotProgram
from runtime.slots import Done
from tests.sandbox.jax_programs import arguments, bundle, program
from tests.sandbox.test_jax_slot import JaxDesk, end, start
from tests.sandbox.test_slots import ended, value

MIB = 1 << 20
CPU = jax.devices("cpu")[0]


class File:
    """A piece as the agent has it: an open file that can't be changed."""

    def __init__(self, data: bytes) -> None:
        self._fd = os.memfd_create("weights")
        os.write(self._fd, data)

    def fileno(self) -> int:
        return self._fd

    def __del__(self) -> None:
        os.close(self._fd)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 64 KiB, leaves cut above 128 KiB."""
    monkeypatch.setattr(params, "PIECE_BYTES", 64 << 10)
    monkeypatch.setattr(params, "LEAF_BYTES_MAX", 128 << 10)


def files_of(given: params.Params) -> dict[str, File]:
    return {piece.digest: File(bytes(given.read(piece.digest))) for piece in given.pieces}


def pieces_of(given: params.Params) -> tuple[tuple[str, int], ...]:
    return tuple((piece.digest, piece.size_bytes) for piece in given.pieces)


def stored(store: WeightStore, given: params.Params) -> list[jax.Array]:
    for piece, file in zip(given.pieces, files_of(given).values(), strict=True):
        store.add(piece.digest, os.dup(file.fileno()), piece.size_bytes)
    return store.arrays(pieces_of(given), given.specs)


# --- the store -------------------------------------------------------------------------------------------------------


def mapped() -> list[range]:
    """Where files of these tests are mapped."""
    with open("/proc/self/maps") as maps:
        rows = [row.split()[0].split("-") for row in maps if "memfd:weights" in row]
    return [range(int(first, 16), int(last, 16)) for first, last in rows]


@pytest.mark.usefixtures("small")
def test_arrays_are_the_mapped_files_and_let_go_of_them() -> None:
    rng = np.random.default_rng(0)
    tree = {
        "odd": np.arange(7, dtype=np.float32),
        "half": jnp.linspace(0, 1, 15, dtype=jnp.bfloat16).reshape(3, 5),
        "one": np.float32(3),
        "none": np.zeros((0, 3), np.int8),
        "yes": np.array([True, False]),
        "tiny": jnp.arange(6, dtype=jnp.float8_e4m3fn),
        "complex": np.array([1 + 2j], np.complex64),
        "cut": rng.standard_normal((1, 100_003)).astype(np.float32),
        "whole": rng.standard_normal((150, 200)).astype(np.float32),
        "columns": np.asfortranarray(rng.standard_normal((40, 50)).astype(np.float32)),
        "other end": np.arange(5, dtype=">i4"),
    }
    before = len(os.listdir("/proc/self/fd"))
    store = WeightStore(CPU)
    given = params.weights_of(tree)
    arrays = stored(store, given)
    assert len(os.listdir("/proc/self/fd")) == before
    for leaf, array in zip(given.leaves, arrays, strict=True):
        np.testing.assert_array_equal(np.asarray(array), np.asarray(leaf))
    names = sorted(tree)
    places = [any(array.unsafe_buffer_pointer() in place for place in mapped()) for array in arrays]
    assert [name for name, place in zip(names, places, strict=True) if not place] == ["cut"], "copied"
    assert store.arrays(pieces_of(given), given.specs) is arrays and store.made == 1
    for digest, _ in pieces_of(given):
        store.drop(digest)
    np.testing.assert_array_equal(np.asarray(arrays[names.index("whole")]), tree["whole"])
    del arrays, array
    gc.collect()
    assert not mapped()


def test_sixty_four_bits_stay_sixty_four_bits() -> None:
    with jax.enable_x64(True):
        given = params.weights_of({"count": np.arange(3), "share": np.array([0.1])})
    assert [dtype for dtype, _ in given.specs] == ["int64", "float64"]
    count, share = stored(WeightStore(CPU), given)
    assert count.dtype == np.int64 and share.dtype == np.float64 and float(np.asarray(share)[0]) == 0.1


def test_a_program_gets_what_it_describes_or_nothing() -> None:
    given = params.weights_of([np.zeros((2, 3), np.float32), np.zeros(4, np.int32)])
    for wrong in (
        [("float32", (3, 2)), ("int32", (4,))],
        [("float32", (2, 3)), ("uint32", (4,))],
        [("float32", (2, 3))],
        [("float32", (2, 3)), ("int32", (4,)), ("int32", (4,))],
    ):
        store = WeightStore(CPU)
        stored(store, given)
        with pytest.raises(ProtocolError, match="describes"):
            store.arrays(pieces_of(given), wrong)
        fresh = WeightStore(CPU)
        for piece, file in zip(given.pieces, files_of(given).values(), strict=True):
            fresh.add(piece.digest, os.dup(file.fileno()), piece.size_bytes)
        with pytest.raises(ProtocolError, match="describes"):
            fresh.arrays(pieces_of(given), wrong)


# --- hostile files ---------------------------------------------------------------------------------------------------


def forged(head: Any, data: bytes = bytes(64), length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def row(**changes: Any) -> dict[str, Any]:
    return {"0": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64], **changes}}


HOSTILE = {
    "empty": b"",
    "short": b"\0" * 7,
    "huge head": forged(b"{}", length=1 << 62),
    "head over the limit": forged(b" " * (3 * MIB)),
    "head over the file": forged(b"{}", b"", length=3),
    "no JSON": forged(b"\xff\xfe"),
    "nested": forged(b"[" * 100_000),
    "a list": forged([]),
    "too many": forged({f"pad{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(9000)}),
    "twice": forged(b'{"0":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},' * 1 + b'"0":{}}'),
    "nothing said": forged({"0": {}}),
    "more said": forged(row(more=1)),
    "unknown dtype": forged(row(dtype="F31")),
    "dtype of another kind": forged(row(dtype=["F32"])),
    "negative dimension": forged(row(shape=[-16])),
    "no whole dimension": forged(row(shape=[16.0])),
    "true dimension": forged(row(shape=[16, True])),
    "huge dimension": forged(row(shape=[1 << 70])),
    "dimensions that wrap": forged(row(shape=[1 << 32, 1 << 32, 16])),
    "too many dimensions": forged(row(shape=[1] * 40 + [16])),
    "outside": forged(row(data_offsets=[64, 128])),
    "before the data": forged(row(data_offsets=[-64, 0])),
    "backwards": forged(row(data_offsets=[64, 0])),
    "too long for its shape": forged(row(shape=[15])),
    "too short for its shape": forged(row(shape=[17])),
    "one place": forged(row(data_offsets=[0])),
    "overlapping": forged({**row(), "1": {"dtype": "F32", "shape": [8], "data_offsets": [32, 64]}}),
    "the same place": forged({**row(), "1": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}),
    "a hole": forged({**row(), "1": {"dtype": "U8", "shape": [8], "data_offsets": [72, 80]}}, bytes(80)),
    "bytes behind": forged(row(), bytes(65)),
    "a name": forged({"weight": row()["0"]}),
    "a negative name": forged({"-1": row()["0"]}),
    "metadata": forged({**row(), "__metadata__": {"format": "pt"}}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_head_is_refused(what: str) -> None:
    with pytest.raises(ProtocolError):
        read_head(HOSTILE[what])
    digest = hashlib.sha256(HOSTILE[what]).hexdigest()
    store = WeightStore(CPU)
    file = File(HOSTILE[what])
    store.add(digest, os.dup(file.fileno()), len(HOSTILE[what]))
    with pytest.raises(ProtocolError, match="can't be used"):
        store.arrays([(digest, len(HOSTILE[what]))], [("float32", (16,))])


def test_the_honest_twin_of_the_hostile_heads_is_read() -> None:
    (tensor,) = read_head(forged(row()))
    assert (tensor.leaf, tensor.dtype, tensor.shape, tensor.end - tensor.start) == (0, "float32", (16,), 64)


# --- a slot ----------------------------------------------------------------------------------------------------------

WIDE = 300


def weighing(count: int) -> bytes:
    """A program that takes ``count`` weights and adds their sums to ``x``."""
    specs = [("float32", (WIDE, WIDE))] * count + [("float32", ("b",))]
    return bundle(lambda *all: [all[-1] + sum(one.sum() for one in all[:-1])], *specs, weights=count)


def matrices(count: int, seed: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 10, (WIDE, WIDE)).astype(np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def weigh(
    desk: JaxDesk, one: SlotProgram, code: bytes, files: Mapping[str, File], *arrays: Any
) -> tuple[int, float]:
    """How many pieces were passed for a call of a program whose weights are ``files``, and what it gave."""
    passed = desk.process.load(one, code, (), files)
    job = desk.submit(one, arguments(*arrays), code)
    event = await desk.wait(Done, ended(job))
    return passed, float(np.ravel(value(event))[0])


@pytest.fixture(scope="module")
async def desk() -> AsyncIterator[JaxDesk]:
    """One slot for all tests."""
    desk = await start()
    yield desk
    await end(desk)


@pytest.mark.anyio
async def test_more_pieces_may_come_while_a_program_compiles_than_a_wasm_slot_has_files(
    desk: JaxDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(params, "PIECE_BYTES", 1)
    count = 100
    given = params.weights_of([np.full((3, 3), n, np.float32) for n in range(count)])
    specs = [("float32", (3, 3))] * count + [("float32", ())]
    code = bundle(lambda *all: [sum(one.sum() for one in all)], *specs, weights=count)
    slow = bundle(lambda x: [jnp.linalg.inv(x)], ("float32", ("n", "n")))
    first = desk.submit(program("slow"), arguments(np.eye(3, dtype=np.float32)), slow)
    passed, total = await weigh(desk, program("many", weights=pieces_of(given)), code, files_of(given), np.float32(0))
    assert (passed, total) == (count, 9 * sum(range(count)))
    assert value(await desk.wait(Done, ended(first))).shape == (3, 3)


@pytest.mark.anyio
async def test_programs_with_weights_run_in_a_locked_slot(desk: JaxDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "PIECE_BYTES", 3 * WIDE * WIDE * 4)
    trees = [matrices(7, seed) for seed in range(2)]
    sums = [sum(float(one.sum()) for one in tree) for tree in trees]
    given = [params.weights_of(tree) for tree in trees]
    files = [files_of(one) for one in given]
    code = weighing(7)
    programs = [program(f"p{n}", weights=pieces_of(one)) for n, one in enumerate(given)]
    x = np.zeros(1, np.float32)
    # Files wait behind what the pipe doesn't take at once, each for its own frame.
    long = np.zeros(4 * MIB, np.float32)
    behind = desk.submit(program("negative"), arguments(long), bundle(lambda x: [-x], ("float32", ("b",))))
    assert desk.process._sender._unsent
    assert await weigh(desk, programs[0], code, files[0], x) == (3, sums[0])
    assert len(value(await desk.wait(Done, ended(behind)))) == 4 * MIB
    # The same weights under another program, then others, then the first again: what the slot has isn't passed again.
    assert await weigh(desk, program("again", weights=pieces_of(given[0])), code, {}, x + 1) == (0, sums[0] + 1)
    assert await weigh(desk, programs[1], code, files[1], x) == (3, sums[1])
    assert await weigh(desk, programs[0], code, {}, x) == (0, sums[0])
    monkeypatch.setattr("runtime.slot_wire.WEIGHTS_HELD_BYTES_MAX", 4 * MIB)
    third = matrices(7, 3)
    given.append(params.weights_of(third))
    programs.append(program("p2", weights=pieces_of(given[2])))
    assert await weigh(desk, programs[2], code, files_of(given[2]), x) == (
        3,
        sum(float(one.sum()) for one in third),
    )
    assert desk.process.weights.total_bytes <= 4 * MIB, "others are dropped for it"
    assert await weigh(desk, programs[1], code, files[1], x) == (3, sums[1])
    # What is wrong with a piece is told to the calls of its program alone.
    forgery = HOSTILE["overlapping"]
    forged_program = program("forged", weights=(("f" * 64, len(forgery)),))
    assert desk.process.load(forged_program, weighing(1), (), {"f" * 64: File(forgery)}) == 1
    refused = await desk.wait(Done, ended(desk.submit(forged_program, arguments(x))))
    assert refused.result[0] == 1 and b"can't be used" in refused.result
    assert await weigh(desk, programs[1], code, {}, x) == (0, sums[1])
