"""Values that stay on a jax slot's device between jobs: what functions keep (``fleet.keep``), and what references stand for.

They are known by the digest of their copy: the codec's list of their arrays. What a function keeps is copied out once, told to
the agent, and used where it lies by the next job that refers to it. The agent counts what is here and says what has to go
(``drop``); it never needs to know what is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fleet.protocol import codec
from fleet.protocol.errors import PayloadTooLarge
from fleet.protocol.limits import PAYLOAD_BYTES_MAX
from fleet.protocol.units import format_bytes
from runtime.sandbox import jax_execute
from runtime.slot_wire import Bytes

Decode = Callable[[Bytes], list[Any]]


class Host(Protocol):
    """Whom a copy is handed to."""

    def keep(self, digest: str, data: Bytes) -> None: ...


def leaves_of(tree: Any) -> list[int]:
    """The outputs that a part of a result is made of, in order; its tree is as in ``fleet.protocol.jax_bundle``."""
    return [number for number, _ in _walk(tree, False)]


def outputs_kept(tree: Any) -> frozenset[int]:
    """The outputs of a program that are in kept parts of its result."""
    return frozenset(number for number, kept in _walk(tree, False) if kept)


def _walk(tree: Any, kept: bool) -> Iterator[tuple[int, bool]]:
    if tree is None:
        return
    if type(tree) is int:
        yield tree, kept
        return
    ((kind, trees),) = tree.items()
    if kind == "keep":
        yield from _walk(trees, True)
        return
    for one in trees:
        yield from _walk(one[1] if kind == "dict" else one, kept)


class KeptStore:
    """See the module. From one thread alone."""

    def __init__(self, host: Host, device: Any) -> None:
        self._host = host
        self._device = device
        self._arrays: dict[str, list[Any]] = {}

    def drop(self, digest: str) -> None:
        """Let go of a value; nothing if it isn't here."""
        self._arrays.pop(digest, None)

    def arrays(self, entry: Mapping[str, Any], refs: Mapping[str, Bytes], decode: Decode) -> list[Any]:
        """The arrays, on the device, that an entry of a call's arguments refers to; LookupError unless they are at hand."""
        digest = entry.get("ref")
        data = refs.get(digest) if isinstance(digest, str) else None
        if not isinstance(digest, str) or data is None:
            raise LookupError(f"the value {str(digest)[:12]} is not among those that this call was sent with")
        found = self._arrays.get(digest)
        if found is None:
            if not len(data):
                raise LookupError(f"the value {digest[:12]} is no longer on the device")
            values = decode(data)
            if not all(isinstance(one, np.ndarray) for one in values):
                raise ValueError(f"the value {digest[:12]} is no list of arrays")
            found = self._arrays[digest] = [jax_execute.put(one, self._device) for one in values]
        return found

    def keep(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """Keep arrays that are on the device, and tell of their copy; what stands for them in the result.

        PayloadTooLarge where the copy can't travel.
        """
        size_bytes = sum(one.nbytes for one in arrays)
        if size_bytes >= PAYLOAD_BYTES_MAX:
            raise PayloadTooLarge(
                f"a value that is kept takes {format_bytes(size_bytes)}, its copy may have {format_bytes(PAYLOAD_BYTES_MAX)}",
                hint="keep less, or in a smaller dtype, or as several values",
            )
        data = codec.encode([np.asarray(one) for one in arrays])
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._arrays:
            self._arrays[digest] = list(arrays)
        self._host.keep(digest, data)
        return {
            "ref": digest,
            "bytes": len(data),
            "arrays": [[one.dtype.name, list(one.shape)] for one in arrays],
        }
