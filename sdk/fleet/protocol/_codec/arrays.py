"""numpy arrays and scalars, where numpy is imported: never imported here, and no dtype is looked up by a name from data.

A dtype is written as numpy's own text of it (``<f4``), or for those of the package ml_dtypes as its name out of a closed list.
An array is copied once on its way into data, and once out of it. Standard library only; it is in the guest. See ``encode``.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.decode import Decoder
from fleet.protocol._codec.encode import (
    WRITERS,
    Out,
    Refused,
    Writer,
    open_tagged,
    write_bytes,
    write_fields,
    write_str,
)
from fleet.protocol.errors import ProtocolError, ResultNotPortable

NUMPY_TYPES = re.compile(r"[<>|=]?[biufcmMSU][1-9][0-9]*(\[[0-9]*[a-zA-Z]+(/[0-9]+)?\])?\Z")
ML_TYPES = frozenset((
    "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "int2", "int4", "uint2", "uint4",
))  # fmt: skip
"""Numbers of machine learning, which the package ml_dtypes adds to numpy's."""


def writer_of(kind: type) -> Writer | None:
    """The writer of arrays or scalars of ``kind``; None if it is neither."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or kind.__module__ not in ("numpy", "ml_dtypes"):
        return None
    if kind is numpy.ndarray:
        return _ndarray
    return _scalar if issubclass(kind, numpy.generic) else None


def _text_of(dtype: Any) -> str:
    if dtype.type.__module__ == "ml_dtypes":  # Some of them have texts of numpy's, which numpy doesn't understand.
        if dtype.name not in ML_TYPES:
            raise Refused(f"a numpy array of dtype {dtype}: convert it with .astype(...)")
        return str(dtype.name)
    if not NUMPY_TYPES.match(dtype.str):
        raise Refused(f"a numpy array of dtype {dtype}: convert it with .tolist()")
    return str(dtype.str)


def _ndarray(v: Any, out: Out, depth: int) -> None:
    open_tagged(k.NDARRAY, 3, k.OBJECT_COST + v.nbytes, out, depth)
    write_str(_text_of(v.dtype), out, depth + 1)
    WRITERS[tuple](tuple(v.shape), out, depth + 1)
    if v.flags.c_contiguous and v.size and v.dtype.kind in "biufcV":
        # Not copied here: the pieces are joined once, at the end.
        write_bytes(memoryview(v.reshape(-1).view("u1")), out)  # type: ignore[arg-type]
    else:
        write_bytes(v.tobytes(), out)


def _scalar(v: Any, out: Out, depth: int) -> None:
    write_fields(k.NUMPY_SCALAR, (_text_of(v.dtype), v.tobytes()), out, depth)


# --- and back --------------------------------------------------------------------------------------------------------


def _dtype(text: Any) -> tuple[Any, Any]:
    # Imported by its caller, or not at all: a car must not decide what is imported here.
    numpy = sys.modules.get("numpy")
    if numpy is None:
        raise ResultNotPortable(
            "the result has a numpy array, and numpy isn't imported here", hint="import numpy, then ask for it again"
        )
    if type(text) is not str:
        raise ProtocolError("a numpy array of no known dtype")
    if text in ML_TYPES:
        more = sys.modules.get("ml_dtypes")
        if more is None:
            raise ResultNotPortable(
                f"the result has an array of {text}, and ml_dtypes isn't imported here",
                hint="import ml_dtypes, then ask for it again",
            )
        return numpy, numpy.dtype(getattr(more, text))
    if not NUMPY_TYPES.match(text):
        raise ProtocolError("a numpy array of no known dtype")
    return numpy, numpy.dtype(text)


def make_array(decoder: Decoder, fields: list[Any]) -> Any:
    """An array, writable."""
    text, shape, data = fields  # The data as the reader has them, maybe a view.
    numpy, dtype = _dtype(text)
    if type(shape) is not tuple or any(type(size) is not int for size in shape):
        raise ProtocolError("a numpy array is malformed")
    decoder.charge(len(data))
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ProtocolError("a numpy array's data don't fit its shape")
    return numpy.frombuffer(bytearray(data), dtype).reshape(shape) if len(data) else numpy.empty(shape, dtype)


def make_scalar(_d: Decoder, fields: list[Any]) -> Any:
    """A scalar of numpy's."""
    text, data = fields
    numpy, dtype = _dtype(text)
    if type(data) is not bytes:
        raise ProtocolError("a numpy scalar is malformed")
    (scalar,) = numpy.frombuffer(data, dtype)
    return scalar
