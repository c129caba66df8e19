"""Functions that answer HTTP themselves: ``/u/{tenant}{path}``, by the ``fleet.http`` triggers of what is live.

Open to everybody, as webhooks must be: a function that wants to know who asks looks at the request's headers. What a
function raises is told to its owner alone (a token of the tenant, or an open gateway); others learn the id of the call.
Nobody can ask for the call later, so it is cancelled when the client goes or the time is up.

Which routes there are is asked with every request; the answer is "unchanged" nearly always, and costs one read.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fleet._event import BINARY, TEXT, Event, HttpRequest, emits_of, now_text, pack_call
from fleet._event import Response as FunctionResponse
from fleet.protocol.codec import ExceptionData
from fleet.protocol.errors import CallCancelled, FleetError
from fleet.protocol.ids import is_token, new_call_id
from fleet.protocol.messages import FunctionsReply, FunctionsRequest
from fleet.protocol.subjects import ApiVerb
from fnplatform.gateway import calls
from fnplatform.gateway.bounds import RESULT_BYTES_MAX, TENANTS_MAX
from fnplatform.gateway.call_routes import JSON, problem_of_outcome, wait_or_gone
from fnplatform.gateway.core import Gateway
from fnplatform.gateway.decoding import to_json
from fnplatform.gateway.json_bodies import read_body
from fnplatform.gateway.matching import Match, Missed, Route, match, routes_of
from fnplatform.gateway.problems import HttpProblem, dumps, problem_of, raised_problem
from fnplatform.gateway.tenants import Tenant, too_large

PREFIX = "/u/"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
TYPE = "fleet.http.request"
TEXT_UTF8 = f"{TEXT}; charset=utf-8"
_OURS = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "content-length", "content-type", "date", "server", "fleet-call-id",
    "strict-transport-security",
))  # fmt: skip
"""Of one connection or of this gateway: a function has no say in them."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}\Z")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8192}\Z")
_HEADERS_MAX = 100


class LiveRoutes:
    """The routes of each tenant as last heard, with the revision that tells whether they still are."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, list[Route]]] = OrderedDict()

    async def of(self, tenant: Tenant) -> list[Route]:
        """What is live right now."""
        revision, routes = self._known.get(tenant.name, (0, []))
        reply = await tenant.ask(ApiVerb.FUNCTIONS, FunctionsRequest(http=True, revision=revision), FunctionsReply)
        if not reply.unchanged:
            routes = routes_of(reply.functions)
            if reply.revision:
                self._known[tenant.name] = (reply.revision, routes)
                if len(self._known) > TENANTS_MAX:
                    self._known.popitem(last=False)
        tenant.known = tenant.known or bool(routes)
        return routes


def router(gateway: Gateway) -> APIRouter:
    """The one route of this file, for all methods."""
    routes = APIRouter()
    live = LiveRoutes()

    @routes.api_route("/u/{rest:path}", methods=METHODS, include_in_schema=False)
    async def user_route(request: Request) -> Response:
        raw = request.scope.get("raw_path", request.scope["path"].encode()).decode("latin-1")
        name, slash, rest = raw.removeprefix(PREFIX).partition("/")
        if not is_token(name):
            raise HttpProblem(404, "no_route", "no function answers here")
        try:
            async with gateway.pool.use(name) as tenant:
                found = match(await live.of(tenant), request.method, slash + rest)
                if isinstance(found, Missed):
                    raise _missed(found, request.method)
                return await _answered(gateway, tenant, request, found, raw)
        except FleetError as error:  # It may name the broker, which is nobody's business here.
            raise _told(problem_of(error), owner=gateway.settings.open_to_all) from None

    return routes


def _missed(missed: Missed, method: str) -> HttpProblem:
    if not missed.allowed:
        return HttpProblem(404, "no_route", "no function answers here")
    allowed = ", ".join(missed.allowed)
    return HttpProblem(
        405, "method_not_allowed", f"{method} is not answered here, {allowed} is", headers={"allow": allowed}
    )


async def _answered(gateway: Gateway, tenant: Tenant, request: Request, found: Match, raw: str) -> Response:
    body = await read_body(request)
    info, call = found.route.info, new_call_id()
    event = event_of(call, request, body, found.path_params, raw)
    payload = pack_call(event if info.manifest.takes_event else None)
    ticket = calls.submit(tenant, calls.ticket_of(info, payload, call))
    limit_s = calls.patience_s(info.manifest, gateway.settings.call_s_max)
    owner = await gateway.authority.is_owner(request, tenant.name)
    if not await wait_or_gone(request, tenant, ticket, limit_s, cancels=True):
        await calls.cancel_quietly(tenant, ticket)
        raise HttpProblem(504, "too_slow", f"the function did not answer within {limit_s:g} s", call=call)
    if ticket.error is not None:
        raise _told(problem_of(ticket.error, call), owner=owner)
    outcome = calls.outcome_of(ticket)
    if isinstance(outcome, ExceptionData):
        raise raised_problem(outcome, call, told=owner)
    if isinstance(outcome, CallCancelled):
        raise HttpProblem(503, "call_cancelled", "the call was cancelled", call=call)
    if not isinstance(outcome, calls.Value):
        raise _told(problem_of_outcome(outcome, call), owner=owner)
    try:
        if len(outcome.data) > RESULT_BYTES_MAX:
            raise too_large(len(outcome.data))
        answer = await outcome.read(lambda value: response_of(value, call))
    except FleetError as error:
        raise _told(problem_of(error, call), owner=owner) from None
    assert isinstance(answer, Response), answer
    return answer


def _told(problem: HttpProblem, *, owner: bool) -> HttpProblem:
    """Hints name commands and settings of the owner's: of no use to others."""
    if owner:
        return problem
    return HttpProblem(problem.status, problem.code, "the function gave no answer", call=problem.call)


def event_of(call: str, request: Request, body: bytes, path_params: Mapping[str, str], raw: str) -> Event:
    """The event that a request is for its function; ``raw``: its path, percent-encoded."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]]
    http = HttpRequest(
        request.method, unquote(raw), path_params, list(request.query_params.multi_items()), headers, body
    )
    return Event(
        "", body, id=call, source=raw, type=TYPE, time=now_text(),
        datacontenttype=request.headers.get("content-type") or BINARY, http=http,
    )  # fmt: skip


def response_of(value: Any, call: str) -> Response:
    """The answer that a function's value stands for: a ``fleet.Response``, text, bytes, else JSON.

    For nothing, and for events to be published (``fleet.emit``), 204.
    """
    headers = {"fleet-call-id": call}
    if isinstance(value, FunctionResponse):
        return _own_response(value, headers)
    if value is None or emits_of(value):
        return Response(None, 204, headers)
    if isinstance(value, str):
        return Response(value.encode(errors="surrogatepass"), 200, headers, TEXT)
    if isinstance(value, bytes | bytearray | memoryview):
        return Response(bytes(value), 200, headers, BINARY)
    return Response(dumps(to_json(value)), 200, headers, JSON)


def _own_response(value: FunctionResponse, headers: dict[str, str]) -> Response:
    bare = value.status in (204, 304)
    answer = Response(None if bare else value.body, value.status, headers)
    kind = value.content_type
    if kind == TEXT:
        kind = TEXT_UTF8  # what a str became; without it browsers guess
    if kind is not None and not bare and _HEADER_VALUE.match(kind):
        answer.headers["content-type"] = kind
    for name, text in list(value.headers.items())[:_HEADERS_MAX]:
        if name.lower() == "content-type" and not bare and _HEADER_VALUE.match(text):
            answer.headers["content-type"] = text
        elif name.lower() not in _OURS and _HEADER_NAME.match(name) and _HEADER_VALUE.match(text):
            answer.headers[name] = text
    return answer
