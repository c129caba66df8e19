"""The broker's socket: large payloads without a copy, messages without a task in between, in and out.

nats-py reads into a StreamReader, from there into its parser's buffer, and cuts each message out of that: five copies
of a large payload, each into fresh memory. ``Receiver`` replaces both once a connection stands. Control lines and small
messages are read into one buffer that stays; a payload of LARGE_BYTES or more that isn't there yet gets memory of its
own, which the socket is read into. Messages are handed over at once; all other lines wait for nats-py's task.

Private parts of nats-py 2.16 (which is pinned) and asyncio that it touches: ``TcpTransport._io_reader``,
``TcpTransport._io_writer``, ``StreamReader._eof``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import nats.aio.client
import nats.errors
from nats.aio.transport import TcpTransport

log = logging.getLogger("fleet.transport")

BUFFER_BYTES = 256 * 1024
LARGE_BYTES = 32 * 1024
LINE_BYTES_MAX = 64 * 1024
"""A control line, or the headers of one message. The broker's own INFO grows with its cluster."""

assert BUFFER_BYTES >= 2 * (LINE_BYTES_MAX + LARGE_BYTES + 4), "what is incomplete fits into half of the buffer"

Bytes = bytes | bytearray | memoryview
OnMessage = Callable[[int, bytes, bytes, bytes | bytearray, bytes], None]
"""Takes subscription, subject, reply subject, payload and headers."""


class _Head:
    """A message whose control line was read: ``header_bytes`` and then ``payload_bytes`` follow."""

    __slots__ = ("header_bytes", "headers", "payload_bytes", "reply", "sid", "subject")

    def __init__(self, words: list[bytes]) -> None:
        try:
            with_headers = words[0] == b"HMSG"
            self.subject = words[1]
            self.sid = int(words[2])
            sizes = words[-2:] if with_headers else [b"0", words[-1]]
            self.header_bytes = int(sizes[0])
            self.payload_bytes = int(sizes[1]) - self.header_bytes
            self.reply = words[3] if len(words) == (6 if with_headers else 5) else b""
        except (IndexError, ValueError):
            raise nats.errors.ProtocolError("nats: malformed MSG") from None
        self.headers = b""
        if self.payload_bytes < 0:
            raise nats.errors.ProtocolError("nats: malformed MSG")


class Receiver(asyncio.BufferedProtocol):
    """The protocol of a connection that stands; made by ``take_over``."""

    def __init__(self, before: asyncio.Protocol, on_message: OnMessage) -> None:
        self._before = before
        """nats-py's protocol: it goes on to know when writing must wait, and when the connection has ended."""
        self._on_message = on_message
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._head: _Head | None = None
        self._payload: bytearray | None = None
        """Large, and being read into: ``_filled`` bytes are there."""
        self._filled = 0
        self._skip_bytes = 0
        """Of the line end behind a large payload."""
        self._lines: deque[bytes] = deque()
        self._error: Exception | None = None
        self._wake = asyncio.Event()
        self._stopped = False
        self._writer: asyncio.WriteTransport | None = None
        """None before it was taken over and after its end."""
        self._full = False
        """Too much waits to be written."""
        self._behind: list[Bytes] | None = None
        """Messages of this turn of the loop that aren't written yet; None: there was none in it."""

    @classmethod
    async def take_over(cls, transport: TcpTransport, on_message: OnMessage) -> Receiver:
        """Receive from now on what nats-py's ``transport`` would; first what it has read already."""
        reader, writer = cast("tuple[Any, Any]", (transport._io_reader, transport._io_writer))
        io = writer.transport
        io.pause_reading()
        receiver = cls(io.get_protocol(), on_message)
        io.set_protocol(receiver)
        ended, failure = reader._eof, reader.exception()
        reader.feed_eof()
        if failure is None:
            receiver._feed(await reader.read())  # never waits: the end was just fed
        if failure is not None or ended or io.is_closing():
            receiver._fail(failure or nats.errors.UnexpectedEOF())
        else:
            receiver._writer = io
        io.resume_reading()
        return receiver

    def send(self, pieces: list[Bytes]) -> bool:
        """Write without a task in between; False if that must wait for others to be written.

        The first message of a turn of the loop is written at once, so that its reader wakes up; those behind it together.
        """
        if self._writer is None or self._full:
            return False
        if self._behind is None:
            self._behind = []
            asyncio.get_running_loop().call_soon(self._send_behind)
            self._writer.writelines(pieces)
        else:
            self._behind += pieces
        return True

    def _send_behind(self) -> None:
        behind, self._behind = self._behind, None
        # Those that were taken are written even while others wait: they are older.
        if behind and self._writer is not None and not self._writer.is_closing():
            self._writer.writelines(behind)

    async def line(self) -> bytes:
        """The next line that is no message, without its end; raises why there is none: EOF, OSError, ProtocolError."""
        while not self._lines:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        return self._lines.popleft()

    def stop(self) -> None:
        """Hand over nothing more, and write nothing."""
        self._stopped = True
        self._writer = None

    # --- asyncio's side -----------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes belong."""
        if self._payload is not None:
            return memoryview(self._payload)[self._filled :]
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes are there now."""
        if self._stopped:
            return
        try:
            payload = self._payload
            if payload is None:
                self._end += nbytes
                self._parse()
                return
            self._filled += nbytes
            if self._filled == len(payload):
                self._payload = None
                self._deliver(payload)
                self._skip_bytes = 2
        except nats.errors.ProtocolError as error:
            self._stopped = True  # what follows can't be told apart
            self._start = self._end = 0
            self._fail(error)

    def eof_received(self) -> bool | None:
        """The broker sends no more."""
        self._fail(nats.errors.UnexpectedEOF())
        return self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._writer = None
        self._before.connection_lost(exc)
        self._fail(exc or nats.errors.UnexpectedEOF())

    def pause_writing(self) -> None:
        """Too much waits to be sent."""
        self._full = True
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        self._full = False
        self._before.resume_writing()

    def _get_close_waiter(self, stream: object) -> object:
        return cast(Any, self._before)._get_close_waiter(stream)

    # --- inside -------------------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake.set()

    def _feed(self, data: bytes) -> None:
        """Bytes that were read before."""
        view = memoryview(data)
        while len(view) and not self._stopped and self._error is None:
            target = self.get_buffer(-1)
            count = min(len(target), len(view))
            target[:count] = view[:count]
            self.buffer_updated(count)
            view = view[count:]

    def _parse(self) -> None:
        while not self._stopped and self._start < self._end:
            if self._skip_bytes:
                skipped = min(self._skip_bytes, self._end - self._start)
                self._start += skipped
                self._skip_bytes -= skipped
            elif not (self._read_line() if self._head is None else self._read_message(self._head)):
                break
        rest = self._end - self._start
        if not rest:
            self._start = self._end = 0
        elif self._end > BUFFER_BYTES // 2:
            assert rest <= BUFFER_BYTES // 2, "what is incomplete is small"
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest

    def _read_line(self) -> bool:
        """Whether there was a whole one."""
        end = self._buffer.find(b"\r\n", self._start, self._end)
        if end < 0:
            if self._end - self._start > LINE_BYTES_MAX:
                raise nats.errors.ProtocolError("nats: unknown protocol")
            return False
        line = bytes(self._view[self._start : end])
        self._start = end + 2
        if line.startswith((b"MSG ", b"HMSG ")):
            head = _Head(line.split())
            if head.header_bytes <= LINE_BYTES_MAX:
                self._head = head
            else:  # Anybody may send that: it costs the message, not the connection of whoever listens.
                log.warning(
                    "a message with %d bytes of headers on %r is skipped", head.header_bytes, head.subject[:100]
                )
                self._skip_bytes = head.header_bytes + head.payload_bytes + 2
        else:
            self._lines.append(line)
            self._wake.set()
        return True

    def _read_message(self, head: _Head) -> bool:
        """Whether it, or at least its headers and the beginning of a large payload, were there."""
        start, have = self._start + head.header_bytes, self._end - self._start - head.header_bytes
        if have >= head.payload_bytes + 2:
            head.headers = bytes(self._view[self._start : start])
            self._start = start + head.payload_bytes + 2
            self._deliver(bytes(self._view[start : start + head.payload_bytes]))
            return True
        if head.payload_bytes < LARGE_BYTES or have < 0:
            return False
        head.headers = bytes(self._view[self._start : start])
        count = min(have, head.payload_bytes)
        payload = bytearray(head.payload_bytes)
        payload[:count] = self._view[start : start + count]
        self._start = start + count
        if count < head.payload_bytes:
            self._payload, self._filled = payload, count
        else:
            self._skip_bytes = 2
            self._deliver(payload)
        return True

    def _deliver(self, payload: bytes | bytearray) -> None:
        head, self._head = self._head, None
        assert head is not None, "a payload belongs to a message"
        self._on_message(head.sid, head.subject, head.reply, payload, head.headers)


class Request:
    """One received message. ``headers``: the raw header block, empty if none. A large ``data`` is a bytearray."""

    __slots__ = ("data", "headers", "reply", "subject")

    def __init__(self, subject: str, data: bytes | bytearray, reply: str, headers: bytes = b"") -> None:
        self.subject = subject
        self.data = data
        self.reply = reply
        self.headers = headers

    @property
    def status(self) -> int:
        """Inline status of the server (404, 408, 503 ...), 0 if there is none."""
        if not self.headers.startswith(b"NATS/1.0 "):
            return 0
        return int(self.headers[9:12] or b"0")

    def header(self, name: str) -> str | None:
        """The value of one header."""
        wanted = name.lower().encode() + b":"
        for line in self.headers.split(b"\r\n"):
            if line.lower().startswith(wanted):
                return line[len(wanted) :].strip().decode()
        return None


Handler = Callable[[Request], None]


class Client(nats.aio.client.Client):
    """nats-py's client with messages of ``direct`` subscriptions handed over without queue and task."""

    def __init__(self) -> None:
        super().__init__()
        self.direct: dict[int, Handler] = {}
        self._receiver: Receiver | None = None

    async def _read_loop(self) -> None:
        """Until the connection ends. Messages don't come by here: ``Receiver`` hands them over by itself."""
        transport = self._transport
        if not isinstance(transport, TcpTransport):  # a web socket
            await super()._read_loop()
            return
        receiver = self._receiver = await Receiver.take_over(transport, self._on_message)
        try:
            while not (self.is_closed or self.is_reconnecting):
                await self._ps.parse(await receiver.line() + b"\r\n")
        except nats.errors.UnexpectedEOF as error:
            await self._error_cb(error)
            await self._process_op_err(error)
        except (nats.errors.ProtocolError, OSError) as error:
            await self._process_op_err(error)
        finally:
            receiver.stop()

    def send(self, pieces: list[Bytes], size_bytes: int) -> None:
        """Write what belongs together: at once, or behind what waits to be written already."""
        if not self._pending and self._receiver is not None and self._receiver.send(pieces):
            return
        self._pending += cast("list[bytes]", pieces)  # any buffer is written
        self._pending_data_size += size_bytes
        queue = self._flush_queue
        assert queue is not None, "connected"
        if queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if sid in self.direct:
            self._on_message(sid, subject, reply, data, headers or b"")
        else:
            await super()._process_msg(sid, subject, reply, data, headers)

    def _on_message(self, sid: int, subject: bytes, reply: bytes, data: bytes | bytearray, headers: bytes) -> None:
        handler = self.direct.get(sid)
        if handler is None:
            log.debug("a message of a subscription that has ended")
            return
        try:
            # Whoever publishes chooses both: what is no UTF-8 is no subject of ours either.
            named, answered = subject.decode(errors="backslashreplace"), reply.decode(errors="backslashreplace")
            handler(Request(named, data, answered, headers))
        except Exception:
            # A handler that raises is a bug of ours; it must not take the reader of everybody else down.
            log.exception("handler of %s failed", subject.decode(errors="replace"))
