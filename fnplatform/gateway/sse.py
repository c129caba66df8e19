"""Server-sent events: a response that ends when its client goes, and never stays silent for long."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fnplatform.gateway.bounds import PING_S
from fnplatform.gateway.problems import HttpProblem, dumps

MEDIA_TYPE = "text/event-stream"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
Sink = MemoryObjectSendStream[bytes]


def event(name: str, value: Any, number: int | None = None) -> bytes:
    """One event with a JSON value."""
    return event_of(name, dumps(value), number)


def event_of(name: str, data: bytes, number: int | None = None) -> bytes:
    """One event whose data is JSON already."""
    return format_sse_event(data_str=data.decode(), event=name, id=None if number is None else str(number))


def problem_event(problem: HttpProblem) -> bytes:
    """What ended a stream."""
    return event("error", problem.document())


class Events(Response):
    """Runs ``produce(sink)`` and sends what it puts there; cancels it when the client is gone.

    ``stopping``: the process ends, so the stream does. ``at_end`` runs in any case, last.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        produce: Callable[[Sink], Coroutine[Any, Any, None]],
        *,
        stopping: anyio.Event,
        at_end: Callable[[], Coroutine[Any, Any, None]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(None, headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._produce = produce
        self._stopping = stopping
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        gone = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with anyio.create_task_group() as group:

                async def until_gone() -> None:
                    nonlocal gone
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    gone = True
                    group.cancel_scope.cancel()

                async def until_stopping() -> None:
                    await self._stopping.wait()
                    group.cancel_scope.cancel()

                group.start_soon(until_gone)
                group.start_soon(until_stopping)
                await self._pass_on(send)
                group.cancel_scope.cancel()
            if not gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if self._at_end is not None:
                await self._at_end()

    async def _pass_on(self, send: Send) -> None:
        sink, source = anyio.create_memory_object_stream[bytes](0)
        async with anyio.create_task_group() as group, source:
            group.start_soon(self._run, sink)
            while True:
                data = KEEPALIVE_COMMENT
                with anyio.move_on_after(PING_S):
                    try:
                        data = await source.receive()
                    except anyio.EndOfStream:
                        return
                await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _run(self, sink: Sink) -> None:
        with sink:
            try:
                await self._produce(sink)
            except HttpProblem as problem:
                await sink.send(problem_event(problem))
