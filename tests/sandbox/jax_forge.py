"""Jax programs as somebody with bad intentions would write them: modules from text, envelopes changed field by field."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export
from jax._src.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

F32 = np.float32
ALL = ("cpu", "cuda", "tpu")
MODULE = "module @m attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32}"


def spec(*shape: Any, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    """An argument by its shape; a text as first dimension names it."""
    if shape and isinstance(shape[0], str):
        shape = (*export.symbolic_shape(shape[0]), *shape[1:])
    return jax.ShapeDtypeStruct(shape, dtype)


def flat(function: Callable[..., Any], *specs: Any, platforms: tuple[str, ...] = ("cpu",)) -> export.Exported:
    """``function`` exported the way the SDK does it: a list of arrays out."""
    return export.export(jax.jit(lambda *args: jax.tree.leaves(function(*args))), platforms=platforms)(*specs)


def head_of(exported: export.Exported) -> dict[str, Any]:
    """The bundle's head for one module."""

    def rows(avals: Any) -> list[Any]:
        return [[str(one.dtype), [size if isinstance(size, int) else str(size) for size in one.shape]] for one in avals]

    module = {"platforms": list(exported.platforms), "calling_convention": exported.calling_convention_version}
    return {
        "weights": [],
        "inputs": rows(exported.in_avals),
        "outputs": rows(exported.out_avals),
        "modules": [module],
        "x64": False,
        "batch": None,
        "result": {"list": list(range(len(exported.out_avals)))},
    }


def packed(exported: export.Exported, **changes: Any) -> bytes:
    """The envelope with some fields changed, as jax writes it."""
    return bytes(dataclasses.replace(exported, **changes).serialize())


def with_module(base: export.Exported, text: str, *, raw: bool = False) -> bytes:
    """``base`` with another module in its envelope: a portable artifact, or plain MLIR bytecode (``raw``)."""
    with mlir.make_ir_context() as context:
        context.allow_unregistered_dialects = raw
        module = ir.Module.parse(text, context=context)
        if raw:
            file = io.BytesIO()
            module.operation.write_bytecode(file)
            code = file.getvalue()
        else:
            code = stablehlo.serialize_portable_artifact(module, stablehlo.get_current_version())
    return packed(base, mlir_module_serialized=code)


def main(body: str, *, kind: str = "tensor<8x8xf32>", beside: str = "", result: str = "%a") -> str:
    """A module whose main takes ``%a`` and gives ``result``, with ``body`` before that and ``beside`` it."""
    return (
        f"{MODULE} {{ func.func public @main(%a: {kind}) -> {kind} {{ {body}\n return {result} : {kind} }} {beside} }}"
    )
