"""Code and large payloads by content: keyed ``<tenant>/<sha256>``, put and got in parts of BLOB_PART_BYTES.

A blob of one part is one message (its meta record with the bytes behind it); a larger one is its parts and then a meta
record, which is written only when the digest of all parts was verified: without meta a blob isn't there. Parts arrive in
any order, more than once, through any frontdoor process.

Life: BLOB_TTL_S from the last put, unless it is kept (``keep``: the code of a deployed function). A put that finds a blob
renews it, at most once in RENEW_S, so one that was put or asked for lives at least BLOB_TTL_S - RENEW_S from then on.
Copies of what cars keep on devices have a shorter life (KEPT_TTL_S, renewed after a quarter of it), and a bound of their own
(``kept_copies``). A put with a longer life prolongs one that is there; none shortens it.

Errors: PayloadTooLarge, Refused (digest or part don't fit), ResultExpired (no such blob), QueueFull (the store is full).
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

import anyio
import anyio.to_thread

from fleet.protocol import frames, limits
from fleet.protocol.errors import PayloadTooLarge, QueueFull, Refused, ResultExpired
from fleet.protocol.frames import Bytes
from fleet.protocol.messages import Message
from fleet.protocol.subjects import BLOB_PART, STREAM_BLOBS
from fleet.transport import Payload
from fnplatform.jetstream import JetStream, StoredMessage, StreamFull, WrongSequence
from fnplatform.kept_copies import KeptCopies
from fnplatform.uploads import Upload, Uploads

META = "meta"
RENEW_S = 24 * 3600.0
CACHE_BYTES_MAX = 64 * limits.MIB
METAS_MAX = 50_000
HASH_IN_THREAD_BYTES = 256 * limits.KIB
"""From here on hashing blocks the loop for longer than a hop to a thread costs."""

assert limits.BLOB_TTL_S - RENEW_S >= limits.RESULT_TTL_S_DEFAULT, "payloads live as long as their outcomes"


class BlobMeta(Message):
    """What is stored of a blob; its part 0 is the bytes when ``parts`` is 1. ``kept``: ``ttl_s`` doesn't count."""

    size_bytes: int
    parts: int
    since_unix_s: float
    """Its life counts from here."""
    kept: bool = False
    ttl_s: float = limits.BLOB_TTL_S

    @property
    def is_copy(self) -> bool:
        """Whether it has the short life of a copy."""
        return not self.kept and self.ttl_s < limits.BLOB_TTL_S

    def is_young(self, unix_s: float) -> bool:
        """Whether it needs no renewal yet."""
        return self.kept or self.since_unix_s + min(RENEW_S, self.ttl_s / 4) > unix_s


def parts_of(size_bytes: int) -> int:
    """How many parts a blob of this size has; an empty one has one."""
    return max(1, -(-size_bytes // limits.BLOB_PART_BYTES))


def part_bytes(size_bytes: int, part: int) -> int:
    """The size of one part; Refused if there is no such part."""
    if not 0 <= part < parts_of(size_bytes):
        raise Refused(f"a blob of {size_bytes} bytes has no part {part}")
    return min(limits.BLOB_PART_BYTES, size_bytes - part * limits.BLOB_PART_BYTES)


async def _digest(data: Bytes) -> str:
    if len(data) < HASH_IN_THREAD_BYTES:
        return hashlib.sha256(data).hexdigest()
    return await anyio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())


class BlobStore:
    """The blobs of all tenants. Whoever calls has checked that the tenant is the principal's own."""

    def __init__(self, js: JetStream, *, unix_s: Callable[[], float] = time.time) -> None:
        self._js = js
        self._unix_s = unix_s
        self._metas: OrderedDict[tuple[str, str], BlobMeta] = OrderedDict()
        self._cache: OrderedDict[tuple[str, str, int], Bytes] = OrderedDict()
        self._cache_bytes = 0
        self._uploads = Uploads()
        self._copies = KeptCopies(limits.KEPT_BYTES_MAX)

    # --- putting ------------------------------------------------------------------------------------------------

    async def put(
        self, tenant: str, digest: str, size_bytes: int, part: int, data: Bytes, *, ttl_s: float = limits.BLOB_TTL_S
    ) -> bool:
        """Store one part; whether the whole blob is there now (or was already: then its life is renewed).

        Parts may come concurrently, cheapest in their order. ``data`` must not change afterwards.
        """
        if size_bytes > limits.PAYLOAD_BYTES_MAX:
            raise PayloadTooLarge(f"a blob of {size_bytes} bytes is over the limit of {limits.PAYLOAD_BYTES_MAX} bytes")
        key, count = (tenant, digest), parts_of(size_bytes)
        upload = self._uploads.of(key, part, self._unix_s()) if count > 1 else None
        if await (self.renew(*key, ttl_s) if upload is None else upload.is_there(lambda: self.renew(*key, ttl_s))):
            self._uploads.end(key)
            return True
        expected_bytes = part_bytes(size_bytes, part)
        if len(data) != expected_bytes:
            raise Refused(f"part {part} of a blob of {size_bytes} bytes has {len(data)} bytes, not {expected_bytes}")
        if count == 1:
            if await _digest(data) != digest:
                raise Refused("the bytes of a blob don't have its digest", hint="send it again")
            await self._write_meta(tenant, digest, self._meta(size_bytes, ttl_s=ttl_s), data)
            return True
        if upload is None:
            await self._publish(tenant, digest, str(part), data, ttl_s, first=True)
        else:
            upload.coming += 1
            upload.ttl_s = min(upload.ttl_s, ttl_s)
            try:
                written = await self._publish(tenant, digest, str(part), data, ttl_s, first=True)
                upload.in_order = upload.in_order and written
                await self._uploads.add(upload, part, data)
            finally:
                upload.coming -= 1
            if upload.in_order and upload.hashed == count:
                return await self._complete(tenant, digest, size_bytes, upload, ttl_s)
            if upload.in_order and upload.coming:
                return False  # the last one looks
        stored = await self._js.subjects(STREAM_BLOBS, BLOB_PART.wildcard(tenant=tenant, digest=digest))
        return len(stored) >= count and await self._complete(tenant, digest, size_bytes, None, ttl_s)

    async def put_whole(self, tenant: str, digest: str, data: bytes) -> None:
        """Store a blob that is at hand in one piece."""
        size_bytes = len(data)
        for part in range(parts_of(size_bytes)):
            start = part * limits.BLOB_PART_BYTES
            if await self.put(tenant, digest, size_bytes, part, data[start : start + limits.BLOB_PART_BYTES]):
                return

    async def have(self, tenant: str, digest: str) -> bool:
        """Whether the whole blob is there."""
        return await self._load_meta(tenant, digest) is not None

    def known_bytes(self, tenant: str, digest: str) -> int | None:
        """Size of a blob that is known here to be there and to need no renewal; None: ask ``renew``."""
        meta = self._metas.get((tenant, digest))
        if meta is None or not meta.is_young(self._unix_s()):
            return None
        self._copies.touch((tenant, digest))
        return meta.size_bytes

    async def renew(self, tenant: str, digest: str, ttl_s: float = 0.0) -> bool:
        """Let it live on from now, ``ttl_s`` if that is longer than its life so far; whether it is there."""
        meta = await self._load_meta(tenant, digest)
        if meta is None:
            return False
        if meta.is_copy and ttl_s < limits.BLOB_TTL_S:
            await self._used_copy(tenant, digest, meta)
        if not meta.kept and (meta.ttl_s < ttl_s or not meta.is_young(self._unix_s())):
            return await self._rewrite(tenant, digest, meta, kept=False, ttl_s=max(meta.ttl_s, ttl_s))
        return True

    async def keep(self, tenant: str, digest: str, kept: bool = True) -> bool:
        """Exempt it from its time to live, or end that; whether it is there."""
        meta = await self._load_meta(tenant, digest)
        if meta is None:
            return False
        return meta.kept == kept or await self._rewrite(tenant, digest, meta, kept=kept, ttl_s=limits.BLOB_TTL_S)

    # --- getting ------------------------------------------------------------------------------------------------

    async def get(self, tenant: str, digest: str, part: int) -> tuple[BlobMeta, Bytes]:
        """The meta record and the bytes of one part; ResultExpired if there is no such blob."""
        meta = await self._load_meta(tenant, digest)
        if meta is None:
            raise ResultExpired(f"no blob {digest[:12]} is kept", hint="payloads are kept as long as their outcomes")
        part_bytes(meta.size_bytes, part)
        key = (tenant, digest, part)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return meta, cached
        token = META if meta.parts == 1 else str(part)
        found = await self._read(tenant, digest, token)
        if found is None:
            self._metas.pop((tenant, digest), None)
            raise ResultExpired(f"part {part} of blob {digest[:12]} is no longer kept")
        data: Bytes = frames.unpack(found.data, BlobMeta)[1][0] if meta.parts == 1 else found.data
        self._remember(key, data)
        return meta, data

    async def get_whole(self, tenant: str, digest: str) -> bytes:
        """All of it; ResultExpired if there is no such blob."""
        meta, first = await self.get(tenant, digest, 0)
        rest = [(await self.get(tenant, digest, part))[1] for part in range(1, meta.parts)]
        return b"".join((first, *rest))

    # --- inside -------------------------------------------------------------------------------------------------

    def _meta(
        self, size_bytes: int, since_unix_s: float | None = None, *, kept: bool = False, ttl_s: float
    ) -> BlobMeta:
        since = self._unix_s() if since_unix_s is None else since_unix_s
        return BlobMeta(size_bytes=size_bytes, parts=parts_of(size_bytes), since_unix_s=since, kept=kept, ttl_s=ttl_s)

    async def _read(self, tenant: str, digest: str, token: str) -> StoredMessage | None:
        return await self._js.get_last(STREAM_BLOBS, BLOB_PART.build(tenant=tenant, digest=digest, part=token))

    async def _publish(
        self, tenant: str, digest: str, token: str, data: Payload, ttl_s: float | None, first: bool
    ) -> bool:
        """Whether it was stored; False: there is one already, and what that holds must be verified by reading."""
        subject = BLOB_PART.build(tenant=tenant, digest=digest, part=token)
        try:
            await self._js.publish(subject, data, ttl_s=ttl_s, expect_last_subject_seq=0 if first else None)
        except WrongSequence:
            return False
        except StreamFull as error:
            raise QueueFull("the blob store is full", hint="wait until payloads have expired, or put less") from error
        return True

    async def _write_meta(
        self, tenant: str, digest: str, meta: BlobMeta, data: Bytes | None, *, first: bool = True
    ) -> None:
        ttl_s = None if meta.kept else max(1.0, meta.since_unix_s + meta.ttl_s - self._unix_s())
        await self._publish(tenant, digest, META, frames.pieces(meta, [] if data is None else [data]), ttl_s, first)
        self._know(tenant, digest, meta)
        if data is not None:
            self._remember((tenant, digest, 0), data)
        if meta.is_copy:
            await self._used_copy(tenant, digest, meta)
        else:
            self._copies.forget((tenant, digest))

    async def _used_copy(self, tenant: str, digest: str, meta: BlobMeta) -> None:
        for key in self._copies.used((tenant, digest), meta.size_bytes):
            await self._purge(*key)

    async def _purge(self, tenant: str, digest: str) -> None:
        await self._js.purge(STREAM_BLOBS, BLOB_PART.wildcard(tenant=tenant, digest=digest))
        self._metas.pop((tenant, digest), None)
        self._copies.forget((tenant, digest))

    async def _complete(self, tenant: str, digest: str, size_bytes: int, upload: Upload | None, ttl_s: float) -> bool:
        """Write meta if the digest of all parts holds: known from ``upload`` or read again."""
        since_unix_s = upload.began_unix_s if upload is not None else self._unix_s()
        held_s = ttl_s if upload is None else min(ttl_s, upload.ttl_s)
        held = self._uploads.end((tenant, digest))
        if upload is not None:
            found = upload.hasher.hexdigest()
        else:
            hasher = hashlib.sha256()
            for part in range(parts_of(size_bytes)):
                message = await self._read(tenant, digest, str(part))
                if message is None:
                    return False
                since_unix_s = min(since_unix_s, datetime.fromisoformat(message.time).timestamp())
                held_s = min(held_s, message.ttl_s or held_s)
                await anyio.to_thread.run_sync(hasher.update, message.data)
            found = hasher.hexdigest()
        if found != digest:
            await self._purge(tenant, digest)
            raise Refused("the parts of a blob don't have its digest", hint="send all of them again")
        # Not what was asked for but what the parts have, which may be others': meta never promises more.
        await self._write_meta(tenant, digest, self._meta(size_bytes, since_unix_s, ttl_s=held_s), None)
        if upload is not None:
            for part, data in enumerate(held):
                self._remember((tenant, digest, part), data)
        return held_s >= ttl_s or await self.renew(tenant, digest, ttl_s)

    async def _rewrite(self, tenant: str, digest: str, meta: BlobMeta, *, kept: bool, ttl_s: float) -> bool:
        """Store all of it again with another life; False if it expired meanwhile.

        When its life grows, meta is written last, when it shrinks first: meta never promises more than the parts hold.
        """
        fresh = self._meta(meta.size_bytes, kept=kept, ttl_s=ttl_s)
        try:
            only = (await self.get(tenant, digest, 0))[1] if meta.parts == 1 else None
            if meta.kept:
                await self._write_meta(tenant, digest, fresh, only, first=False)
            for part in range(meta.parts if meta.parts > 1 else 0):
                _, data = await self.get(tenant, digest, part)
                await self._publish(tenant, digest, str(part), data, None if kept else ttl_s, first=False)
        except ResultExpired:
            await self._purge(tenant, digest)
            return False
        if not meta.kept:
            await self._write_meta(tenant, digest, fresh, only, first=False)
        return True

    async def _load_meta(self, tenant: str, digest: str) -> BlobMeta | None:
        known = self._metas.get((tenant, digest))
        if known is not None and known.is_young(self._unix_s()):
            return known
        found = await self._read(tenant, digest, META)
        if found is None:
            self._metas.pop((tenant, digest), None)
            return None
        meta, parts = frames.unpack(found.data, BlobMeta)
        self._know(tenant, digest, meta)
        if parts:
            self._remember((tenant, digest, 0), parts[0])
        return meta

    def _know(self, tenant: str, digest: str, meta: BlobMeta) -> None:
        self._metas[tenant, digest] = meta
        self._metas.move_to_end((tenant, digest))
        if len(self._metas) > METAS_MAX:
            self._metas.popitem(last=False)

    def _remember(self, key: tuple[str, str, int], data: Bytes) -> None:
        old = self._cache.pop(key, None)
        self._cache_bytes += len(data) - (len(old) if old is not None else 0)
        self._cache[key] = data
        while self._cache_bytes > CACHE_BYTES_MAX:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= len(dropped)
