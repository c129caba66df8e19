"""Large payloads in parts: what doesn't fit into one message is put and fetched by its digest."""

from __future__ import annotations

import anyio

from fleet._api import Api
from fleet.protocol.errors import FleetError, ProtocolError
from fleet.protocol.ids import digest as digest_of
from fleet.protocol.limits import BLOB_PART_BYTES, PAYLOAD_BYTES_MAX
from fleet.protocol.messages import BlobGet, BlobGetReply, BlobPut, BlobPutReply
from fleet.protocol.subjects import ApiVerb

PARTS_AT_ONCE = 4


class Blobs:
    """``api`` asks the platform (``fleet._client.Api``); all methods run in the client's loop."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def put(self, digest: str, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` under its digest. In order, so that the platform hashes as it comes; stops if it is there."""
        view = memoryview(data)
        for part in range(max(1, -(-len(view) // BLOB_PART_BYTES))):
            if await self._put_part(digest, view, part):
                return
        raise ProtocolError("the platform did not keep all parts of a payload", hint="try again")

    async def _put_part(self, digest: str, view: memoryview, part: int) -> bool:
        start = part * BLOB_PART_BYTES
        message = BlobPut(digest=digest, size_bytes=len(view), part=part)
        reply, _ = await self._api.ask(
            ApiVerb.BLOB_PUT, message, BlobPutReply, (view[start : start + BLOB_PART_BYTES],)
        )
        return reply.have

    async def get(self, digest: str, size_bytes: int) -> bytes:
        """Fetch a blob and check its digest; ProtocolError when it isn't what was named."""
        if size_bytes > PAYLOAD_BYTES_MAX:
            raise ProtocolError(f"a payload of {size_bytes} bytes is over the limit")
        first, count = await self._get_part(digest, 0)
        parts: dict[int, bytes] = {0: first}
        limit = anyio.CapacityLimiter(PARTS_AT_ONCE)
        errors: list[FleetError] = []

        async def get_one(part: int) -> None:
            async with limit:
                try:
                    parts[part], _ = await self._get_part(digest, part)
                except FleetError as error:
                    errors.append(error)

        async with anyio.create_task_group() as group:
            for part in range(1, min(count, -(-PAYLOAD_BYTES_MAX // BLOB_PART_BYTES))):
                group.start_soon(get_one, part)
        if errors:
            raise errors[0]
        data = b"".join(parts[part] for part in sorted(parts))
        if digest_of(data) != digest:
            raise ProtocolError("a payload does not match its digest")
        return data

    async def _get_part(self, digest: str, part: int) -> tuple[bytes, int]:
        reply, parts = await self._api.ask(ApiVerb.BLOB_GET, BlobGet(digest=digest, part=part), BlobGetReply)
        if not parts:
            raise ProtocolError("an answer for a payload holds none")
        return bytes(parts[0]), reply.parts
