"""What a call leaves behind: nothing for another function, and for its own function what a warm instance keeps."""

from __future__ import annotations

from tests.sandbox.wasm_bench import Bench

LITTER = """
import contextlib, decimal, io, json, locale, logging, math, os, random, string, sys, tempfile, threading, warnings
import asyncio, contextvars, importlib, re, signal, sqlite3, time
VAR = contextvars.ContextVar("var", default=None)
local = threading.local()
def f():
    os.mkdir("/tmp/mine"); os.chdir("/tmp/mine"); open("left.txt", "w").write("x")
    os.environ["LEFT"] = "1"; os.environ["HOME"] = "/elsewhere"; os.environ.pop("LANG", None)
    sys.argv = ["other", "--flag"]; sys.path.append("/tmp/mine"); sys.setrecursionlimit(400)
    decimal.getcontext().prec = 3; decimal.getcontext().rounding = decimal.ROUND_UP
    decimal.getcontext().traps[decimal.Inexact] = True
    locale.setlocale(locale.LC_ALL, "de_DE.UTF-8"); random.seed(7); math.pi = 3; json.loads = None
    logging.basicConfig(level=logging.DEBUG); logging.getLogger("left").addHandler(logging.NullHandler())
    warnings.simplefilter("error"); string.left = 1; sys.modules["left"] = math; VAR.set(1); local.x = 1
    tempfile.tempdir = "/tmp/mine"; signal.signal(signal.SIGINT, signal.SIG_IGN); __builtins__["left"] = 1
    asyncio.set_event_loop(asyncio.new_event_loop()); time.sleep = None
    sys.stdout = sys.stderr = io.StringIO(); sys.stdin = io.StringIO("typed"); print("lost")
"""
LOOK = """
import decimal, json, locale, logging, math, os, random, signal, string, sys, tempfile, time, warnings, builtins
def f():
    print("seen")
    return {
        "cwd": os.getcwd(), "files": os.listdir("/tmp"), "env": dict(os.environ), "argv": sys.argv, "path": sys.path,
        "recursion": sys.getrecursionlimit(), "decimal": str(decimal.Decimal(1) / 3), "locale": locale.setlocale(locale.LC_ALL),
        "pi": math.pi, "json": json.loads("[1]"), "level": logging.getLogger().level,
        "handlers": len(logging.getLogger().handlers),
        "loggers": "left" in logging.Logger.manager.loggerDict, "filters": len(warnings.filters) > 1,
        "attribute": hasattr(string, "left"), "module": "left" in sys.modules, "tempdir": tempfile.gettempdir(),
        "signal": signal.getsignal(signal.SIGINT) is signal.default_int_handler, "builtin": hasattr(builtins, "left"),
        "sleep": time.sleep is not None, "stdin": sys.stdin.read(),
    }
"""


def test_nothing_of_one_function_reaches_another(bench: Bench) -> None:
    clean = bench.eval(LOOK)
    assert clean["cwd"] == "/tmp" and clean["files"] == [] and clean["path"] == [] and clean["argv"] == ["fleet"]
    assert clean["env"] == {
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "USER": "fleet",
        "FLEET_SANDBOX": "wasm",
    }
    assert clean["pi"] > 3.1 and clean["decimal"] == "0.3333333333333333333333333333" and clean["filters"]
    bench.eval(LITTER)
    bench.desk.lines.clear()
    assert bench.eval(LOOK) == clean
    assert bench.desk.lines == [(None, 1, "seen")]


def test_calls_of_one_function_find_the_process_as_its_module_left_it(bench: Bench) -> None:
    source = """
import decimal, io, os, sys
os.mkdir("/tmp/work"); os.chdir("/tmp/work"); os.environ["MODE"] = "fast"; sys.argv = ["tool"]
decimal.getcontext().prec = 5
seen = []
def f(litter):
    seen.append(litter)
    found = (os.getcwd(), dict(os.environ), list(sys.argv), sys.getrecursionlimit(), str(decimal.Decimal(2) / 3),
             sys.stdin.read(), len(seen), sorted(os.listdir("/tmp")))
    print("said")
    if litter:
        os.chdir("/tmp"); os.environ["LEFT"] = "1"; del os.environ["MODE"]; os.environ |= {"HOME": "/"}; sys.argv.append("-v")
        sys.setrecursionlimit(5000); decimal.getcontext().prec = 2; open("/tmp/kept", "w").close()
        decimal.getcontext().traps[decimal.Inexact] = True
        sys.stdout = sys.stderr = io.StringIO(); sys.stdin = io.StringIO("typed")
        print("lost"); raise SystemExit(3)
    return found
"""
    program = bench.load(source)
    before = bench.value(program, False)
    assert before[0] == "/tmp/work" and before[1]["MODE"] == "fast" and before[2] == ["tool"] and before[4] == "0.66667"
    assert bench.raised(program, True).type_name == "SystemExit"
    after = bench.value(program, False)
    assert after[:6] == before[:6]
    assert (after[6], after[7]) == (3, ["kept", "work"]), "globals and files stay as long as the instance"
    assert bench.chunk(program, [False, False])[1][:6] == before[:6]
    assert [text for _position, _stream, text in bench.desk.lines] == ["said"] * 5


def test_a_module_that_fails_to_import_leaves_the_output_alone(bench: Bench) -> None:
    program = bench.load("import io, sys\nsys.stdout = io.StringIO()\nprint('lost')\n1 / 0\ndef f(): pass")
    for _twice in range(2):
        assert bench.raised(program).type_name == "ZeroDivisionError"
    assert bench.eval("def f(): print('here')") is None
    assert bench.desk.lines == [(None, 1, "here")]


def test_chance_differs_between_calls_instances_and_generators(bench: Bench) -> None:
    source = """
import email.utils, os, random, secrets, tempfile, uuid
def f():
    values = [random.random(), random.Random().random(), random.SystemRandom().random(), secrets.token_hex(8), os.urandom(8),
              uuid.uuid4().hex, uuid.uuid1().hex, tempfile.mktemp(), email.utils.make_msgid(), random.sample(range(10**6), 3)]
    return [str(each) for each in values]
"""
    rows = []
    for _instance in range(3):
        program = bench.load(source)
        rows += [bench.value(program) for _call in range(2)]
    for column in zip(*rows, strict=True):
        assert len(set(column)) == len(rows), column
    seeded = "import random\ndef f():\n  random.seed(42)\n  return random.random(), random.Random('a').randrange(10**9)"
    assert bench.eval(seeded) == bench.eval(seeded)


def test_the_text_of_a_program_hashes_the_same_everywhere(bench: Bench) -> None:
    source = "def f(): return hash('text'), [*{'b', 'a', 'c', 'd'}]"
    assert bench.eval(source) == bench.eval(source), "fixed by the snapshot, and so is the order of sets"


def test_clocks_are_those_of_the_car(bench: Bench) -> None:
    source = """
import datetime, os, time, timeit
def f():
    a = [time.time(), time.monotonic(), time.perf_counter(), time.process_time(), time.thread_time(), os.times().user]
    time.sleep(0.05)
    b = [time.time(), time.monotonic(), time.perf_counter(), time.process_time(), time.thread_time(), os.times().user]
    now = datetime.datetime.now()
    return ([y - x for x, y in zip(a, b)], min(a), time.tzname, now.astimezone().utcoffset(),
            abs(now.timestamp() - time.time()) < 1, time.localtime()[:5] == time.gmtime()[:5],
            timeit.timeit("1", number=9) < 1)
"""
    passed, least, names, offset, same, utc, timed = bench.eval(source)
    assert all(0.05 <= each < 1 for each in passed) and least >= 0
    assert names == ("UTC", "UTC") and offset.total_seconds() == 0 and same and utc and timed


def test_passwords_can_be_hashed(bench: Bench) -> None:
    import hashlib

    cases = [("sha256", b"pass", b"salt", 1, None), ("sha1", b"", b"s", 7, 33), ("sha512", b"x" * 200, b"", 3, 65)]
    found = bench.eval("import hashlib\ndef f(cases): return [hashlib.pbkdf2_hmac(*case) for case in cases]", cases)
    assert found == [hashlib.pbkdf2_hmac(*case) for case in cases]
