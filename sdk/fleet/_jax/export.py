"""A traced function as modules that cars can read: for all platforms at once, else for each that works.

Nothing of the developer's machine is in a module but names of functions and line numbers: paths of files are taken out.
Errors: DeployError with the operation or line that is in the way (``refusals``); what the function itself raises.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax import export as jax_export
from jax._src import config as jax_config

from fleet._jax import dims, refusals
from fleet._jax.dims import Dim, Shape
from fleet._jax.values import Spec
from fleet.protocol.errors import DeployError, PayloadTooLarge
from fleet.protocol.limits import BUNDLE_BYTES_MAX, JAX_LEAVES_MAX, MIB
from fleet.protocol.units import format_bytes

PLATFORMS = ("cpu", "cuda", "tpu")
CONSTANTS_BYTES_MAX = 16 * MIB
CONSTANTS_BYTES_NOTED = MIB
"""Larger constants travel with every version of the program: worth a warning."""
_STABLEHLO = re.compile(rb"StableHLO_v([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Module:
    """``jax.export``'s serialisation for some platforms."""

    platforms: tuple[str, ...]
    calling_convention: int
    stablehlo: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Exported:
    """Modules of one function, all with the same arrays in and out."""

    modules: list[Module]
    why_not: dict[str, str]
    """Platform -> why there is no module for it."""
    outputs: list[tuple[str, Shape]]
    weak: frozenset[int]
    """The outputs whose dtype jax calls weak: it gives way to that of an array it meets, as a Python number's does."""


def export(name: str, flat: Callable[..., list[Any]], specs: Sequence[Spec]) -> Exported:
    """Trace ``flat`` with arrays of ``specs`` and export it.

    Raises what tracing raises as DeployError where jax is the reason, else as it is (a function's own error).
    """
    if len(specs) > JAX_LEAVES_MAX:
        raise DeployError(
            f"{name} takes {len(specs)} arrays, the limit is {JAX_LEAVES_MAX}",
            hint="put small arrays together as one (jnp.stack), or give weights by params=",
        )
    jitted = jax.jit(flat)
    structs = _structs(specs)
    with _without_paths():
        _check(name, jitted, structs)
        return _modules(name, jitted, structs)


def _check(name: str, jitted: Any, structs: Sequence[Any]) -> None:
    """Trace once, and refuse what no platform has. Exporting finds the trace in jax' cache."""
    try:
        jaxpr = jitted.trace(*structs).jaxpr
    except Exception as error:
        known = refusals.of_tracing(name, error)
        if known is None:
            refusals.tidy(error)
            raise
        raise known from error
    refused = refusals.of_callbacks(name, jaxpr)
    if refused is not None:
        raise refused
    _check_constants(name, jaxpr)


def _structs(specs: Sequence[Spec]) -> list[jax.ShapeDtypeStruct]:
    names = sorted({one for spec in specs for dim in spec.shape if isinstance(dim, str) for one in dims.names_in(dim)})
    symbols: dict[str, Any] = {}
    if names:
        symbols = dict(zip(names, jax_export.symbolic_shape(", ".join(names), scope=jax_export.SymbolicScope())))
    struct: Any = jax.ShapeDtypeStruct
    return [
        struct(tuple(dims.value(dim, symbols) for dim in spec.shape), jax.numpy.dtype(spec.dtype), weak_type=spec.weak)
        for spec in specs
    ]


def _check_constants(name: str, jaxpr: Any) -> None:
    """Arrays that the function found around itself are part of the program."""
    sizes = [int(getattr(one, "nbytes", 0)) for one in jaxpr.consts]
    total = sum(sizes)
    if total <= CONSTANTS_BYTES_NOTED:
        return
    said = f"{name} uses {format_bytes(total)} of arrays from around it, which become part of its program"
    hint = "pass it by params=: weights are stored apart, uploaded once and kept on the cars"
    if total > CONSTANTS_BYTES_MAX:
        raise PayloadTooLarge(f"{said}: the limit is {format_bytes(CONSTANTS_BYTES_MAX)}", hint=hint)
    warnings.warn(f"{said} ({hint})", stacklevel=2)


def _modules(name: str, jitted: Any, structs: Sequence[Any]) -> Exported:
    """All platforms in one module, or one module for each that works."""
    why_not: dict[str, str] = {}
    found = []
    first: Exception | None = None
    for platforms in (PLATFORMS, *[(one,) for one in PLATFORMS]):
        try:
            found.append(jax_export.export(jitted, platforms=platforms)(*structs))
        except Exception as error:  # NotImplementedError, ValueError, TypeError: lowering has no error of its own
            if len(platforms) == 1:
                why_not[platforms[0]] = refusals.reason(error)
                first = first or error
        if found and len(found[0].platforms) == len(PLATFORMS):
            break
    if not found:
        assert first is not None, name
        raise DeployError(
            f"{name} can't be exported: {refusals.reason(first)}", hint="use operations that jax.export knows"
        ) from first
    outputs = [_described(name, aval) for aval in found[0].out_avals]
    modules = [_module(name, one) for one in found]
    size = sum(len(one.data) for one in modules)
    if size > BUNDLE_BYTES_MAX:
        raise PayloadTooLarge(
            f"the program of {name} has {format_bytes(size)}, the limit is {format_bytes(BUNDLE_BYTES_MAX)}",
            hint="pass large arrays by params=",
        )
    weak = frozenset(at for at, aval in enumerate(found[0].out_avals) if aval.weak_type)
    return Exported(modules, why_not, outputs, weak)


@contextmanager
def _without_paths() -> Any:
    """Inside: no folder of this machine in what is lowered, for this thread."""
    with jax_config.hlo_source_file_canonicalization_regex(".*"):
        yield


def _module(name: str, exported: jax_export.Exported) -> Module:
    if exported.nr_devices != 1:
        raise DeployError(
            f"{name} is for {exported.nr_devices} devices: a car has one",
            hint="leave sharding out (with_sharding_constraint, shard_map, in_shardings=)",
        )
    try:
        data = bytes(exported.serialize())
    except Exception as error:  # Its format lacks some dtypes (KeyError).
        raise DeployError(
            f"{name} can't be exported: jax.export has no form for {refusals.reason(error)}",
            hint="use other dtypes for what it takes and returns",
        ) from error
    found = _STABLEHLO.search(bytes(exported.mlir_module_serialized[:256]))
    return Module(
        tuple(exported.platforms), exported.calling_convention_version, found[1].decode() if found else "", data
    )


def _described(name: str, aval: Any) -> tuple[str, Shape]:
    shape: tuple[Dim, ...] = tuple(dim if isinstance(dim, int) else str(dim) for dim in aval.shape)
    return aval.dtype.name, shape
