"""Blobs under a lease: how the agent gets bundles and large arguments, and puts large results. Parts, checked, retried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread

from fleet import parts
from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError
from fleet.protocol.frames import pack, pieces, unpack
from fleet.protocol.ids import digest as digest_of
from fleet.protocol.limits import BLOB_PART_BYTES
from fleet.protocol.messages import BlobGet, BlobGetReply, BlobPut, BlobPutReply, Lease
from fleet.protocol.subjects import CAR, PARTITION, CarVerb
from fleet.transport import Bus, Payload

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
        """The blob, checked. FleetUnavailable after some tries; ProtocolError when damaged or too large."""
        first, reply = await self._part(digest, 0, lease, bytes_max)

        async def get_part(part: int) -> memoryview:
            return (await self._part(digest, part, lease, bytes_max))[0]

        return await parts.get(digest, first, min(reply.parts, parts.count_of(reply.size_bytes)), get_part)

    async def stream(self, digest: str, lease: Lease, bytes_max: int, take: Callable[[Bytes], Awaitable[None]]) -> None:
        """Hand the blob to ``take`` in parts, in their order. Not checked. Errors as of ``get``, and those of ``take``."""
        first, reply = await self._part(digest, 0, lease, bytes_max)

        async def get_part(part: int) -> memoryview:
            return (await self._part(digest, part, lease, bytes_max))[0]

        await parts.stream(first, min(reply.parts, parts.count_of(reply.size_bytes)), get_part, take)

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
        await self._put_as(digest, data, lease, kept=False)
        return digest

    async def put_kept(self, digest: str, data: Bytes, lease: Lease) -> None:
        """Store the copy of what a slot keeps on its device, which says that ``digest`` is its. Errors as of ``put``, and
        ProtocolError if that isn't true: checked here while it is on its way, and there.
        """
        found: list[str] = []
        errors: list[FleetError] = []

        async def check() -> None:
            found.append(await anyio.to_thread.run_sync(digest_of, data))

        async with anyio.create_task_group() as group:
            group.start_soon(check)
            try:
                await self._put_as(digest, data, lease, kept=True)
            except FleetError as error:
                errors.append(error)
        if found != [digest]:
            raise ProtocolError("the slot keeps a value under another digest than it has")
        if errors:
            raise errors[0]

    async def _put_as(self, digest: str, data: Bytes, lease: Lease, *, kept: bool) -> None:
        async def put_part(part: int, body: memoryview) -> bool:
            head = BlobPut(digest=digest, size_bytes=len(data), part=part, lease=lease, kept=kept)
            reply, _ = unpack(await self._ask(self._put, pieces(head, [body]), tries=0), BlobPutReply)
            if reply.error is not None:
                raise reply.error.to_error()
            return reply.have

        if not await parts.put(data, put_part):
            raise ProtocolError(f"all parts of blob {digest[:12]} were taken, but it isn't stored")

    async def _ask(self, subject: str, data: Payload, *, tries: int = TRIES) -> Bytes:
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
