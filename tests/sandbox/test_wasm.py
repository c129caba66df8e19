"""The real sandbox: what functions get and give, and what they see of themselves."""

from __future__ import annotations

import datetime as dt
import pickle
import time

import pytest

from fleet.protocol import codec, limits
from runtime.slot_wire import SlotJob
from tests.sandbox.wasm_bench import MIB, Bench


def test_a_function_of_a_script_gets_arguments_and_gives_a_value(bench: Bench) -> None:
    source = """
import fleet
ran_main = False

@fleet.function(memory="128MiB")
def f(x, *, y=1):
    return {"sum": x + y, "main": ran_main, "name": __name__}

if __name__ == "__main__":
    ran_main = True
    f.remote(1)
"""
    program = bench.load(source)
    args = pickle.dumps(((2,), {"y": 40}))
    result = bench.sandbox.run(SlotJob(1, program, args, call="c"))
    assert codec.decode(result.result[1:]) == {"sum": 42, "main": False, "name": "__mp_main__"}
    assert result.run_s > 0 and 16 * MIB < result.memory_bytes < 256 * MIB


def test_classes_of_the_script_in_pickled_arguments_are_found(bench: Bench) -> None:
    program = bench.load("class P:\n  def __init__(s, x): s.x = x\ndef f(p): return p.x * 2\n")

    class P:
        pass

    P.__module__, P.__qualname__ = "__main__", "P"
    import __main__

    __main__.P = P
    try:
        point = P()
        point.x = 21  # type: ignore[attr-defined]
        assert bench.value(program, point) == 42
    finally:
        del __main__.P


def test_modules_packages_and_data_files_of_a_bundle(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "shop/__init__.py": "from .stock import COUNT\n",
        "shop/stock.py": "COUNT = 7\n",
        "shop/prices/eu.py": "VAT = 0.25\n",
        "shop/data.txt": "apples",
        "calendar.py": "MINE = True\n",
        "work.py": """
import calendar, importlib.resources, pkgutil, json
import shop, shop.prices.eu
def f():
    text = importlib.resources.files("shop").joinpath("data.txt").read_text()
    return shop.COUNT, shop.prices.eu.VAT, text, pkgutil.get_data("shop", "data.txt"), calendar.MINE, json.dumps([1])
""",
    }
    program = bench.load(files, module="work")
    assert bench.value(program) == (7, 0.25, "apples", b"apples", True, "[1]")


def test_tracebacks_show_the_users_own_lines_and_no_others(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "__main__.py": "import helper, fleet\n@fleet.function\ndef f(x):\n    return helper.halve(x)  # here\n",
        "helper.py": "class Odd(ValueError): pass\n\ndef halve(x):\n    raise Odd(f'{x} is odd')\n",
    }
    error = bench.raised(bench.load(files, comments={"__main__.py": "jobs/halve.py"}), 3)
    assert (error.module, error.qualname, error.message, error.args) == ("helper", "Odd", "3 is odd", ("3 is odd",))
    assert error.traceback.splitlines()[:4] == [
        "Traceback (most recent call last):",
        '  File "jobs/halve.py", line 4, in f',
        "    return helper.halve(x)  # here",
        "           ~~~~~~~~~~~~^^^",
    ]
    assert "_fleet_guest" not in error.traceback and error.traceback.count('File "') == 2
    assert bench.run(bench.load(files), 3).summary == "helper.Odd: 3 is odd"


def test_frames_of_ours_are_hidden_wherever_they_are(bench: Bench) -> None:
    source = """
import asyncio, fleet, json
@fleet.function
def inner(text): return json.loads(text)
@fleet.function
async def f(how):
    if how == "remote": return inner.remote("1")
    return inner.local("{") if how == "local" else inner("{")
"""
    program = bench.load(source)
    for how in ("local", "call", "remote"):
        traceback = bench.raised(program, how).traceback
        assert "/fleet/" not in traceback and "_fleet_guest" not in traceback and "asyncio" not in traceback, traceback
        assert '"__main__.py", line 8, in f' in traceback or '"__main__.py", line 7, in f' in traceback, traceback
    error = bench.raised(bench.load({"__main__.py": "def f(:"}))
    assert error.type_name == "SyntaxError" and "importlib" not in error.traceback, error.traceback


def test_errors_of_a_script_are_errors_of_main(bench: Bench) -> None:
    error = bench.error(
        "class Bad(Exception): pass\ndef f():\n  try: 1/0\n  except ZeroDivisionError as e: raise Bad('x') from e"
    )
    assert (error.module, error.type_name) == ("__main__", "Bad")
    assert error.cause is not None and error.cause.type_name == "ZeroDivisionError"
    assert "__mp_main__" not in error.traceback and "direct cause" in error.traceback


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("import nowhere_to_be_found as n\ndef f(): n.x", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        ("def g(): pass", "AttributeError"),
        ("def f(): raise SystemExit(3)", "SystemExit"),
        ("def f(): raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import sys\ndef f(): sys.exit('bye')", "SystemExit"),
        ("def f(): return f()", "RecursionError"),
        ("def f(): return [[f]]", "fleet.protocol.errors.ResultNotPortable"),
        ("class E(Exception):\n  def __str__(self): raise ValueError\ndef f(): raise E", "E"),
        ("class E(BaseException): pass\ndef f(): raise E(f)", "E"),
        ("def f():\n  raise ExceptionGroup('g', [ValueError('a'), KeyError('b')])", "ExceptionGroup"),
    ],
)
def test_whatever_a_function_raises_is_its_result(bench: Bench, source: str, kind: str) -> None:
    program = bench.load(source)
    assert bench.raised(program).type_name == kind
    assert bench.raised(program).type_name == kind, "the instance goes on"


def test_a_value_that_cannot_travel_is_named_by_its_path(bench: Bench) -> None:
    error = bench.error("class Foo: pass\ndef f(): return {'a': [1, Foo()]}")
    assert error.code == "result_not_portable"
    assert error.message.startswith("result['a'][1] is of type Foo")


def test_async_functions_are_run(bench: Bench) -> None:
    source = """
import asyncio
async def part(n):
    await asyncio.sleep(0.001 * n)
    return n
async def f(n):
    async with asyncio.timeout(5):
        values = await asyncio.gather(*(part(k) for k in range(n)))
    return values + [await asyncio.to_thread(len, "abc")]
"""
    assert bench.eval(source, 3) == [0, 1, 2, 3]
    error = bench.error("import asyncio\nasync def f():\n  async with asyncio.timeout(0.001): await asyncio.sleep(9)")
    assert error.type_name == "TimeoutError"
    error = bench.error("import asyncio\nasync def f(): await asyncio.Event().wait()")
    assert "wait forever" in error.message


def test_the_standard_library_and_time_zones_are_there(bench: Bench) -> None:
    source = """
import csv, decimal, email.mime.text, hashlib, json, logging.config, re, sqlite3, statistics, tomllib, uuid, zlib
import concurrent.futures, dataclasses, enum, typing, unittest.mock, urllib.parse, xml.etree.ElementTree, zoneinfo
import datetime, random, secrets, encodings.cp1252, importlib.metadata, html.parser
def f():
    moment = datetime.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Oslo"))
    count = sqlite3.connect(":memory:").execute("select 40 + 2").fetchone()[0]
    third = str(decimal.Decimal(1) / 3)[:5]
    zones = len(zoneinfo.available_timezones()) > 400
    return moment, str(moment.utcoffset()), count, third, "é".encode("cp1252"), zones
"""
    moment, offset, count, third, encoded, zones = bench.eval(source)
    assert moment.tzinfo.key == "Europe/Oslo" and moment.astimezone(dt.UTC).hour == 10
    assert (offset, count, third, encoded, zones) == ("2:00:00", 42, "0.333", b"\xe9", True)


def test_no_two_instances_share_their_randomness(bench: Bench) -> None:
    source = """
import os, random, secrets, uuid
def f(): return random.random(), secrets.token_hex(8), str(uuid.uuid4()), os.urandom(8)
"""
    first, second = bench.load(source), None
    seen = {bench.value(first), bench.value(first)}
    second = bench.load(source)
    seen |= {bench.value(second), bench.value(second)}
    assert len(seen) == 4 and all(len({row[k] for row in seen}) == 4 for k in range(4))


def test_globals_live_as_long_as_the_instance(bench: Bench) -> None:
    source = "n = 0\ndef f():\n  global n\n  n += 1\n  return n"
    warm = bench.load(source)
    assert [bench.value(warm), bench.value(warm)] == [1, 2]
    bench.sandbox.load(warm, bench.bundle)
    assert bench.value(warm) == 3, "loading what is loaded keeps the instance"
    fresh = bench.load(source, isolation="call")
    assert bench.value(fresh) == 1
    bench.sandbox.load(fresh, bench.bundle)
    assert bench.value(fresh) == 1


def test_what_is_printed_comes_out_line_by_line(bench: Bench) -> None:
    source = """
import sys
def f():
    print("one", "two")
    sys.stderr.write("careful\\n")
    sys.stdout.buffer.write("ø\\n".encode())
    sys.stdout.close()
    print("\\udc80 odd")
    print("no newline", end="")
"""
    before = time.time()
    bench.eval(source)
    assert bench.desk.lines == [
        (None, 1, "one two"),
        (None, 2, "careful"),
        (None, 1, "ø"),
        (None, 1, "\\udc80 odd"),
        (None, 1, "no newline"),
    ]
    assert all(before - 1 <= stamp <= time.time() + 1 for stamp in bench.desk.stamps)


def test_output_is_bounded_and_says_so(bench: Bench) -> None:
    bench.eval("def f():\n  for n in range(200_000): print('x' * 99)")
    size = sum(len(text) + 1 for _position, _stream, text in bench.desk.lines)
    assert size <= limits.LOG_BYTES_PER_CALL_MAX + 200
    assert bench.desk.lines[-1][2].startswith("(output cut")
    bench.desk.lines.clear()
    bench.eval("def f(): print('y' * 10_000_000)")
    assert len(bench.desk.lines) == 1 and len(bench.desk.lines[0][2]) <= limits.LOG_LINE_BYTES_MAX
    assert "bytes cut" in bench.desk.lines[0][2][-30:]


def test_a_chunk_runs_each_item_by_itself(bench: Bench) -> None:
    source = """
import fleet
def f(n):
    print(n)
    if n == 3: raise ValueError("three")
    return n, fleet.current().call_id, fleet.current().attempt
"""
    program = bench.load(source)
    found = bench.chunk(program, [1, 2, 3, 4], item_numbers=[(10, 12), (20, 20)], item_attempts={11: 5})
    assert found[0] == (1, "c1/10", 1) and found[1] == (2, "c1/11", 5) and found[3] == (4, "c1/20", 1)
    assert found[2].summary == "ValueError: three"
    assert bench.desk.lines == [(0, 1, "1"), (1, 1, "2"), (2, 1, "3"), (3, 1, "4")]


def test_a_chunk_delivers_and_reports_while_it_runs(bench: Bench) -> None:
    program = bench.load("import time\ndef f(n):\n  time.sleep(0.03)\n  return n")
    assert bench.chunk(program, list(range(5))) == list(range(5))
    assert [first for first, _packed in bench.desk.delivered] == [0, 1, 2, 3, 4]
    assert bench.desk.progressed == [0, 1, 2, 3, 4]
    fast = bench.load("def f(n): return n")
    bench.desk.progressed.clear()
    assert bench.chunk(fast, list(range(500)), exact=True) == list(range(500))
    assert bench.desk.progressed == list(range(500))
    big = bench.load("def f(n): return bytes(100_000)")
    bench.chunk(big, list(range(20)))
    assert len(bench.desk.delivered) >= 4, "256 KiB are not kept back"


def test_the_running_call_knows_about_itself(bench: Bench) -> None:
    source = """
import fleet, time
def f():
    me = fleet.current()
    state = me.resume({"n": 0})
    me.checkpoint({"n": state["n"] + 1})
    return me.call_id, me.attempt, me.car, me.departing, me.deadline - time.time(), state, me.resume()
"""
    program = bench.load(source)
    bench.desk.leaving = True
    call, attempt, car, departing, left_s, state, resumed = bench.value(program, attempt=2)
    assert (call, attempt, car, departing, state, resumed) == ("c1", 2, "car-x", True, {"n": 0}, {"n": 1})
    assert 55 < left_s <= 60
    assert bench.value(program, checkpoint=bench.desk.saved[-1])[5] == {"n": 1}
    assert bench.value(program)[5] == {"n": 0}, "another call has no state yet"
