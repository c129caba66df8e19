"""Large payloads in parts of BLOB_PART_BYTES: several are on their way at once, and hashed while others come.

For the SDK and for cars. How a part is asked for is theirs; here is what both do with parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread

from fleet.protocol.errors import FleetError, ProtocolError
from fleet.protocol.limits import BLOB_PART_BYTES

PARTS_AT_ONCE = 4
"""8 MiB on their way hide a round trip; more of them would only wait in buffers."""

Bytes = bytes | bytearray | memoryview


def count_of(size_bytes: int) -> int:
    """How many parts a payload has; an empty one has one."""
    return max(1, -(-size_bytes // BLOB_PART_BYTES))


async def put(data: Bytes, put_part: Callable[[int, memoryview], Awaitable[bool]]) -> bool:
    """Hand all parts to ``put_part`` in their order; whether it said that the whole payload is there. Stops when it does.

    The first FleetError of a part ends it.
    """
    view = memoryview(data)
    limit = anyio.CapacityLimiter(PARTS_AT_ONCE)
    errors: list[FleetError] = []
    have = False

    async def put_one(part: int) -> None:
        nonlocal have
        async with limit:
            if have or errors:
                return
            start = part * BLOB_PART_BYTES
            try:
                have = await put_part(part, view[start : start + BLOB_PART_BYTES]) or have
            except FleetError as error:
                errors.append(error)

    async with anyio.create_task_group() as group:
        for part in range(count_of(len(view))):
            group.start_soon(put_one, part)
    if errors and not have:
        raise errors[0]
    # Parts that several processes stored at the same time: none of them saw the last one come.
    return have or await put_part(0, view[:BLOB_PART_BYTES])


async def get(digest: str, first: Bytes, count: int, get_part: Callable[[int], Awaitable[Bytes]]) -> bytes:
    """The payload of ``count`` parts, whose part 0 is at hand; ProtocolError when it hasn't this digest."""
    hasher = hashlib.sha256()
    parts: dict[int, Bytes] = {0: first}
    came = [anyio.Event() for _ in range(count)]
    came[0].set()
    limit = anyio.CapacityLimiter(PARTS_AT_ONCE)
    errors: list[FleetError] = []

    async def get_one(part: int) -> None:
        async with limit:
            try:
                if not errors:
                    parts[part] = await get_part(part)
            except FleetError as error:
                errors.append(error)
        came[part].set()

    async with anyio.create_task_group() as group:
        for part in range(1, count):
            group.start_soon(get_one, part)
        for part in range(count):
            await came[part].wait()
            if errors:
                continue
            await anyio.to_thread.run_sync(hasher.update, parts[part])
    if errors:
        raise errors[0]
    if hasher.hexdigest() != digest:
        raise ProtocolError(f"payload {digest[:12]} arrived damaged: it does not match its digest")
    return b"".join(parts[part] for part in range(count))


async def stream(
    first: Bytes, count: int, get_part: Callable[[int], Awaitable[Bytes]], take: Callable[[Bytes], Awaitable[None]]
) -> None:
    """Hand ``count`` parts, of which part 0 is at hand, to ``take`` in their order; PARTS_AT_ONCE are at hand at most.

    The first FleetError, of ``get_part`` or ``take``, ends it.
    """
    turns = [anyio.Event() for _ in range(count + 1)]
    turns[0].set()
    left = iter(range(count))
    errors: list[FleetError] = []

    async def work(scope: anyio.CancelScope) -> None:
        try:
            for part in left:
                data = first if part == 0 else await get_part(part)
                await turns[part].wait()
                await take(data)
                turns[part + 1].set()
        except FleetError as error:
            errors.append(error)
            scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(min(count, PARTS_AT_ONCE)):
            group.start_soon(work, group.cancel_scope)
    if errors:
        raise errors[0]
