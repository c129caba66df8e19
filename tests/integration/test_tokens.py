"""Bearer tokens: who they hold for, how long, and what is kept of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet import _tokens
from fleet.protocol.errors import Refused
from fleet.protocol.messages import TokenReply, TokenRequest
from fleet.protocol.subjects import ApiVerb
from fnplatform.frontdoor import tokens
from tests.integration.frontdoor_rig import Rig, with_rig

TENANT = "default"


async def ask(rig: Rig, tenant: str = TENANT, **fields: object) -> TokenReply:
    return (await rig.ask(ApiVerb.TOKEN, TokenRequest(**fields), TokenReply, tenant=tenant))[0]


async def create(rig: Rig, text: str, **more: object) -> TokenReply:
    made = _tokens.parse(text)
    return await ask(rig, action="create", id=made.id, secret_sha256=made.secret_sha256, **more)


async def valid(rig: Rig, text: str) -> bool:
    given = _tokens.parse(text)
    return (await ask(rig, action="check", id=given.id, secret_sha256=given.secret_sha256)).valid


def test_a_token_is_three_parts_and_nothing_else() -> None:
    text = _tokens.make("acme-1")
    parsed = _tokens.parse(text)
    assert text == f"flt_{parsed.tenant}.{parsed.id}.{parsed.secret}" and parsed.tenant == "acme-1"
    assert _tokens.make("acme-1") != text
    for bad in ("", "flt_", text[4:], text + "\n", text.replace(".", "", 1), "flt_a.b.short", f"{text}.x", text + "ü"):
        with pytest.raises(Refused) as caught:
            _tokens.parse(bad)
        assert not bad or bad not in str(caught.value), "it may be a secret"


def test_a_token_holds_for_its_secret_until_it_is_revoked(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        text, other = _tokens.make(TENANT), _tokens.make(TENANT)
        assert not await valid(rig, text)
        made = await create(rig, text, name="ci")
        assert made.error is None and made.tokens[0].name == "ci"
        assert await valid(rig, text) and not await valid(rig, other)
        given, stranger = _tokens.parse(text), _tokens.parse(other)
        assert not (await ask(rig, action="check", id=given.id, secret_sha256=stranger.secret_sha256)).valid
        assert not (await ask(rig, action="check", id=given.id)).valid, "no secret is no secret"
        assert not (await ask(rig, action="check", id="unknown", secret_sha256=tokens.NO_SECRET)).valid
        assert (await create(rig, text)).error is None, "the same again: its answer got lost"
        taken = await ask(rig, action="create", id=given.id, secret_sha256=stranger.secret_sha256)
        assert taken.error is not None and taken.error.code == Refused.code
        assert await valid(rig, text), "nobody takes it over"
        assert given.secret.encode() not in await everything_of(rig), "only a hash is kept"
        assert (await ask(rig, action="revoke", id=given.id)).error is None
        assert not await valid(rig, text) and (await ask(rig)).tokens == []
        assert (await ask(rig, action="revoke", id=given.id)).error is not None
        assert (await rig.js.stream_info("KV_tokens"))["state"]["messages"] == 0, "nothing of it stays"

    with_rig(tmp_path, test)


async def everything_of(rig: Rig) -> bytes:
    return b"".join(bytes(one.data) for one in await rig.js.get_range("KV_tokens", ">"))


def test_tokens_expire_are_counted_and_belong_to_a_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        now = 1000.0
        store = tokens.Tokens(rig.js, unix_s=lambda: now)
        made = _tokens.parse(_tokens.make(TENANT))
        request = TokenRequest(action="create", id=made.id, secret_sha256=made.secret_sha256, ttl_s=60.0)
        check = TokenRequest(action="check", id=made.id, secret_sha256=made.secret_sha256)
        await store.handle("acme", request, ())
        assert (await store.handle("acme", check, ())).valid
        assert not (await store.handle("acme2", check, ())).valid and not (await store.handle("ac", check, ())).valid
        assert (await store.handle("acme2", TokenRequest(), ())).tokens == []
        now = 1060.0
        assert not (await store.handle("acme", check, ())).valid
        assert (await store.handle("acme", TokenRequest(), ())).tokens[0].expires_unix_s == 1060.0
        monkeypatch.setattr(tokens, "TOKENS_MAX", 3)
        for _ in range(3):
            assert (await create(rig, _tokens.make(TENANT))).error is None
        full = (await create(rig, _tokens.make(TENANT))).error
        assert full is not None and full.code == "queue_full" and "revoke" in full.hint
        for wrong in ({"action": "create", "id": "x"}, {"action": "check"}, {"action": "revoke"},
                      {"action": "create", "id": "x", "secret_sha256": "0" * 64, "ttl_s": 1e300}):  # fmt: skip
            refused = (await ask(rig, **wrong)).error
            assert refused is not None and refused.code == "invalid_option" and refused.hint

    with_rig(tmp_path, test)


def test_tokens_outlive_the_broker(tmp_path: Path) -> None:
    text = _tokens.make(TENANT)

    async def before(rig: Rig) -> None:
        assert (await create(rig, text)).error is None

    async def after(rig: Rig) -> None:
        assert await valid(rig, text)

    with_rig(tmp_path, before)
    with_rig(tmp_path, after)
