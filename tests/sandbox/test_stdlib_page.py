"""The page on the standard library says what a sandbox does."""

from __future__ import annotations

from tests.sandbox.stdlib_page import PAGE, render
from tests.sandbox.stdlib_probe import probe
from tests.sandbox.wasm_bench import Bench


def test_the_page_says_what_the_probe_sees(bench: Bench) -> None:
    seen = probe(bench)
    outcomes = [outcome for lines in seen.tried.values() for outcome in lines.values()]
    assert "broken" not in [kind for kind, _said in outcomes], "a line of the probe fails before what it tries"
    assert sum(not kind for kind, _said in outcomes) > 40 and sum(bool(kind) for kind, _said in outcomes) > 30
    assert PAGE.read_text(encoding="utf-8") == render(seen), "make docs"
