"""The HTTP gateway of the shared fleet with an app deployed, and clients of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

from fleet import _tokens
from fleet.protocol.messages import TokenReply, TokenRequest
from fleet.protocol.subjects import ApiVerb
from fleet.testing import LocalFleet
from fnplatform.gateway.child import FLEET

LIMIT_S = 30.0
FUNCTIONS = Path(__file__).with_name("gateway_functions.py")


def deploy(file: Path, app: str) -> None:
    """``fleet deploy``."""
    done = subprocess.run([*FLEET, "deploy", str(file), "--app", app], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def new_token(fleet: LocalFleet, **more: Any) -> str:
    """A token of the default tenant."""
    text = _tokens.make("default")
    given = _tokens.parse(text)
    request = TokenRequest(action="create", id=given.id, secret_sha256=given.secret_sha256, **more)
    fleet.ask(ApiVerb.TOKEN, request, TokenReply)
    return text


@contextmanager
def gateway_of(fleet: LocalFleet, *words: str) -> Iterator[str]:
    """A gateway of its own beside a running fleet: its URL."""
    process = subprocess.Popen(
        [*FLEET, "gateway", "--nats", fleet.url, "--port", "0", *words], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("gateway ready at http"), line + process.stderr.read()
        yield line.split()[-1]
    finally:
        process.terminate()
        _, said = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, said
        assert "Traceback" not in said, said


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer, which must be of this status and code."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status and found["type"] == f"urn:fleet:problem:{code}", found
    return found


def events_in(text: str) -> list[tuple[str, str]]:
    """(event, data) of server-sent events."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "event" in lines:
            found.append((lines["event"], lines["data"]))
    return found


__all__ = ["FUNCTIONS", "LIMIT_S", "deploy", "events_in", "gateway_of", "new_token", "problem"]
