"""Runs a traced function in this process as a car does: from its bundle and packed arguments alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

from fleet._jax.program import Programs, Traced
from fleet._packed import refs_of
from fleet.protocol import codec, jax_bundle
from fleet.protocol.options import Batch


def programs(raw: Callable[..., Any], params: Any = None, batch: Batch | None = None) -> Programs:
    """The programs of a function."""
    return Programs(raw, getattr(raw, "__name__", "f"), params, batch, 1 << 28)


def trace(one: Programs, *args: Any, **kwargs: Any) -> Traced:
    """The program for a call."""
    return one.traced(args, kwargs)


def payload(one: Programs, *args: Any, **kwargs: Any) -> bytes:
    """The packed arguments of a call."""
    return one.traced(args, kwargs).pack(one.analyse(args, kwargs, one.x64()))


def remote(one: Programs, *args: Any, **kwargs: Any) -> Any:
    """The result of a call that went through the bundle, the wire and back."""
    traced = one.traced(args, kwargs)
    return traced.unpack(executed(traced, payload(one, *args, **kwargs)))


def executed(traced: Traced, data: bytes) -> Any:
    """What a car answers, decoded."""
    head, modules = jax_bundle.unpack(traced.bundle)
    weights = traced.weights.leaves if traced.weights is not None else []
    inputs = inputs_of(data)
    assert [(one.dtype.name, one.ndim) for one in inputs] == [(dtype, len(shape)) for dtype, shape in head["inputs"]]
    with jax.enable_x64(head["x64"]):
        program: Any = export.deserialize(bytearray(modules[0]))
        outputs = program.call(*weights, *inputs)
    outputs = [np.asarray(one) for one in outputs]
    assert [(one.dtype.name, one.ndim) for one in outputs] == [(dtype, len(shape)) for dtype, shape in head["outputs"]]
    return codec.decode(codec.encode(built(head["result"], outputs)))


def inputs_of(data: bytes) -> list[Any]:
    """The arrays of packed arguments, with those of references."""
    found: list[Any] = []
    refs: dict[str, Any] = dict(refs_of(data))
    for entry in codec.decode(data):
        if isinstance(entry, dict):
            inside = codec.decode(refs[entry["ref"]].again())
            assert len(inside) == entry["arrays"]
            found += inside
        else:
            found.append(entry)
    return found


def built(tree: Any, arrays: Sequence[Any]) -> Any:
    """The containers of a JSON tree, with arrays for its numbers."""
    if tree is None:
        return None
    if isinstance(tree, int):
        return arrays[tree]
    ((kind, inner),) = tree.items()
    if kind == "keep":
        return built(inner, arrays)
    if kind == "dict":
        return {key: built(one, arrays) for key, one in inner}
    parts = [built(one, arrays) for one in inner]
    return tuple(parts) if kind == "tuple" else parts
