"""Custom calls: machine code of jax that a program may call by name, and the forms in which it may.

The kernels trust the shapes they are called with: ``lapack_sgetrf_ffi`` with a result smaller than its operand overruns the
heap (tried: double free, SIGSEGV). So a target's name is not enough: types and shapes of operands and results and every entry
of its configuration are compared with what jax itself writes. A shape that isn't known before the call has one is compared
again once it is (``jax_audit.audit_lowered``).

Forms are written as ``T[m,n] -> T[m,n], I[k], I[]``: an element type and the last dimensions; those before them (the batch) are
the same everywhere. ``T`` the kernel's type, ``R`` its real one, ``C`` its complex one, ``I`` int32, ``U`` uint32. ``k`` is the
smaller of ``m`` and ``n``, ``h`` is ``n - 1``, any other name is one size. Units: elements.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

Shape = tuple[int | None, ...]
Value = tuple[str, Shape]
"""Element type and dimensions; None for one that isn't known yet."""
Sizes = dict[str, int | None]

_U8 = "{} : ui8"


def _codes(letters: str) -> frozenset[str]:
    """LAPACK's letters as jax writes them: ``76 : ui8``."""
    return frozenset(_U8.format(ord(letter)) for letter in letters)


_BOOL = frozenset({"true", "false"})
_UPLO = {"uplo": _codes("LU")}
_LOWER = {"lower": _BOOL}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One custom call target in one form."""

    types: tuple[str, ...]
    """What ``T`` may be."""
    operands: tuple[tuple[str, tuple[str, ...]], ...]
    results: tuple[tuple[str, tuple[str, ...]], ...]
    config: Mapping[str, frozenset[str] | re.Pattern[str]] = field(default_factory=dict)
    """Entries of its configuration, and what each may be, as text."""
    holds: Callable[[Sizes, Mapping[str, str]], bool] = lambda sizes, config: True
    """Whether sizes and configuration fit each other; sizes that aren't known are None."""


_FORM = re.compile(r"([A-Z])\[([a-z,]*)\]")


def _parse(form: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((kind, tuple(filter(None, dims.split(",")))) for kind, dims in _FORM.findall(form))


def _kernel(types: str, form: str, *rest: object) -> Kernel:
    operands, _, results = form.partition("->")
    return Kernel(tuple(types.split()), _parse(operands), _parse(results), *rest)  # type: ignore[arg-type]


def _at_least(*names: str) -> Callable[[Sizes, Mapping[str, str]], bool]:
    """Each size is at least the one after it."""

    def holds(sizes: Sizes, config: Mapping[str, str]) -> bool:
        known = [sizes.get(name) for name in names]
        return all(a is None or b is None or a >= b for a, b in itertools.pairwise(known))

    return holds


def _side(sizes: Sizes, config: Mapping[str, str]) -> bool:
    other = sizes.get("m" if config["side"] == _U8.format(ord("L")) else "n")
    return other is None or sizes.get("a") in (None, other)


def _balanced(sizes: Sizes, config: Mapping[str, str]) -> bool:
    low, high, n = int(config["low"].split()[0]), int(config["high"].split()[0]), sizes.get("n")
    return 1 <= low <= high and (n is None or high <= max(n, 1))


def _factors(sizes: Sizes, config: Mapping[str, str]) -> bool:
    """Of a singular value decomposition: all vectors, or as many as there are values."""
    full = config.get("mode") == _U8.format(ord("A")) or config.get("full_matrices") == "true"
    either = config.get("mode") == _U8.format(ord("N"))  # Nothing is written then.
    for name, wanted in (("p", "m"), ("q", "n")):
        size, known, values = sizes.get(name), sizes.get(wanted), sizes.get("k")
        if size is None or known is None or values is None:
            continue
        if size != (known if full else values) and not (either and size in (known, values)):
            return False
    return True


def _no_vectors(sizes: Sizes, config: Mapping[str, str]) -> bool:
    return config["compute_uv"] == "false"


_SVD = "T[m,n] -> T[m,n], R[k], T[m,p], T[q,n], I[]"
_LU = "T[m,n] -> T[m,n], I[k], I[]"
_HOUSEHOLDER = "T[m,n], T[r] -> T[m,n]"
_QR = "T[m,n] -> T[m,n], T[k]"
_CHOLESKY = "T[n,n] -> T[n,n], I[]"
_EIGH = "T[n,n] -> T[n,n], R[n], I[]"
_TRIDIAGONAL = "T[n,n] -> T[n,n], R[n], R[h], T[h], I[]"
_REFLECTORS = _at_least("m", "n", "r")
_INT32 = re.compile(r"\d{1,9} : i32")
_TRSM_CONFIG = {"diag": _codes("UN"), "side": _codes("LR"), "trans_x": _codes("NTC"), **_UPLO}
_GEEV_CONFIG = {"compute_left": _codes("NV"), "compute_right": _codes("NV")}
_GEES_CONFIG = {"mode": _codes("NV"), "sort": _codes("N")}  # "S" would ask the kernel for a function that isn't there.
_GESDD_CONFIG = {"mode": _codes("ANS")}
_SVD_GPU = {"full_matrices": _BOOL, "compute_uv": _BOOL}


def _lapack() -> dict[str, tuple[Kernel, ...]]:
    found: dict[str, tuple[Kernel, ...]] = {}
    for letter, kind in (("s", "f32"), ("d", "f64"), ("c", "complex<f32>"), ("z", "complex<f64>")):
        real = letter in "sd"
        symmetric, orthogonal = ("sy", "or") if real else ("he", "un")
        for name, form, *rest in (
            ("potrf", _CHOLESKY, _UPLO),
            ("geqrf", _QR),
            (f"{orthogonal}gqr", _HOUSEHOLDER, {}, _REFLECTORS),
            (f"{symmetric}evd", _EIGH, {"mode": _codes("NV"), **_UPLO}),
            ("geev", f"T[n,n] -> {'R[n], R[n]' if real else 'T[n]'}, C[n,n], C[n,n], I[]", _GEEV_CONFIG),
            ("gesdd", _SVD, _GESDD_CONFIG, _factors),
            ("getrf", _LU),
            (f"{symmetric}trd", _TRIDIAGONAL, _UPLO),
            ("gehrd", "T[n,n] -> T[n,n], T[h], I[]", {"low": _INT32, "high": _INT32}, _balanced),
            ("gees", f"T[n,n] -> T[n,n], T[n,n], {'R[n], R[n]' if real else 'T[n]'}, I[], I[]", _GEES_CONFIG),
            ("trsm", "T[a,a], T[m,n] -> T[m,n]", _TRSM_CONFIG, _side),
            ("gtsv", "T[n], T[n], T[n], T[n,b] -> T[n], T[n], T[n], T[n,b], I[]"),
        ):
            found[f"lapack_{letter}{name}_ffi"] = (_kernel(kind, str(form), *rest),)
    return found


_ANY = "f32 f64 complex<f32> complex<f64>"
FFI: Final[dict[str, tuple[Kernel, ...]]] = {
    **_lapack(),
    "cu_lu_pivots_to_permutation": (_kernel("i32", "T[r] -> T[n]", {}, _at_least("n", "r")),),
    "cu_threefry2x32_ffi": tuple(
        _kernel("ui32", ", ".join([f"T[{dims}]"] * 4) + f" -> T[{dims}], T[{dims}]") for dims in ("", "n")
    ),
    "cusolver_getrf_ffi": (_kernel(_ANY, _LU),),
    "cusolver_geqrf_ffi": (_kernel(_ANY, _QR),),
    "cusolver_orgqr_ffi": (_kernel(_ANY, _HOUSEHOLDER, {}, _REFLECTORS),),
    "cusolver_potrf_ffi": (_kernel(_ANY, _CHOLESKY, _LOWER),),
    "cusolver_syevd_ffi": (_kernel(_ANY, _EIGH, {"algorithm": frozenset(map(_U8.format, range(3))), **_LOWER}),),
    "cusolver_gesvd_ffi": (
        _kernel(_ANY, _SVD, {**_SVD_GPU, "transposed": frozenset({"false"})}, _factors),
        _kernel(
            _ANY,
            "T[m,n] -> T[m,n], R[k], T[q,n], T[m,p], I[]",
            {**_SVD_GPU, "transposed": frozenset({"true"})},
            _factors,
        ),
        _kernel(_ANY, "T[m,n] -> T[m,n], R[k], V[], V[], I[]", {**_SVD_GPU, "transposed": _BOOL}, _no_vectors),
    ),
    "cusolver_gesvdj_ffi": (_kernel(_ANY, "T[m,n] -> T[m,n], R[k], T[m,p], T[n,q], I[]", _SVD_GPU, _factors),),
    "cusolver_sytrd_ffi": (_kernel(_ANY, _TRIDIAGONAL, _LOWER),),
    "cusparse_gtsv2_ffi": (_kernel(_ANY, "T[n], T[n], T[n], T[n,b] -> T[n,b]"),),
}
"""Kernels with a typed interface: their configuration is a dictionary."""

_EMPTY = re.compile("")
TPU: Final[dict[str, tuple[Kernel, ...]]] = {
    "Eigh": (_kernel(_ANY, "T[n,n] -> T[n,n], R[n]", {"": re.compile(r"[01],[01],\d{1,4},[0-9.e-]{1,12}")}),),
    "Qr": (_kernel(_ANY, _QR, {"": _EMPTY}),),
    "ProductOfElementaryHouseholderReflectors": (_kernel(_ANY, _HOUSEHOLDER, {"": _EMPTY}, _REFLECTORS),),
    "LuDecomposition": (_kernel(_ANY, "T[m,n] -> T[m,n], I[k], I[m]", {"": _EMPTY}),),
}
"""The compiler's own, named on every platform; what they are told is text."""

NOT_OURS: Final = frozenset(
    {
        "AllocateBuffer",  # lax.empty: memory as another program left it.
        "Sharding",
        "SPMDFullToShardShape",
        "SPMDShardToFullShape",
        "annotate_device_placement",
        "mosaic_gpu_v2",  # Machine code of the developer's, as is the next one.
        "tpu_custom_call",
        "tf.call_tf_function",
        "stablehlo.dynamic_top_k",  # Nothing of jax 0.10 writes it any more.
        "stablehlo.dynamic_approx_top_k",  # How many are taken would be computed by the program.
        "hipsolver_gesdd_ffi",
        "hip_lu_pivots_to_permutation",
        "hip_threefry2x32_ffi",
        *(
            f"hipsolver_{name}_ffi"
            for name in ("getrf", "geqrf", "orgqr", "potrf", "syevd", "gesvd", "gesvdj", "sytrd")
        ),
    }
)
"""Targets that jax exports and no car runs: they steer several devices, run foreign code, show foreign memory, are AMD's."""

_REAL = {"complex<f32>": "f32", "complex<f64>": "f64"}
_COMPLEX = {"f32": "complex<f32>", "f64": "complex<f64>"}


def misfit(kernel: Kernel, operands: Sequence[Value], results: Sequence[Value], config: Mapping[str, str]) -> str:
    """What is wrong with a call of ``kernel``; "" if nothing is. Dimensions that aren't known fit."""
    if len(operands) != len(kernel.operands) or len(results) != len(kernel.results):
        return f"{len(operands)} operands and {len(results)} results"
    if set(config) != set(kernel.config):
        return f"the configuration {sorted(config)}"
    for key, allowed in kernel.config.items():
        value = config[key]
        if value not in allowed if isinstance(allowed, frozenset) else not allowed.fullmatch(value):
            return f"{key}={value[:80]}"
    own = operands[0][0]
    if own not in kernel.types:
        return f"elements of type {own}"
    elements = {"T": own, "R": _REAL.get(own, own), "C": _COMPLEX.get(own, own), "I": "i32", "V": own}
    sizes: Sizes = {}
    batch: list[int | None] | None = None
    for (kind, dims), (element, shape) in zip((*kernel.operands, *kernel.results), (*operands, *results), strict=True):
        if element != elements[kind]:
            return f"elements of type {element} where {elements[kind]} belong"
        if kind == "V" and not shape:
            continue  # Never written, and without a batch.
        if len(shape) < len(dims):
            return f"the shape {shape}"
        here, own_dims = list(shape[: len(shape) - len(dims)]), shape[len(shape) - len(dims) :]
        batch = _merge(here, here if batch is None else batch)
        if batch is None or not all(_bind(sizes, name, size) for name, size in zip(dims, own_dims, strict=True)):
            return f"the shape {shape}, which doesn't fit the others"
    return "" if kernel.holds(sizes, config) else f"sizes {sizes} that don't fit each other"


def _merge(here: list[int | None], batch: list[int | None]) -> list[int | None] | None:
    """The batch dimensions, as far as they are known; None if they differ."""
    if len(here) != len(batch):
        return None
    merged: list[int | None] = []
    for one, other in zip(here, batch, strict=True):
        if one is not None and other is not None and one != other:
            return None
        merged.append(other if one is None else one)
    return merged


def _bind(sizes: Sizes, name: str, size: int | None) -> bool:
    """Take ``size`` for ``name``; False if it has another one."""
    m, n = sizes.get("m"), sizes.get("n")
    if name == "k" and m is not None and n is not None:
        known: int | None = min(m, n)
    elif name == "h" and n is not None:
        known = max(n - 1, 0)
    else:
        known = sizes.get(name)
    if known is not None and size is not None and known != size:
        return False
    sizes[name] = size if known is None else known
    return True
