"""The parts of the HTTP gateway that need no fleet: routes, values as JSON, schemas, limits of a connection."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

import anyio
import numpy as np
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

import fleet
from fleet.protocol.codec import encode
from fleet.protocol.errors import BY_CODE, FleetUnavailable, QueueFull
from fleet.protocol.messages import FunctionInfo, HttpTrigger, Manifest, Program
from fnplatform.gateway import app, guarded, json_bodies
from fnplatform.gateway.auth import _name_of
from fnplatform.gateway.decoding import decoded, to_json
from fnplatform.gateway.guarded import GuardedProtocol
from fnplatform.gateway.main import _Server, listening, url_of
from fnplatform.gateway.matching import Match, Missed, match, routes_of
from fnplatform.gateway.problems import HttpProblem, dumps, problem_of
from fnplatform.gateway.schemas import Schemas
from fnplatform.gateway.user_routes import response_of, router

LIMIT_S = 30.0


def function(name: str = "f", *routes: tuple[str, str], app: str = "a", schema: Any = None) -> FunctionInfo:
    manifest = Manifest(
        app=app, function=name, display_name=name,
        program=Program(bundle="0" * 64, bundle_bytes=1, module="m", qualname=name),
        triggers=[HttpTrigger(method=method, path=path) for method, path in routes],
        json_schema="" if schema is None else json.dumps(schema),
    )  # fmt: skip
    return FunctionInfo(manifest=manifest, version="0" * 16)


# --- routes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "wanted", "params"), [
    ("GET", "/users/me", "me", {}),
    ("GET", "/users/7", "one", {"id": "7"}),
    ("HEAD", "/users/7", "one", {"id": "7"}),
    ("GET", "/users/a%2Fb", "one", {"id": "a/b"}),
    ("GET", "/users/%6de", "me", {}),
    ("POST", "/users/me", "make", {"id": "me"}),
    ("GET", "/users/7/files/a/b", "files", {"id": "7", "path": "a/b"}),
    ("GET", "/users/7/files/", "files", {"id": "7", "path": ""}),
    ("GET", "/users/7/files", "files", {"id": "7", "path": ""}),
    ("GET", "/", "root", {}),
    ("GET", "", "root", {}),
    ("HEAD", "/heads", "head", {}),
])  # fmt: skip
def test_the_closest_route_is_chosen(method: str, path: str, wanted: str, params: dict[str, str]) -> None:
    found = match(ROUTES, method, path)
    assert isinstance(found, Match), found
    assert found.route.info.manifest.function == wanted and found.path_params == params


ROUTES = routes_of([
    function("files", ("GET", "/users/{id}/files/{path:path}")), function("one", ("GET", "/users/{id}")),
    function("me", ("GET", "/users/me")), function("make", ("POST", "/users/{id}")), function("root", ("GET", "/")),
    function("get", ("GET", "/heads")), function("head", ("HEAD", "/heads")),
    function("later", ("GET", "/users/me"), app="b"),
])  # fmt: skip


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("DELETE", "/users/me", ("GET", "HEAD", "POST")), ("GET", "/users", ()), ("GET", "/users/", ()),
    ("GET", "/USERS/7", ()), ("GET", "/users/7/", ()),
])  # fmt: skip
def test_what_no_route_answers(method: str, path: str, allowed: tuple[str, ...]) -> None:
    assert match(ROUTES, method, path) == Missed(allowed)


# --- values ----------------------------------------------------------------------------------------------------------


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20,
))  # fmt: skip
def test_what_json_has_stays_as_it_is(value: Any) -> None:
    assert to_json(decoded(encode(value))) == value
    assert json.loads(dumps(to_json(decoded(encode(value))))) == value


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "<f4", ">f8", "float16", ">i4"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0), (0, 2), (2, 1, 2)])
def test_arrays_are_nested_lists(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    assert to_json(decoded(encode(array))) == array.tolist()


def test_other_arrays() -> None:
    assert to_json(decoded(encode(np.float32(1.5)))) == 1.5
    assert to_json(decoded(encode(np.array([1 + 2j])))) == ["(1+2j)"]
    assert to_json(decoded(encode(np.array([np.nan, 1.0])))) == [None, 1.0]
    with pytest.raises(Exception, match="no form in JSON"):
        decoded(encode(np.array(["2020-01-01"], "M8[D]")))


def test_numpy_is_not_needed() -> None:
    data = encode(np.arange(6.0).reshape(2, 3))
    code = (
        "import sys; from fnplatform.gateway.decoding import decoded, to_json; "
        f"print(to_json(decoded({bytes(data)!r}))); assert 'numpy' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == [[0, 1, 2], [3, 4, 5]]


def test_answers_of_functions() -> None:
    assert response_of(None, "c").status_code == 204
    text = response_of("ü", "c")
    assert text.body == "ü".encode() and text.headers["content-type"] == "text/plain; charset=utf-8"
    own = response_of(fleet.Response("ü"), "c")
    assert own.body == "ü".encode() and own.headers["content-type"] == "text/plain; charset=utf-8"
    assert response_of(fleet.Response("<p>", content_type="text/html"), "c").headers["content-type"] == "text/html"
    assert response_of(b"x", "c").headers["content-type"] == "application/octet-stream"
    assert response_of([1], "c").body == b"[1]"
    assert response_of(fleet.emit("a.b", 1), "c").status_code == 204
    hostile = fleet.Response(b"x", 200)
    hostile.headers = {"X-A": "b\r\nInjected: 1", "Bad Name": "x", "Upgrade": "h2c", "Date": "x", "x-ok": "1"}
    found = response_of(hostile, "c")
    assert sorted(found.headers) == ["content-length", "content-type", "fleet-call-id", "x-ok"]
    bare = response_of(fleet.Response("text", 204), "c")
    assert bare.body == b"" and "content-type" not in bare.headers


@pytest.mark.parametrize("open_to_all", [False, True])
def test_strangers_hear_nothing_of_a_platform_that_does_not_answer(open_to_all: bool) -> None:
    def use(_: str) -> Any:
        raise FleetUnavailable("no connection to the broker at nats://10.0.0.1:4222")

    gateway: Any = SimpleNamespace(pool=SimpleNamespace(use=use), settings=SimpleNamespace(open_to_all=open_to_all))
    (route,) = router(gateway).routes
    request = Request({"type": "http", "method": "GET", "path": "/u/default/x", "headers": []})
    with pytest.raises(HttpProblem) as caught:
        anyio.run(cast(Any, route).endpoint, request)
    assert caught.value.status == 503 and "retry-after" in caught.value.headers
    assert ("nats://" in str(caught.value.document())) is open_to_all


def test_what_functions_give_the_platform_as_json() -> None:
    assert to_json(decoded(encode(fleet.Response({"a": 1}, 201)))) == {
        "status": 201, "headers": {}, "content_type": "application/json", "body": {"a": 1},
    }  # fmt: skip
    assert to_json(decoded(encode([fleet.emit("a.b", "text")])))[0]["data"] == "text"
    event = fleet.Event("a.b", b"\xff", id="1", source="/s")
    assert to_json(decoded(encode(event)))["data"] == "/w=="


# --- problems --------------------------------------------------------------------------------------------------------


def test_every_error_of_the_platform_has_a_status() -> None:
    for cls in BY_CODE.values():
        document = problem_of(cls("what happened", hint="do this")).document()
        assert 400 <= document["status"] <= 504 and document["detail"] == "what happened"
    full = problem_of(QueueFull("no room"))
    assert full.status == 503 and full.headers["retry-after"]
    assert problem_of(QueueFull("your share", share=True)).status == 429


@pytest.mark.parametrize(("host", "name"), [
    ("127.0.0.1:80", "127.0.0.1"), ("localhost", "localhost"), ("[::1]:80", "::1"), ("evil.example", "evil.example"),
    ("", ""), ("[", ""), ("localhost@evil.example", "evil.example"),
])  # fmt: skip
def test_names_of_hosts(host: str, name: str) -> None:
    assert _name_of(host) == name


# --- schemas ---------------------------------------------------------------------------------------------------------


def faults(schema: Any, arguments: dict[str, Any]) -> list[str]:
    async def main() -> list[str]:
        try:
            await Schemas().payload(function(schema=schema), arguments, small=True)
        except HttpProblem as problem:
            return [fault.pointer for fault in problem.errors or []] or [problem.code]
        return []

    return anyio.run(main)


def test_faults_are_pointed_at() -> None:
    schema = {"type": "object", "properties": {"a/b": {"type": "array", "items": {"type": "integer"}}}}
    assert faults(schema, {"a/b": [1, "x", 2, "y"]}) == ["/a~1b/1", "/a~1b/3"]
    assert faults({"type": "object", "properties": {"x": {"pattern": "^a+$"}}}, {"x": "b"}) == ["/x"]


def test_a_hostile_schema_does_no_harm() -> None:
    limit_s = time.monotonic() + LIMIT_S
    elsewhere = {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:1/schema.json"}}}
    assert faults(elsewhere, {"x": 1}) == ["bad_schema"], "nothing is fetched"
    assert faults({"properties": {"x": {"$ref": "#/properties/x"}}}, {"x": 1}) in (["bad_json"], ["bad_schema"])
    slow = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}
    assert faults(slow, {"x": "a" * 5000 + "b"}) == ["/x"]
    unique = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}
    assert faults(unique, {"x": [{"n": n} for n in range(20_000)] + [1, "1"]}) == []
    assert faults({"type": "object", "properties": 5}, {"x": 1}) == ["bad_schema"]
    for odd in ([], 5, "text", True):
        assert faults(odd, {}) == ["bad_schema"]
    assert time.monotonic() < limit_s


def test_the_bytes_of_arguments_are_those_of_their_values() -> None:
    async def main() -> None:
        schemas = Schemas()
        one = await schemas.payload(function(), json.loads('{"a": 1, "b": [2, "x"]}'), small=True)
        assert one == await schemas.payload(function(), json.loads('{"b": [2, "x"],\n "a": 1}'), small=False)

    anyio.run(main)


# --- a connection ----------------------------------------------------------------------------------------------------


async def _application(scope: Any, receive: Any, send: Any) -> None:
    try:
        body = await json_bodies.read_body(Request(scope, receive))
        answer = Response(b"%d" % len(body))
    except HttpProblem as problem:
        answer = problem.response()
    await answer(scope, receive, send)


def answered(*sent: bytes) -> bytes:
    """What comes back until the connection ends."""
    found = b""

    async def main() -> None:
        nonlocal found
        sock = listening("127.0.0.1", 0)
        config = uvicorn.Config(
            _application, http=GuardedProtocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1
        )
        server = _Server(config)
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as group:
                group.start_soon(server.serve, [sock])
                port = int(url_of(sock).rpartition(":")[2])
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    for piece in sent:
                        await stream.send(piece)
                    try:
                        while True:
                            found += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        pass
                server.should_exit = True

    anyio.run(main)
    return found


def test_slow_requests_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "HEADER_S", 0.1)
    monkeypatch.setattr(json_bodies, "BODY_S", 0.1)
    assert answered(b"GET / HTTP/1.1\r\nHost: ").startswith(b"HTTP/1.1 408 ")
    assert answered() == b"", "who says nothing is hung up on"
    assert answered(b"\r\n").startswith(b"HTTP/1.1 408 ")
    assert answered(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123").startswith(b"HTTP/1.1 408 ")
    assert answered(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n").startswith(
        b"HTTP/1.1 408 "
    )
    done = answered(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n123")
    assert done.startswith(b"HTTP/1.1 200 ") and done.endswith(b"\r\n\r\n3"), "then it is idle, and ended by keep-alive"


def test_a_large_body_is_no_large_head() -> None:
    body = b"x" * 300_000
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert answered(head + body).endswith(b"\r\n\r\n300000")


def test_the_supervisor_needs_no_web_framework() -> None:
    code = "import sys, fnplatform.dev, fnplatform.serve; assert not {'fastapi', 'uvicorn', 'jsonschema'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_taken_port_is_told() -> None:
    from fleet.protocol.errors import Refused
    from fnplatform.gateway.child import HttpSettings, choose_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        with pytest.raises(Refused, match=f"port {port} on 127.0.0.1"):
            listening("127.0.0.1", port)
    assert choose_port(HttpSettings(port=0)) > 0 and choose_port(HttpSettings()) > 0


def test_too_many_requests_are_refused_and_health_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "REQUESTS_MAX", 2)
    statuses: list[int] = []

    async def main() -> None:
        go = anyio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] != "/healthz":
                await go.wait()
            await Response(b"")(scope, receive, send)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async def ask(path: str) -> None:
            await gate({"type": "http", "path": path, "headers": []}, None, send)  # type: ignore[arg-type]

        gate = app.Gate(slow)
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(ask, "/v1/apps")
            await anyio.wait_all_tasks_blocked()
            await ask("/v1/apps")
            await ask("/healthz")
            assert statuses == [503, 200]
            go.set()
        await ask("/v1/apps")

    anyio.run(main)
    assert statuses == [503, 200, 200, 200, 200]
