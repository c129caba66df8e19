"""Values that calls refer to (``fleet.put``): kept as pickles until one is used, then as the object, for this instance's life.

The host says what is kept and for how long: it counts the bytes.
"""

from __future__ import annotations

import pickle
from typing import Any

from . import wire

_pickles: dict[str, memoryview] = {}
_values: dict[str, Any] = {}


def hold(request: memoryview) -> bytes:
    """Take a value: its digest and its pickle. Nothing of it is looked at yet."""
    digest = bytes(request[: wire.DIGEST_BYTES]).hex()
    if len(request) > wire.ROOM_BYTES:
        # The room itself is kept, without a copy; the host makes room anew after each large request.
        _pickles[digest] = request[wire.DIGEST_BYTES :]
        wire.drop_large_room()
    else:
        _pickles[digest] = memoryview(bytes(request[wire.DIGEST_BYTES :]))
    return b""


def drop(request: memoryview) -> bytes:
    """Forget the values of these digests."""
    for at in range(0, len(request), wire.DIGEST_BYTES):
        digest = bytes(request[at : at + wire.DIGEST_BYTES]).hex()
        _pickles.pop(digest, None)
        _values.pop(digest, None)
    return b""


def load(digest: str) -> Any:
    """The value, the same object for every call of this instance; raises what unpickling it raises."""
    try:
        return _values[digest]
    except KeyError:
        pass
    data = _pickles.get(digest)
    if data is None:
        raise LookupError(f"the value {digest[:12]} of fleet.put is not among those that this call was sent with")
    (value,), _ = pickle.loads(data)
    _values[digest] = value
    del _pickles[digest]
    return value
