"""How a function's result is made of its output arrays: told once while it is traced, then for every call's data.

What the function keeps on the device (``fleet.keep``) comes back as a reference.
Errors: DeployError for a result that jax can't give, ProtocolError for data that isn't of its shape.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fleet._jax import device, dtypes, kept, refs, trees
from fleet._jax.values import is_key
from fleet.protocol.errors import DeployError, ProtocolError
from fleet.protocol.limits import JAX_LEAVES_MAX, KEPT_MAX


class Result:
    """How a function's result is made of its output arrays; filled while the function is traced."""

    def __init__(self) -> None:
        self.treedef: Any = None
        self.tree: Any = None
        self.kept: list[Any] = []
        """Structures of the parts that stay on the device, in order."""
        self._numbers: list[int | None] = []
        self.keys: dict[int, str] = {}
        """Output -> the generator of the typed random keys that it holds."""
        self.weak: frozenset[int] = frozenset()
        """Outputs whose dtype gives way to others; known once the function is exported."""

    def flatten(self, name: str, value: Any) -> list[Any]:
        """The output arrays of ``value``; DeployError for what is no array."""
        flat: list[Any] = []

        def leaf(one: Any) -> int:
            if not isinstance(one, jax.Array | np.ndarray | np.generic | int | float | complex):
                raise DeployError(
                    f"{name} returns a {type(one).__name__} ({one!r:.60}): a jax function returns arrays",
                    hint="return arrays and numbers, in dicts, lists and tuples; or use runtime='wasm'",
                )
            if isinstance(one, jax.Array) and is_key(one.dtype):
                self.keys[len(flat)] = str(jax.random.key_impl(one))
                one = jax.random.key_data(one)
            flat.append(one)
            return len(flat) - 1

        self.keys.clear()
        self.tree = trees.describe(value, leaf, kept.Kept)
        self._numbers = _numbers(self.tree)
        self.treedef = jax.tree_util.tree_structure(value, is_leaf=kept.is_kept)
        marks = filter(kept.is_kept, jax.tree_util.tree_leaves(value, is_leaf=kept.is_kept))
        self.kept = [jax.tree_util.tree_structure(kept.unmarked(mark)) for mark in marks]
        inside = {number for one in _kept_parts(self.tree) for number in _flat_numbers(one)}
        if inside & set(self.keys):
            raise DeployError(
                f"{name} keeps typed random keys on the device, whose type a reference lacks",
                hint="keep jax.random.key_data(key), and make the key of it with jax.random.wrap_key_data",
            )
        if len(flat) > JAX_LEAVES_MAX:
            raise DeployError(f"{name} returns {len(flat)} arrays, the limit is {JAX_LEAVES_MAX}", hint="stack them")
        if len(self.kept) > KEPT_MAX:
            raise DeployError(f"{name} keeps more than {KEPT_MAX} values on the device", hint="keep one tree of them")
        return flat

    def rebuild(self, value: Any, x64: bool) -> Any:
        """The result from decoded data, with jax arrays; ProtocolError where it isn't of this shape."""
        found = trees.leaves_of(self.tree, value)
        structures = iter(self.kept)
        leaves = [
            refs.kept_ref(leaf, next(structures)) if number is None else self._array(number, leaf, x64)
            for number, leaf in zip(self._numbers, found, strict=True)
        ]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)

    def _array(self, number: int, leaf: Any, x64: bool) -> Any:
        if not isinstance(leaf, np.ndarray):
            raise ProtocolError("a result has something else in place of an array")
        if number in self.keys:
            return jax.random.wrap_key_data(device.put(leaf), impl=self.keys[number])
        name = dtypes.name_of(leaf.dtype)
        if dtypes.canonical(name, x64) != name:
            return leaf  # More bits than jax has here.
        return device.put(leaf, number in self.weak)


def _kept_parts(tree: Any) -> list[Any]:
    """The trees of the parts of a result that are kept, in order."""
    if tree is None or isinstance(tree, int):
        return []
    ((kind, inner),) = tree.items()
    if kind == "keep":
        return [inner]
    return [part for one in inner for part in _kept_parts(one[1] if kind == "dict" else one)]


def _flat_numbers(tree: Any) -> list[int]:
    """All outputs in a part of a result, in order."""
    if tree is None or isinstance(tree, int):
        return [] if tree is None else [tree]
    ((kind, inner),) = tree.items()
    if kind == "keep":
        return _flat_numbers(inner)
    return [number for one in inner for number in _flat_numbers(one[1] if kind == "dict" else one)]


def _numbers(tree: Any) -> list[int | None]:
    """The output that each leaf of a result is, in order; None for what is kept."""
    if tree is None:
        return []
    if isinstance(tree, int):
        return [tree]
    ((kind, inner),) = tree.items()
    if kind == "keep":
        return [None]
    return [number for one in inner for number in _numbers(one[1] if kind == "dict" else one)]
