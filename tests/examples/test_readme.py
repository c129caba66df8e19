"""The README's code runs as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fleet.testing import LocalFleet

README = Path(__file__).parents[2] / "README.md"
SAID = {
    "collatz_steps": ["111", "178"],
    "slugify": ["42", "2.5", "any-python-anywhere", "332833500"],
    "score": ["(10,", "16)", "(10,", "16)"],
}
"""A name in a program -> what the program prints."""
EVENTS = "nightly"
"""A name in the program whose functions are started by events."""


def programs() -> list[str]:
    """The Python in the README, in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("name", SAID)
def test_programs_run_as_plain_scripts(shared_fleet: LocalFleet, tmp_path: Path, name: str) -> None:
    assert len(programs()) == len(SAID) + 1
    script = tmp_path / f"readme_{name}.py"
    script.write_text(next(program for program in programs() if name in program))
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "FLEET_URL": shared_fleet.url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == SAID[name]


def test_what_happens_starts_functions(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    script = tmp_path / "rooms.py"
    script.write_text(next(program for program in programs() if EVENTS in program))

    def run(*words: str) -> str:
        command = [sys.executable, "-P", "-m", "fleet.cli.main", "--url", shared_fleet.url, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    said = run("deploy", str(script))
    assert "sensors.*.temperature" in said and "15 3 * * *" in said and "/notes/{name}" in said
    run("publish", "sensors.7.temperature", '{"celsius": 31, "room": "attic"}')
    posted = re.search(r"/v1/events -H 'content-type: (\S+)' \\\n +-d '(.*)'\n", README.read_text())
    assert posted is not None
    event = urllib.request.Request(
        f"{shared_fleet.http_url}/v1/events", posted[2].encode(), {"content-type": posted[1]}, method="POST"
    )
    with urllib.request.urlopen(event, timeout=30) as answer:
        assert json.load(answer)["ids"] == ["1"]

    def states() -> list[str]:
        return [call["state"] for call in json.loads(run("calls", "rooms.hot", "--json"))]

    shared_fleet.wait_for(lambda: states() == ["succeeded", "succeeded"], "the hot rooms to be told")
    note = urllib.request.Request(f"{shared_fleet.http_url}/u/default/notes/today", b"three short words", method="POST")
    with urllib.request.urlopen(note, timeout=30) as answer:
        assert (answer.status, json.load(answer)) == (201, {"name": "today", "words": 3})
    run("delete", "rooms")
