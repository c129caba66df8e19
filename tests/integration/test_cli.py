"""Every command of the CLI against a real fleet: what it prints where, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleet import _tokens
from fleet.cli.main import app
from fleet.testing import LocalFleet

LIMIT_S = 60.0
COMMANDS = """dev deploy run call list history rollback delete calls explain cancel logs publish dead token status doctor cars
    car serve demo bench"""
APP = '''
import fleet


@fleet.function
def add(x: int, y: int = 1) -> int:
    """Sum of two."""
    print("adding", x, y)
    return x + y


@fleet.function
def shout(text: str, *, times: int = 1) -> str:
    return text.upper() * times


@fleet.function
def fail(message: str) -> None:
    raise ValueError(message)


@fleet.function
def nap(seconds: float) -> str:
    import time
    time.sleep(seconds)
    return "rested"


@fleet.function
def spell(text: str):
    for letter in text:
        yield {"letter": letter}
'''


@pytest.fixture(scope="module")
def fleet_of_two() -> Iterator[LocalFleet]:
    with LocalFleet(cars=2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "jobs.py"
    path.write_text(APP)
    return path


@pytest.fixture(scope="module")
def deployed(fleet_of_two: LocalFleet, jobs: Path) -> Path:
    done = fleet("deploy", str(jobs))
    assert done.returncode == 0, done.stderr
    return jobs


def fleet(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "fleet.cli.main", *words],
        capture_output=True, text=True, timeout=LIMIT_S, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip


def ok(*words: str) -> str:
    done = fleet(*words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def as_json(*words: str) -> Any:
    return json.loads(ok(*words, "--json"))


def fails(*words: str) -> str:
    """What it said on stderr: one sentence, then a hint; nothing on stdout."""
    done = fleet(*words)
    assert done.returncode == 1, (words, done.stdout, done.stderr)
    assert done.stdout == ""
    assert "\nhint: " in done.stderr
    assert "fleet/cli" not in done.stderr, "a traceback of ours is no sentence"
    return done.stderr


def test_help_is_quick_and_names_every_command() -> None:
    began_s = time.monotonic()
    said = ok("--help")
    took_s = time.monotonic() - began_s
    for command in COMMANDS.split():
        assert f" {command} " in said, command
    assert took_s < 3.0, "a loose bound for busy machines; 0.2 s is measured on an idle one"


@pytest.mark.parametrize(
    "command",
    ["dev", "deploy", "run", "call", "list", "history", "rollback", "delete", "calls", "explain", "cancel", "logs", "status",
     "doctor", "cars", "serve", "gateway", "car run", "car drive", "dead list", "dead show", "dead replay", "dead drop",
     "token create", "token list", "token revoke"],
)  # fmt: skip
def test_every_command_has_an_example(command: str) -> None:
    said = CliRunner().invoke(app, [*command.split(), "--help"])
    assert said.exit_code == 0
    assert f"Example: fleet {command}" in said.stdout


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, fleet.cli.main; print(*(m for m in ('nats', 'pydantic', 'anyio', 'wasmtime') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("words", [("nonsense",), ("run",), ("dev", "--cars", "many"), ("calls", "--limit", "0")])
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage" in done.stderr


@pytest.mark.parametrize("words", [("status",), ("cars",), ("list",), ("run", "FILE::add", "1")])
def test_nobody_there_is_said_within_three_seconds(words: tuple[str, ...], jobs: Path) -> None:
    words = tuple(word.replace("FILE", str(jobs)) for word in words)
    began_s = time.monotonic()
    done = fleet(*words, environment={"FLEET_URL": "nats://127.0.0.1:9"})
    took_s = time.monotonic() - began_s
    assert done.returncode == 1
    assert done.stderr.startswith("error: nobody answers at nats://127.0.0.1:9"), done.stderr
    assert "\nhint: " in done.stderr
    assert took_s < 3.0 + 2.0, "three seconds, and the start of Python on a busy machine"


def test_run_converts_arguments_and_shows_prints_on_stderr(fleet_of_two: LocalFleet, jobs: Path) -> None:
    done = fleet("run", f"{jobs}::add", "41")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "42\n"
    assert "adding 41 1" in done.stderr
    assert ok("run", f"{jobs}::shout", "hi", "times=2") == "HIHI\n"
    assert as_json("run", f"{jobs}::shout", "hi") == "HI"


def test_run_says_what_is_wrong(fleet_of_two: LocalFleet, jobs: Path, tmp_path: Path) -> None:
    assert "x='many' can't be read as int" in fleet("run", f"{jobs}::add", "many").stderr
    assert fleet("run", f"{jobs}::add", "many").returncode == 1
    assert "has no function 'nope'" in fails("run", f"{jobs}::nope")
    assert "names no function" in fails("run", str(jobs))
    assert fleet("run", f"{tmp_path}/missing.py::f").returncode == 1
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert fleet("deploy", str(tmp_path / "empty.py")).returncode == 1
    said = fails("run", f"{jobs}::fail", "broken on purpose")
    assert "fail raised ValueError: broken on purpose" in said
    assert "jobs.py" in said, "the remote traceback names the developer's file"


def test_deploy_list_call_history_rollback_delete(fleet_of_two: LocalFleet, tmp_path: Path) -> None:
    path = tmp_path / "shop.py"
    path.write_text("import fleet\n\n\n@fleet.function\ndef price(n: int) -> int:\n    return n\n")
    first = as_json("deploy", str(path))
    assert first["app"] == "shop"
    assert first["version"]["number"] == 1
    assert as_json("deploy", str(path))["unchanged"]
    path.write_text(
        path.read_text().replace("return n", "return n * 2").replace("function", "function(on=[fleet.at(END)])")
    )
    path.write_text(f"import datetime\nEND = datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC)\n{path.read_text()}")
    told = ok("deploy", str(path)).splitlines()
    assert told[0].split() == ["FUNCTION", "VERSION", "TRIGGERS", "PACKAGES"]
    assert "shop.price" in told[1] and "at 2999-01-01T00:00:00Z" in told[1]
    assert "at 2999-01-01T00:00:00Z" in ok("list", "shop")
    assert as_json("deploy", str(path))["triggers"]["price"] == [
        {"kind": "at", "at_unix_s": 32472144000.0, "missed": "one"}
    ]
    assert ok("call", "shop.price", "21") == "42\n"
    assert [row["manifest"]["function"] for row in as_json("list", "shop")] == ["price"]
    assert "shop.price" in ok("list")
    assert as_json("history", "shop")["live"] == 2
    assert as_json("rollback", "shop")["number"] == 1
    assert ok("call", "shop.price", "21") == "21\n"
    ok("delete", "shop")
    assert "hint: " in fails("call", "shop.price", "21")
    assert fleet("history", "shop").returncode == 1


def test_call_by_words_by_json_and_spawned(deployed: Path) -> None:
    assert ok("call", "jobs.add", "1", "y=2") == "3\n"
    assert ok("call", "jobs.add", "--json-args", '{"x": 4, "y": 5}') == "9\n"
    assert ok("call", "jobs.add", "--json-args", "[4]") == "5\n"
    call = ok("call", "jobs.shout", "hello", "--spawn").strip()
    assert len(call) == 32
    assert "no function" in fails("call", "jobs.nope").replace("there is no", "no")
    assert "names no function" in fails("call", "jobs")
    assert fleet("call", "jobs.add", "1", "2", "3").returncode == 1


def test_what_a_generator_yields_is_a_line_each(deployed: Path) -> None:
    assert ok("run", f"{deployed}::spell", "ab") == "{'letter': 'a'}\n{'letter': 'b'}\n"
    assert ok("call", "jobs.spell", "ab", "--json") == '{"letter": "a"}\n{"letter": "b"}\n'
    assert "generator" in fails("call", "jobs.spell", "ab", "--spawn")
    assert any(row["items_done"] == row["items"] == 2 for row in as_json("calls", "jobs.spell"))
    assert "2/2" in ok("calls", "jobs.spell")


def test_calls_explain_cancel(fleet_of_two: LocalFleet, deployed: Path) -> None:
    ok("car", "drive")
    for car in fleet_of_two.cars:
        fleet_of_two.wait_for(lambda car=car: not car.info().standing.eligible, f"{car.name} to be away")  # type: ignore[misc]
    call = ok("call", "jobs.nap", "0.1", "--spawn").strip()
    explained = as_json("explain", call)
    assert explained["state"] == "queued"
    assert explained["conditions"]
    assert "parked" in ok("explain", call)
    row = next(row for row in as_json("calls", "jobs.nap") if row["call"] == call)
    assert row["state"] == "queued"
    assert as_json("cancel", call) == {"cancelled": [call], "ended_before": []}
    assert as_json("cancel", call) == {"cancelled": [], "ended_before": [call]}
    assert call in ok("calls")
    second = ok("call", "jobs.add", "1", "--spawn").strip()
    for car in fleet_of_two.cars:
        car.park()
    fleet_of_two.wait_for(
        lambda: next(row for row in as_json("calls", "jobs") if row["call"] == second)["state"] == "succeeded",
        "the second call to end",
    )


def test_cars_and_simulated_signals(fleet_of_two: LocalFleet) -> None:
    shown = as_json("cars")
    assert [car["car"] for car in shown] == ["car-1", "car-2"]
    assert "eligible" in ok("cars")
    car = fleet_of_two.cars[0]
    for out, back, reason in (
        ("drive", "park", "not_parked"),
        ("unplug", "plug", "not_plugged_in"),
        ("pause", "resume", "paused"),
    ):
        assert as_json("car", out, "car-1") == {"action": out, "cars": ["car-1"]}
        fleet_of_two.wait_for(lambda reason=reason: reason in car.info().standing.reasons, reason)  # type: ignore[misc]
        assert "away" in ok("cars")
        ok("car", back, "car-1")
        fleet_of_two.wait_for(lambda: car.info().standing.eligible, f"the car after {back}")
    assert fleet("car", "drive", "car-9").returncode == 1


def test_logs(deployed: Path, fleet_of_two: LocalFleet) -> None:
    assert ok("call", "jobs.add", "7") == "8\n"
    fleet_of_two.wait_for(lambda: "adding 7 1" in ok("logs", "jobs.add"), "the printed line")
    rows = [json.loads(line) for line in ok("logs", "jobs.add", "--json").splitlines()]
    assert any(row["text"] == "adding 7 1" and row["stream"] == "stdout" for row in rows)


def test_logs_follow_shows_new_lines(deployed: Path, fleet_of_two: LocalFleet) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-P", "-m", "fleet.cli.main", "logs", "jobs.add", "-f"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert follower.stdout is not None
        os.set_blocking(follower.stdout.fileno(), False)
        seen: list[str] = []

        def followed() -> bool:
            assert ok("call", "jobs.add", "70000") == "70001\n"
            seen.append(follower.stdout.read() or "")  # type: ignore[union-attr]
            return "".join(seen).count("adding 70000 1") >= 2  # more than what was stored before it began

        fleet_of_two.wait_for(followed, "the followed lines")
        follower.send_signal(2)
        assert follower.wait(LIMIT_S) == 0
    finally:
        follower.kill()
        follower.communicate()


def test_status_and_doctor(fleet_of_two: LocalFleet) -> None:
    shown = as_json("status")
    assert shown["leader"] is True
    assert shown["cars"] == 2
    assert shown["url"] == fleet_of_two.url
    text = ok("status")
    assert "durability" in text and "still to be handled" in text and "of 1 GiB" in text
    checks = {check["name"]: check for check in as_json("doctor")}
    assert checks["platform"]["state"] == "ok", checks
    assert checks["dead letters"]["state"] == checks["control plane"]["state"] == "ok"
    assert "fastapi" in checks["control plane"]["text"]
    assert checks["guest image"]["state"] == "ok", checks


def dead_calls() -> list[str]:
    return [row["state"]["call"] for row in as_json("dead", "list")]


def test_an_event_is_published_from_the_command_line(fleet_of_two: LocalFleet, deployed: Path) -> None:
    assert "a b" in fails("publish", "a b", "1")
    assert as_json("publish", "a.b", "1", "--id", "x") == {"id": "x", "duplicate": False}


def test_what_failed_for_good_is_shown_replayed_and_dropped(fleet_of_two: LocalFleet, deployed: Path) -> None:
    as_json("dead", "drop", "--all")  # what other tests left
    call = ok("call", "jobs.fail", "for good", "--spawn").strip()
    fleet_of_two.wait_for(lambda: call in dead_calls(), "the dead letter")
    assert "for good" in ok("dead", "list", "jobs.fail") and "nothing to show" in said("dead", "list", "other")
    shown = json.loads(ok("dead", "show", call))[0]
    assert (shown["state"]["call"], shown["attempts"], shown.get("events")) == (call, 1, None)
    again = ok("dead", "replay", call).strip()
    assert again != call
    fleet_of_two.wait_for(lambda: again in dead_calls(), "the replayed call to fail, too")
    assert call not in dead_calls()
    (third,) = as_json("dead", "replay", "--all", "--of", "jobs")["replayed"]
    fleet_of_two.wait_for(lambda: third in dead_calls(), "the second replay to fail")
    assert as_json("dead", "drop", third) == {"dropped": [third]}
    assert as_json("dead", "drop", "--all") == {"dropped": []} and dead_calls() == []
    assert "fleet dead list" in fails("dead", "show", call)
    for wrong in (("replay",), ("drop", call, "--all"), ("drop", call, "--of", "jobs")):
        assert CliRunner().invoke(app, ["dead", *wrong]).exit_code == 2


def said(*words: str) -> str:
    return CliRunner().invoke(app, words).stderr


def test_tokens_are_shown_once_listed_and_revoked(fleet_of_two: LocalFleet) -> None:
    made = CliRunner().invoke(app, ["token", "create", "--name", "ci", "--ttl", "2h"])
    parsed = _tokens.parse(made.stdout.strip())
    assert parsed.tenant == "default" and "not shown again" in made.stderr
    forever = as_json("token", "create", "--ttl", "never")
    assert _tokens.parse(forever["token"]).id == forever["id"] and forever["expires_unix_s"] is None
    listed = ok("token", "list")
    assert "ci" in listed and parsed.id in listed and "no end" in listed and parsed.secret not in listed
    assert [row["id"] for row in as_json("token", "list")] == [parsed.id, forever["id"]]
    assert as_json("token", "revoke", parsed.id, forever["token"]) == {"revoked": [parsed.id, forever["id"]]}
    assert as_json("token", "list") == []
    assert "fleet token list" in fails("token", "revoke", parsed.id)
    assert "--ttl" in fails("token", "create", "--ttl", "soon")
    assert "no token of this platform" in fails("token", "revoke", "flt_a.b")
