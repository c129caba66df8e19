"""Pieces of weights: safetensors files, as the SDK writes them and a car reads them.

File: head length u64 | head (JSON, padded with spaces) | data. Little endian. Data begins at a multiple of 64 bytes, and so
does every tensor: where the one before ends earlier, a tensor ``pad<n>`` of bytes lies between, because the format knows no
holes. A car maps the file, and what lies at a multiple of 64 needs no copy to become an array.

Tensors are named after the leaf that they are: ``7``; a leaf that is cut over several pieces is ``7.0``, ``7.1``, ...: runs of
its elements, as arrays of one dimension.

Standard library only. Errors: ProtocolError for a head that isn't exactly of this form: a car believes nothing of it.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import ARRAY_DIMENSIONS_MAX, JAX_LEAVES_MAX, MIB

ALIGN_BYTES = 64
HEAD_BYTES_MAX = 2 * MIB
_LENGTH = struct.Struct("<Q")
_NAME = re.compile(r"(0|[1-9][0-9]{0,4})(?:\.(0|[1-9][0-9]{0,4}))?\Z")
_PAD = re.compile(r"pad[0-9]{1,5}\Z")
_FIELDS = {"dtype", "shape", "data_offsets"}

_NAMES = {
    "bool": ("BOOL", 1), "uint8": ("U8", 1), "int8": ("I8", 1), "float8_e5m2": ("F8_E5M2", 1),
    "float8_e4m3fn": ("F8_E4M3", 1), "uint16": ("U16", 2), "int16": ("I16", 2), "float16": ("F16", 2),
    "bfloat16": ("BF16", 2), "uint32": ("U32", 4), "int32": ("I32", 4), "float32": ("F32", 4), "uint64": ("U64", 8),
    "int64": ("I64", 8), "float64": ("F64", 8), "complex64": ("C64", 8),
}  # fmt: skip
DTYPES = {name: item_bytes for name, (_, item_bytes) in _NAMES.items()}
"""numpy's names of the dtypes that weights may have, and the bytes of one element."""
_DTYPE_OF = {name: dtype for dtype, (name, _) in _NAMES.items()}
Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Tensor:
    """One leaf, or (``part``) a run of its elements. ``start`` and ``end`` count bytes from the beginning of the file."""

    leaf: int
    part: int | None
    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    end: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * DTYPES[self.dtype]

    @property
    def name(self) -> str:
        """What the file calls it."""
        return str(self.leaf) if self.part is None else f"{self.leaf}.{self.part}"


def lay_out(tensors: Sequence[Tensor]) -> tuple[bytes, list[Tensor], int]:
    """Head of a file of ``tensors`` in this order, the tensors with their places, and the size of the file in bytes."""
    head: dict[str, Any] = {}
    places: list[tuple[int, int]] = []
    at = 0
    for tensor in tensors:
        if gap := -at % ALIGN_BYTES:
            head[f"pad{len(places)}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [at, at + gap]}
            at += gap
        end = at + tensor.size_bytes
        head[tensor.name] = {"dtype": _NAMES[tensor.dtype][0], "shape": tensor.shape, "data_offsets": [at, end]}
        places.append((at, end))
        at = end
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % ALIGN_BYTES)
    first = _LENGTH.size + len(text)
    placed = [
        Tensor(one.leaf, one.part, one.dtype, one.shape, first + start, first + end)
        for one, (start, end) in zip(tensors, places, strict=True)
    ]
    return _LENGTH.pack(len(text)) + text, placed, first + at


def read_head(file: Bytes) -> list[Tensor]:
    """The tensors of a whole file, in the order of their places; ProtocolError where anything is amiss."""
    view = memoryview(file).cast("B")
    if len(view) < _LENGTH.size:
        raise ProtocolError("a piece of weights is cut short")
    size: int = _LENGTH.unpack_from(view)[0]
    first = _LENGTH.size + size
    if size > HEAD_BYTES_MAX or first > len(view):
        raise ProtocolError("the head of a piece of weights is longer than allowed, or than the piece")
    try:
        rows = json.loads(bytes(view[_LENGTH.size : first]), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise ProtocolError("the head of a piece of weights can't be read") from None
    if not isinstance(rows, dict) or len(rows) > 2 * JAX_LEAVES_MAX:
        raise ProtocolError("the head of a piece of weights is no list of tensors, or names too many")
    found = sorted(
        (_tensor(name, row, first) for name, row in rows.items()), key=lambda one: (one[1].start, one[1].end)
    )
    at = first
    for name, tensor in found:
        if tensor.start != at or tensor.end - tensor.start != tensor.size_bytes:
            raise ProtocolError(f"tensor {name} of a piece of weights doesn't begin or end where it must")
        at = tensor.end
    if at != len(view):
        raise ProtocolError("the tensors of a piece of weights don't add up to its length")
    return [tensor for _, tensor in found if tensor.leaf >= 0]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a name stands there twice")
    return named


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _tensor(name: str, row: Any, first: int) -> tuple[str, Tensor]:
    """What a row of the head says, by itself; a padding has the leaf -1."""
    if not isinstance(row, dict) or set(row) != _FIELDS:
        raise ProtocolError(f"tensor {name[:40]!r} of a piece of weights isn't described as it must be")
    dtype = _DTYPE_OF.get(row["dtype"]) if isinstance(row["dtype"], str) else None
    shape, offsets = row["shape"], row["data_offsets"]
    if dtype is None:
        raise ProtocolError(f"tensor {name[:40]!r} of a piece of weights has no dtype that is known")
    if not isinstance(shape, list) or len(shape) > ARRAY_DIMENSIONS_MAX or not all(map(_natural, shape)):
        raise ProtocolError(f"tensor {name[:40]!r} of a piece of weights has an impossible shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
        raise ProtocolError(f"tensor {name[:40]!r} of a piece of weights has no place")
    found = _NAME.match(name)
    if found is None and _PAD.match(name) is None:
        raise ProtocolError(f"tensor {name[:40]!r} of a piece of weights has a name of another kind")
    leaf, part = (int(found[1]), int(found[2]) if found[2] else None) if found else (-1, None)
    return name, Tensor(leaf, part, dtype, tuple(shape), first + offsets[0], first + offsets[1])
