"""References to arrays: the blob is the codec's list of them, not a pickle, as jax programs take it.

``fleet.put`` gives one for a pytree of arrays, with numbers beside them (a sandbox has no use for those). Any other value is
put as a pickle, and a second time in this form when a jax program first takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fleet._jax import kept_refs
from fleet._jax.dtypes import dtype_of, of_scalar
from fleet._jax.kept_refs import Specs
from fleet._jax.stored import StoredRef, digest_of
from fleet._jax.values import NUMBERS, x64
from fleet._ref import _NOTHING
from fleet.protocol import codec
from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import PAYLOAD_BYTES_MAX


class ArrayRef(StoredRef):
    """A reference to a pytree of arrays. ``like`` is needed where its value isn't here."""

    __slots__ = ("_like",)

    def __init__(
        self, digest: str, size_bytes: int, specs: Specs, *, value: Any = _NOTHING, like: Any = None,
        again: Callable[[], bytes] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(digest, size_bytes, specs, value=value, again=again)
        object.__setattr__(self, "_like", like)

    @property
    def like(self) -> Any:
        """The pytree that it stands for; where the value isn't here, with ``jax.ShapeDtypeStruct`` for its arrays."""
        return self.value if self.here else self._like

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.digest, self.size_bytes, self.specs, shapes(self.like))


def _load(digest: str, size_bytes: int, specs: Specs, like: Any) -> ArrayRef:
    return ArrayRef(digest, size_bytes, specs, like=like)


class KeptRef(ArrayRef):
    """A reference to what a call kept on its car's device (``fleet.keep``). Its blob is a copy of that."""

    __slots__ = ()
    kept = True

    @property
    def value(self) -> Any:
        """Always WrongArguments: the value is on a car."""
        kept_refs.not_here(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_kept, (self.digest, self.size_bytes, self.specs, self.like)


def _load_kept(digest: str, size_bytes: int, specs: Specs, like: Any) -> KeptRef:
    return KeptRef(digest, size_bytes, specs, like=like)


def kept_ref(record: Any, structure: Any) -> KeptRef:
    """The reference that a result has in place of what was kept; ``structure``: that of the pytree.

    ProtocolError for anything else than a car's ``{"ref": digest, "bytes": n, "arrays": [[dtype, shape], ...]}``.
    """
    struct: Any = jax.ShapeDtypeStruct
    found, specs = kept_refs.read(record)
    if structure.num_leaves != len(specs):
        raise ProtocolError("a result keeps another number of arrays than its function")
    like = jax.tree_util.tree_unflatten(structure, [struct(shape, dtype_of(name)) for name, shape in specs])
    return KeptRef(found.digest, found.size_bytes, specs, like=like)


def shapes(tree: Any) -> Any:
    """The pytree with descriptions in place of its arrays and numbers."""

    def described(leaf: Any) -> Any:
        struct: Any = jax.ShapeDtypeStruct
        weak = getattr(leaf, "weak_type", type(leaf) in (int, float, complex))
        return struct(np.shape(leaf), _dtype(leaf), weak_type=weak)

    return jax.tree_util.tree_map(described, tree)


def of_value(value: Any) -> tuple[bytes, ArrayRef] | None:
    """Bytes and reference for a pytree of nothing but arrays, and numbers beside them; None for any other value, and for
    what is too large."""
    leaves = jax.tree_util.tree_leaves(value)
    arrays = [one for one in leaves if type(one) not in NUMBERS]
    if not arrays or not all(map(_is_array, arrays)) or sum(one.nbytes for one in arrays) >= PAYLOAD_BYTES_MAX:
        return None
    specs = [(_dtype(one).name, np.shape(one)) for one in leaves]
    try:
        data = _encoded(leaves)
    except OverflowError:  # A number that jax has no integer for.
        return None
    return data, ArrayRef(*digest_of(data), specs, value=value, again=lambda: _encoded(leaves))


def _encoded(leaves: list[Any]) -> bytes:
    return codec.encode([np.asarray(one, _dtype(one)) for one in leaves], "the value")


def _dtype(leaf: Any) -> np.dtype[Any]:
    """What jax has an array or number as."""
    if type(leaf) in NUMBERS:
        return dtype_of(of_scalar(leaf, x64()))  # type: ignore[no-any-return]
    return np.dtype(jax.dtypes.canonicalize_dtype(leaf.dtype))


def _is_array(value: Any) -> bool:
    if isinstance(value, jax.Array):
        return not jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)
    return isinstance(value, np.ndarray) and (value.dtype.kind in "biufc" or value.dtype.type.__module__ == "ml_dtypes")
