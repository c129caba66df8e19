"""What clients send: JSON, strictly, and within bounds."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from fleet._event import is_json
from fleet.protocol.limits import HTTP_BODY_BYTES_MAX
from fnplatform.gateway.bounds import BODY_S, JSON_SMALL_BYTES
from fnplatform.gateway.problems import HttpProblem

SWALLOWED_BYTES_MAX = 4 * HTTP_BODY_BYTES_MAX
SWALLOW_S = 2.0


async def read_body(request: Request, bytes_max: int = HTTP_BODY_BYTES_MAX) -> bytes:
    """The whole body. HttpProblem 413 over ``bytes_max``, 408 when it takes longer than BODY_S; ClientDisconnect."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > bytes_max:
        raise await _too_large(request, bytes_max)
    if declared == "0" and "transfer-encoding" not in request.headers:
        return b""
    chunks: list[bytes] = []
    size = 0
    with anyio.move_on_after(BODY_S):
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > bytes_max:
                raise await _too_large(request, bytes_max)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)
    raise HttpProblem(
        408, "too_slow", f"the body did not arrive within {BODY_S:.0f} s", headers={"connection": "close"}
    )


async def _too_large(request: Request, bytes_max: int) -> HttpProblem:
    # A client reads no answer before it has sent its body, and loses one that comes with the end of the connection.
    left = SWALLOWED_BYTES_MAX
    with anyio.move_on_after(SWALLOW_S):
        while left > 0:
            message = await request.receive()
            left -= len(message.get("body", b""))
            if not message.get("more_body", False):
                break
    return HttpProblem(
        413, "payload_too_large", f"the body is larger than {bytes_max} bytes",
        hint="put large values with the SDK: fleet.put(...)", headers={"connection": "close"},
    )  # fmt: skip


def check_json_type(request: Request, body: bytes) -> None:
    """HttpProblem 415 for a body that doesn't say that it is JSON.

    A page of another site can send any text to a gateway on this machine, but not this type without asking first.
    """
    given = request.headers.get("content-type")
    if body and (given is None or not is_json(given)):
        raise HttpProblem(
            415, "unsupported_media_type", f"a body of type {given or 'unknown'} can't be read here",
            hint="send JSON, with the header Content-Type: application/json",
        )  # fmt: skip


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def loads(body: bytes) -> Any:
    """The value of a JSON text; HttpProblem 400 for anything else."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise HttpProblem(400, "bad_json", "the body is nested too deep") from None
    except ValueError as error:
        raise HttpProblem(400, "bad_json", f"the body is no JSON: {error}"[:300]) from None


async def read_arguments(request: Request) -> dict[str, Any]:
    """The arguments of a call by name: a JSON object, or no body for none."""
    body = await read_body(request)
    check_json_type(request, body)
    if not body.strip():
        return {}
    value = loads(body) if len(body) <= JSON_SMALL_BYTES else await anyio.to_thread.run_sync(loads, body)
    if not isinstance(value, dict):
        raise HttpProblem(400, "bad_json", "the body is no object with the arguments by name", hint='as in {"x": 1}')
    return value
