"""CloudEvents over HTTP: structured, binary, and batches of them."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from fleet.protocol.events import EventRefused, EventTooLarge
from fleet.protocol.limits import PUBLISH_EVENTS_MAX
from fleet.protocol.messages import PublishReply, PublishRequest
from fleet.protocol.subjects import ApiVerb
from fnplatform.events.decode import BATCHED_BYTES_MAX, event_of_http
from fnplatform.gateway.call_routes import JSON
from fnplatform.gateway.core import Gateway
from fnplatform.gateway.json_bodies import read_body
from fnplatform.gateway.openapi import problems
from fnplatform.gateway.problems import HttpProblem, dumps

_EVENT = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "minLength": 1},
        "subject": {"type": "string", "description": "Where on the bus it goes; else its type says."},
        "data": {},
    },
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "CloudEvents 1.0: structured, a batch, or (with ce- headers) the data alone.",
        "content": {
            "application/cloudevents+json": {"schema": _EVENT},
            "application/cloudevents-batch+json": {"schema": {"type": "array", "items": _EVENT, "minItems": 1}},
        },
    }
}


class Accepted(BaseModel):
    """Every event is stored: it starts, once, each function whose trigger matches."""

    ids: list[str] = Field(description="In the order of the events.")
    duplicates: list[str] = Field(description="Those of them that had been accepted before.")


def router(gateway: Gateway) -> APIRouter:
    """The route of this file."""
    routes = APIRouter(tags=["events"])

    @routes.post(
        "/v1/events", operation_id="publishEvents", status_code=202, response_class=Response,
        responses={202: {"description": "Accepted.", "model": Accepted}, **problems(400, 408, 413)},
        openapi_extra=_BODY,
    )  # fmt: skip
    async def publish(request: Request) -> Response:
        """Publish CloudEvents."""
        async with gateway.tenant(request) as tenant:
            body = await read_body(request, BATCHED_BYTES_MAX)
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]]
            try:
                events = event_of_http(headers, body)
            except EventRefused as error:
                status = 413 if isinstance(error, EventTooLarge) else 400
                raise HttpProblem(status, "bad_event", error.message, hint=error.hint) from None
            if len(events) > PUBLISH_EVENTS_MAX:
                raise HttpProblem(413, "payload_too_large", f"a batch may hold {PUBLISH_EVENTS_MAX} events")
            asked = PublishRequest(events=[head for head, _ in events])
            reply, _ = await tenant.api.ask(ApiVerb.PUBLISH, asked, PublishReply, [data for _, data in events])
            accepted = Accepted(ids=reply.ids, duplicates=reply.duplicates)
            return Response(dumps(accepted.model_dump()), 202, None, JSON)

    return routes
