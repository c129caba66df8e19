"""The web application: its routes, and what becomes of errors."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fleet.protocol.errors import FleetError
from fnplatform.gateway import call_routes, event_routes, listing_routes, stream_routes, user_routes
from fnplatform.gateway.bounds import REQUESTS_MAX
from fnplatform.gateway.core import Gateway
from fnplatform.gateway.openapi import document
from fnplatform.gateway.problems import Fault, HttpProblem, dumps, problem_of

log = logging.getLogger("fleet.gateway")


class Gate:
    """Lets REQUESTS_MAX requests in at once; health is asked without a limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in ("/healthz", "/readyz"):
            await self._app(scope, receive, send)
        elif self._open >= REQUESTS_MAX:
            await HttpProblem(503, "busy", "too many requests are open here").response()(scope, receive, send)
        else:
            self._open += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._open -= 1


def make_app(gateway: Gateway) -> FastAPI:
    """The application for one gateway."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for module in (call_routes, stream_routes, listing_routes, event_routes, user_routes):
        app.include_router(module.router(gateway))
    _add_own_routes(app, gateway)
    if gateway.settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(gateway.settings.origins), allow_methods=["*"], allow_headers=["*"],
            expose_headers=["fleet-call-id", "location", "retry-after"],
        )  # fmt: skip
    app.add_middleware(Gate)
    app.add_exception_handler(HttpProblem, _on_problem)
    app.add_exception_handler(FleetError, _on_fleet_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)
    return app


def _add_own_routes(app: FastAPI, gateway: Gateway) -> None:
    made: dict[str, Any] = {}

    @app.get("/healthz", operation_id="health", tags=["health"], response_class=Response)
    async def healthz() -> Response:
        """This process runs."""
        return Response(b"ok\n", 200, None, "text/plain")

    @app.get(
        "/readyz", operation_id="readiness", tags=["health"], response_class=Response,
        responses={503: {"description": "No control plane answers, or this process is ending."}},
    )  # fmt: skip
    async def readyz() -> Response:
        """The platform behind this process answers."""
        if await gateway.is_ready():
            return Response(b"ok\n", 200, None, "text/plain")
        return HttpProblem(503, "not_ready", "no control plane answers").response()

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        if not made:
            made.update(document(app, open_to_all=gateway.settings.open_to_all))
        return Response(dumps(made), 200, None, "application/json")


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HttpProblem), error
    return error.response()


async def _on_fleet_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FleetError), error
    return problem_of(error).response()


async def _on_bad_request(_: Request, error: Exception) -> Response:
    """A name in the path, or a setting in the query, that can't be."""
    assert isinstance(error, RequestValidationError), error
    wrong = error.errors()
    faults = [Fault(pointer="", detail=f"{'.'.join(map(str, one['loc']))}: {one['msg']}"[:300]) for one in wrong]
    if any(one["loc"][0] == "path" for one in wrong):
        return HttpProblem(404, "not_found", "nothing can have this name", errors=faults).response()
    return HttpProblem(400, "bad_request", "the query can't be read", errors=faults).response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), error
    if error.status_code == 404:
        return HttpProblem(404, "not_found", "there is nothing here", hint="GET /openapi.json").response()
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not answered here, {allowed} is"
        return HttpProblem(405, "method_not_allowed", detail, headers={"allow": allowed}).response()
    return HttpProblem(error.status_code, "http_error", str(error.detail), headers=error.headers).response()


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(None, 499)  # to nobody


async def _on_bug(_: Request, error: Exception) -> Response:
    return HttpProblem(500, "gateway_failed", "the gateway failed at this request", hint="its log says why").response()
