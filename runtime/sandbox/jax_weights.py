"""Weights in a jax slot: pieces that the agent passed as open files, mapped read-only, and arrays made of them.

On a CPU an array *is* the mapped file: nothing is copied, slots share the machine's page cache, and what isn't used is not in
memory. Leaves that are cut over several pieces are joined, and devices with a memory of their own get a copy.

A piece comes from the developer: its head is checked in full before anything of it is used (``fleet.protocol.safetensors``).
What is wrong with one is told when a program wants it, as a ProtocolError: that is an error of this program's calls alone.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import ml_dtypes
import numpy as np

from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import WEIGHTS_PIECE_BYTES_MAX
from fleet.protocol.safetensors import DTYPES, Tensor, read_head
from runtime.sandbox import jax_execute

Spec = tuple[str, tuple[int, ...]]
"""numpy's name of a dtype, and a shape."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


@dataclass(slots=True)
class _Piece:
    """One file: its bytes and what is in it, or why it can't be used."""

    data: np.ndarray[Any, Any] | None
    tensors: list[Tensor] = field(default_factory=list)
    error: str = ""


class WeightStore:
    """See the module. ``device``: where arrays are made."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._pieces: dict[str, _Piece] = {}
        self._made: dict[tuple[str, ...], list[jax.Array]] = {}
        self.made = 0
        """How often arrays were made of pieces, since the start."""

    def add(self, digest: str, fd: int, size_bytes: int) -> None:
        """Map the piece behind ``fd``, and close that. Never fails: see ``arrays``."""
        try:
            piece = _Piece(_mapped(fd, size_bytes))
            assert piece.data is not None
            piece.tensors = read_head(piece.data.data)
        except (ProtocolError, OSError) as error:
            piece = _Piece(None, error=str(error))
        finally:
            os.close(fd)
        self._pieces[digest] = piece

    def drop(self, digest: str) -> None:
        """Let go of a piece and of all arrays it is part of."""
        self._pieces.pop(digest, None)
        for gone in [pieces for pieces in self._made if digest in pieces]:
            del self._made[gone]

    def arrays(self, pieces: Sequence[tuple[str, int]], specs: Sequence[Spec]) -> list[jax.Array]:
        """One array on the device for each of ``specs``, from ``pieces`` (digest, size) that were added.

        Made once, as long as none of the pieces is dropped. ProtocolError where pieces don't hold these arrays.
        """
        key = tuple(digest for digest, _ in pieces)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(key, specs)
            self.made += 1
        if [(array.dtype.name, array.shape) for array in made] != list(specs):
            raise ProtocolError("the weights of a program are not those that it describes")
        return made

    def _make(self, digests: Sequence[str], specs: Sequence[Spec]) -> list[jax.Array]:
        parts: dict[int, list[tuple[Tensor, np.ndarray[Any, Any]]]] = {}
        for digest in dict.fromkeys(digests):
            piece = self._pieces[digest]
            if piece.data is None:
                raise ProtocolError(f"a piece of the program's weights can't be used: {piece.error}")
            for tensor in piece.tensors:
                parts.setdefault(tensor.leaf, []).append((tensor, piece.data))
        if sorted(parts) != list(range(len(specs))):
            raise ProtocolError(f"the weights of a program are {len(parts)} arrays, it describes {len(specs)}")
        made = [self._array(number, spec, parts[number]) for number, spec in enumerate(specs)]
        for array in made:
            array.block_until_ready()
        return made

    def _array(self, number: int, spec: Spec, parts: list[tuple[Tensor, np.ndarray[Any, Any]]]) -> jax.Array:
        dtype, shape = spec
        parts = sorted(parts, key=lambda one: one[0].part or 0)
        numbers = [tensor.part for tensor, _ in parts]
        whole = numbers == [None] and parts[0][0].shape == tuple(shape)
        cut = numbers == list(range(len(parts))) and all(len(tensor.shape) == 1 for tensor, _ in parts)
        count = sum(math.prod(tensor.shape) for tensor, _ in parts)
        if not (whole or cut) or count != math.prod(shape) or any(tensor.dtype != dtype for tensor, _ in parts):
            raise ProtocolError(
                f"array {number} of a program's weights is not the {dtype}{list(shape)} that it describes"
            )
        flat = [data[tensor.start : tensor.end].view(_dtype(dtype)) for tensor, data in parts]
        joined = flat[0] if len(flat) == 1 else np.concatenate(flat)
        # What begins at a multiple of 64 is used where it lies, and kept mapped by the array.
        placed: jax.Array = jax_execute.put(joined.reshape(shape), self._device)
        return placed


def _dtype(name: str) -> np.dtype[Any]:
    assert name in DTYPES, name
    return np.dtype(getattr(ml_dtypes, name)) if name == "bfloat16" or "float8" in name else np.dtype(name)


def _mapped(fd: int, size_bytes: int) -> np.ndarray[Any, Any]:
    """The file as read-only bytes, unmapped once nothing refers to them. Python's mmap would keep a descriptor each."""
    found = os.fstat(fd).st_size
    if found != size_bytes or not 0 < size_bytes <= WEIGHTS_PIECE_BYTES_MAX:
        raise ProtocolError(f"it has {found} bytes, not {size_bytes}")
    address = _libc.mmap(None, size_bytes, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
    if address == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"it can't be mapped: {os.strerror(code)}")
    memory = (ctypes.c_ubyte * size_bytes).from_address(address)
    # Not at exit: arrays may still be used then.
    weakref.finalize(memory, _libc.munmap, address, size_bytes).atexit = False
    return np.frombuffer(memoryview(memory).toreadonly(), np.uint8)
