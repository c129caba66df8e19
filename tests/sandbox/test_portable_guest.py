"""Functions without a module in the real sandbox: every feature, tracebacks, what loading raises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet._bundle import PICKLE
from runtime.guest.build import GuestImage
from tests.sandbox.wasm_bench import Bench

CASES = Path(__file__).parents[1] / "unit" / "portable_cases.py"


def test_every_feature_gives_the_same_in_the_sandbox(bench: Bench, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(CASES), str(tmp_path / "pickle")], capture_output=True, text=True, timeout=60, check=True
    )
    here = json.loads(done.stdout)
    program = bench.load({PICKLE: (tmp_path / "pickle").read_bytes()}, "run_all", module="")
    there = bench.value(program)
    assert there == here
    again = bench.value(program)
    assert again["constants"] == here["constants"]
    assert again["count_twice"] != here["count_twice"], "globals live as long as the instance"


SCRIPT = """
import curses, ssl, sys; sys.path.insert(0, {sdk!r})
from ssl import SSLContext
from fleet._portable import pickler as _portable
from fleet._portable import world as _world

def outer(x):
    return inner(x)

def inner(x):
    return 1 / x

def uses(x):
    import ssl_of_ours

class Exploding:
    def __reduce__(self):
        return explode, ()

def explode():
    raise ValueError("while loading")

THING = Exploding()

def holds(x):
    return THING

def lazy(x):
    return ssl.create_default_context() if x else curses.A_BOLD if x is None else "not used"

for name in ("outer", "uses", "holds", "lazy"):
    data = _portable.Session(_world.World(None), {{}}, numbered=True, importable_main=True).dumps(globals()[name])
    open(sys.argv[1] + name, "wb").write(data)
"""


@pytest.fixture(scope="module")
def pickles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("pickles")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(sdk=str(Path(__file__).parents[2] / "sdk")))
    subprocess.run([sys.executable, str(script), f"{folder}{os.sep}"], check=True, timeout=60)
    return {name: (folder / name).read_bytes() for name in ("outer", "uses", "holds", "lazy")}


def test_tracebacks_show_the_developers_lines(bench: Bench, pickles: dict[str, bytes]) -> None:
    error = bench.raised(bench.load({PICKLE: pickles["outer"]}, "outer", module=""), 0)
    assert error.qualname == "ZeroDivisionError"
    assert 'File "script.py", line 8, in outer\n    return inner(x)' in error.traceback
    assert 'File "script.py", line 11, in inner\n    return 1 / x\n           ~~^~~' in error.traceback
    assert "_rebuild" not in error.traceback and str(Path(__file__).parents[2]) not in error.traceback


def test_what_loading_raises_is_the_calls_result(guest_image: GuestImage, pickles: dict[str, bytes]) -> None:
    bench = Bench(guest_image)
    error = bench.raised(bench.load({PICKLE: pickles["uses"]}, "uses", module=""), 0)
    assert error.qualname == "ModuleNotFoundError" and "ssl_of_ours" in error.message
    bench = Bench(guest_image)
    program = bench.load({PICKLE: pickles["holds"]}, "holds", module="")
    for _ in range(2):
        error = bench.raised(program, 0)
        assert (error.qualname, error.message) == ("ValueError", "while loading")
        assert any("while holds was being rebuilt" in note for note in error.notes)
    damaged = Bench(guest_image)
    error = damaged.raised(damaged.load({PICKLE: pickles["outer"][:-20]}, "outer", module=""), 0)
    assert error.notes


def test_what_the_standard_library_lacks_there_fails_where_it_is_used(bench: Bench, pickles: dict[str, bytes]) -> None:
    program = bench.load({PICKLE: pickles["lazy"]}, "lazy", module="")
    assert bench.value(program, False) == "not used"
    for value, module in ((True, "ssl"), (None, "curses")):
        error = bench.raised(program, value)
        assert module in error.message, error


def test_both_sides_name_the_same_entry() -> None:
    """The guest's module can't be imported out here: it needs the sandbox's host."""
    source = Path(__file__).parents[2] / "runtime" / "guest" / "inside" / "program.py"
    assert f'PICKLE = "{PICKLE}"\n' in source.read_text()
