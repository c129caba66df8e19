"""uvicorn's HTTP protocol with limits on what a connection may take: size and time of headers, time to read an answer.

uvicorn bounds none of these with httptools: a connection that sends its headers slowly, or without end, would stay.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fnplatform.gateway.bounds import CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_S
from fnplatform.gateway.problems import MEDIA_TYPE, HttpProblem, dumps

WRITE_S = 60.0
"""A client that takes nothing of its answer for this long is cut off."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._turns = 0
        """How often a head or a message was complete."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection: it has HEADER_S for its first request."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            self._refuse(HttpProblem(503, "busy", "there are too many connections"))
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        if self.transport.is_closing():
            return
        turns = self._turns
        super().data_received(data)
        # Else most of it was something else; what of it belongs to the next head is bounded by one read.
        if turns == self._turns and self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEADER_BYTES_MAX:
                self._refuse_head()
            elif self._head_timer is None:
                self._expect_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """Its headers are here."""
        self._in_head = False
        self._turns += 1
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEADER_BYTES_MAX:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next one begins with a head again."""
        self._in_head = True
        self._turns += 1
        self._head_bytes = 0
        if self.cycle is not None:
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Of a request that was taken."""
        if self.cycle is not None:
            super().on_body(body)

    def pause_writing(self) -> None:
        """The client doesn't take what it asked for."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It goes on."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """What was sent is no HTTP."""
        self._refuse(HttpProblem(400, "bad_http", "this is no HTTP request"))

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEADER_S, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # It is still being answered; what comes behind it waits.
        if self._head_bytes:
            self._refuse(HttpProblem(408, "too_slow", f"the headers did not arrive within {HEADER_S:.0f} s"))
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        self._refuse(HttpProblem(431, "headers_too_large", f"the headers are larger than {HEADER_BYTES_MAX} bytes"))

    def _refuse(self, problem: HttpProblem) -> None:
        """Answer by hand and close: there is no request that could be answered otherwise."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = dumps(problem.document())
            head = {
                **problem.headers,
                "content-type": MEDIA_TYPE,
                "content-length": str(len(body)),
                "connection": "close",
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            self.transport.write(STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + body)
        self._stop_timers()
        self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None
