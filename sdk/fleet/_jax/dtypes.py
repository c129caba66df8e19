"""Names of dtypes, and what jit makes of values: pure tables, numpy alone."""

from __future__ import annotations

import functools
from typing import Any

NARROW = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}
"""What jax makes of 64-bit numbers while x64 is off."""
WIRE = frozenset((
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
))  # fmt: skip
ML = frozenset((
    "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "int2", "int4", "uint2", "uint4",
))  # fmt: skip
"""Those that the package ml_dtypes adds to numpy's."""
_RANKS = {"bool": 0, "int": 1, "uint": 1, "float": 2, "bfloat": 2, "complex": 3}


@functools.lru_cache(256)
def name_of(dtype: Any) -> str:
    """``dtype.name``, which numpy makes anew each time: that is a part of what a small call costs."""
    return str(dtype.name)


def canonical(name: str, x64: bool) -> str:
    """The dtype that an array of ``name`` has inside a program."""
    return name if x64 else NARROW.get(name, name)


def of_scalar(value: bool | int | float | complex, x64: bool) -> str:
    """The dtype of a Python number."""
    kind = {bool: "bool", int: "int64", float: "float64"}.get(type(value), "complex128")
    return canonical(kind, x64)


@functools.cache
def dtype_of(name: str) -> Any:
    """numpy's dtype of that name, which must be one of ours."""
    import numpy

    if name in ML:
        import ml_dtypes

        return numpy.dtype(getattr(ml_dtypes, name))
    assert name in WIRE, name
    return numpy.dtype(name)


def is_integer_out_of(value: int, name: str) -> bool:
    """Whether a Python int doesn't fit the integer dtype ``name``."""
    signed = not name.startswith("u")
    bits = int(name.lstrip("uint"))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return not low <= value <= high


def widens(given: str, wanted: str) -> bool:
    """Whether numbers of one dtype are numbers of the other by kind: bools, ints, floats, complex ones."""
    ranks = [_RANKS.get(name.rstrip("0123456789") if "_" not in name else "float", 4) for name in (given, wanted)]
    return ranks[0] <= ranks[1] < 4
