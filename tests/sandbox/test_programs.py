"""Programs from the standard library's own areas, in the form of its documentation, run here and in a sandbox unchanged."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from tests.sandbox.wasm_bench import Bench

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.txt"))

SOURCE = '''
import doctest, io
def run_doctest(name, text):
    """(how many examples failed, how many were tried, what differs) of a text with examples."""
    said = io.StringIO()
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, name, 0)
    failed, tried = doctest.DocTestRunner(verbose=False).run(test, out=said.write)
    return failed, tried, said.getvalue()
'''


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 10


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_runs_unchanged(bench: Bench, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    here: dict[str, object] = {}
    exec(SOURCE, here)
    expected = here["run_doctest"](path.name, text)  # type: ignore[operator]
    assert expected[0] == 0 and expected[1] > 20, expected[2]
    program = bench.load(SOURCE, "run_doctest")
    assert bench.value(program, path.name, text) == expected
    assert bench.desk.lines == []


def test_a_wrong_expectation_fails_in_the_sandbox(bench: Bench) -> None:
    """The examples do run: one that expects something else is counted and told."""
    text = next(path for path in PROGRAMS if path.stem == "heapq_and_bisect").read_text(encoding="utf-8")
    wrong, count = re.subn(r"^\(1, 4, 0\)$", "(1, 4, 1)", text, flags=re.MULTILINE)
    assert count == 1
    failed, tried, said = bench.value(bench.load(SOURCE, "run_doctest"), "wrong", wrong)
    assert (failed, tried) == (1, len(doctest.DocTestParser().get_examples(text)))
    assert "(1, 4, 1)" in said and "(1, 4, 0)" in said
