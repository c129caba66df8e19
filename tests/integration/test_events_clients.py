"""Clients of other people start functions: the JavaScript SDK of CloudEvents over HTTP, the JavaScript NATS client; and ours.

The JavaScript packages are those of ``tests/js/package.json``; ``make js`` fetches them into the virtual environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

import fleet
from fleet import _client, _deploy
from fleet.cli.main import app as cli
from fleet.protocol.ids import event_call_id
from fleet.testing import LocalFleet

SCRIPTS = Path(__file__).parents[1] / "js"
PACKAGES = Path(sys.prefix) / "js"
LIMIT_S = 60.0
ORDER = {"item": "tyre", "count": 4, "note": "grün"}


@pytest.fixture(scope="module")
def orders(shared_fleet: LocalFleet) -> LocalFleet:
    """A fleet with the function that events start."""
    loaded = _deploy.load_app("tests/integration/event_functions.py", None)
    _deploy.deploy(_client.current(), loaded)
    return shared_fleet


def known(source: str, event: str) -> bool:
    """Whether the event became a call."""
    try:
        fleet.Call.from_id(event_call_id("default", "orders", "take", source, event)).status()
    except fleet.ResultExpired:
        return False
    return True


def taken(orders: LocalFleet, source: str, event: str) -> dict[str, Any]:
    """What the function said of the event that started it."""
    orders.wait_for(lambda: known(source, event), f"event {event} of {source} to become a call")
    call: fleet.Call[dict[str, Any]] = fleet.Call.from_id(event_call_id("default", "orders", "take", source, event))
    return call.result(timeout=LIMIT_S)


def node(script: str, *args: str) -> list[str]:
    """What a script of ``tests/js`` prints."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no node and npm here: clients in JavaScript are not tried")
    assert (PACKAGES / "node_modules").exists(), "the JavaScript packages are fetched with: make js"
    done = subprocess.run(
        ["node", "--input-type=module", "-", *args], stdin=(SCRIPTS / script).open("rb"), cwd=PACKAGES, timeout=LIMIT_S,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def gateway(orders: LocalFleet) -> Iterator[str]:
    """The address of an HTTP gateway of its own."""
    command = [sys.executable, "-m", "fleet.cli.main", "gateway", "--nats", orders.url, "--port", "0", "--open"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "FLEET_LIFELINE": ""})
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("gateway ready at "):
                break
        else:
            raise AssertionError("the gateway ended")
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        process.stderr.close()


def test_the_javascript_sdk_of_cloudevents_starts_a_function(orders: LocalFleet, gateway: str) -> None:
    answers = [json.loads(line) for line in node("post_cloudevent.mjs", gateway)]
    for mode, answer in zip(("binary", "structured"), answers, strict=True):
        assert answer == {"ids": [f"http-{mode}"], "duplicates": []}
        got = taken(orders, "/js/cloudevents", f"http-{mode}")
        assert got == {
            "id": f"http-{mode}", "source": "/js/cloudevents", "type": "shop.order", "subject": "shop.orders",
            "time": "2026-11-23T08:30:00+00:00", "kind": "application/json", "extensions": {"traceid": "42"}, "data": ORDER,
        }  # fmt: skip
    again = [json.loads(line) for line in node("post_cloudevent.mjs", gateway)]
    assert [answer["duplicates"] for answer in again] == [["http-binary"], ["http-structured"]]


def test_an_event_that_is_none_is_the_posters_fault(gateway: str) -> None:
    whole = {"ce-specversion": "1.0", "ce-id": "bad", "ce-source": "/s", "ce-type": "t", "content-type": "text/plain"}
    for status, headers, body in (
        (400, {**whole, "ce-source": ""}, b""),
        (400, {**whole, "ce-subject": "a b"}, b""),
        (400, {"content-type": "application/cloudevents+json"}, b"[" * 100_000),
        (413, whole, b"x" * ((1 << 20) + 1)),
    ):
        request = urllib.request.Request(f"{gateway}/v1/events", body, headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=LIMIT_S)
        problem = json.load(caught.value)
        assert (caught.value.code, caught.value.headers["content-type"]) == (status, "application/problem+json"), (
            problem
        )
        assert "event" in problem["detail"] and problem["hint"]


def test_the_javascript_nats_client_starts_the_same_function(orders: LocalFleet) -> None:
    asked = [json.loads(line) for line in node("publish_nats.mjs", orders.url)]
    assert asked == [{"id": "nats-ce", "duplicate": False}, {"id": "nats-plain", "duplicate": False}]
    for source, event, kind in (
        ("/js/nats", "nats-ce", "shop.order"),
        ("/nats/default", "nats-plain", "fleet.event"),
        ("/nats/default", "nats-bare", "fleet.event"),
    ):
        got = taken(orders, source, event)
        assert (got["id"], got["type"], got["subject"], got["data"]) == (event, kind, "shop.orders", ORDER)


def test_fleet_publish_starts_it_once(orders: LocalFleet) -> None:
    event = fleet.publish("shop.orders", ORDER)
    assert taken(orders, "/client/default", event)["data"] == ORDER
    assert fleet.publish("shop.orders", "text", id="one", source="/me", type="t", time="2026-01-01T00:00:00Z") == "one"
    assert fleet.publish("shop.orders", "other", id="one", source="/me") == "one"
    got = taken(orders, "/me", "one")
    assert (got["data"], got["type"], got["time"]) == ("text", "t", "2026-01-01T00:00:00+00:00"), "the first of them"

    ids: set[str] = set()

    async def one(number: int) -> None:
        ids.add(await fleet.publish.aio("shop.nowhere", number))

    async def many() -> None:
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(one, number)

    anyio.run(many)
    assert len(ids) == 200


def test_the_command(orders: LocalFleet, tmp_path: Path) -> None:
    run = CliRunner().invoke
    (tmp_path / "order.json").write_text('{"item": "file"}')
    for number, (data, stdin, got, kind) in enumerate(
        [
            ('{"item": "tyre"}', "", {"item": "tyre"}, "application/json"),
            ("just text", "", "just text", "text/plain"),
            (f"@{tmp_path / 'order.json'}", "", {"item": "file"}, "application/json"),
            ("-", "[1, 2]", [1, 2], "application/json"),
        ]
    ):
        done = run(cli, ["publish", "shop.orders", data, "--id", f"cli-{number}", "--source", "/cli"], input=stdin)
        assert done.exit_code == 0 and done.stdout == f"cli-{number}\n", done.output
        told = taken(orders, "/cli", f"cli-{number}")
        assert (told["data"], told["kind"]) == (got, kind)
    again = run(cli, ["publish", "shop.orders", "1", "--id", "cli-0", "--source", "/cli", "--json"])
    assert json.loads(again.stdout) == {"id": "cli-0", "duplicate": True}
    for bad in (["a b", "1"], ["a", "@/no/such/file"], ["a", "1", "--source", "/fleet/x"], ["a", "1", "--id", ""]):
        failed = run(cli, ["publish", *bad])
        assert isinstance(failed.exception, fleet.FleetError) and failed.exception.hint, failed.output


def test_a_sandbox_points_to_emit(orders: LocalFleet) -> None:
    publishes: fleet.Function[[], None] = fleet.Function.from_name("orders", "publishes")
    with pytest.raises(fleet.Refused, match=r"return fleet\.emit\(subject, data\)"):
        publishes.remote()
