"""The only wrapper of nats-py: one connection (``Bus``) and the rule for answering (``Responder``).

JetStream is for the control plane alone and lives in ``fnplatform/jetstream.py``, built on ``Bus``.

Why not plain nats-py: a message there crosses a queue and a task of its subscription before a handler sees it, and a
request makes a subscription future and a timer task. On this path each costs more than the handler's own work, so
``Bus`` hands messages to synchronous handlers straight from the socket (``_receive.py``) and keeps one map of open
requests with one sweep for their time limits. It overrides two private methods of nats-py (``_read_loop``,
``_process_msg``), which is pinned to 2.16.

Errors: whoever can't be reached is a FleetUnavailable, at once when disconnected. Nothing is buffered while
disconnected: who retries must know what may have happened.
Shutdown: ``close()`` flushes and closes within a time limit. nats-py's ``drain()`` swallows cancellation: not used.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import anyio
import nats.errors

from fleet._receive import Bytes, Client, Handler
from fleet._receive import Request as Request
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.limits import CONNECT_S, REQUEST_S
from fleet.protocol.subjects import inbox_prefix, is_event_reply, is_inbox_of

log = logging.getLogger("fleet.transport")

SWEEP_S = 0.05
PENDING_BYTES_MAX = 64 << 20
RECONNECT_WAIT_S = 0.05
CLOSE_S = 1.0

Payload = Bytes | Sequence[Bytes]
"""What is sent: bytes, or several that belong together. They must not change before they are on their way."""
OnReply = Callable[[Request | FleetUnavailable], None]
Hook = Callable[[], None]


class Subscription:
    """A running ``listen``."""

    def __init__(self, client: Client, sid: int) -> None:
        self._client = client
        self._sid = sid

    async def close(self) -> None:
        """Stop receiving; never raises. What the broker sent before it knew is still handled."""
        if self._client.is_connected:
            try:
                self._client._pending.append(f"UNSUB {self._sid}\r\n".encode())
                await _round_trip(self._client, CLOSE_S)
            except (nats.errors.Error, OSError):
                log.debug("unsubscribe of a closed connection")
        self._client._subs.pop(self._sid, None)
        self._client.direct.pop(self._sid, None)


async def _round_trip(client: Client, timeout_s: float) -> None:
    """Until the broker has handled all that was published before.

    nats-py's own ``flush`` writes its PING straight to the socket, in front of what is still pending.
    """
    await client._flush_pending(force_flush=True)
    await client.flush(timeout=max(1, int(timeout_s)))


class _Open:
    """One open request."""

    __slots__ = ("deadline_s", "on_reply")

    def __init__(self, on_reply: OnReply, deadline_s: float) -> None:
        self.on_reply = on_reply
        self.deadline_s = deadline_s


class Bus:
    """One connection to the broker. Make it with ``await Bus.connect(...)``, in the event loop that uses it."""

    def __init__(self, client: Client, url: str, kind: str, name: str) -> None:
        self._client = client
        self.url = url
        self.kind = kind
        self.name = name
        self._open: dict[str, _Open] = {}
        self._next = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.inbox = ""
        self.reconnects = 0
        """How often the connection broke and came back."""
        self._replies = ""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        kind: Literal["dev", "car", "control"],
        name: str,
        creds: str | None = None,
        user: str | None = None,
        password: str | None = None,
        on_reconnect: Hook | None = None,
        on_disconnect: Hook | None = None,
        connect_s: float = CONNECT_S,
    ) -> Bus:
        """Connect, or FleetUnavailable within ``connect_s``. Later breaks reconnect by themselves, for ever."""
        client = Client()
        bus = cls(client, url, kind, name)
        last_error: list[Exception] = []

        async def on_error(error: Exception) -> None:
            last_error[:] = [error]
            log.debug("nats: %r", error)

        async def disconnected() -> None:
            bus._fail_open("the connection to the broker broke")
            client._pending = []
            client._pending_data_size = 0
            if on_disconnect is not None:
                on_disconnect()

        async def reconnected() -> None:
            bus.reconnects += 1
            if on_reconnect is not None:
                on_reconnect()

        prefix = inbox_prefix(kind, name)
        # nats-py says int, and waits with asyncio.sleep: a fraction of a second is what we want.
        options: dict[str, Any] = {"reconnect_time_wait": RECONNECT_WAIT_S}
        if creds:
            options["user_credentials"] = creds
        if user is not None:
            options.update(user=user, password=password)
        connected = False
        try:
            with anyio.move_on_after(connect_s):
                await client.connect(
                    url, name=f"fleet-{kind}-{name}", error_cb=on_error, disconnected_cb=disconnected,
                    reconnected_cb=reconnected, connect_timeout=max(1, int(connect_s)),
                    max_reconnect_attempts=-1, ping_interval=10, max_outstanding_pings=2, inbox_prefix=prefix,
                    pending_size=PENDING_BYTES_MAX, skip_subject_validation=True, dont_randomize=True, **options,
                )  # fmt: skip
                connected = client.is_connected
        except (OSError, nats.errors.Error) as error:
            last_error[:] = [error]
        if not connected:
            why = str(last_error[0]) if last_error else "no answer"
            with anyio.move_on_after(CLOSE_S, shield=True):
                await client.close()
            if "authorization" in why.lower():
                raise FleetUnavailable(
                    f"the broker at {url} refused the credentials", hint="check FLEET_CREDS, or the user in FLEET_URL"
                )
            raise FleetUnavailable(f"nobody answers at {url}: {why or 'no answer'}")
        bus.inbox = client.new_inbox()
        bus._replies = f"{bus.inbox}.r."
        await bus.listen(f"{bus._replies}*", bus._on_reply)
        return bus

    @property
    def connected(self) -> bool:
        """Whether the connection stands right now."""
        return bool(self._client.is_connected)

    @property
    def server_version(self) -> str:
        """Version of the nats-server, as it told at connect."""
        return str(self._client._server_info.get("version", ""))

    @property
    def payload_bytes_max(self) -> int:
        """The broker's max_payload."""
        return int(self._client.max_payload)

    def publish(
        self, subject: str, data: Payload = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send, without waiting. FleetUnavailable when not connected; nothing is kept for later."""
        client = self._client
        if not client.is_connected:
            raise FleetUnavailable(f"no connection to the broker at {self.url}")
        assert "\r" not in subject and " " not in subject and "\r" not in reply and " " not in reply, (subject, reply)
        pieces = (data,) if isinstance(data, bytes | bytearray | memoryview) else data
        size_bytes = sum(map(len, pieces))
        if headers:
            head = "NATS/1.0\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers.items()) + "\r\n"
            raw = head.encode()
            command = f"HPUB {subject} {reply} {len(raw)} {len(raw) + size_bytes}\r\n".encode() + raw
        else:
            command = f"PUB {subject} {reply} {size_bytes}\r\n".encode()
        if size_bytes < 16384:
            client.send([b"".join((command, *pieces, b"\r\n"))], len(command) + size_bytes + 2)
        else:  # no copy of a large payload
            client.send([command, *pieces, b"\r\n"], len(command) + size_bytes + 2)

    def ask(
        self,
        subject: str,
        data: Payload,
        on_reply: OnReply,
        *,
        timeout_s: float = REQUEST_S,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a request; ``on_reply`` is called once, with the reply or FleetUnavailable. Never raises by itself."""
        self._next += 1
        token = str(self._next)
        self._open[token] = _Open(on_reply, time.monotonic() + timeout_s)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)
        try:
            self.publish(subject, data, reply=self._replies + token, headers=headers)
        except FleetUnavailable as error:
            self._open.pop(token)
            on_reply(error)

    async def request(
        self, subject: str, data: Payload = b"", *, timeout_s: float = REQUEST_S, headers: dict[str, str] | None = None
    ) -> Request:
        """The reply; FleetUnavailable on time-out, broken connection, or when nobody listens (``no_responders``)."""
        future: asyncio.Future[Request] = self._loop.create_future()

        def on_reply(got: Request | FleetUnavailable) -> None:
            if future.done():
                return
            if isinstance(got, Request):
                future.set_result(got)
            else:
                future.set_exception(got)

        self.ask(subject, data, on_reply, timeout_s=timeout_s, headers=headers)
        return await future

    async def listen(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call ``handler`` for every message of ``subject`` until closed. It runs in the event loop: it must not block."""
        subscription = await self._client.subscribe(subject, queue=queue)
        self._client.direct[subscription._id] = handler
        return Subscription(self._client, subscription._id)

    async def flush(self, timeout_s: float = REQUEST_S) -> bool:
        """Wait until the broker has everything that was published; whether it did in time."""
        with anyio.move_on_after(timeout_s) as scope:
            try:
                await _round_trip(self._client, timeout_s)
            except (nats.errors.Error, OSError):
                return False
        return not scope.cancelled_caught

    async def close(self) -> None:
        """Send what is pending and close, within CLOSE_S."""
        with anyio.move_on_after(CLOSE_S, shield=True):
            if self._client.is_connected:
                await self.flush(CLOSE_S / 2)
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._client.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._fail_open("the connection was closed")

    def _on_reply(self, request: Request) -> None:
        found = self._open.pop(request.subject.rpartition(".")[2], None)
        if found is None:
            return
        if request.headers and request.status == 503:
            found.on_reply(FleetUnavailable("nobody listens there", no_responders=True))
        else:
            found.on_reply(request)

    def _sweep(self) -> None:
        now_s = time.monotonic()
        late = [token for token, found in self._open.items() if found.deadline_s <= now_s]
        # Re-arm first: a callback that raises must not end the sweeping.
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep) if len(late) < len(self._open) else None
        for token in late:
            found = self._open.pop(token, None)
            if found is not None:
                found.on_reply(FleetUnavailable(f"no answer in time from the fleet at {self.url}", timed_out=True))

    def _fail_open(self, why: str) -> None:
        found, self._open = self._open, {}
        for request in found.values():
            request.on_reply(FleetUnavailable(why))


class Responder:
    """Answers principals: the only place that replies to them, and only into their own inbox.

    The connection it is given may publish ``_INBOX_*`` and ``fleet.to.>`` alone, where the broker is ours.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.dropped = 0
        """Replies not sent, because the reply subject was not an inbox of whom the request's subject names."""

    def respond(self, request: Request, kind: Literal["dev", "car"], name: str, data: Payload) -> bool:
        """Answer ``request`` of the principal (kind, name); False if it was dropped."""
        return self.push(request.reply, kind, name, data)

    def respond_to_control(self, request: Request, data: Payload) -> bool:
        """Answer another control-plane process. On a NATS of somebody else's anybody may pose as one."""
        return self._send(request.reply, is_inbox_of(request.reply, "control", None), data)

    def answer_event(self, request: Request, tenant: str, data: Payload) -> bool:
        """Answer who published an event of ``tenant``, with whatever NATS library; False if it was dropped."""
        return self._send(request.reply, is_event_reply(request.reply, tenant), data)

    def push(self, subject: str, kind: Literal["dev", "car"], name: str, data: Payload) -> bool:
        """Send to an inbox that was stored or asked for; False if it isn't one of the principal's own."""
        return self._send(subject, is_inbox_of(subject, kind, name), data)

    def _send(self, subject: str, allowed: bool, data: Payload) -> bool:
        if not allowed:
            if subject:  # a bare publish wants no answer
                self.dropped += 1
            return False
        try:
            self._bus.publish(subject, data)
        except FleetUnavailable:
            return False
        return True
