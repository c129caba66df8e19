"""Server-sent events of calls: what a generator yields, and what happens to a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import anyio
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fleet._positions import StreamTicket
from fleet._stream import TELL_BYTES, TELL_ITEMS
from fleet.protocol import frames
from fleet.protocol.errors import FleetError
from fleet.protocol.messages import CallStatus, LogsReply, LogsRequest
from fleet.protocol.subjects import ApiVerb
from fnplatform.gateway import calls, sse
from fnplatform.gateway.bounds import STATUS_S
from fnplatform.gateway.call_routes import Name, prepared, problem_of_outcome, rendered, value_bytes, view_of
from fnplatform.gateway.core import Gateway
from fnplatform.gateway.listing_routes import Following, lines_of
from fnplatform.gateway.openapi import ARGUMENTS_BODY, problems
from fnplatform.gateway.openapi import sse as sse_response
from fnplatform.gateway.problems import HttpProblem, problem_of
from fnplatform.gateway.tenants import Tenant

LATE_LINES_S = 0.3
"""Lines may come a moment after the outcome of the call that printed them."""
Produce = Callable[[sse.Sink], Coroutine[Any, Any, None]]


def items_of(tenant: Tenant, ticket: StreamTicket) -> Produce:
    """Sends what a generator yields as it comes, and how it ended; says how far the client is."""

    async def produce(sink: sse.Sink) -> None:
        count = told = untold_bytes = 0
        while True:
            batch = ticket.next_batch()
            if batch is None:
                if ticket.done:
                    break
                there = anyio.Event()
                ticket.arm_next(there.set)
                await there.wait()
                continue
            for data in batch:
                await sink.send(sse.event_of("item", await _item(ticket.call, data), count))
                count += 1
                untold_bytes += len(data)
                if count - told >= TELL_ITEMS or untold_bytes >= TELL_BYTES:
                    told, untold_bytes = count, 0
                    ticket.consumed = count
                    tenant.positions.tell(ticket)
        if ticket.error is not None:
            raise calls.refusal_of(ticket)
        outcome = calls.outcome_of(ticket)
        if not isinstance(outcome, calls.Value):
            raise problem_of_outcome(outcome, ticket.call)
        await sink.send(sse.event("end", {"items": count}))

    return produce


async def _item(call: str, data: memoryview) -> bytes:
    outcome = calls.item_outcome(data)
    if not isinstance(outcome, calls.Value):
        raise problem_of_outcome(outcome, call)
    try:
        return await value_bytes(outcome)
    except FleetError as error:
        raise problem_of(error, call) from None


def happenings_of(tenant: Tenant, row: CallStatus) -> Produce:
    """Sends every status of a call, what it prints, and at its end how it ended."""

    async def produce(sink: sse.Sink) -> None:
        try:
            await _tell(tenant, row, sink)
        except FleetError as error:
            raise problem_of(error, row.call) from None

    return produce


async def _tell(tenant: Tenant, row: CallStatus, sink: sse.Sink) -> None:
    seen: set[bytes] = set()
    following = Following(tenant, LogsRequest(app=row.app, function=row.function, call=row.call, limit=10_000))
    said: dict[str, Any] = {}
    async with following as entries:
        asked_s = time.monotonic()
        while True:
            now = {"status": row.state.value if row.state else "", "attempt": row.attempt, "items_done": row.items_done}
            if now != said:
                said = now
                await sink.send(sse.event("status", now))
            over = row.state in calls.ENDED
            until_s = asked_s + (LATE_LINES_S if over else STATUS_S)
            while (left_s := until_s - time.monotonic()) > 0:
                with anyio.move_on_after(left_s):
                    entry = await entries.receive()
                    seen.add(frames.pack(entry))
                    for line in lines_of(entry):
                        await sink.send(sse.event("line", line))
            if over:
                break
            await following.prolong()
            row = await calls.status(tenant, row.call)
            asked_s = time.monotonic()
    stored = await tenant.ask(ApiVerb.LOGS, LogsRequest(app=row.app, function=row.function, call=row.call), LogsReply)
    for entry in stored.entries:
        if frames.pack(entry) not in seen:
            for line in lines_of(entry):
                await sink.send(sse.event("line", line))
    await sink.send(sse.event_of("result", await rendered(await view_of(tenant, row))))


def router(gateway: Gateway) -> APIRouter:
    """The routes of this file."""
    routes = APIRouter(tags=["streams"])

    @routes.post(
        "/v1/apps/{app}/functions/{fn}:stream", operation_id="streamFunction", response_class=Response,
        responses={200: sse_response("Events `item` (JSON, numbered), then `end`, or `error` (a problem document)."),
                   **problems(400, 404, 408, 409, 413, 415, 422)},
        openapi_extra=ARGUMENTS_BODY,
    )  # fmt: skip
    async def stream(request: Request, app: Name, fn: Name) -> Response:
        """Run a generator function, and send what it yields as it yields. If the client goes, the generator is cancelled."""
        async with AsyncExitStack() as stack:
            tenant = await stack.enter_async_context(gateway.tenant(request))
            stack.enter_context(gateway.streaming())
            info, payload = await prepared(gateway, tenant, request, app, fn)
            if not info.manifest.yields:
                raise HttpProblem(
                    409, "is_no_generator", f"{app}.{fn} is no generator function",
                    hint=f"POST /v1/apps/{app}/functions/{fn}:call",
                )  # fmt: skip
            ticket = calls.ticket_of(info, payload, stream=True)
            assert isinstance(ticket, StreamTicket)
            calls.submit(tenant, ticket)
            try:
                await calls.accepted(ticket)
            except BaseException:
                await calls.cancel_quietly(tenant, ticket)
                raise
            leave = stack.pop_all().aclose

            async def at_end() -> None:
                await calls.cancel_quietly(tenant, ticket)
                await leave()

            headers = {"fleet-call-id": ticket.call}
            return sse.Events(items_of(tenant, ticket), stopping=gateway.stopping, at_end=at_end, headers=headers)

    @routes.get(
        "/v1/calls/{call}/events", operation_id="followCall", response_class=Response,
        responses={200: sse_response("Events `status`, `line` (what it printed), then `result` (as GET /v1/calls/{call})."),
                   **problems(404)},
    )  # fmt: skip
    async def events(request: Request, call: Name) -> Response:
        """Follow a call until it has ended."""
        async with AsyncExitStack() as stack:
            tenant = await stack.enter_async_context(gateway.tenant(request))
            stack.enter_context(gateway.streaming())
            row = await calls.status(tenant, call)
            at_end = stack.pop_all().aclose
            return sse.Events(happenings_of(tenant, row), stopping=gateway.stopping, at_end=at_end)

    return routes
