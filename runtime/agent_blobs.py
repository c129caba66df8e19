"""Blobs under a lease: how the agent gets bundles and large arguments, and puts large results. Parts, checked, retried."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread

from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError
from fleet.protocol.frames import pack, unpack
from fleet.protocol.ids import digest as digest_of
from fleet.protocol.limits import BLOB_PART_BYTES
from fleet.protocol.messages import BlobGet, BlobGetReply, BlobPut, BlobPutReply, Lease
from fleet.protocol.subjects import CAR, PARTITION, CarVerb
from fleet.transport import Bus

TRIES = 6
AGAIN_S = 0.2
PARTS_AT_ONCE = 4
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
        first, reply = await self._part(digest, 0, lease, bytes_max)
        parts: dict[int, Bytes] = {0: first}
        limit = anyio.CapacityLimiter(PARTS_AT_ONCE)
        errors: list[FleetError] = []

        async def get_one(part: int) -> None:
            async with limit:
                try:
                    if not errors:
                        parts[part], _ = await self._part(digest, part, lease, bytes_max)
                except FleetError as error:
                    errors.append(error)

        async with anyio.create_task_group() as group:
            for part in range(1, min(reply.parts, -(-reply.size_bytes // BLOB_PART_BYTES))):
                group.start_soon(get_one, part)
        if errors:
            raise errors[0]
        result = b"".join(parts[part] for part in sorted(parts))
        if await anyio.to_thread.run_sync(digest_of, result) != digest:
            raise ProtocolError(f"blob {digest[:12]} arrived damaged")
        return result

    async def _part(self, digest: str, part: int, lease: Lease, bytes_max: int) -> tuple[memoryview, BlobGetReply]:
        asked = pack(BlobGet(digest=digest, part=part, lease=lease))
        reply, body = unpack(await self._ask(self._get, asked), BlobGetReply)
        if reply.error is not None:
            raise reply.error.to_error()
        if reply.size_bytes > bytes_max or len(body) != 1 or len(body[0]) > BLOB_PART_BYTES:
            raise ProtocolError(f"blob {digest[:12]} is over {bytes_max} bytes, or has no bytes")
        return body[0], reply

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
