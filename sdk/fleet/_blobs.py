"""Large payloads in parts: what doesn't fit into one message is put and fetched by its digest."""

from __future__ import annotations

from fleet import parts
from fleet._api import Api
from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import PAYLOAD_BYTES_MAX
from fleet.protocol.messages import BlobGet, BlobGetReply, BlobPut, BlobPutReply
from fleet.protocol.subjects import ApiVerb


class Blobs:
    """``api`` asks the platform (``fleet._client.Api``); all methods run in the client's loop."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def put(self, digest: str, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` under its digest. In order, so that the platform hashes as it comes; stops if it is there."""
        if not await parts.put(data, lambda part, body: self._put_part(digest, len(data), part, body)):
            raise ProtocolError("the platform did not keep all parts of a payload", hint="try again")

    async def _put_part(self, digest: str, size_bytes: int, part: int, body: memoryview) -> bool:
        message = BlobPut(digest=digest, size_bytes=size_bytes, part=part)
        reply, _ = await self._api.ask(ApiVerb.BLOB_PUT, message, BlobPutReply, (body,))
        return reply.have

    async def get(self, digest: str, size_bytes: int) -> bytes:
        """Fetch a blob and check its digest; ProtocolError when it isn't what was named."""
        if size_bytes > PAYLOAD_BYTES_MAX:
            raise ProtocolError(f"a payload of {size_bytes} bytes is over the limit")

        async def get_part(part: int) -> memoryview:
            return (await self._get_part(digest, part))[0]

        first, count = await self._get_part(digest, 0)
        return await parts.get(digest, first, min(count, parts.count_of(PAYLOAD_BYTES_MAX)), get_part)

    async def _get_part(self, digest: str, part: int) -> tuple[memoryview, int]:
        reply, bodies = await self._api.ask(ApiVerb.BLOB_GET, BlobGet(digest=digest, part=part), BlobGetReply)
        if not bodies:
            raise ProtocolError("an answer for a payload holds none")
        return bodies[0], reply.parts
