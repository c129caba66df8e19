"""What is deployed, and what functions printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError
from fleet.protocol.limits import LOG_FOLLOW_S
from fleet.protocol.messages import FunctionInfo, FunctionsReply, FunctionsRequest, LogEntry, LogsReply, LogsRequest
from fleet.protocol.subjects import ApiVerb
from fleet.protocol.units import parse_seconds
from fleet.transport import Request as BusRequest
from fleet.transport import Subscription
from fnplatform.gateway import sse
from fnplatform.gateway.call_routes import JSON, TOKEN, Name
from fnplatform.gateway.core import Gateway
from fnplatform.gateway.openapi import SSE_EVENT, problems
from fnplatform.gateway.problems import dumps, problem_of
from fnplatform.gateway.schemas import schema_of
from fnplatform.gateway.tenants import Tenant

HELD_MAX = 1000
SINCE_S_MAX = 366 * 24 * 3600.0
NEVER_UNIX_S = 1e12
OptionalName = Annotated[str | None, Query(pattern=TOKEN)]


class AppView(BaseModel):
    """An app: the number of the deploy that is live, and its functions."""

    app: str
    number: int
    functions: list[str]


class Apps(BaseModel):
    """Everything that is deployed."""

    apps: list[AppView]


class FunctionView(BaseModel):
    """A function as it is live."""

    app: str
    function: str
    version: str
    signature: str
    doc: str
    generator: bool = Field(description="Whether it is called with :stream instead of :call.")
    arguments: Any = Field(None, description="JSON Schema of the arguments by name; null where there is none.")
    why_not: str = Field("", description="Why it can't be called with JSON.")
    timeout_s: float
    queue_timeout_s: float | None
    triggers: list[dict[str, Any]]


class Functions(BaseModel):
    """The functions of an app."""

    functions: list[FunctionView]


class Line(BaseModel):
    """One line that a function printed."""

    time: str
    app: str
    function: str
    call: str
    item: int | None = Field(description="Of a call that is a chunk of a map, or of events: which item of it.")
    attempt: int
    car: str = Field(description="A pseudonym.")
    stream: str = Field(description="stdout or stderr")
    text: str


class Lines(BaseModel):
    """Lines, oldest first."""

    lines: list[Line]


def view_of(info: FunctionInfo) -> FunctionView:
    """A function for people and programs."""
    manifest = info.manifest
    return FunctionView(
        app=manifest.app, function=manifest.function, version=info.version, signature=manifest.signature,
        doc=manifest.doc, generator=manifest.yields, arguments=schema_of(manifest), why_not=manifest.json_why_not,
        timeout_s=manifest.program.timeout_s, queue_timeout_s=manifest.queue_timeout_s,
        triggers=[one.model_dump(mode="json") for one in manifest.triggers],
    )  # fmt: skip


def lines_of(entry: LogEntry) -> list[dict[str, Any]]:
    """The lines of one batch."""
    return [
        Line(
            time=datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z"), app=entry.app,
            function=entry.function, call=entry.call, item=item, attempt=attempt, car=entry.car, stream=stream, text=text,
        ).model_dump()
        for item, attempt, (unix_s, stream, text) in entry.by_item()
    ]  # fmt: skip


class Following:
    """Log lines as they come: ``entries`` gets the stored ones, then the live ones. Ends with the ``with``."""

    def __init__(self, tenant: Tenant, request: LogsRequest) -> None:
        self._tenant = tenant
        self._request = request.model_copy(update={"follow": tenant.new_inbox()})
        self._sink, self.entries = anyio.create_memory_object_stream[LogEntry](HELD_MAX)
        self._asked_s = 0.0
        self._listening: Subscription | None = None

    async def __aenter__(self) -> MemoryObjectReceiveStream[LogEntry]:
        assert self._request.follow is not None
        self._listening = await self._tenant.bus.listen(self._request.follow, self._on_push)
        for entry in (await self._tenant.ask(ApiVerb.LOGS, self._request, LogsReply)).entries:
            self._put(entry)
        self._asked_s = time.monotonic()
        return self.entries

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        with anyio.CancelScope(shield=True):
            await self._listening.close()
        self._sink.close()
        self.entries.close()

    def _on_push(self, message: BusRequest) -> None:
        try:
            self._put(frames.unpack(message.data, LogEntry)[0])
        except ProtocolError:
            pass  # not from our platform

    def _put(self, entry: LogEntry) -> None:
        try:
            self._sink.send_nowait(entry)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # A client that is too slow for what is printed misses some of it.

    async def prolong(self) -> None:
        """Called often enough, it goes on: also on a control plane that was started again."""
        if time.monotonic() - self._asked_s < LOG_FOLLOW_S / 2:
            return
        self._asked_s = time.monotonic()
        again = self._request.model_copy(update={"limit": 1, "since_unix_s": NEVER_UNIX_S})
        try:
            await self._tenant.ask(ApiVerb.LOGS, again, LogsReply)
        except FleetUnavailable:
            pass  # tried again in a while


def follow_lines(tenant: Tenant, request: LogsRequest) -> Callable[[sse.Sink], Coroutine[Any, Any, None]]:
    """Sends each line as an event, for ever."""

    async def produce(sink: sse.Sink) -> None:
        try:
            following = Following(tenant, request)
            async with following as entries:
                while True:
                    with anyio.move_on_after(LOG_FOLLOW_S / 4):
                        for line in lines_of(await entries.receive()):
                            await sink.send(sse.event("line", line))
                    await following.prolong()
        except FleetError as error:
            raise problem_of(error) from None

    return produce


def router(gateway: Gateway) -> APIRouter:
    """The routes of this file."""
    routes = APIRouter()

    @routes.get("/v1/apps", operation_id="listApps", tags=["apps"], response_class=Response,
                responses={200: {"description": "Every app.", "model": Apps}, **problems()})  # fmt: skip
    async def list_apps(request: Request) -> Response:
        """What is deployed."""
        async with gateway.tenant(request) as tenant:
            found = (await tenant.ask(ApiVerb.FUNCTIONS, FunctionsRequest(), FunctionsReply)).functions
        apps: dict[str, AppView] = {}
        for info in found:
            name = info.manifest.app
            apps.setdefault(name, AppView(app=name, number=info.app_number or 0, functions=[]))
            apps[name].functions.append(info.manifest.function)
        return Response(dumps(Apps(apps=list(apps.values())).model_dump()), 200, None, JSON)

    @routes.get("/v1/apps/{app}/functions", operation_id="listFunctions", tags=["apps"], response_class=Response,
                responses={200: {"description": "Its functions.", "model": Functions}, **problems(404)})  # fmt: skip
    async def list_functions(request: Request, app: Name) -> Response:
        """The functions of an app, with the JSON Schemas of their arguments."""
        async with gateway.tenant(request) as tenant:
            found = (await tenant.ask(ApiVerb.FUNCTIONS, FunctionsRequest(app=app), FunctionsReply)).functions
        return Response(dumps(Functions(functions=[view_of(info) for info in found]).model_dump()), 200, None, JSON)

    _add_logs(routes, gateway)
    return routes


def _add_logs(routes: APIRouter, gateway: Gateway) -> None:
    @routes.get(
        "/v1/logs", operation_id="getLogs", tags=["logs"], response_class=Response,
        responses={200: {"description": "Lines; with `follow` server-sent events `line`, each one line, without end.",
                         "content": {JSON: {"schema": {"$ref": "#/components/schemas/Lines"}},
                                     "text/event-stream": {"itemSchema": SSE_EVENT}}, "model": Lines},
                   **problems(400)},
    )  # fmt: skip
    async def get_logs(
        request: Request,
        app: OptionalName = None,
        function: OptionalName = None,
        call: OptionalName = None,
        since: Annotated[str, Query(description="How far back, such as `10m`; all that is kept if not given.")] = "",
        limit: Annotated[int, Query(ge=1, le=10_000, description="Batches of lines, the newest.")] = 1000,
        follow: Annotated[bool, Query(description="Go on with new lines.")] = False,
    ) -> Response:
        """What functions printed: of an app, a function, a call, or all."""
        since_unix_s = time.time() - parse_seconds(since, "since", 0.0, SINCE_S_MAX) if since else 0.0
        wanted = LogsRequest(app=app, function=function, call=call, since_unix_s=since_unix_s, limit=limit)
        async with AsyncExitStack() as stack:
            tenant = await stack.enter_async_context(gateway.tenant(request))
            if not follow:
                found = (await tenant.ask(ApiVerb.LOGS, wanted, LogsReply)).entries
                return Response(dumps({"lines": [one for entry in found for one in lines_of(entry)]}), 200, None, JSON)
            stack.enter_context(gateway.streaming())
            at_end = stack.pop_all().aclose
            return sse.Events(follow_lines(tenant, wanted), stopping=gateway.stopping, at_end=at_end)
