"""Blobs under a lease: how the agent gets bundles and large arguments, and puts large results. Parts, checked, retried."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread

from fleet.protocol.errors import FleetUnavailable, ProtocolError
from fleet.protocol.frames import pack, unpack
from fleet.protocol.ids import digest as digest_of
from fleet.protocol.limits import BLOB_PART_BYTES
from fleet.protocol.messages import BlobGet, BlobGetReply, BlobPut, BlobPutReply, Lease
from fleet.protocol.subjects import CAR, PARTITION, CarVerb
from fleet.transport import Bus

TRIES = 6
AGAIN_S = 0.2
PART_S = 5.0

Bytes = bytes | bytearray | memoryview


class BlobClient:
    """Blobs of one car. ``bus`` gives the connection as it is now, None while there is none yet."""

    def __init__(self, bus: Callable[[], Bus | None], car: str) -> None:
        self._bus = bus
        self._get = CAR.build(car=car, partition=PARTITION, verb=CarVerb.BLOB_GET)
        self._put = CAR.build(car=car, partition=PARTITION, verb=CarVerb.BLOB_PUT)

    async def get(self, digest: str, lease: Lease, bytes_max: int) -> bytes:
        """The blob, checked. FleetUnavailable after some tries; ProtocolError when it is damaged or too large."""
        data = bytearray()
        part, parts = 0, 1
        while part < parts:
            reply, body = unpack(
                await self._ask(self._get, pack(BlobGet(digest=digest, part=part, lease=lease))), BlobGetReply
            )
            if reply.error is not None:
                raise reply.error.to_error()
            if reply.size_bytes > bytes_max or len(body) != 1 or len(data) + len(body[0]) > bytes_max:
                raise ProtocolError(f"blob {digest[:12]} is over {bytes_max} bytes, or has no bytes")
            data += body[0]
            parts = reply.parts
            part += 1
        result = bytes(data)
        if await anyio.to_thread.run_sync(digest_of, result) != digest:
            raise ProtocolError(f"blob {digest[:12]} arrived damaged")
        return result

    async def put(self, data: Bytes, lease: Lease) -> str:
        """Store ``data``; returns its digest. Tries until it is stored; a FleetError of the control plane is raised."""
        digest = await anyio.to_thread.run_sync(digest_of, data)
        view = memoryview(data)
        parts = -(-len(view) // BLOB_PART_BYTES)
        have = False
        while not have:
            for part in range(parts):
                head = BlobPut(digest=digest, size_bytes=len(view), part=part, lease=lease)
                body = view[part * BLOB_PART_BYTES : (part + 1) * BLOB_PART_BYTES]
                reply, _ = unpack(await self._ask(self._put, pack(head, [body]), tries=0), BlobPutReply)
                if reply.error is not None:
                    raise reply.error.to_error()
                have = reply.have
                if have:
                    break
            else:
                raise ProtocolError(f"all {parts} parts were taken, but the blob isn't stored")
        return digest

    async def _ask(self, subject: str, data: bytes, *, tries: int = TRIES) -> bytes:
        """The reply; ``tries`` 0: for ever."""
        tried = 0
        while True:
            try:
                bus = self._bus()
                if bus is None:
                    raise FleetUnavailable("not connected yet")
                return (await bus.request(subject, data, timeout_s=PART_S)).data
            except FleetUnavailable:
                tried += 1
                if tried == tries:
                    raise
                await anyio.sleep(min(AGAIN_S * 2 ** min(tried, 4), 2.0))
