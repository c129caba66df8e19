"""Who leads: renewals against the leader's own clock."""

from __future__ import annotations

from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from fleet.protocol.limits import LEADER_RENEW_S, LEADER_TTL_S
from fnplatform.dispatcher.leader import Leadership
from fnplatform.jetstream import JetStream


class Key:
    """The partition's key at a broker that always says yes; each renewal takes the next of ``takes_s``."""

    def __init__(self, *takes_s: float) -> None:
        self.now_s = 100.0
        self.takes_s = list(takes_s)
        self.renewals = 0

    async def kv_create(self, *_: object) -> int:
        return 1

    async def kv_update(self, *_: object) -> int:
        if not self.takes_s:
            await anyio.sleep_forever()
        self.now_s += self.takes_s.pop(0)
        self.renewals += 1
        return 1 + self.renewals


def leadership(key: Key, monkeypatch: pytest.MonkeyPatch) -> Leadership:
    async def sleep(for_s: float) -> None:
        key.now_s += for_s

    monkeypatch.setattr("fnplatform.dispatcher.leader.anyio.sleep", sleep)
    return Leadership(cast(JetStream, cast(Any, key)), "0", "me", now_s=lambda: key.now_s)


def test_a_renewal_that_is_heard_of_too_late_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile somebody may have asked ``holds`` and ended the term: who kept the key then would lead no more, for ever."""

    async def test() -> None:
        key = Key(0.5, LEADER_TTL_S - LEADER_RENEW_S - 0.6, 0.1)
        mine = leadership(key, monkeypatch)
        await mine.acquire()
        with anyio.fail_after(5):
            await mine.keep()
        assert key.renewals == 2
        assert not mine.holds(key.now_s)

    anyio.run(test)


def test_a_slow_renewal_in_time_counts_from_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        key = Key(LEADER_TTL_S - LEADER_RENEW_S - 0.5)
        mine = leadership(key, monkeypatch)
        await mine.acquire()
        asked_s = key.now_s + LEADER_RENEW_S
        async with anyio.create_task_group() as group:
            group.start_soon(mine.keep)
            while not key.renewals:
                await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            assert mine.holds(asked_s + LEADER_TTL_S - 0.3) and not mine.holds(asked_s + LEADER_TTL_S)
            group.cancel_scope.cancel()

    anyio.run(test)
