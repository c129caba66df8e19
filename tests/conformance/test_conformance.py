"""The same function here and on a car, from clients of every CPython there is: equal results, or the same exception.

One child process for each interpreter runs all topics as scripts (``run.py``), and one more imports them, so that the same
functions travel as files; each topic is a test of its own here.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from fleet.testing import LocalFleet
from tests.conformance.interpreters import ROOT, VERSIONS, Unavailable, client
from tests.conformance.run import FOLDER, topics

NEWEST = max(VERSIONS)
TOPICS = topics(NEWEST, imported=False)
RUNS = [*((version, False) for version in VERSIONS), (sys.version_info[:2], True)]
CASES_MIN = 300
CHILD_S = 280
Run = tuple[tuple[int, int], bool]
Row = dict[str, Any]


class Child:
    """What one interpreter's run of all topics came to."""

    def __init__(self, python: str, url: str, imported: bool) -> None:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env |= {"PYTHONPATH": str(ROOT / "sdk"), "FLEET_URL": url, "PYTHONHASHSEED": "random"}
        began_s = time.monotonic()
        done = subprocess.run(
            [python, "-m", "tests.conformance.run", *(["--imported"] if imported else [])],
            cwd=ROOT, env=env, capture_output=True, text=True, timeout=CHILD_S, check=False,
        )  # fmt: skip
        self.took_s = time.monotonic() - began_s
        self.rows: list[Row] = [json.loads(line) for line in done.stdout.splitlines()]
        self.said = done.stderr
        self.code = done.returncode


@pytest.fixture(scope="module")
def children() -> dict[Run, Child | Unavailable]:
    """Every run of all topics, made when its first test asks."""
    return {}


@pytest.fixture
def child(request: pytest.FixtureRequest, children: dict[Run, Any], shared_fleet: LocalFleet) -> Child:
    """The run of one interpreter; skipped, with the reason, where the machine has none."""
    version, imported = request.param
    if request.param not in children:
        try:
            children[request.param] = Child(str(client(version)), shared_fleet.url, imported)
        except Unavailable as why:
            children[request.param] = why
    found: Child | Unavailable = children[request.param]
    if isinstance(found, Unavailable):
        pytest.skip(f"CONFORMANCE NOT CHECKED for clients of CPython {version[0]}.{version[1]}: {found}")
    return found


def _named(run: Run) -> str:
    (major, minor), imported = run
    return f"py{major}.{minor}{'-imported' if imported else ''}"


@pytest.mark.parametrize("child", RUNS, ids=_named, indirect=True)
def test_every_topic_ran_to_its_end(child: Child) -> None:
    assert child.code == 0, child.said
    assert len({row["title"] for row in child.rows if not row["refusal"]}) >= CASES_MIN
    assert [row for row in child.rows if row["topic"] not in TOPICS] == []


@pytest.mark.parametrize(
    ("child", "topic"),
    [pytest.param(run, topic, id=f"{_named(run)}-{topic}") for run in RUNS for topic in topics(*run)],
    indirect=["child"],
)
def test_the_car_does_the_same(child: Child, topic: str) -> None:
    rows = [row for row in child.rows if row["topic"] == topic]
    assert rows, child.said
    assert {title for title, _ in _written(topic)} <= {row["title"] for row in rows}, "cases that never ran"
    wrong = [f"{row['title']}: {row['wrong']}" for row in rows if row["wrong"]]
    assert not wrong, f"{len(wrong)} of {len(rows)}:\n" + "\n".join(wrong)


def test_every_case_stands_for_something_of_its_own() -> None:
    """No title twice, and no two decorated functions whose code differs in constants alone."""
    written = [one for topic in TOPICS for one in _written(topic)]
    titles = Counter(title for title, _ in written)
    shapes = Counter(shape for _, shape in written if shape)
    assert [title for title, count in titles.items() if count > 1] == []
    assert [title for title, shape in written if shapes[shape] > 1] == []
    assert len(written) > CASES_MIN


def _written(topic: str) -> list[tuple[str, str]]:
    """Title and shape of the code of every case in the file; no shape for a value. Empty if it is newer than we are."""
    try:
        tree = ast.parse((FOLDER / f"{topic}.py").read_text())
    except SyntaxError:  # the child of a newer interpreter reads it
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [(title, _shape(node)) for one in node.decorator_list if (title := _title(one))]
        elif isinstance(node, ast.Expr) and (title := _title(node.value)):
            found.append((title, ""))
    return found


def _title(node: ast.expr) -> str:
    """Of ``case("title", ...)`` and its like."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Call):  # refused("title", ...)(function)
        node = node.func
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        first = node.args[0]
        if node.func.id in ("case", "made", "value", "refused") and isinstance(first, ast.Constant):
            return str(first.value)
    return ""


def _shape(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The code of a function and of what it is called with, without its name and its constants' values."""
    copy = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(copy, ast.FunctionDef | ast.AsyncFunctionDef)
    copy.name = "f"
    for inner in ast.walk(copy):
        if isinstance(inner, ast.Constant):
            inner.value = type(inner.value).__name__
    return ast.dump(copy)
