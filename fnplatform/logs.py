"""What functions printed: stored lines, and live ones pushed to whoever follows.

Stored messages of LOGS are packed LogEntry on ``log.<tenant>.<app>.<function>.<call>``. Following listens to the same
subjects as they are published, so it costs the writer nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import anyio

from fleet.protocol import frames, limits
from fleet.protocol.errors import Refused
from fleet.protocol.messages import LogEntry, LogsRequest
from fleet.protocol.subjects import LOG, STREAM_LOGS, is_inbox_of
from fleet.transport import Bus, Request, Responder
from fnplatform.frontdoor.records import newest_first
from fnplatform.jetstream import JetStream, StoredMessage

FOLLOWERS_MAX = 256
HELD_MAX = 1000
REPLY_BYTES = 6 * limits.MIB


class _Follower:
    """One inbox that receives live lines. ``held``: what came before the stored lines were answered."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.held: list[bytes] | None = []


class Logs:
    """Stored and live lines of all tenants."""

    def __init__(
        self, bus: Bus, js: JetStream, responder: Responder, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._bus = bus
        self._js = js
        self._responder = responder
        self._now_s = now_s
        self._followers: dict[str, _Follower] = {}

    async def stored(self, tenant: str, request: LogsRequest) -> list[LogEntry]:
        """The newest ``limit`` batches of lines, oldest first, as far as a reply holds them."""
        room = REPLY_BYTES

        def accept(message: StoredMessage) -> LogEntry | None:
            nonlocal room
            if datetime.fromisoformat(message.time).timestamp() < request.since_unix_s:
                return None
            room -= len(message.data)
            return frames.unpack(message.data, LogEntry)[0] if room >= 0 else None

        found = await newest_first(self._js, STREAM_LOGS, _filter(tenant, request), accept, request.limit)
        return found[::-1]

    async def follow(self, tenant: str, request: LogsRequest, *, started: Callable[[], None]) -> None:
        """Push live lines to ``request.follow`` until LOG_FOLLOW_S after the last ``prolong`` of it."""
        inbox = request.follow
        assert inbox is not None
        if len(self._followers) >= FOLLOWERS_MAX:
            raise Refused(f"{FOLLOWERS_MAX} are following logs already", hint="ask without following")
        follower = self._followers[inbox] = _Follower(self._now_s() + limits.LOG_FOLLOW_S)

        def on_line(message: Request) -> None:
            if follower.held is None:
                self._responder.push(inbox, "dev", tenant, message.data)
            elif len(follower.held) < HELD_MAX:
                follower.held.append(bytes(message.data))

        listening = await self._bus.listen(_filter(tenant, request), on_line)
        started()
        try:
            while (left_s := follower.until_s - self._now_s()) > 0:
                await anyio.sleep(left_s)
        finally:
            del self._followers[inbox]
            with anyio.CancelScope(shield=True):
                await listening.close()

    def prolong(self, tenant: str, inbox: str) -> bool:
        """Follow on for another while; False if nobody follows there. Refused for an inbox of somebody else."""
        if not is_inbox_of(inbox, "dev", tenant):
            raise Refused("live lines go to an inbox of the asker only")
        follower = self._followers.get(inbox)
        if follower is None:
            return False
        follower.until_s = self._now_s() + limits.LOG_FOLLOW_S
        return True

    def release(self, tenant: str, inbox: str, stored: list[LogEntry]) -> None:
        """The stored lines were answered: push what came meanwhile and isn't among them, and from now on all."""
        follower = self._followers.get(inbox)
        if follower is None or follower.held is None:
            return
        known = {frames.pack(entry) for entry in stored}
        for data in follower.held:
            if data not in known:
                self._responder.push(inbox, "dev", tenant, data)
        follower.held = None


def _filter(tenant: str, request: LogsRequest) -> str:
    wanted = (("app", request.app), ("function", request.function), ("call", request.call))
    return LOG.wildcard(tenant=tenant, **{key: value for key, value in wanted if value is not None})
