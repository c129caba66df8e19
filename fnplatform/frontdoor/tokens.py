"""Bearer tokens of tenants for HTTP: create, revoke, list, check.

The asker makes the token and keeps it; what is stored is the sha256 of its secret (256 random bits: nothing to guess, so no
slow hash is needed). A check takes the same path and about the same time whether the token exists, has expired or has
another secret. A tenant sees and checks its own tokens only: the tenant is that of the request's subject.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Sequence

from fleet.protocol import frames
from fleet.protocol.errors import InvalidOption, QueueFull, Refused
from fleet.protocol.messages import Message, TokenInfo, TokenReply, TokenRequest
from fleet.protocol.subjects import BUCKET_TOKENS
from fnplatform.jetstream import JetStream, WrongSequence

TOKENS_MAX = 1000
"""Tokens of one tenant, expired ones included. Two processes that create at once may pass it by a few."""
TTL_S_MAX = 10 * 366 * 24 * 3600.0
SHOWN_S = 7 * 24 * 3600.0
"""A token is listed this long after it expired, so that whoever wonders sees why it no longer works."""
NO_SECRET = "0" * 64

Parts = Sequence[memoryview]


class StoredToken(Message):
    """What the bucket holds."""

    info: TokenInfo
    secret_sha256: str


class Tokens:
    """The token verb."""

    def __init__(self, js: JetStream, *, unix_s: Callable[[], float] = time.time) -> None:
        self._js = js
        self._unix_s = unix_s

    async def handle(self, tenant: str, request: TokenRequest, parts: Parts) -> TokenReply:
        """Do what ``action`` says. Refused where there is no such token, QueueFull where there are too many."""
        if request.action == "list":
            found = await self._js.kv_entries(BUCKET_TOKENS, f"{tenant}.")
            infos = [_read(value).info for value in found.values()]
            return TokenReply(tokens=sorted(infos, key=lambda info: info.created_unix_s))
        if request.id is None:
            raise InvalidOption(f"to {request.action} a token its id is needed", hint="see: fleet token list")
        if request.action == "create":
            return await self._create(tenant, request.id, request)
        if request.action == "revoke":
            return await self._revoke(tenant, request.id)
        return await self._check(tenant, request.id, request.secret_sha256)

    async def _create(self, tenant: str, id: str, request: TokenRequest) -> TokenReply:
        if not request.secret_sha256:
            raise InvalidOption("a token needs the hash of its secret", hint="make it with: fleet token create")
        ttl_s = request.ttl_s
        if ttl_s is not None and not 1.0 <= ttl_s <= TTL_S_MAX:
            raise InvalidOption(f"ttl_s={ttl_s:g} is out of range: 1 to {TTL_S_MAX:g}", hint="leave it out for no end")
        if len(await self._js.kv_entries(BUCKET_TOKENS, f"{tenant}.")) >= TOKENS_MAX:
            raise QueueFull(
                f"there are {TOKENS_MAX} tokens already", hint="revoke some: fleet token list, fleet token revoke ID"
            )
        now = self._unix_s()
        expires = None if ttl_s is None else now + ttl_s
        info = TokenInfo(id=id, name=request.name, created_unix_s=now, expires_unix_s=expires)
        value = frames.pack(StoredToken(info=info, secret_sha256=request.secret_sha256))
        try:
            await self._js.publish(
                _subject(tenant, id), value, expect_last_subject_seq=0, ttl_s=None if ttl_s is None else ttl_s + SHOWN_S
            )
        except WrongSequence:
            found = await self._js.kv_get(BUCKET_TOKENS, f"{tenant}.{id}")
            if found is None or not hmac.compare_digest(_read(found[0]).secret_sha256, request.secret_sha256):
                raise Refused(f"there is a token {id} already", hint="make another: fleet token create") from None
            info = _read(found[0]).info  # asked again because the answer got lost
        return TokenReply(tokens=[info])

    async def _revoke(self, tenant: str, id: str) -> TokenReply:
        found = await self._js.kv_get(BUCKET_TOKENS, f"{tenant}.{id}")
        # Purged, not deleted: no marker of it stays for ever.
        if found is None or not await self._js.purge(f"KV_{BUCKET_TOKENS}", _subject(tenant, id)):
            raise Refused(f"there is no token {id}", hint="see: fleet token list")
        return TokenReply(tokens=[_read(found[0]).info])

    async def _check(self, tenant: str, id: str, secret_sha256: str) -> TokenReply:
        found = await self._js.kv_get(BUCKET_TOKENS, f"{tenant}.{id}")
        stored = StoredToken(info=TokenInfo(id=id), secret_sha256=NO_SECRET) if found is None else _read(found[0])
        same = hmac.compare_digest(stored.secret_sha256, secret_sha256)
        expires = stored.info.expires_unix_s
        valid = same and found is not None and (expires is None or self._unix_s() < expires)
        return TokenReply(valid=valid, tokens=[stored.info] if valid else [])


def _subject(tenant: str, id: str) -> str:
    return f"$KV.{BUCKET_TOKENS}.{tenant}.{id}"


def _read(value: bytes) -> StoredToken:
    return frames.unpack(value, StoredToken)[0]
