"""Programs for the tests of the jax lane: exported by jax itself, packed as the SDK packs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np

from fleet.protocol import codec, jax_bundle
from runtime.slot_wire import SlotProgram

MIB = 1 << 20


def bundle(
    function: Callable[..., Any],
    *specs: tuple[str, Sequence[int | str]],
    result: Any = 0,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    x64: bool = False,
    weights: int = 0,
    **head: Any,
) -> bytes:
    """A bundle of ``function``, which takes flat arrays (``weights`` of them first) and returns a list of them."""
    with jax.enable_x64(x64):
        scope = jax.export.SymbolicScope()
        make: Any = jax.ShapeDtypeStruct
        avals = [
            make(jax.export.symbolic_shape(", ".join(map(str, shape)), scope=scope) if shape else (), np.dtype(dtype))
            for dtype, shape in specs
        ]
        exported = jax.export.export(jax.jit(function), platforms=list(platforms))(*avals)
    rows = [[dtype, list(shape)] for dtype, shape in specs]
    described = {
        "x64": x64,
        "weights": rows[:weights],
        "inputs": rows[weights:],
        "outputs": [[aval.dtype.name, [_size(size) for size in aval.shape]] for aval in exported.out_avals],
        "result": result,
        "batch": None,
        "modules": [
            {
                "platforms": list(platforms),
                "calling_convention": exported.calling_convention_version,
                "stablehlo": "1.0.0",
            }
        ],
    }
    return jax_bundle.pack({**described, **head}, [bytes(exported.serialize())])


def _size(size: Any) -> int | str:
    return size if isinstance(size, int) else str(size)


def program(key: str, **options: Any) -> SlotProgram:
    return SlotProgram(key, "", key, options.pop("memory_bytes", 256 * MIB), **options)


def arguments(*arrays: Any) -> bytes:
    return codec.encode([np.asarray(one) if not isinstance(one, dict) else one for one in arrays])


class Desk:
    """What a sandbox in this process tells, and what is kept for it."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.told: list[tuple[int, bytes]] = []
        self.kept: dict[str, bytes] = {}
        self.asked: list[str] = []

    def progress(self, position: int) -> None:
        self.began.append(position)

    def items(self, first: int, results: bytes) -> None:
        self.told.append((first, results))

    def compiled(self, key: str) -> bytes | None:
        self.asked.append(key)
        return self.kept.get(key)

    def keep_compiled(self, key: str, data: bytes) -> None:
        self.kept[key] = data


def started() -> Any:
    """A client as a slot has it, of this process."""
    from runtime.sandbox.jax_start import Started

    return Started(jax.devices("cpu")[0], {"lane": "jax-cpu"}, "test")
