"""References to arrays: the blob is the codec's list of them, not a pickle, as jax programs take it.

``fleet.put`` gives one for a pytree of nothing but arrays (a sandbox has no use for those). Any other value is put as a
pickle, and a second time in this form when a jax program first takes it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fleet._jax import kept_refs
from fleet._jax.dtypes import dtype_of
from fleet._jax.kept_refs import Specs
from fleet._ref import _NOTHING, Ref
from fleet.protocol import codec
from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import PAYLOAD_BYTES_MAX

_STORED_MAX = 1024
_lock = threading.Lock()
_stored: OrderedDict[tuple[Any, ...], tuple[str, int]] = OrderedDict()
"""Digest and size in this form, of values that were put as pickles."""


class ArrayRef(Ref[Any]):
    """A reference whose blob holds the arrays of a pytree. ``specs``: dtype and shape of each, in jax' order.

    ``again`` makes the bytes of the blob anew, where the value is here; ``like`` is needed where it isn't.
    """

    __slots__ = ("_again", "_like", "specs")

    specs: Specs

    def __init__(
        self, digest: str, size_bytes: int, specs: Specs, *, value: Any = _NOTHING, like: Any = None,
        again: Callable[[], bytes] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(digest, size_bytes, value)
        object.__setattr__(self, "specs", specs)
        object.__setattr__(self, "_like", like)
        object.__setattr__(self, "_again", again)

    @property
    def like(self) -> Any:
        """The pytree that it stands for; where the value isn't here, with ``jax.ShapeDtypeStruct`` for its arrays."""
        return self.value if self.here else self._like

    @property
    def again(self) -> Callable[[], bytes] | None:
        """Makes the bytes of the blob; None where this process can't."""
        found: Callable[[], bytes] | None = self._again
        return found

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
    """The pytree with descriptions in place of its arrays."""
    struct: Any = jax.ShapeDtypeStruct
    return jax.tree_util.tree_map(lambda leaf: struct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype)), tree)


def array_ref(arrays: Sequence[np.ndarray[Any, Any]], value: Any, known_as: str) -> ArrayRef:
    """The reference to ``arrays``, the leaves of ``value``, which was put as a pickle of the digest ``known_as``."""
    specs = [(one.dtype.name, one.shape) for one in arrays]
    key = (known_as, *specs)
    with _lock:
        found = _stored.get(key)
    if found is None:
        found = _digest(codec.encode(list(arrays), "the value"))
        with _lock:
            _stored[key] = found
            if len(_stored) > _STORED_MAX:
                _stored.popitem(last=False)
    return ArrayRef(*found, specs, value=value, again=lambda: codec.encode(list(arrays), "the value"))


def of_value(value: Any) -> tuple[bytes, ArrayRef] | None:
    """Bytes and reference for a pytree of nothing but arrays; None for any other value, and for what is too large."""
    leaves = jax.tree_util.tree_leaves(value)
    if not leaves or not all(map(_is_array, leaves)) or sum(one.nbytes for one in leaves) >= PAYLOAD_BYTES_MAX:
        return None
    specs = [(jax.dtypes.canonicalize_dtype(one.dtype).name, tuple(one.shape)) for one in leaves]
    data = _encoded(leaves)
    return data, ArrayRef(*_digest(data), specs, value=value, again=lambda: _encoded(leaves))


def _encoded(leaves: list[Any]) -> bytes:
    arrays = [np.asarray(one, jax.dtypes.canonicalize_dtype(one.dtype)) for one in leaves]
    return codec.encode(arrays, "the value")


def _is_array(value: Any) -> bool:
    if isinstance(value, jax.Array):
        return not jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)
    return isinstance(value, np.ndarray) and (value.dtype.kind in "biufc" or value.dtype.type.__module__ == "ml_dtypes")


def _digest(data: bytes) -> tuple[str, int]:
    return hashlib.sha256(data).hexdigest(), len(data)
