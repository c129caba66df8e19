"""Arguments of calls on their way to cars: a bounded cache before the stream and the blobs. Opaque bytes, never unpickled."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from fleet.protocol import frames, limits
from fleet.protocol.errors import ResultExpired
from fleet.protocol.frames import Bytes
from fleet.protocol.messages import InvocationState
from fleet.protocol.subjects import STREAM_INVOCATIONS
from fnplatform.dispatcher.chunks import Ranges, select
from fnplatform.jetstream import JetStream

CACHE_BYTES_MAX = 128 * limits.MIB
ENTRY_BYTES = 200
"""What one cached payload costs beyond its bytes."""


class Blobs(Protocol):
    """Where large arguments and the values of ``fleet.put`` lie."""

    async def get_whole(self, tenant: str, digest: str) -> bytes:
        """All of one; ResultExpired if it isn't there."""
        ...

    async def renew(self, tenant: str, digest: str) -> bool:
        """Let it live on; whether it is there."""
        ...

    def known_bytes(self, tenant: str, digest: str) -> int | None:
        """Its size, if it is known to be there without asking."""
        ...


def stored_items(state: InvocationState) -> Ranges:
    """The item numbers that the payload of a chunk holds: a blob always all of them, the queue those pending."""
    assert state.items is not None
    if state.blob or state.pending is None:
        return [(0, state.items - 1)]
    return state.pending


def cut(state: InvocationState, payload: Bytes, wanted: Ranges | None) -> Bytes:
    """The payload with just the items ``wanted`` of a chunk; as it is for a single call."""
    if wanted is None or state.items is None:
        return payload
    stored = stored_items(state)
    if stored == wanted:
        return payload
    return frames.pack_items(select(stored, frames.unpack_items(payload, limits.CHUNK_ITEMS_MAX), wanted))


class Payloads:
    """Payloads by the sequence of the message they came with."""

    def __init__(self, js: JetStream, blobs: Blobs, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._js = js
        self._blobs = blobs
        self._bytes_max = bytes_max
        self._bytes = 0
        self._cache: OrderedDict[int, Bytes] = OrderedDict()

    def cached(self, seq: int) -> Bytes | None:
        """The payload if it is at hand."""
        return self._cache.get(seq)

    def keep(self, seq: int, payload: Bytes) -> None:
        """Have it at hand, for as long as there is room."""
        if len(payload) > self._bytes_max // 8:
            return
        self.forget(seq)
        self._cache[seq] = payload
        self._bytes += len(payload) + ENTRY_BYTES
        while self._bytes > self._bytes_max:
            _, oldest = self._cache.popitem(last=False)
            self._bytes -= len(oldest) + ENTRY_BYTES

    def forget(self, seq: int) -> Bytes | None:
        """It is no longer needed."""
        payload = self._cache.pop(seq, None)
        if payload is not None:
            self._bytes -= len(payload) + ENTRY_BYTES
        return payload

    def has_refs(self, state: InvocationState) -> bool:
        """Whether all that the arguments refer to is known to be there. False: ``renew_refs`` must look."""
        return all(self._blobs.known_bytes(state.tenant, ref.digest) is not None for ref in state.refs)

    async def renew_refs(self, state: InvocationState) -> None:
        """Let what the arguments refer to live on; ResultExpired if some of it doesn't."""
        for ref in state.refs:
            if not await self._blobs.renew(state.tenant, ref.digest):
                raise ResultExpired(
                    f"a value of fleet.put or fleet.keep ({ref.digest[:12]}) expired while the call waited",
                    hint="put it again, or make it again by the call that kept it",
                )

    async def load(self, state: InvocationState, seq: int) -> Bytes | None:
        """The payload, from wherever it is; None if the message is gone. ResultExpired if its blob is."""
        payload = self._cache.get(seq)
        if payload is not None:
            return payload
        if state.blob:
            payload = await self._blobs.get_whole(state.tenant, state.digest)
        else:
            message = await self._js.get_seq(STREAM_INVOCATIONS, seq)
            if message is None:
                return None
            _, parts = frames.unpack(message.data, InvocationState)
            payload = bytes(parts[0]) if parts else b""
        self.keep(seq, payload)
        return payload
