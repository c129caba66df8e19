"""Values of ``fleet.put`` in the form that a jax program takes: a blob with the codec's list of arrays. No jax here.

A value that was put as a pickle is stored a second time in this form, when a jax function first takes it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fleet._jax.kept_refs import Specs
from fleet._ref import _NOTHING, Ref
from fleet.protocol import codec

if TYPE_CHECKING:
    import numpy as np

_STORED_MAX = 1024
_lock = threading.Lock()
_stored: OrderedDict[tuple[Any, ...], tuple[str, int]] = OrderedDict()
"""Digest and size in this form, of values that were put as pickles."""


class StoredRef(Ref[Any]):
    """A reference whose blob holds the arrays of a pytree. ``specs``: dtype and shape of each, in jax' order.

    ``again`` makes the bytes of the blob anew, where the value is here.
    """

    __slots__ = ("_again", "specs")

    specs: Specs

    def __init__(
        self,
        digest: str,
        size_bytes: int,
        specs: Specs,
        *,
        value: Any = _NOTHING,
        again: Callable[[], bytes] | None = None,
    ) -> None:
        super().__init__(digest, size_bytes, value)
        object.__setattr__(self, "specs", specs)
        object.__setattr__(self, "_again", again)

    @property
    def again(self) -> Callable[[], bytes] | None:
        """Makes the bytes of the blob; None where this process can't."""
        found: Callable[[], bytes] | None = self._again
        return found


def stored_ref(arrays: Sequence[np.ndarray[Any, Any]], value: Any, known_as: str) -> StoredRef:
    """The reference to ``arrays``, the leaves of ``value``, which was put as a pickle of the digest ``known_as``."""
    specs = [(one.dtype.name, one.shape) for one in arrays]
    key = (known_as, *specs)
    with _lock:
        found = _stored.get(key)
    if found is None:
        found = digest_of(codec.encode(list(arrays), "the value"))
        with _lock:
            _stored[key] = found
            if len(_stored) > _STORED_MAX:
                _stored.popitem(last=False)
    return StoredRef(*found, specs, value=value, again=lambda: codec.encode(list(arrays), "the value"))


def digest_of(data: bytes) -> tuple[str, int]:
    """What a reference to these bytes has."""
    return hashlib.sha256(data).hexdigest(), len(data)
