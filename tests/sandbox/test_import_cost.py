"""A bundle of many modules: compiled once in a slot, whatever number of instances it gets; nothing else changes."""

from __future__ import annotations

import time

import pytest

from runtime.guest.inside import wire
from tests.sandbox.wasm_bench import Bench

WORK = '''
def work_{number}_{k}(rows, limit=10):
    """Group rows."""
    found = {{}}
    for row in rows:
        key = row.get("a", 0) % 7
        if key <= limit:
            found.setdefault(key, []).append(row["b"] + {k})
    return sorted(found.items(), key=lambda pair: pair[0])
'''


def many(count: int) -> dict[str, str | bytes]:
    """A package of ``count`` modules of 64 lines, each of which imports the one before."""
    files: dict[str, str | bytes] = {"app/__init__.py": ""}
    for number in range(count):
        before = f"from app import m{number - 1}\n" if number else ""
        parts = "".join(WORK.format(number=number, k=k) for k in range(7))
        files[f"app/m{number}.py"] = f'"""Module {number}."""\n{before}{parts}'
    return files


def timed(bench: Bench, files: dict[str, str | bytes]) -> float:
    """Seconds of load and first call in a fresh instance."""
    program = bench.load({**files, "__main__.py": f"import app.m{len(files) - 2}\ndef f(): return 1"}, isolation="call")
    bench.value(program)
    best_s = 9.0
    for _ in range(5):
        bench.sandbox.prepare()
        before_s = time.perf_counter()
        bench.sandbox.load(program, bench.bundle)
        assert bench.value(program) == 1
        best_s = min(best_s, time.perf_counter() - before_s)
    return best_s


@pytest.mark.alone
def test_a_fresh_instance_does_not_compile_again(bench: Bench) -> None:
    one_s, all_s = timed(bench, many(1)), timed(bench, many(50))
    assert all_s - one_s < 0.06, f"50 modules add {1000 * (all_s - one_s):.0f} ms"


def test_tracebacks_and_sources_are_those_of_the_files(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "shop/__init__.py": "",
        "shop/till.py": "# "
        + "-" * 9000
        + "\nimport inspect\ndef pay(n):\n    return n / 0  # the till\n\ndef source():\n"
        "    return inspect.getsource(pay)\n",
        "__main__.py": "from shop import till\ndef f(what): return till.pay(1) if what == 'pay' else till.source()",
    }
    program = bench.load(files, isolation="call", comments={"shop/till.py": "/home/me/shop/till.py"})
    for _instance in range(3):
        error = bench.raised(program, "pay")
        assert 'File "/home/me/shop/till.py", line 4, in pay' in error.traceback and "# the till" in error.traceback
        bench.sandbox.load(program, bench.bundle)
        assert bench.value(program, "source") == "def pay(n):\n    return n / 0  # the till\n"
        bench.sandbox.load(program, bench.bundle)


def test_only_the_first_word_of_an_instance_counts(bench: Bench) -> None:
    """A function that was taken over by its argument can't choose what later instances run."""
    source = """
import fleet
def f(evil):
    if evil:
        from _fleet_guest import wire
        import marshal
        bad = marshal.dumps({"__main__.py": marshal.dumps(compile("def f(evil): return 'taken over'", "x", "exec"))})
        wire.tell(wire.CODE, wire.NONE, bad)
    return "mine"
"""
    program = bench.load({"__main__.py": source}, isolation="call")
    for evil in (True, True, False):
        assert bench.value(program, evil) == "mine"
        bench.sandbox.load(program, bench.bundle)


@pytest.mark.parametrize("size", [wire.CODE_BYTES_MAX, wire.CODE_BYTES_MAX + 1])
def test_what_is_kept_is_bounded(bench: Bench, size: int) -> None:
    """A module that says it before we do is its own developer's harm; more than is allowed ends the sandbox."""
    source = f"""
from _fleet_guest import wire
wire.tell(wire.CODE, wire.NONE, bytes({size}))
def f(): return 1
"""
    if size > wire.CODE_BYTES_MAX:
        with pytest.raises(Exception, match="more than is allowed"):
            bench.eval(source)
        return
    for _program in range(6):
        assert bench.eval(source) == 1
    assert sum(map(len, bench.sandbox._codes.values())) <= 4 * wire.CODE_BYTES_MAX
