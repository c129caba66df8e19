"""Look at a jax program before it is compiled: refuse what is not on the lists.

``jax.export.deserialize`` trusts its input (a module forged with the target of a Python callback crashed the process), and so
do the compiler and its kernels. Whoever writes the bytes by hand must get an error that names what was found. In order:

1. the envelope (a flatbuffer), field by field, before jax reads it: counts, flat trees, no shardings, no derivative;
2. what jax read: one device, no effects, no disabled check, arguments and results as the bundle's head says;
3. the module: ``jax_walk``; and its ``main`` against the envelope;
4. if it calls kernels with shapes that are open, those again when they are known (``audit_lowered``): the shape of a result
   is computed by the program, the kernels believe it, and one that is too small is overrun.

Parsing hostile MLIR bytes may crash: it happens in the locked slot, whose end the agent survives.
Errors: ProgramRefused (``program_refused``), one sentence that names what was found.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
from jax import export
from jax._src import core
from jax._src.export import serialization_generated as envelope
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

from fleet.protocol import limits
from fleet.protocol.errors import ProgramRefused
from runtime.sandbox.jax_calls import refuse
from runtime.sandbox.jax_kernels import Value
from runtime.sandbox.jax_walk import Walked, Walker

PLATFORMS: Final = ("cpu", "cuda", "tpu")
_TENSOR_SHARE: Final = 8
"""An array may be this much larger than the program's memory: fused operations never write all of it. What is really
needed is known after compiling."""
_DIMENSION = re.compile(r"[A-Za-z0-9_ ,.()*+^-]{1,200}")
_POWER = re.compile(r"\^\s*\d{2}")
_FUNCTION_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,256}")


@dataclass(frozen=True, slots=True)
class Audited:
    """A program that may be compiled."""

    exported: export.Exported
    operations: int
    functions: int
    tensor_bytes_max: int
    again: bool
    """Kernels are called with open shapes: ``audit_lowered`` has to see every lowering."""


def audit(module: bytes | bytearray | memoryview, head: Mapping[str, Any], index: int, memory_bytes: int) -> Audited:
    """Read module ``index`` of a bundle with this ``head``, and check all of it. ProgramRefused for what isn't allowed."""
    data = bytearray(module)
    if not 8 <= len(data) <= limits.BUNDLE_BYTES_MAX:
        raise refuse(f"its module has {len(data)} bytes")
    try:
        _check_envelope(data)
        exported = export.deserialize(data)
    except ProgramRefused:
        raise
    except Exception as error:  # The reader of flatbuffers, and jax on top of it, fail in every way there is.
        raise refuse(f"its module can't be read ({type(error).__name__})") from None
    _check_exported(exported, head, index)
    tensor_bytes_max = memory_bytes * _TENSOR_SHARE
    with mlir.make_ir_context():
        walked = _walk(Walker(tensor_bytes_max), _parse(exported))
    if walked.open_shapes and not exported.uses_global_constants:
        raise refuse("open shapes, although it says that there are none")
    _check_main(exported, walked)
    return Audited(exported, walked.operations, len(walked.functions), tensor_bytes_max, walked.open_kernels)


def audit_lowered(audited: Audited, lowered: jax.stages.Lowered) -> None:
    """Check what ``jax.jit(audited.exported.call).lower(...)`` gave, before it is compiled. Costs nothing unless
    ``audited.again``."""
    if not audited.again:
        return
    try:
        lowered_module: Any = lowered.compiler_ir("stablehlo")
        module = mlir.refine_polymorphic_shapes(lowered_module)
    except Exception as error:
        raise refuse(f"its shapes can't be told ({_first_line(error)})") from None
    with module.context:
        _walk(Walker(audited.tensor_bytes_max, static=True), module)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# --- the envelope ---


def _check_envelope(data: bytearray) -> None:
    """What jax's reader would follow without a look: counts, and trees whose nodes may be shared."""
    top: Any = envelope.Exported.GetRootAsExported(data)  # type: ignore[no-untyped-call]
    inputs, outputs = top.InAvalsIdxsLength(), top.OutAvalsIdxsLength()
    counts = {
        "arguments": max(inputs, top.InAvalsLength(), top.InShardingsLength(), top.InShardingsIdxsLength()),
        "results": max(outputs, top.OutAvalsLength(), top.OutShardingsLength(), top.OutShardingsIdxsLength()),
        "types": top.UniqueAvalsLength(),
        "kept arguments": top.ModuleKeptVarIdxLength(),
    }
    for what, count in counts.items():
        if count > limits.JAX_LEAVES_MAX:
            raise refuse(f"it has {count} {what}, allowed are {limits.JAX_LEAVES_MAX}")
    if top.PlatformsLength() > len(PLATFORMS):
        raise refuse(f"it is for {top.PlatformsLength()} platforms")
    for what, number in (
        ("effects", top.OrderedEffectsLength() + top.UnorderedEffectsLength()),
        ("disabled safety checks", top.DisabledChecksLength()),
        ("shardings", top.UniqueNamedShardingsLength() + top.UniqueAbstractMeshesLength()),
    ):
        if number:
            raise refuse(f"it has {what}")
    if top.Vjp() is not None:
        raise refuse("it carries its derivative")
    kinds = envelope.PyTreeDefKind
    both = top.InTree()
    if both.Kind() != kinds.tuple or both.ChildrenLength() != 2:
        raise refuse("its arguments are no flat list")
    _check_flat(both.Children(0), kinds.tuple, inputs, "arguments")
    _check_flat(both.Children(1), kinds.dict, 0, "arguments")
    _check_flat(top.OutTree(), kinds.list, outputs, "results")
    for at in range(top.UniqueAvalsLength()):
        aval = top.UniqueAvals(at)
        if aval.ShapeLength() > limits.ARRAY_DIMENSIONS_MAX:
            raise refuse(f"an array has {aval.ShapeLength()} dimensions")
        for place in range(aval.ShapeLength()):
            _check_dimension(aval.Shape(place).decode())


def _check_flat(tree: Any, kind: int, leaves: int, what: str) -> None:
    if tree.Kind() != kind or tree.ChildrenLength() != leaves:
        raise refuse(f"its {what} are no flat list")
    for at in range(leaves):
        child = tree.Children(at)
        if child.Kind() != envelope.PyTreeDefKind.leaf or child.ChildrenLength():
            raise refuse(f"its {what} are no flat list")


def _check_dimension(text: str) -> None:
    """jax parses dimensions as expressions and multiplies them out."""
    if not _DIMENSION.fullmatch(text) or _POWER.search(text):
        raise refuse(f"the dimension {text[:80]!r}")


# --- what jax read ---


def _check_exported(exported: export.Exported, head: Mapping[str, Any], index: int) -> None:
    if exported.nr_devices != 1:
        raise refuse(f"it is for {exported.nr_devices} devices")
    shardings = (*exported._in_named_shardings, *exported._out_named_shardings)
    shardings += (*exported.in_shardings_hlo, *exported.out_shardings_hlo)
    if any(one is not None for one in shardings):
        raise refuse("it has shardings")
    if exported.ordered_effects or exported.unordered_effects or exported.disabled_safety_checks:
        raise refuse("it has effects or disabled safety checks")
    if not _FUNCTION_NAME.fullmatch(exported.fun_name):
        raise refuse("its function has no proper name")
    platforms = exported.platforms
    if not platforms or len(set(platforms)) != len(platforms) or not set(platforms) <= set(PLATFORMS):
        raise refuse(f"it is for the platforms {platforms}")
    low, high = export.minimum_supported_calling_convention_version, export.maximum_supported_calling_convention_version
    if not low <= exported.calling_convention_version <= high:
        raise refuse(f"calling convention {exported.calling_convention_version}: this car has {low} to {high}")
    kept = exported.module_kept_var_idx
    if any(a >= b for a, b in itertools.pairwise(kept)) or any(at >= len(exported.in_avals) for at in kept):
        raise refuse("its list of used arguments makes no sense")
    _check_head(exported, head, index)


def _check_head(exported: export.Exported, head: Mapping[str, Any], index: int) -> None:
    """The bundle's description tells the same: callers were told so, and jobs are checked against it."""
    try:
        row = head["modules"][index]
        told = list(row["platforms"]), row["calling_convention"]
        inputs, outputs = [*head["weights"], *head["inputs"]], list(head["outputs"])
        specs = [[(str(dtype), _plain(shape)) for dtype, shape in rows] for rows in (inputs, outputs)]
    except (LookupError, TypeError, ValueError):
        raise refuse("the description of its bundle can't be read") from None
    if told != (list(exported.platforms), exported.calling_convention_version):
        raise refuse("its bundle tells other platforms or another calling convention")
    for what, avals, rows in (("arguments", exported.in_avals, specs[0]), ("results", exported.out_avals, specs[1])):
        found = [(str(aval.dtype), _plain(aval.shape)) for aval in avals]
        if found != rows:
            at = next(
                (at for at, (a, b) in enumerate(zip(found, rows, strict=False)) if a != b), min(len(found), len(rows))
            )
            raise refuse(f"its {what} differ from what its bundle tells, at number {at}")


def _plain(shape: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(size).replace(" ", "") for size in shape)


# --- the module ---


def _parse(exported: export.Exported) -> ir.Module:
    try:
        module: ir.Module = exported.mlir_module(serialized=False)
        valid = module.operation.verify()
    except Exception as error:
        raise refuse(f"its module can't be read ({_first_line(error)})") from None
    if not valid:
        raise refuse("its module contradicts itself")
    return module


def _walk(walker: Walker, module: ir.Module) -> Walked:
    try:
        return walker.walk(module)
    except ProgramRefused:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        # Attributes of other kinds than they should be, names that are no text: MLIR's Python says so in many ways.
        raise refuse(f"its module can't be read ({type(error).__name__})") from None


def _check_main(exported: export.Exported, walked: Walked) -> None:
    """jax calls ``main`` with the types of the envelope, and believes that they are main's."""
    main = walked.functions.get("main")
    if main is None:
        raise refuse("it has no main function")
    platform: list[Value] = []
    if len(exported.platforms) > 1:  # Which one it runs on; exported with x64, it is counted in 64 bits.
        platform = [("i64", ())] if main.inputs[:1] == [("i64", ())] else [("i32", ())]
    kept = set(exported.module_kept_var_idx)
    wanted = platform + [_value(aval) for at, aval in enumerate(exported.in_avals) if at in kept]
    if main.inputs != wanted or main.outputs != list(map(_value, exported.out_avals)):
        raise refuse("its main function has other arguments or results than it tells")


_ELEMENTS: Final = {"bool": "i1", "complex64": "complex<f32>", "complex128": "complex<f64>", "bfloat16": "bf16"}


def _value(aval: core.ShapedArray) -> Value:
    if (
        not isinstance(aval, core.ShapedArray)
        or not isinstance(aval.dtype, np.dtype)
        or aval.memory_space != core.MemorySpace.Device
    ):
        raise refuse(f"an argument or result of type {str(aval)[:80]}")
    shape = tuple(int(size) if core.is_constant_dim(size) else None for size in aval.shape)
    return _ELEMENTS.get(aval.dtype.name) or _element(aval.dtype.name), shape


def _element(dtype: str) -> str:
    kind, bits = re.fullmatch(r"([a-z]+)(.*)", dtype).groups()  # type: ignore[union-attr]
    short = {"float": "f", "int": "i", "uint": "ui"}.get(kind, kind)
    return short + (bits.removeprefix("_") if short != "f" or "_" not in bits else bits.replace("_", "").upper())
