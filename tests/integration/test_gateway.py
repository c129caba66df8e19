"""HTTP for real: calls, streams, logs, routes of functions, tokens, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import pytest

from fleet import _tokens
from fleet._procfs import children_of, descendants_of
from fleet.protocol.messages import CallsRequest, CallState, CallStatus, StatusReply, TokenReply, TokenRequest
from fleet.protocol.subjects import ApiVerb
from fleet.testing import LocalFleet
from fnplatform.gateway.child import FLEET
from tests.integration.gateway_rig import FUNCTIONS, LIMIT_S, deploy, events_in, gateway_of, new_token, problem
from tests.integration.processes import all_end

WEB = "/v1/apps/web/functions"


@pytest.fixture(scope="module")
def web(shared_fleet: LocalFleet) -> Iterator[httpx.Client]:
    """A client of the gateway in front of the functions."""
    deploy(FUNCTIONS, "web")
    with httpx.Client(base_url=shared_fleet.http_url, timeout=LIMIT_S) as client:
        yield client


@pytest.fixture(scope="module")
def closed(shared_fleet: LocalFleet) -> Iterator[httpx.Client]:
    """A client of a gateway that wants tokens, as that of ``fleet serve`` does; it may be asked by pages of one other site."""
    words = ("--cors-origin", "https://app.example")
    with gateway_of(shared_fleet, *words) as url, httpx.Client(base_url=url, timeout=LIMIT_S) as client:
        yield client


def until(check: Callable[[], Any], what: str) -> Any:
    """The first true value of ``check``, which asks somebody each time."""
    limit_s = time.monotonic() + LIMIT_S
    while time.monotonic() < limit_s:
        if found := check():
            return found
    raise AssertionError(f"waited {LIMIT_S:.0f} s for {what}")


def status(web: httpx.Client, call: str) -> str:
    return str(web.get(f"/v1/calls/{call}").json()["status"])


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_answers_what_the_function_returned(web: httpx.Client) -> None:
    answer = web.post(f"{WEB}/add:call", json={"x": 2})
    assert (answer.status_code, answer.json()) == (200, 3)
    assert answer.headers["content-type"] == "application/json"
    assert status(web, answer.headers["fleet-call-id"]) == "succeeded"
    assert web.post(f"{WEB}/echo:call").json() is None, "no body is no arguments"
    value = {"a": [1, 2.5, None, True], "ü": "\U0001f697", "lone": "\ud800"}
    assert web.post(f"{WEB}/echo:call", content=json.dumps({"value": value}), headers=JSON).json() == value


JSON = {"content-type": "application/json"}


def test_values_have_a_form_in_json(web: httpx.Client) -> None:
    found = web.post(f"{WEB}/kinds:call").json()
    assert found == {
        "when": "2026-01-02T03:04:05+00:00", "bytes": base64.b64encode(b"\x00\xff").decode(), "decimal": "1.50",
        "uuid": "00000000-0000-0000-0000-000000000005", "set": [1, 2, 3], "point": {"x": 1, "y": 2}, "nan": None,
        "tuple": [1, "a"], "keys": {"1": "one", "null": "none"}, "complex": "(1+2j)", "big": 2**70,
    }  # fmt: skip


def test_arguments_are_held_against_the_signature(web: httpx.Client) -> None:
    given = {"when": "2026-01-02T03:04:05Z", "data": "AP8=", "tags": ["a", "b"], "amount": "1.50", "points": [[1, 2]]}
    found = web.post(f"{WEB}/typed:call", json=given).json()
    assert found == ["datetime", "bytes", "set", "Decimal", "list", "tuple", "AP8=", "1.50"]

    def wrong(name: str, values: Any) -> list[str]:
        answer = problem(web.post(f"{WEB}/{name}:call", json=values), 422, "wrong_arguments")
        assert "call" not in answer, "nothing ran"
        return [fault["pointer"] for fault in answer["errors"]]

    assert wrong("add", {"x": "1"}) == ["/x"] and wrong("add", {}) == [""] and wrong("add", {"x": 1, "z": 1}) == [""]
    assert wrong("typed", given | {"points": [[1, 2], [3]]}) == ["/points/1"]
    assert wrong("typed", given | {"when": "yesterday"}) == ["/when"]
    assert wrong("typed", given | {"tags": ["a", "a"]}) == ["/tags"]
    assert wrong("typed", given | {"data": "not base64!"}) == ["/data"]
    assert len(wrong("typed", {})) >= 5, "all that is wrong is told at once"
    assert web.post(f"{WEB}/add:call", json={"x": 1.0}).json() == 2, "an integer, as JSON has it"
    no_json = problem(web.post(f"{WEB}/hook:call", json={}), 415, "no_json_form")
    assert "Event" in no_json["detail"]


def test_what_a_function_raises_is_told_to_its_owner(web: httpx.Client) -> None:
    found = problem(web.post(f"{WEB}/fail:call", json={"text": "sold out"}), 500, "function_failed")
    assert found["detail"] == "ValueError: sold out"
    assert found["exception"]["type"] == "ValueError" and "in fail" in found["exception"]["traceback"]
    later = web.get(f"/v1/calls/{found['call']}").json()
    assert later["status"] == "failed" and later["error"]["exception"]["message"] == "sold out"
    found = problem(web.post(f"{WEB}/too_slow:call"), 504, "call_timeout")
    assert status(web, found["call"]) == "failed"


def test_a_call_is_handed_over_followed_and_cancelled(web: httpx.Client) -> None:
    spawned = web.post(f"{WEB}/add:spawn", json={"x": 1, "y": 1})
    assert spawned.status_code == 202 and spawned.headers["location"] == f"/v1/calls/{spawned.json()['id']}"
    found = web.get(spawned.headers["location"], params={"wait": "20s"}).json()
    assert found["status"] == "succeeded" and found["result"] == 2 and found["app"] == "web"
    sleeping = web.post(f"{WEB}/sleep:spawn", json={"seconds": 25}).json()["id"]
    assert web.get(f"/v1/calls/{sleeping}", params={"wait": "50ms"}).json()["status"] in ("queued", "running")
    assert web.delete(f"/v1/calls/{sleeping}").json() == {"id": sleeping, "cancelled": True}
    assert web.delete(f"/v1/calls/{sleeping}").json() == {"id": sleeping, "cancelled": False}
    assert web.get(f"/v1/calls/{sleeping}").json()["error"]["type"].endswith(":call_cancelled")
    for answer in (web.get("/v1/calls/unknown"), web.delete("/v1/calls/unknown"), web.get("/v1/calls/unknown/events")):
        problem(answer, 404, "result_expired")


def test_an_idempotency_key_stands_for_one_call(web: httpx.Client) -> None:
    key = {"idempotency-key": f"order {time.time_ns()}"}
    first = web.post(f"{WEB}/add:call", json={"x": 1, "y": 2}, headers=key)
    again = web.post(f"{WEB}/add:call", content='{"y": 2, "x": 1}', headers={**key, **JSON})
    assert first.json() == again.json() == 3
    assert first.headers["fleet-call-id"] == again.headers["fleet-call-id"]
    assert (
        web.post(f"{WEB}/add:spawn", json={"x": 1, "y": 2}, headers=key).json()["id"] == again.headers["fleet-call-id"]
    )
    problem(web.post(f"{WEB}/add:call", json={"x": 2}, headers=key), 422, "idempotency_key_reused")
    other = web.post(f"{WEB}/echo:call", json={"value": 1}, headers=key)
    assert other.json() == 1 and other.headers["fleet-call-id"] != first.headers["fleet-call-id"]
    problem(web.post(f"{WEB}/add:call", headers={"idempotency-key": ""}), 400, "bad_idempotency_key")


def test_many_requests_at_once(web: httpx.Client) -> None:
    key = {"idempotency-key": f"same {time.time_ns()}"}
    answers: list[httpx.Response] = []

    async def main() -> None:
        async with (
            httpx.AsyncClient(base_url=web.base_url, timeout=LIMIT_S) as client,
            anyio.create_task_group() as group,
        ):

            async def one(number: int, headers: dict[str, str] | None) -> None:
                answers.append(await client.post(f"{WEB}/add:call", json={"x": number, "y": 0}, headers=headers))

            for number in range(60):
                group.start_soon(one, number, None)
            for _ in range(10):
                group.start_soon(one, 1000, key)

    anyio.run(main)
    assert sorted(answer.json() for answer in answers) == [*range(60), *[1000] * 10]
    same = {answer.headers["fleet-call-id"] for answer in answers if answer.json() == 1000}
    assert len(same) == 1, "one key is one call, also all at once"


def test_whoever_goes_away_cancels_the_call(web: httpx.Client, shared_fleet: LocalFleet) -> None:
    def gone(headers: dict[str, str]) -> None:
        with pytest.raises(httpx.ReadTimeout):
            web.post(f"{WEB}/sleep:call", json={"seconds": 20}, headers=headers, timeout=0.5)

    def cancelled() -> set[str]:
        return {row.call for row in sleepers(shared_fleet, "cancelled")}

    before = cancelled()
    gone({})
    until(lambda: cancelled() - before, "the call to be cancelled")
    gone({"idempotency-key": f"keep {time.time_ns()}"})
    running = until(lambda: sleepers(shared_fleet, "running"), "the call to go on")
    assert web.delete(f"/v1/calls/{running[0].call}").json()["cancelled"]


def sleepers(fleet: LocalFleet, state: str) -> list[CallStatus]:
    """The newest calls of ``sleep`` in that state."""
    rows = fleet.ask(ApiVerb.CALLS, CallsRequest(app="web", function="sleep", limit=5), StatusReply).calls
    return [row for row in rows if row.state == CallState(state)]


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_generator_streams_and_says_how_it_ended(web: httpx.Client) -> None:
    answer = web.post(f"{WEB}/count:stream", json={"n": 5})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events_in(answer.text) == [*(("item", str(n)) for n in range(5)), ("end", '{"items":5}')]
    *items, (name, data) = events_in(web.post(f"{WEB}/count:stream", json={"n": 3}).text)
    assert len(items) == 3 and name == "error" and json.loads(data)["exception"]["message"] == "three"
    problem(web.post(f"{WEB}/add:stream", json={"x": 1}), 409, "is_no_generator")
    problem(web.post(f"{WEB}/count:call", json={"n": 1}), 409, "is_generator")
    long = web.post(f"{WEB}/count:stream", json={"n": 3000})
    assert events_in(long.text)[-1] == ("end", '{"items":3000}'), "more than a window"


def test_a_generator_nobody_listens_to_is_cancelled(web: httpx.Client) -> None:
    with web.stream("POST", f"{WEB}/count:stream", json={"n": 10_000, "pause_s": 0.05}) as answer:
        call = answer.headers["fleet-call-id"]
        assert next(answer.iter_lines()) == "event: item", "it comes as it yields"
    until(lambda: status(web, call) == "cancelled", "the generator to be cancelled")


def test_a_call_is_followed_with_what_it_prints(web: httpx.Client) -> None:
    call = web.post(f"{WEB}/talk:spawn", json={"n": 3}).json()["id"]
    found = events_in(web.get(f"/v1/calls/{call}/events").text)
    assert [json.loads(data)["text"] for name, data in found if name == "line"] == ["line 0", "line 1", "line 2"]
    assert json.loads(next(data for name, data in reversed(found) if name == "status"))["status"] == "succeeded"
    assert found[-1][0] == "result" and json.loads(found[-1][1])["result"] == 3
    lines = web.get("/v1/logs", params={"call": call}).json()["lines"]
    assert [line["text"] for line in lines] == ["line 0", "line 1", "line 2"] and lines[0]["function"] == "talk"


def test_logs_are_followed(web: httpx.Client) -> None:
    with web.stream("GET", "/v1/logs", params={"app": "web", "function": "talk", "follow": "true"}) as answer:
        texts = (json.loads(line[6:])["text"] for line in answer.iter_lines() if line.startswith("data: "))
        web.post(f"{WEB}/talk:call", json={"n": 200})
        assert any(text == "line 199" for text in texts)


# --- what is there ---------------------------------------------------------------------------------------------------


def test_what_is_deployed_is_listed(web: httpx.Client) -> None:
    apps = {one["app"]: one for one in web.get("/v1/apps").json()["apps"]}
    assert {"add", "hook"} <= set(apps["web"]["functions"])
    found = {one["function"]: one for one in web.get(WEB).json()["functions"]}
    assert found["add"]["arguments"]["required"] == ["x"] and "why_not" in found["hook"]
    assert found["add"]["signature"] == "(x: int, y: int = 1) -> int" and found["count"]["generator"]
    assert found["rest"]["triggers"] == [{"kind": "http", "method": "GET", "path": "/files/{rest:path}"}]
    problem(web.get("/v1/apps/nothing/functions"), 404, "not_deployed")


def test_health_and_document(web: httpx.Client) -> None:
    assert web.get("/healthz").status_code == web.get("/readyz").status_code == 200
    document = web.get("/openapi.json").json()
    assert "/v1/apps/{app}/functions/{fn}:call" in document["paths"]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert not path.startswith("/v1/") or "401" in operation["responses"], path


# --- routes of functions ---------------------------------------------------------------------------------------------


def test_a_route_gets_the_request_as_an_event(web: httpx.Client) -> None:
    answer = web.post("/u/default/echo/a%2Fb%20c?q=1&q=2&r=", json={"k": 1}, headers={"x-test": "me"})
    found = answer.json()
    assert found["params"] == {"name": "a/b c"} and found["query"] == [["q", "1"], ["q", "2"], ["r", ""]]
    assert found["data"] == {"k": 1} and found["method"] == "POST" and found["agent"] == "me" and found["body"] == 7
    assert found["type"] == "fleet.http.request" and found["source"] == "/u/default/echo/a%2Fb%20c"
    assert found["subject"] == "" and found["id"] == answer.headers["fleet-call-id"]


def test_routes_are_chosen_and_answers_formed(web: httpx.Client) -> None:
    assert web.get("/u/default/echo/exact").text == "exact", "exact beats a parameter"
    assert web.get("/u/default/echo/other").json()["params"] == {"name": "other"}
    assert web.get("/u/default/files/a/b//c").text == "a/b//c"
    plain = web.get("/u/default/plain")
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    head = web.head("/u/default/plain")
    assert head.status_code == 200 and head.text == "" and head.headers["content-length"] == "5"
    assert web.get("/u/default/nothing").status_code == 204
    image = web.get("/u/default/image")
    assert image.content == b"\x89PNG" and image.headers["content-type"] == "application/octet-stream"
    page = web.get("/u/default/page")
    assert (page.status_code, page.text, page.headers["x-ok"]) == (201, "<b>hi</b>", "yes")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and page.headers["content-length"] == "9"
    assert "connection" not in page.headers and "transfer-encoding" not in page.headers, "those aren't a function's"
    assert web.post("/u/default/hear", json={"n": 1}).status_code == 204, "an event goes out, nothing comes back"
    wrong = web.delete("/u/default/echo/x")
    assert problem(wrong, 405, "method_not_allowed") and wrong.headers["allow"] == "GET, HEAD, POST"
    for path in (
        "/u/default/none",
        "/u/default/echo",
        "/u/default/echo/a/b",
        "/u/nobody/plain",
        "/u/",
        "/u/a..b/plain",
    ):
        problem(web.get(path), 404, "no_route")


def test_failures_of_a_route(web: httpx.Client, closed: httpx.Client, shared_fleet: LocalFleet) -> None:
    assert "swordfish" in problem(web.get("/u/default/broken"), 500, "function_failed")["detail"], "here all are owners"
    problem(web.get("/u/default/slow"), 504, "call_timeout")
    assert "swordfish" not in closed.get("/u/default/broken").text
    token = {"authorization": f"Bearer {new_token(shared_fleet)}"}
    assert "swordfish" in closed.get("/u/default/broken", headers=token).text


def test_a_deploy_counts_at_once(web: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    for number in range(3):
        path = "/fresh" if number % 2 else "/older"
        file.write_text(
            f"import fleet\napp = fleet.App('fresh')\n"
            f"@app.function(on=[fleet.http('GET', '{path}')])\ndef f() -> int:\n    return {number}\n{'#' * number}\n"
        )  # Of another length each time: Python trusts a .pyc whose source has its size and second.
        deploy(file, "fresh")
        assert web.get(f"/u/default{path}").json() == number
        assert web.post("/v1/apps/fresh/functions/f:call").json() == number
        problem(web.get("/u/default/older" if number % 2 else "/u/default/fresh"), 404, "no_route")


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_tokens(shared_fleet: LocalFleet, web: httpx.Client, closed: httpx.Client) -> None:
    token = new_token(shared_fleet)
    asked: list[Callable[..., httpx.Response]] = [
        partial(closed.get, "/v1/apps"), partial(closed.post, f"{WEB}/add:call", json={"x": 1}),
        partial(closed.post, "/v1/events", json={}), partial(closed.get, "/v1/logs"),
    ]  # fmt: skip
    strangers = (
        None, "", "Bearer", "Bearer x", "Basic abc", f"Bearer {_tokens.make('default')}",
        f"Bearer {_tokens.make('nobody')}", f"Bearer {token}x", f"Bearer {token.replace('default', 'other')}",
    )  # fmt: skip
    for text in strangers:
        for ask in asked:
            answer = ask(headers={} if text is None else {"authorization": text})
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
    mine = {"authorization": f"bearer {token}"}
    assert closed.post(f"{WEB}/add:call", json={"x": 1}, headers=mine).json() == 2
    assert closed.get("/u/default/plain").text == "exact", "routes are open to all"
    request = TokenRequest(action="revoke", id=_tokens.parse(token).id)
    shared_fleet.ask(ApiVerb.TOKEN, request, TokenReply)
    until(lambda: closed.get("/v1/apps", headers=mine).status_code == 401, "the token to be forgotten")
    problem(web.get("/v1/apps", headers={"authorization": "Bearer x"}), 401, "unauthorized")


def test_pages_of_others_may_not_ask(web: httpx.Client, closed: httpx.Client, shared_fleet: LocalFleet) -> None:
    problem(web.post(f"{WEB}/kinds:call", headers={"origin": "https://evil.example"}), 403, "other_site")
    problem(web.get("/v1/apps", headers={"host": "evil.example"}), 403, "other_site")
    assert web.get("/v1/apps", headers={"origin": str(web.base_url).rstrip("/")}).status_code == 200
    assert "access-control-allow-origin" not in web.get("/v1/apps").headers
    token = {"authorization": f"Bearer {new_token(shared_fleet)}"}
    mine = closed.get("/v1/apps", headers={"origin": "https://app.example", **token})
    assert mine.status_code == 200 and mine.headers["access-control-allow-origin"] == "https://app.example"
    other = closed.get("/v1/apps", headers={"origin": "https://evil.example", **token})
    assert "access-control-allow-origin" not in other.headers
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert closed.options(f"{WEB}/add:call", headers=asked).status_code == 200


# --- events ----------------------------------------------------------------------------------------------------------


def test_cloud_events_are_accepted(web: httpx.Client) -> None:
    mark = str(time.time_ns())
    one = {"specversion": "1.0", "id": mark, "source": "/test", "type": "web.heard", "data": {"n": 1}}
    kind = {"content-type": "application/cloudevents+json"}
    first = web.post("/v1/events", content=json.dumps(one), headers=kind)
    assert (first.status_code, first.json()) == (202, {"ids": [mark], "duplicates": []})
    assert web.post("/v1/events", content=json.dumps(one), headers=kind).json()["duplicates"] == [mark]
    several = json.dumps([one, one | {"id": f"{mark}-2", "subject": "web.heard"}])
    batch = web.post("/v1/events", content=several, headers={"content-type": "application/cloudevents-batch+json"})
    assert batch.json() == {"ids": [mark, f"{mark}-2"], "duplicates": [mark]}
    binary = {"ce-specversion": "1.0", "ce-id": f"{mark}-3", "ce-source": "/test", "ce-type": "web.heard", **JSON}
    assert web.post("/v1/events", content=b'{"n": 3}', headers=binary).status_code == 202
    heard = until(lambda: _heard(web, mark), "the functions to run")
    assert sorted(heard) == [f"{mark} {{'n': 1}}", f"{mark}-2 {{'n': 1}}", f"{mark}-3 {{'n': 3}}"]
    for body in (b"", b"{", b"[]", b"[" * 50_000, json.dumps(one | {"id": ""}).encode()):
        problem(web.post("/v1/events", content=body, headers=kind), 400, "bad_event")
    problem(web.post("/v1/events", json={}), 400, "bad_event")


def _heard(web: httpx.Client, mark: str) -> list[str]:
    lines = web.get("/v1/logs", params={"app": "web", "function": "heard"}).json()["lines"]
    found = [line["text"] for line in lines if line["text"].startswith(mark)]
    return found if len(found) >= 3 else []


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_requests_are_answered_with_problems(web: httpx.Client) -> None:
    call = f"{WEB}/add:call"
    for body in (b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"x": NaN}', b'{"x": ' + b"9" * 5000 + b"}", b"[" * 100_000):
        problem(web.post(call, content=body, headers=JSON), 400, "bad_json")
    problem(web.post(call, content=b"{}"), 415, "unsupported_media_type")
    problem(web.post(call, content=b"{}", headers={"content-type": "text/plain"}), 415, "unsupported_media_type")
    problem(web.post(f"{WEB}/nothing_here:call"), 404, "not_deployed")
    problem(web.post("/v1/apps/none/functions/f:call"), 404, "not_deployed")
    problem(web.post("/v1/apps/a.b/functions/f:call"), 404, "not_found")
    problem(web.get("/v1/nothing"), 404, "not_found")
    problem(web.get(call), 405, "method_not_allowed")
    problem(web.get("/v1/calls/x", params={"wait": "long"}), 400, "invalid_option")
    problem(web.get("/v1/logs", params={"limit": "-1"}), 400, "bad_request")
    problem(web.get("/v1/logs", params={"app": "a b"}), 400, "bad_request")
    big = b'{"value": "' + b"x" * (4 << 20) + b'"}'
    problem(web.post(f"{WEB}/echo:call", content=big, headers=JSON), 413, "payload_too_large")
    problem(web.post(f"{WEB}/echo:call", content=iter([big[:1000], big]), headers=JSON), 413, "payload_too_large")
    problem(web.post("/u/default/echo/x", content=big), 413, "payload_too_large")
    assert web.post(f"{WEB}/echo:call", json={"value": "x" * (3 << 20)}).json() == "x" * (3 << 20)


def test_what_is_in_flight_is_answered_at_the_end(web: httpx.Client, shared_fleet: LocalFleet) -> None:
    answers: list[httpx.Response] = []

    def ask(url: str) -> None:
        answers.append(httpx.post(f"{url}{WEB}/sleep:call", json={"seconds": 1.0}, timeout=LIMIT_S))

    before = {row.call for row in sleepers(shared_fleet, "running")}
    with gateway_of(shared_fleet, "--open") as url:
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        until(lambda: {row.call for row in sleepers(shared_fleet, "running")} - before, "the call to run")
    asking.join(LIMIT_S)
    assert answers[0].json() == "slept"


def test_serve_keeps_a_gateway_that_wants_tokens(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*FLEET, "serve", "--data", str(tmp_path), "--port", "0", "--http-port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        url = next(line for line in process.stderr if line.startswith("gateway ready at ")).split()[-1]
        assert httpx.get(f"{url}/readyz").status_code == 200
        problem(httpx.get(f"{url}/v1/apps"), 401, "unauthorized")
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in children_of(process.pid)}
        (child,) = [pid for pid, words in commands.items() if "gateway" in words]
        os.kill(child, signal.SIGKILL)
        assert url in next(line for line in process.stderr if line.startswith("gateway ready at ")), "at the same place"
        assert httpx.get(f"{url}/readyz").status_code == 200
    finally:
        left = descendants_of(process.pid)
        process.terminate()
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0 and all_end(left, 0.0) == []


def test_the_gateway_comes_back(shared_fleet: LocalFleet, web: httpx.Client) -> None:
    call = web.post(f"{WEB}/sleep:spawn", json={"seconds": 0.2}).json()["id"]
    shared_fleet.gateway.kill()
    shared_fleet.gateway.wait_restarted()
    assert web.get(f"/v1/calls/{call}", params={"wait": "20s"}).json()["result"] == "slept"
    assert shared_fleet.platform().http_url == shared_fleet.http_url
