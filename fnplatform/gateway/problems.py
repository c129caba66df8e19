"""What is wrong, as RFC 9457 says it: ``application/problem+json``, for everything that isn't answered as asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from fleet.protocol.codec import ExceptionData
from fleet.protocol.errors import FleetError
from fnplatform.gateway.bounds import RETRY_AFTER_S

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:fleet:problem:"

STATUS_OF_CODE = {
    "invalid_option": 400,
    "not_deployed": 404,
    "result_expired": 404,
    "refused": 409,
    "call_cancelled": 409,
    "payload_too_large": 413,
    "wrong_arguments": 422,
    "queue_full": 503,
    "queue_timeout": 503,
    "unavailable": 503,
    "car_lost": 502,
    "sandbox_trap": 502,
    "result_not_portable": 502,
    "protocol_error": 502,
    "version_mismatch": 502,
    "call_timeout": 504,
}
"""Status of the platform's errors by their code; 500 for the others."""


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer to it in the body; empty for the whole.")
    detail: str


class Raised(BaseModel):
    """What the function raised."""

    type: str
    message: str
    traceback: str = ""


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description=f"{TYPE_PREFIX}CODE; CODE is stable.")
    title: str
    status: int
    detail: str = ""
    hint: str = Field("", description="What to do next.")
    call: str | None = Field(None, description="The call that it is about: GET /v1/calls/{call} tells more.")
    errors: list[Fault] | None = None
    exception: Raised | None = None


class HttpProblem(Exception):
    """Ends a request: answered as a problem document."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        hint: str = "",
        call: str | None = None,
        errors: list[Fault] | None = None,
        exception: Raised | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.call = call
        self.errors = errors
        self.exception = exception
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("retry-after", str(RETRY_AFTER_S))

    def document(self) -> dict[str, Any]:
        """What is sent."""
        problem = Problem(
            type=TYPE_PREFIX + self.code, title=HTTPStatus(self.status).phrase, status=self.status, detail=self.detail,
            hint=self.hint, call=self.call, errors=self.errors, exception=self.exception,
        )  # fmt: skip
        return {name: value for name, value in problem.model_dump(mode="json").items() if value not in (None, "")}

    def response(self) -> Response:
        """The answer to the request that it ends."""
        headers = dict(self.headers)
        if self.call is not None:
            headers["fleet-call-id"] = self.call
        return Response(dumps(self.document()), self.status, headers, MEDIA_TYPE)


def dumps(value: Any) -> bytes:
    """JSON, as short as it goes. Halves of surrogate pairs, which UTF-8 can't hold, are escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def problem_of(error: FleetError, call: str | None = None) -> HttpProblem:
    """The platform's own errors: what it refused, or how it ended a call."""
    status = STATUS_OF_CODE.get(error.code, 500)
    if error.details.get("share"):  # Of the queue: others still have room.
        status = 429
    return HttpProblem(status, error.code, error.message, hint=error.hint, call=call)


def raised_problem(data: ExceptionData, call: str, *, told: bool) -> HttpProblem:
    """What a function raised. ``told``: to somebody who may see what it says."""
    if not told:
        return HttpProblem(500, "function_failed", "the function failed", call=call)
    raised = Raised(type=data.type_name, message=data.message, traceback=data.traceback)
    return HttpProblem(500, "function_failed", data.summary, call=call, exception=raised)
