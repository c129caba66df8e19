"""What functions printed: stored lines, and live ones pushed to whoever follows.

Stored messages of LOGS are packed LogEntry on ``log.<tenant>.<app>.<function>.<call>``. Following listens to the same
subjects as they are published, so it costs the writer nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import anyio

from fleet.protocol import frames, limits
from fleet.protocol.errors import ProtocolError, Refused
from fleet.protocol.messages import LogEntry, LogsRequest
from fleet.protocol.subjects import LOG, STREAM_LOGS, is_inbox_of
from fleet.transport import Bus, Request, Responder
from fnplatform.frontdoor.records import SCAN_BYTES_MAX, newest_first
from fnplatform.jetstream import JetStream, StoredMessage

FOLLOWERS_MAX = 256
HELD_MAX = 1000
PAGE = 64
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
        """The newest ``limit`` batches of lines, oldest first, as far as a reply holds them.

        Those of one call, or since a time, are found wherever they lie. Of an app or function the newest 20,000 batches of
        anybody are looked through.
        """
        if request.since_unix_s > time.time():
            return []
        if request.call is not None or request.since_unix_s > 0:
            found = await self._forward(tenant, request)
            if found is not None:
                return found
        room = REPLY_BYTES

        def accept(message: StoredMessage) -> LogEntry | None:
            nonlocal room
            if _stored_unix_s(message) < request.since_unix_s:
                return None
            room -= len(message.data)
            return _entry(message) if room >= 0 else None

        newest = await newest_first(self._js, STREAM_LOGS, _filter(tenant, request), accept, request.limit)
        return _in_order(newest[::-1])

    async def _forward(self, tenant: str, request: LogsRequest) -> list[LogEntry] | None:
        """The same read from the oldest on; None where there is too much of it."""
        kept: deque[StoredMessage] = deque()
        kept_bytes = read_bytes = 0
        seq = 1
        start_time = None
        if request.since_unix_s > 0:
            start_time = datetime.fromtimestamp(request.since_unix_s, UTC).isoformat().replace("+00:00", "Z")
        subject = _filter(tenant, request)
        while page := await self._js.get_range(STREAM_LOGS, subject, seq=seq, start_time=start_time, limit=PAGE):
            for message in page:
                kept.append(message)
                kept_bytes += len(message.data)
                read_bytes += len(message.data)
            while kept_bytes > REPLY_BYTES or len(kept) > request.limit:
                kept_bytes -= len(kept.popleft().data)
            if read_bytes > SCAN_BYTES_MAX:
                return None
            seq, start_time = page[-1].seq + 1, None
        return _in_order(entry for entry in map(_entry, kept) if entry is not None)

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


def _entry(message: StoredMessage) -> LogEntry | None:
    try:
        return frames.unpack(message.data, LogEntry)[0]
    except ProtocolError:
        return None  # none of ours


def _in_order(entries: Iterable[LogEntry]) -> list[LogEntry]:
    """Each batch once, by the time of its first line: what a car had to send again came twice, or late."""
    found = {entry.model_dump_json(): entry for entry in entries}
    return sorted(found.values(), key=lambda entry: entry.lines[0][0] if entry.lines else 0.0)


def _stored_unix_s(message: StoredMessage) -> float:
    return datetime.fromisoformat(message.time).timestamp()


def _filter(tenant: str, request: LogsRequest) -> str:
    wanted = (("app", request.app), ("function", request.function), ("call", request.call))
    return LOG.wildcard(tenant=tenant, **{key: value for key, value in wanted if value is not None})
