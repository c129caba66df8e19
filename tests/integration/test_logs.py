"""What functions print reaches ``fleet logs``: of which call, attempt and item, live and later, bounded, through outages."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

import fleet
from fleet import _client, _deploy
from fleet.cli.main import app
from fleet.protocol.limits import LOG_BYTES_PER_CALL_MAX
from fleet.testing import LocalFleet
from tests.integration import log_functions as fn

LINES = 100
LINE_S = 0.07


def rows(*words: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["logs", *words, "--json"])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_line_says_call_attempt_and_pseudonym(shared_fleet: LocalFleet) -> None:
    call = fn.speak.spawn("hello")
    car = call.result(60)
    assert car not in [one.name for one in shared_fleet.cars]
    found = rows("--call", call.id)
    assert [(row["text"], row["attempt"], row["item"]) for row in found] == [
        ("hello attempt 1", 1, None), ("hello attempt 2", 2, None),
    ]  # fmt: skip
    assert found[1]["car"] == car and {row["call"] for row in found} == {call.id}
    assert call.logs() == [row["text"] for row in found]
    text = CliRunner().invoke(app, ["logs", "logtest.speak", "--since", "10m"]).stdout
    assert f"logtest.speak {call.id} #2 {car} | hello attempt 2" in text
    assert rows("logtest.speak", "--since", "0") == []
    assert CliRunner().invoke(app, ["logs"]).exit_code == 2
    assert CliRunner().invoke(app, ["logs", "--call", f"{call.id}/x"]).exit_code == 1


def test_items_of_a_chunk_say_which_they_are(shared_fleet: LocalFleet) -> None:
    group = fn.item.spawn_map(range(6), chunksize=6)
    assert list(group.results()) == list(range(6))
    (call,) = {row["call"] for row in rows("logtest.item")}
    found = {(row["item"], row["attempt"], row["text"]) for row in rows("--call", call)}
    assert found == {(number, 1, f"item {number}") for number in range(6)} | {(2, 2, "item 2")}
    assert [row["attempt"] for row in rows("--call", f"{call}/2")] == [1, 2]


def test_what_a_call_prints_is_bounded_and_the_cut_is_seen(shared_fleet: LocalFleet) -> None:
    call = fn.flood.spawn(2 * LOG_BYTES_PER_CALL_MAX)
    call.result(60)
    lines = call.logs()
    assert LOG_BYTES_PER_CALL_MAX * 0.95 < sum(map(len, lines)) <= LOG_BYTES_PER_CALL_MAX
    assert lines[-1] == "(output cut: more than 1024 KiB)"
    assert rows("--call", call.id)[-1]["text"] == lines[-1]


def test_a_function_that_an_event_starts_is_heard(shared_fleet: LocalFleet) -> None:
    _deploy.deploy(_client.current(), _deploy.load_app("tests.integration.log_functions"))
    dropped = shared_fleet.platform().dropped_replies
    for number in range(20):
        fleet.publish("logtest.a", {"n": number})
    shared_fleet.wait_for(lambda: len(rows("logtest.heard")) == 20, "a line for each event")
    assert {row["text"] for row in rows("logtest.heard")} == {f"heard {number}" for number in range(20)}
    assert shared_fleet.platform().dropped_replies == dropped, "nobody waits for what an event starts"


@contextmanager
def following(*words: str) -> Iterator[list[dict[str, Any]]]:
    """Rows of ``fleet logs -f`` as they come."""
    command = [sys.executable, "-P", "-m", "fleet.cli.main", "logs", *words, "-f", "--json"]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: list[dict[str, Any]] = []

    def read() -> None:
        assert follower.stdout is not None
        found.extend(json.loads(line) for line in follower.stdout)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found
    finally:
        follower.terminate()
        follower.wait(30)
        reader.join(30)


@pytest.mark.alone
@pytest.mark.local_fleet(cars=1)
def test_no_line_is_lost_while_broker_and_control_plane_are_killed(local_fleet: LocalFleet) -> None:
    call = fn.slowly.spawn(LINES, LINE_S)
    with following("--call", call.id) as live:
        local_fleet.wait_for(lambda: len(live) > 5, "the first lines")
        local_fleet.broker.kill()
        local_fleet.wait_for(lambda: len(live) > 30, "lines after the broker's restart")
        local_fleet.control.kill()
        call.result(60)
        local_fleet.wait_for(lambda: len(live) >= LINES, "the last lines")
    expected = [f"line {number}" for number in range(LINES)]
    assert sorted((row["text"] for row in live), key=expected.index) == expected, "each once"
    assert call.logs() == expected
