"""Sends code and weights that the platform misses; long uploads are told about."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence

import anyio.to_thread

from fleet._blobs import Blobs
from fleet.protocol.limits import REQUEST_S
from fleet.protocol.messages import Manifest
from fleet.protocol.units import format_bytes

TELL_S = 2.0
"""An upload that takes longer says this often how far it is."""

_KEPT_BYTES_PER_S = 50e6
"""What is deployed first has a time to live: to keep it, the platform stores it again, 230 MB/s in a test."""

Read = Callable[[str], bytes | bytearray]
"""The bytes behind a digest, made when they are sent: weights are more than should be in memory twice."""


async def upload(blobs: Blobs, missing: Sequence[str], read: Read, tell: Callable[[str], None] | None = None) -> None:
    """Store what is behind the digests ``missing``, one after the other. ``tell`` gets lines for people; None: stderr."""
    told_s = time.monotonic()
    sent_bytes = 0
    for number, digest in enumerate(missing):
        data = await anyio.to_thread.run_sync(read, digest)
        await blobs.put(digest, data)
        sent_bytes += len(data)
        del data
        if time.monotonic() - told_s >= TELL_S and number + 1 < len(missing):
            told_s = time.monotonic()
            line = f"sent {format_bytes(sent_bytes)} of code and weights: {number + 1} of {len(missing)} pieces"
            tell(line) if tell is not None else print(line, file=sys.stderr)


def patience_s(manifests: Iterable[Manifest]) -> float:
    """How long an answer may take to a request that makes these versions live."""
    weights_bytes = sum(one.program.jax.weights_bytes for one in manifests if one.program.jax is not None)
    return REQUEST_S + weights_bytes / _KEPT_BYTES_PER_S
