"""What the OpenAPI document says beside what FastAPI finds by itself."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fnplatform.gateway.bounds import IDEMPOTENCY_KEY_CHARS_MAX
from fnplatform.gateway.problems import MEDIA_TYPE, Problem

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_EVERYWHERE = (401, 403, 429, 431, 503)
"""Of every route that acts for a tenant."""
_METHODS = ("get", "post", "delete")

ARGUMENTS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": "The arguments by name, as GET /v1/apps/{app}/functions tells of each function; no body: none.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}
IDEMPOTENCY_HEADER: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key", "in": "header", "required": False,
            "description": "Requests to one function with the same key are one call, as long as its outcome is kept.",
            "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS_MAX,
                       "pattern": r"^[!-~]([ -~]*[!-~])?$"},
        }
    ]
}  # fmt: skip


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses that are problem documents: of these statuses, and of those that every route has."""
    return {
        status: {"description": HTTPStatus(status).phrase, **_PROBLEM} for status in sorted({*statuses, *_EVERYWHERE})
    }


SSE_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string"},
    },
}
"""One server-sent event, as OpenAPI describes them from 3.2 on."""


def sse(description: str) -> dict[str, Any]:
    """A response of server-sent events."""
    return {"description": description, "content": {"text/event-stream": {"itemSchema": SSE_EVENT}}}


def own_version() -> str:
    """Of the platform that runs here."""
    try:
        return version("fnplatform")
    except PackageNotFoundError:
        return "unknown"


def document(app: FastAPI, *, open_to_all: bool) -> dict[str, Any]:
    """The OpenAPI document of ``app``."""
    found = get_openapi(title="fnplatform", version=own_version(), description=_ABOUT, routes=app.routes)
    found["servers"] = [{"url": "/"}]
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    own = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(own.pop("$defs", {}))
    schemas["Problem"] = own
    parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "description": "fleet token create"}}
    needed: list[dict[str, list[str]]] = [{"bearer": []}]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            if method not in _METHODS:
                continue
            # FastAPI's own model of what it refuses: ours are problem documents.
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
            if path.startswith("/v1/"):
                operation["security"] = needed if not open_to_all else [{}, *needed]
    return found


_ABOUT = """Call functions that run on parked cars.

Results and arguments are JSON. Whatever is not answered as asked is a problem document (RFC 9457, `application/problem+json`)
with a stable `type`; 429 and 503 say in `Retry-After` when to try again. Routes of functions themselves (`fleet.http`) are
under `/u/{tenant}/` and are not listed here.
"""
