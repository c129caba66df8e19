"""The suite can fail: its comparison sees what ``==`` does not, a case that is wrong by itself is told, and so on."""

from __future__ import annotations

import ast
import enum
import subprocess
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import interpreters, run
from tests.conformance.case import Case
from tests.conformance.compare import difference
from tests.conformance.test_conformance import _shape, _title


@dataclass
class Point:
    x: Any


class Plain:
    def __init__(self, x: object) -> None:
        self.x = x


class Slotted:
    __slots__ = ("x",)
    x: object


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def chained(cause: BaseException | None, *notes: str) -> BaseException:
    error = ValueError("a")
    error.__cause__ = cause
    for note in notes:
        error.add_note(note)
    return error


def slotted(x: object) -> Slotted:
    one = Slotted()
    one.x = x
    return one


@pytest.mark.parametrize(
    ("here", "there", "path"),
    [
        (1, True, "it"),
        (1, 1.0, "it"),
        (0.0, -0.0, "it"),
        (1j, complex(-0.0, 1), "it[0]"),
        ("a", b"a", "it"),
        ([1, [2]], [1, [3]], "it[1][0]"),
        ([1], [1, 2], "it"),
        ((1,), [1], "it"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "the keys of it"),
        ({"a": {"b": 0.0}}, {"a": {"b": -0.0}}, "it['a']['b']"),
        ({1}, {True}, "it"),
        ({1}, frozenset({1}), "it"),
        (deque([1], 2), deque([1], 3), "it has maxlen"),
        (defaultdict(list), defaultdict(set), "it makes"),
        (Counter("a"), {"a": 1}, "it"),
        (OrderedDict(a=1), {"a": 1}, "it"),
        (Point(1), Point(1.0), "it"),
        (Plain([1]), Plain([True]), "vars(it)['x'][0]"),
        (slotted(1), slotted(2), "vars(it)['x']"),
        (slotted(1), Slotted(), "the keys of vars(it)"),
        (Color.RED, Color.BLUE, "it"),
        (memoryview(b"a"), memoryview(b"b"), "it"),
        (ValueError("a"), ValueError("b"), "str(it)"),
        (ValueError("1"), ValueError(1), "it.args[0]"),
        (ValueError("a"), TypeError("a"), "it"),
        (chained(KeyError(1)), chained(KeyError(2)), "str(it.__cause__)"),
        (chained(KeyError(1)), chained(None), "it.__cause__"),
        (chained(None, "note"), chained(None), "it.__notes__"),
        (ExceptionGroup("g", [ValueError(1)]), ExceptionGroup("g", [ValueError(2)]), "it.args[1][0]"),
    ],
)
def test_differences_are_seen(here: Any, there: Any, path: str) -> None:
    found = difference(here, there)
    assert path in found, found
    assert difference(here, here) == ""


def test_what_is_the_same_is_the_same() -> None:
    nan = float("nan")
    assert difference([nan, {"a": nan}], [float("nan"), {"a": -nan}]) == ""
    assert difference(chained(None, "own"), chained(None, "own", "Remote traceback:\nsomewhere")) == ""
    assert difference(Point([1]), Point([1])) == ""


def returns() -> int:
    return 1


def raises() -> int:
    raise KeyError("k")


class Remote:
    """In place of a Function: answers with what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def spawn(self, *_args: object) -> Remote:
        return self

    def result(self, timeout: float) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("case", "answer", "verdict"),
    [
        (Case("a", returns), 1, ""),
        (Case("a", returns), 2, "it is 1 here and 2 on the car"),
        (Case("a", returns), KeyError("k"), "the car raised KeyError"),
        (Case("a", raises), KeyError("k"), "the case itself is wrong"),
        (Case("a", returns, raises=KeyError), 1, "the case itself is wrong"),
        (Case("a", raises, raises=LookupError), KeyError("k"), "the case itself is wrong"),
        (Case("a", raises, raises=KeyError), KeyError("k"), ""),
        (Case("a", raises, raises=KeyError), KeyError("other"), "str(it)"),
        (Case("a", raises, raises=KeyError, wording="why"), KeyError("other"), ""),
        (Case("a", raises, raises=KeyError, wording="why"), TypeError("k"), "TypeError: k"),
        (Case("a", raises, raises=KeyError), 5, "the car returned 5"),
    ],
)
def test_verdicts(monkeypatch: pytest.MonkeyPatch, case: Case, answer: Any, verdict: str) -> None:
    monkeypatch.setattr("fleet.function", lambda **_options: lambda _function: Remote(answer))
    found = run.Started(case).verdict()
    assert (verdict in found) if verdict else (found == "")


def test_a_missing_interpreter_is_said_in_one_sentence() -> None:
    with pytest.raises(interpreters.Unavailable, match=r"CPython 3\.99 is not on this machine"):
        interpreters.client((3, 99))


def test_an_interpreter_that_cannot_be_set_up_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without a package index."""

    def fails(command: list[str]) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="noise\nERROR: no matching distribution")

    monkeypatch.setenv("FLEET_CACHE", str(tmp_path))
    monkeypatch.setattr(interpreters, "find", lambda _version: Path("/usr/bin/python-of-another-version"))
    monkeypatch.setattr(interpreters, "_run", fails)
    with pytest.raises(interpreters.Unavailable, match="ERROR: no matching distribution"):
        interpreters.client((3, 12))


def test_a_client_needs_few_packages_and_all_of_them_are_pinned() -> None:
    rows = interpreters._requirements()
    for name in ("anyio", "cloudpickle", "nats-py", "pydantic", "pydantic-core", "typer", "rich"):
        assert f"\n{name}==" in "\n" + rows, name
    assert "wasmtime" not in rows
    assert rows.count("==") < 30
    assert rows.count("--hash=sha256:") > 30


def test_cases_that_differ_in_constants_have_one_shape() -> None:
    def shape(text: str) -> str:
        node = ast.parse(text).body[0]
        assert isinstance(node, ast.FunctionDef)
        return _shape(node)

    assert shape("def a(x): return x + 1") == shape("def b(x):\n    return x + 2")
    assert shape("def a(x): return x + 1") != shape("def a(x): return x - 1")
    assert _title(ast.parse("case('title', 1)").body[0].value) == "title"  # type: ignore[attr-defined]
