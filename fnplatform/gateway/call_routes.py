"""Call a function, hand a call over, ask about it, cancel it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fleet._ticket import Ticket
from fleet.protocol.codec import ExceptionData
from fleet.protocol.errors import FleetError
from fleet.protocol.messages import CallStatus, FunctionInfo
from fleet.protocol.units import parse_seconds
from fnplatform.gateway import calls
from fnplatform.gateway.arguments import pack
from fnplatform.gateway.bounds import IDEMPOTENCY_KEY_CHARS_MAX, JSON_SMALL_BYTES, POLL_S_MAX, RESULT_BYTES_MAX
from fnplatform.gateway.core import Gateway
from fnplatform.gateway.decoding import to_json
from fnplatform.gateway.json_bodies import read_arguments
from fnplatform.gateway.openapi import ARGUMENTS_BODY, IDEMPOTENCY_HEADER, problems
from fnplatform.gateway.problems import HttpProblem, Problem, dumps, problem_of, raised_problem
from fnplatform.gateway.tenants import Tenant, too_large

TOKEN = r"^[A-Za-z0-9_-]{1,64}$"
Name = Annotated[str, Path(pattern=TOKEN)]
JSON = "application/json"


class Spawned(BaseModel):
    """A call that was accepted: it will run."""

    id: str
    status: str = "queued"


class CallView(BaseModel):
    """How a call stands, and what came of it."""

    id: str
    status: str = Field(description="queued, running, succeeded, failed, cancelled or expired")
    app: str
    function: str
    version: str = ""
    attempt: int = 0
    submitted: str | None = None
    finished: str | None = None
    items: int | None = Field(None, description="Of a map's chunk or a generator: how many there are.")
    items_done: int | None = None
    result: Any = Field(None, description="What it returned; there once it succeeded. Not of maps and generators.")
    error: Problem | None = Field(None, description="Why it failed; there once it did.")


class Cancelled(BaseModel):
    """``cancelled`` is false for a call that had ended before."""

    id: str
    cancelled: bool


def idempotency_key(request: Request) -> str | None:
    """The header's text; HttpProblem 400 where it is empty or too long."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_CHARS_MAX:
        raise HttpProblem(
            400, "bad_idempotency_key", f"an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters"
        )
    return key


async def prepared(gateway: Gateway, tenant: Tenant, request: Request, app: str, fn: str) -> tuple[FunctionInfo, bytes]:
    """The function as it is live, and the arguments for it, checked."""
    info = await calls.live(tenant, app, fn)
    arguments = await read_arguments(request)
    size = int(request.headers.get("content-length") or JSON_SMALL_BYTES + 1)
    await gateway.schemas.check(info, arguments, small=size <= JSON_SMALL_BYTES)
    return info, pack(arguments)


def refuse_generator(info: FunctionInfo) -> None:
    """HttpProblem 409 where one value is asked of a generator function."""
    if info.manifest.yields:
        name = f"{info.manifest.app}.{info.manifest.function}"
        raise HttpProblem(
            409, "is_generator", f"{name} is a generator function, it has no single result",
            hint=f"POST /v1/apps/{info.manifest.app}/functions/{info.manifest.function}:stream",
        )  # fmt: skip


async def wait_or_gone(request: Request, tenant: Tenant, ticket: Ticket, limit_s: float, *, cancels: bool) -> bool:
    """Whether the outcome came in time; ClientDisconnect once nobody waits for it (which ``cancels`` the call)."""
    gone = False
    async with anyio.create_task_group() as group:

        async def until_gone() -> None:
            nonlocal gone
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone = True
            group.cancel_scope.cancel()

        group.start_soon(until_gone)
        await calls.finished(ticket, limit_s)
        group.cancel_scope.cancel()
    if gone and not ticket.done:
        if cancels:
            await calls.cancel_quietly(tenant, ticket)
        raise ClientDisconnect
    return ticket.done


def too_late(call: str, limit_s: float) -> HttpProblem:
    """The answer isn't here yet; the call goes on."""
    return HttpProblem(
        504, "no_result_yet", f"the call has no result after {limit_s:g} s; it goes on",
        hint=f"GET /v1/calls/{call}?wait=30s", call=call, headers={"location": f"/v1/calls/{call}"},
    )  # fmt: skip


async def value_bytes(value: calls.Value) -> bytes:
    """A result as JSON text; ResultNotPortable where it has none, or is too large."""
    if len(value.data) > RESULT_BYTES_MAX:
        raise too_large(len(value.data))
    found: bytes = await value.read(lambda read: dumps(to_json(read)))
    return found


def problem_of_outcome(outcome: ExceptionData | FleetError, call: str) -> HttpProblem:
    """How a call failed, told to its owner."""
    if isinstance(outcome, ExceptionData):
        return raised_problem(outcome, call, told=True)
    return problem_of(outcome, call)


def _time(unix_s: float | None) -> str | None:
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z") if unix_s else None


async def view_of(tenant: Tenant, row: CallStatus) -> CallView:
    """How a call stands, with its result or error if it has ended."""
    assert row.state is not None
    view = CallView(
        id=row.call, status=row.state.value, app=row.app, function=row.function, version=row.version,
        attempt=row.attempt, submitted=_time(row.submitted_unix_s), finished=_time(row.finished_unix_s),
        items=row.items, items_done=None if row.items is None else row.items_done,
    )  # fmt: skip
    if row.state not in calls.ENDED:
        return view
    found = await calls.stored_outcome(tenant, row.call)
    if found is None:
        return view
    _, outcome = found
    if isinstance(outcome, calls.Value):
        if row.items is not None:
            return view
        try:
            if len(outcome.data) > RESULT_BYTES_MAX:
                raise too_large(len(outcome.data))
            return view.model_copy(update={"result": await outcome.read(to_json)})
        except FleetError as error:
            outcome = error
    if row.items is not None and row.state.value == "succeeded":
        return view  # Its results are in parts.
    problem = problem_of_outcome(outcome, row.call)
    return view.model_copy(update={"error": Problem.model_validate({"detail": "", **problem.document()})})


async def rendered(view: CallView) -> bytes:
    """A view as JSON text, without what isn't known. A result of null is there all the same."""
    row = {name: value for name, value in view.model_dump(mode="python").items() if value is not None}
    if view.error is not None:
        row["error"] = {name: value for name, value in row["error"].items() if value not in (None, "")}
    elif view.status == "succeeded" and view.items is None:
        row["result"] = view.result
    return dumps(row)


def router(gateway: Gateway) -> APIRouter:
    """The routes of this file."""
    routes = APIRouter(tags=["calls"])

    @routes.post(
        "/v1/apps/{app}/functions/{fn}:call", operation_id="callFunction", response_class=Response,
        responses={200: {"description": "What it returned, as JSON.", "content": {JSON: {"schema": {}}}},
                   **problems(400, 404, 408, 409, 413, 415, 422, 500, 502, 504)},
        openapi_extra={**ARGUMENTS_BODY, **IDEMPOTENCY_HEADER},
    )  # fmt: skip
    async def call(request: Request, app: Name, fn: Name) -> Response:
        """Run a function with arguments by name, and wait for what it returns.

        If the client goes away meanwhile the call is cancelled, unless it has an `Idempotency-Key`.
        """
        async with gateway.tenant(request) as tenant:
            key = idempotency_key(request)
            info, payload = await prepared(gateway, tenant, request, app, fn)
            refuse_generator(info)
            own_id = None if key is None else calls.keyed_call_id(tenant.name, info.manifest, key)
            ticket = calls.submit(tenant, calls.ticket_of(info, payload, own_id))
            limit_s = calls.patience_s(info.manifest, gateway.settings.call_s_max)
            if not await wait_or_gone(request, tenant, ticket, limit_s, cancels=key is None):
                raise too_late(ticket.call, limit_s)
            if ticket.error is not None:
                raise calls.refusal_of(ticket)
            outcome = calls.outcome_of(ticket)
            if not isinstance(outcome, calls.Value):
                raise problem_of_outcome(outcome, ticket.call)
            try:
                body = await value_bytes(outcome)
            except FleetError as error:
                raise problem_of(error, ticket.call) from None
            return Response(body, 200, {"fleet-call-id": ticket.call}, JSON)

    @routes.post(
        "/v1/apps/{app}/functions/{fn}:spawn", operation_id="spawnFunction", response_class=Response,
        status_code=202,
        responses={202: {"description": "Accepted: it will run.", "model": Spawned},
                   **problems(400, 404, 408, 409, 413, 415, 422)},
        openapi_extra={**ARGUMENTS_BODY, **IDEMPOTENCY_HEADER},
    )  # fmt: skip
    async def spawn(request: Request, app: Name, fn: Name) -> Response:
        """Hand a call over, and answer once it is accepted."""
        async with gateway.tenant(request) as tenant:
            key = idempotency_key(request)
            info, payload = await prepared(gateway, tenant, request, app, fn)
            refuse_generator(info)
            own_id = None if key is None else calls.keyed_call_id(tenant.name, info.manifest, key)
            ticket = calls.submit(tenant, calls.ticket_of(info, payload, own_id))
            await calls.accepted(ticket)
            headers = {"location": f"/v1/calls/{ticket.call}", "fleet-call-id": ticket.call}
            return Response(dumps(Spawned(id=ticket.call).model_dump()), 202, headers, JSON)

    _add_call_routes(routes, gateway)
    return routes


def _add_call_routes(routes: APIRouter, gateway: Gateway) -> None:
    @routes.get(
        "/v1/calls/{call}", operation_id="getCall", response_class=Response,
        responses={200: {"description": "How it stands.", "model": CallView}, **problems(400, 404)},
    )  # fmt: skip
    async def get_call(
        request: Request,
        call: Name,
        wait: Annotated[
            str, Query(description="Answer once it has ended, or after so long: `30s`, at most 120s.")
        ] = "0s",
    ) -> Response:
        """How a call stands, and its result or error if it has ended."""
        wait_s = parse_seconds(wait, "wait", 0.0, POLL_S_MAX)
        async with gateway.tenant(request) as tenant:
            row = await calls.status(tenant, call)
            if row.state not in calls.ENDED and wait_s:
                await _until_ended_or_gone(gateway, request, tenant, call, wait_s)
                row = await calls.status(tenant, call)
            return Response(await rendered(await view_of(tenant, row)), 200, {"fleet-call-id": call}, JSON)

    @routes.delete(
        "/v1/calls/{call}", operation_id="cancelCall", response_class=Response,
        responses={200: {"description": "It has ended now.", "model": Cancelled}, **problems(404)},
    )  # fmt: skip
    async def cancel_call(request: Request, call: Name) -> Response:
        """End a call that waits or runs."""
        async with gateway.tenant(request) as tenant:
            ended = await calls.cancel(tenant, call)
            if not ended:
                await calls.status(tenant, call)
            return Response(dumps(Cancelled(id=call, cancelled=ended).model_dump()), 200, None, JSON)


async def _until_ended_or_gone(gateway: Gateway, request: Request, tenant: Tenant, call: str, wait_s: float) -> None:
    async with anyio.create_task_group() as group:

        async def until_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async def until_stopping() -> None:
            await gateway.stopping.wait()
            group.cancel_scope.cancel()

        group.start_soon(until_gone)
        group.start_soon(until_stopping)
        await calls.until_ended(tenant, call, wait_s)
        group.cancel_scope.cancel()
