"""Weights of a jax function (``params=``): loaded once, described for tracing, and cut into pieces for the platform.

``params=`` is a pytree of arrays (numpy or jax), or a callable without arguments that loads one: it is called once per
process, when its weights are first needed. A pytree that can be called (a module of a library) is a pytree.

Pieces are files of the form of ``fleet.protocol.safetensors``, about PIECE_BYTES each, and the same for the same weights. Their
bytes are made one piece at a time: there are never two copies of all weights. Digests are computed once per process for
each set of leaves, which must not be changed in place afterwards.

Errors: DeployError for what can't be loaded or described, PayloadTooLarge, InvalidOption for too little ``memory=``.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from fleet.protocol.errors import DeployError, InvalidOption, PayloadTooLarge
from fleet.protocol.limits import (
    JAX_LEAVES_MAX,
    MEMORY_BYTES_DEFAULT,
    MEMORY_BYTES_MAX,
    MIB,
    WEIGHTS_BYTES_MAX,
    WEIGHTS_PIECE_BYTES_MAX,
)
from fleet.protocol.messages import Weights
from fleet.protocol.safetensors import DTYPES, HEAD_BYTES_MAX, Tensor, lay_out
from fleet.protocol.units import format_bytes

PIECE_BYTES = 64 * MIB
LEAF_BYTES_MAX = WEIGHTS_PIECE_BYTES_MAX - HEAD_BYTES_MAX
"""A leaf up to this size is not cut: a car then needs no copy of it."""

Spec = tuple[str, tuple[int, ...]]
"""numpy's name of a dtype, and a shape."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """One file: its head, and the tensors behind it. ``first`` of a tensor's elements is known by its leaf and part."""

    digest: str
    size_bytes: int
    head: bytes
    tensors: tuple[Tensor, ...]
    firsts: tuple[int, ...]
    """Number of the first element of each tensor in its leaf."""


@dataclass(frozen=True, slots=True)
class Params:
    """Loaded weights. ``leaves`` lie in jax' order, ``specs`` are what jax makes of them (64 bits only with x64)."""

    tree: Any = field(repr=False)
    leaves: list[Any] = field(repr=False)
    treedef: Any
    specs: list[Spec]
    pieces: list[Weights]
    _plan: dict[str, _Piece] = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """All pieces together."""
        return sum(piece.size_bytes for piece in self.pieces)

    def read(self, digest: str) -> bytes | bytearray:
        """The file of one piece, made now; DeployError if the weights were changed since they were first used."""
        piece = self._plan[digest]
        data = bytearray(piece.size_bytes)
        data[: len(piece.head)] = piece.head
        for tensor, first in zip(piece.tensors, piece.firsts, strict=True):
            data[tensor.start : tensor.end] = _elements(self.leaves[tensor.leaf], tensor, first)
        if hashlib.sha256(data).hexdigest() != digest:
            raise DeployError(
                "the weights in params= were changed after they had been used",
                hint="give params= new arrays instead of changing those it has",
            )
        return data


# --- loading ---------------------------------------------------------------------------------------------------------

_lock = threading.RLock()
_loaded: dict[int, Any] = {}
"""What loaders gave, by the loader's identity, as long as the loader lives."""


def load(given: Any) -> Any:
    """The pytree that ``params=`` stands for. DeployError names a callable that fails."""
    if not callable(given) or _is_tree(given):
        return given
    with _lock:
        if id(given) not in _loaded:
            tree = _call(given)
            try:
                weakref.finalize(given, _loaded.pop, id(given), None)
            except TypeError:
                _immortal.append(given)  # Its identity must not become another's.
            _loaded[id(given)] = tree
        return _loaded[id(given)]


_immortal: list[Any] = []


def _is_tree(given: Any) -> bool:
    leaves = jax.tree.leaves(given)
    return not (len(leaves) == 1 and leaves[0] is given)


def _call(loader: Any) -> Any:
    name = getattr(loader, "__qualname__", None) or repr(loader)
    try:
        return loader()
    except Exception as error:
        raise DeployError(
            f"params={name} could not load the weights: {type(error).__name__}: {error}",
            hint=f"call {name}() here to see where it fails",
        ) from error


# --- describing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """Pieces of leaves that were hashed, as long as these live."""

    leaves: list[weakref.ref[Any]]
    plan: dict[str, _Piece]


_known: dict[tuple[Any, ...], _Known] = {}


def weights_of(given: Any, memory_bytes: int | None = None) -> Params:
    """What ``params=`` stands for, with the digests of its pieces. ``memory_bytes``: ``memory=`` of the function.

    Errors: DeployError for a leaf that is no array, or of a dtype that weights can't have; PayloadTooLarge; InvalidOption
    where ``memory_bytes`` doesn't hold them.
    """
    tree = load(given)
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [leaf for _, leaf in paths]
    if not leaves:
        raise DeployError("params= has no arrays", hint="leave params= out, or give it the weights")
    if len(leaves) > JAX_LEAVES_MAX:
        raise PayloadTooLarge(
            f"params= has {len(leaves)} arrays: allowed are {JAX_LEAVES_MAX}", hint="stack those of one kind into one"
        )
    specs = [_spec(jax.tree_util.keystr(path), leaf) for path, leaf in paths]
    _check_size(specs, memory_bytes)
    with _lock:
        plan = _plan_of(leaves, specs)
    pieces = [Weights(digest=piece.digest, size_bytes=piece.size_bytes) for piece in plan.values()]
    return Params(tree, leaves, treedef, specs, pieces, plan)


def _spec(path: str, leaf: Any) -> Spec:
    if not isinstance(leaf, np.ndarray | np.generic | jax.Array):
        raise DeployError(
            f"params={path} is no array but {type(leaf).__name__}",
            hint="make it a numpy or jax array, or keep it outside of params=",
        )
    if isinstance(leaf, jax.Array) and (leaf.is_deleted() or not leaf.is_fully_addressable):
        raise DeployError(f"the bytes of params={path} are not in this process", hint="give arrays that are here")
    extended = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.extended)
    dtype = str(leaf.dtype) if extended else jax.dtypes.canonicalize_dtype(leaf.dtype).name
    if dtype not in DTYPES:
        raise DeployError(
            f"params={path} has the dtype {dtype}, which weights can't have", hint=f"there are: {', '.join(DTYPES)}"
        )
    return dtype, tuple(leaf.shape)


def _bytes_of(spec: Spec) -> int:
    return math.prod(spec[1]) * DTYPES[spec[0]]


def _check_size(specs: list[Spec], memory_bytes: int | None) -> None:
    total = sum(map(_bytes_of, specs))
    if total > WEIGHTS_BYTES_MAX:
        raise PayloadTooLarge(
            f"params= weighs {format_bytes(total)}: allowed is {format_bytes(WEIGHTS_BYTES_MAX)}",
            hint="use a smaller dtype, such as bfloat16, or fewer weights",
        )
    if memory_bytes is not None and total > memory_bytes:
        enough_mib = min(MEMORY_BYTES_MAX, total + MEMORY_BYTES_DEFAULT) // MIB
        raise InvalidOption(
            f"params= weighs {format_bytes(total)}, which memory={format_bytes(memory_bytes)} doesn't hold",
            hint=f'set memory="{enough_mib}MiB" or more',
        )


# --- cutting ---------------------------------------------------------------------------------------------------------


def _plan_of(leaves: list[Any], specs: list[Spec]) -> dict[str, _Piece]:
    key = (tuple(map(id, leaves)), tuple(dtype for dtype, _ in specs))
    known = _known.get(key)
    if known is not None and all(ref() is leaf for ref, leaf in zip(known.leaves, leaves, strict=True)):
        return known.plan
    for gone in [key for key, one in _known.items() if any(ref() is None for ref in one.leaves)]:
        del _known[gone]
    plan = {}
    for cut in _cut(specs):
        head, tensors, size_bytes = lay_out([tensor for tensor, _ in cut])
        firsts = tuple(first for _, first in cut)
        digest = _digest(head, leaves, tensors, firsts)
        plan[digest] = _Piece(digest, size_bytes, head, tuple(tensors), firsts)
    if not any(isinstance(leaf, np.generic) for leaf in leaves):  # Those can't be watched.
        _known[key] = _Known([weakref.ref(leaf) for leaf in leaves], plan)
    return plan


def _cut(specs: list[Spec]) -> Iterator[list[tuple[Tensor, int]]]:
    """Tensors of each piece, each with the number of its first element in its leaf. In order, as full as they get."""
    piece: list[tuple[Tensor, int]] = []
    piece_bytes = 0
    for tensor, first in _tensors(specs):
        if piece and piece_bytes + tensor.size_bytes > PIECE_BYTES:
            yield piece
            piece, piece_bytes = [], 0
        piece.append((tensor, first))
        piece_bytes += tensor.size_bytes
    yield piece


def _tensors(specs: list[Spec]) -> Iterator[tuple[Tensor, int]]:
    for leaf, (dtype, shape) in enumerate(specs):
        if _bytes_of((dtype, shape)) <= LEAF_BYTES_MAX:
            yield Tensor(leaf, None, dtype, shape), 0
            continue
        count, most = math.prod(shape), PIECE_BYTES // DTYPES[dtype]
        for part, first in enumerate(range(0, count, most)):
            yield Tensor(leaf, part, dtype, (min(most, count - first),)), first


def _digest(head: bytes, leaves: list[Any], tensors: list[Tensor], firsts: tuple[int, ...]) -> str:
    hasher = hashlib.sha256(head)
    at = len(head)
    for tensor, first in zip(tensors, firsts, strict=True):
        hasher.update(bytes(tensor.start - at))
        hasher.update(_elements(leaves[tensor.leaf], tensor, first))
        at = tensor.end
    return hasher.hexdigest()


def _elements(leaf: Any, tensor: Tensor, first: int) -> memoryview:
    """The bytes of a tensor, little endian. Without a copy where the leaf lies in memory as it must."""
    part = slice(first, first + math.prod(tensor.shape))
    if isinstance(leaf, jax.Array):
        if tensor.part is not None:
            leaf = leaf.reshape(-1)[part]
        # Through a view of its own: an array keeps what was fetched from a device as long as it lives.
        shared = leaf.addressable_data(0) if len(leaf.devices()) == 1 else leaf
        flat = np.asarray(shared).reshape(-1)
    elif tensor.part is None:
        flat = np.ascontiguousarray(leaf).reshape(-1)
    else:
        flat = leaf.reshape(-1)[part] if leaf.flags.c_contiguous else leaf.flat[part]
    return flat.astype(np.dtype(tensor.dtype), copy=False).view(np.uint8).data
