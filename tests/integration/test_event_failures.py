"""An event that fails for good: retried alone, then a dead letter that shows it, and that is replayed."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from typer.testing import CliRunner

import fleet
from fleet import _client, _deploy
from fleet.cli.main import app
from fleet.testing import LocalFleet

EVENTS = 60
BAD = (7, 31, 32)
FN = "logtest.fragile"


def as_json(*words: str) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"] if words[:2] != ("dead", "show") else words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def printed() -> Counter[str]:
    done = CliRunner().invoke(app, ["logs", FN, "--json"])
    return Counter(json.loads(line)["text"] for line in done.stdout.splitlines())


def letters() -> list[Any]:
    found: list[Any] = as_json("dead", "list", FN)
    return found


@pytest.fixture
def deployed(shared_fleet: LocalFleet) -> LocalFleet:
    _deploy.deploy(_client.current(), _deploy.load_app("tests.integration.log_functions"))
    return shared_fleet


def items_of(letter: Any) -> int:
    pending = letter["state"]["pending"]
    return 1 if pending is None else sum(last - first + 1 for first, last in pending)


def test_an_event_that_fails_is_retried_alone_shown_and_replayed(deployed: LocalFleet) -> None:
    for number in range(EVENTS):
        text = f"bad{number}" if number in BAD else f"good{number}"
        fleet.publish(f"failing.{number}", {"text": text}, id=f"e{number}", source="/tests")
    deployed.wait_for(lambda: sum(map(items_of, letters())) == len(BAD), "the dead letters")
    deployed.wait_for(lambda: sum(printed().values()) == EVENTS + len(BAD), "all that was printed")
    assert all(count == 1 for count in printed().values()), "what didn't fail ran once"
    assert {f"bad{number} 2" for number in BAD} <= printed().keys()

    calls = sorted({letter["state"]["call"] for letter in letters()})
    shown = as_json("dead", "show", *calls)
    events = {event["id"]: event for letter in shown for event in letter["events"]}
    assert events.keys() == {f"e{number}" for number in BAD}
    assert (events["e7"]["source"], events["e7"]["subject"]) == ("/tests", "failing.7")
    assert events["e7"]["data"] == {"text": "bad7"} and {letter["attempts"] for letter in shown} == {2}
    assert "subject" in CliRunner().invoke(app, ["dead", "list", FN]).stdout
    assert {row["trigger"] for row in as_json("calls", FN)} == {"subject"}

    before = letters()
    again = as_json("dead", "replay", "--all", "--of", FN)
    assert len(again["replayed"]) == len(calls) and again["problems"] == []
    deployed.wait_for(lambda: sum(map(items_of, letters())) == len(BAD), "the replayed events to fail again")
    assert (
        {one["state"]["call"] for one in letters()}
        == set(again["replayed"])
        != {one["state"]["call"] for one in before}
    )
    assert sum(map(items_of, letters())) == len(BAD)
    as_json("dead", "drop", "--all", "--of", FN)
    assert letters() == []
