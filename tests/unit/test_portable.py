"""Functions without a module, taken apart by one Python and made again by another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import fleet
from fleet import _bundle
from fleet._portable import source as _source
from fleet.protocol.errors import DeployError
from tests.conformance.interpreters import Unavailable, find
from tests.unit import sdk_sample

CASES = Path(__file__).with_name("portable_cases.py")


def interpreter(version: str) -> str:
    """A CPython of that version; the test is skipped where there is none."""
    major, minor = version.split(".")
    try:
        return str(find((int(major), int(minor))))
    except Unavailable as why:
        pytest.skip(str(why))


def run(python: str, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None, text: str = "") -> str:
    done = subprocess.run(
        [python, *command], cwd=cwd, capture_output=True, text=True, timeout=60, check=False, input=text,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_feature_gives_the_same_in_a_newer_python(version: str, tmp_path: Path) -> None:
    client, newer = interpreter(version), interpreter("3.13")
    here = json.loads(run(client, str(CASES), str(tmp_path / "one"), env={"PYTHONHASHSEED": "1"}))
    assert len(here) > 40
    assert not [text for text in here.values() if text.startswith(("AssertionError", "NameError", "TypeError"))]
    there = json.loads(run(newer, str(CASES), "--load", str(tmp_path / "one")))
    assert there == here
    run(client, str(CASES), str(tmp_path / "two"), env={"PYTHONHASHSEED": "2"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes(), "the same bytes in every run"


GENERIC = """
type Pairs[T] = list[tuple[T, T]]
type Tree = int | list[Tree]

class Stack[T]:
    def __init__(self) -> None:
        self.items: list[T] = []
    def push(self, item: T) -> "Stack[T]":
        self.items.append(item)
        return self
    def kind(self):
        return T.__name__

def first[T: (int, str)](items: list[T]) -> T:
    return items[0]

def run_all():
    return [Stack[int]().push(3).items, Stack().kind(), first([5]), first.__type_params__[0].__constraints__,
            Stack.__type_params__, str(Pairs[int]), Tree.__value__,
            Tree.__value__.__args__[1].__args__[0] is Tree,
            f"{'nested':{'>'}{10}}"]
"""


def test_type_parameters_travel(tmp_path: Path) -> None:
    client, newer = interpreter("3.12"), interpreter("3.13")
    body = CASES.read_text()
    script = tmp_path / "generic.py"
    script.write_text(
        f"import json, os, sys\nsys.path.insert(0, {str(Path(fleet.__file__).parents[1])!r})\n{GENERIC}\n"
        "json_ = json\n" + body[body.index("def _main()") :].replace("json.dumps(function())", "repr(function())")
    )
    here = run(client, str(script), str(tmp_path / "one"))
    assert run(newer, str(script), "--load", str(tmp_path / "one")) == here


# --- where the source comes from

TELL = """
import fleet
from fleet import _bundle
def tell(function):
    try:
        bundle = _bundle.bundle_of(function)
    except fleet.FleetError as error:
        print(error)
    else:
        import io, zipfile
        from fleet._rebuild import functions as _rebuild
        program = _rebuild.load_program(zipfile.ZipFile(io.BytesIO(bundle.data)).read(_bundle.PICKLE))
        print(program(20), program is not function._raw)
"""


def test_the_source_of_a_command_is_read_from_the_command_line() -> None:
    code = TELL + "k = 1\n@fleet.function\ndef f(x):\n    return x + k\ntell(f)\ntell(fleet.function(lambda x: x * 2))"
    for options in (["-c"], ["-Wignore", "-X", "utf8", "-c"], ["-Bc"]):
        assert run(sys.executable, *options, code).splitlines() == ["21 True", "40 True"]
    assert run(sys.executable, f"-c{code}").startswith("21 True")


def test_standard_input_keeps_no_source() -> None:
    said = run(sys.executable, "-", text=TELL + "tell(fleet.function(lambda x: x))").strip()
    assert said == "Python keeps no source of <lambda>: it came from standard input (hint: save it to a file)"


def test_code_made_by_exec_keeps_none_unless_linecache_has_it() -> None:
    space: dict[str, Any] = {"fleet": fleet, "__name__": "nowhere"}
    text = "@fleet.function\ndef made(x): return x + 1"
    exec(text, space)
    with pytest.raises(DeployError, match="no source of made: it was made by exec or eval") as caught:
        _bundle.bundle_of(space["made"])
    assert caught.value.hint == "save it to a file"
    import linecache

    linecache.cache["<made>"] = (len(text), None, text.splitlines(True), "<made>")
    exec(compile(text, "<made>", "exec"), space)
    assert _bundle.bundle_of(space["made"]).module == ""


def test_cells_of_a_notebook(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    script = TELL + textwrap.dedent(
        """
        import sys
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        shell.user_ns.update(fleet=fleet, tell=tell)
        for cell in (
            "import dataclasses\\n@dataclasses.dataclass\\nclass P:\\n    n: int\\n    def plus(self, k): return P(self.n + k)",
            "%config InteractiveShell.xmode='Plain'\\nk = 2\\n@fleet.function\\ndef f(x):\\n    return P(x).plus(k)",
            "tell(f)",
            "k = 3\\ntell(fleet.function(lambda x: (f.local(x), k)))",
        ):
            assert shell.run_cell(cell).success
        """
    )
    (tmp_path / "cells.py").write_text(script)
    found = run(sys.executable, str(tmp_path / "cells.py"), env={"IPYTHONDIR": str(tmp_path)}).splitlines()
    assert [line for line in found if "P(n" in line] == ["P(n=22) True", "(P(n=23), 3) True"]


def test_the_prompt_keeps_its_source_from_3_13_on(tmp_path: Path) -> None:
    """A real prompt on a real terminal, of a Python that has nothing but this SDK's own files."""
    python = interpreter("3.13")
    session = """
import sys; sys.path.insert(0, %r)
from fleet._portable import pickler as _portable
from fleet._portable import world as _world
from fleet._rebuild import functions as _rebuild
k = 4
def f(x):
    return x + k

data = _portable.Session(_world.World(None), {}, numbered=True).dumps(f)
print("made", _rebuild.load_program(data)(1) + 100)
exit()
""" % str(Path(fleet.__file__).parents[1])
    driver = textwrap.dedent(
        """
        import os, pty, sys
        pid, master = pty.fork()
        if not pid:
            os.environ.update(TERM="dumb", PYTHON_BASIC_REPL="1", PYTHON_HISTORY=os.devnull)
            os.execv(sys.argv[1], [sys.argv[1], "-q"])
        os.write(master, sys.argv[2].encode())
        out = b""
        while True:
            try:
                got = os.read(master, 65536)
            except OSError:
                break
            if not got:
                break
            out += got
        os.waitpid(pid, 0)
        print(out.decode(errors="replace"))
        """
    )
    shown = run(sys.executable, "-c", driver, python, session.lstrip())
    assert "made 105" in shown, shown


def test_a_file_that_changed_is_not_what_runs(tmp_path: Path) -> None:
    script = TELL + (
        "@fleet.function\ndef f(x):\n    return x + 1\n"
        "from pathlib import Path\nhere = Path(__file__)\n"
        "here.write_text(here.read_text().replace('return x + 1', 'return x + 2'))\ntell(f)\n"
    )
    (tmp_path / "changes.py").write_text(script)
    said = run(sys.executable, str(tmp_path / "changes.py"))
    assert "the source of f in" in said and "it changed since it was imported" in said


def test_every_function_of_some_libraries_is_found() -> None:
    """Each compiled anew from its lines is the very code object that runs: names, constants, positions."""
    import asyncio.tasks
    import inspect
    import statistics
    import types
    import typing

    found = 0
    for module in (asyncio.tasks, inspect, statistics, typing, textwrap):
        for holder in (module, *(one for one in vars(module).values() if isinstance(one, type))):
            for one in list(vars(holder).values()):
                if isinstance(one, types.FunctionType) and one.__code__.co_filename == module.__file__:
                    _source.locate(one)
                    found += 1
    assert found > 400


# --- what is refused


def test_names_of_what_cannot_travel_with_a_function(tmp_path: Path) -> None:
    script = TELL + textwrap.dedent(
        """
        import threading, sqlite3, pydantic, pydantic as pd, dataclasses
        LOCK = threading.Lock()
        CONFIG = {"a": [1, threading.RLock()]}
        base = sqlite3.connect(":memory:")
        stream = open(__file__)
        def helper(): return LOCK
        class Holder:
            lock = LOCK
        class Model(pydantic.BaseModel):
            n: int
        table = fleet.Ref("0" * 64, 5)
        def closed():
            generator = (n for n in ())
            return lambda x: list(generator)
        def default(x, y=LOCK): return y
        tell(fleet.function(lambda x: helper()))
        tell(fleet.function(lambda x: CONFIG))
        tell(fleet.function(lambda x: base))
        tell(fleet.function(lambda x: stream))
        tell(fleet.function(lambda x: Holder))
        tell(fleet.function(lambda x: pydantic))
        tell(fleet.function(lambda x: pd.BaseModel))
        tell(fleet.function(lambda x: Model(n=x)))
        tell(fleet.function(lambda x: table))
        tell(fleet.function(closed()))
        tell(fleet.function(default))
        """
    )
    (tmp_path / "refused.py").write_text(script)
    said = run(sys.executable, str(tmp_path / "refused.py")).splitlines()
    expected = [
        "function helper uses the global LOCK (a _thread.lock), which can't travel (hint: make it inside the function)",
        "function <lambda> uses the global CONFIG['a'][1] (a _thread.RLock), which can't travel (hint: make it inside",
        "function <lambda> uses the global base (a sqlite3.Connection), which can't travel (hint: make it inside",
        "function <lambda> uses the global stream (a _io.TextIOWrapper), which can't travel (hint: make it inside",
        "class Holder has the attribute lock (a _thread.lock), which can't travel",
        "function <lambda> uses pydantic, which the sandbox doesn't have (hint: name pydantic in packages=[...]",
        "function <lambda> uses pydantic (as pd), which the sandbox doesn't have (hint: name pydantic in packages",
        "class Model derives from pydantic.main.BaseModel, which the sandbox doesn't have",
        "function <lambda> uses the global table (a fleet.Ref), which only arguments can hold (hint: pass it",
        "function closed.<locals>.<lambda> uses the variable generator (a generator), which can't travel",
        "function default has the default y (a _thread.lock), which can't travel",
    ]
    assert len(said) == len(expected), said
    for line, start in zip(said, expected, strict=True):
        assert line.startswith(start), (line, start)


def test_arrays_and_frames_say_what_to_pass_instead(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    from fleet._portable.arguments import ArgumentPickler
    from fleet.protocol.errors import WrongArguments

    def hint(value: Any) -> tuple[str, str]:
        with pytest.raises(WrongArguments) as caught:
            ArgumentPickler(frozenset()).dumps(({"x": [value]},), {})
        return caught.value.message, caught.value.hint

    assert hint(numpy.zeros(3)) == (
        "argument 0['x'][0] is a numpy.ndarray, which the sandbox doesn't have",
        'pass .tolist(), or use runtime="jax" for array programs',
    )
    assert hint(numpy.float64(3))[1].startswith("pass .item(), or")
    (tmp_path / "uses.py").write_text(TELL + "import numpy as np\ntell(fleet.function(lambda x: np.zeros(x)))")
    assert run(sys.executable, str(tmp_path / "uses.py")).strip() == (
        "function <lambda> uses numpy (as np), which the sandbox doesn't have"
        ' (hint: use runtime="jax" for array programs)'
    )


ATTRS = """
import attr, attrs
from attrs import define, field, frozen

@define
class Point:
    x: int = field(validator=attrs.validators.instance_of(int))
    y: int = field(default=2, converter=int)
    tags: list = field(factory=list, repr=False)
    def total(self): return self.x + self.y

@frozen
class Frozen:
    a: int
    b: str = field(default="b", eq=False)

@attr.s(auto_attribs=True, order=True, slots=False)
class Old:
    n: int = 1

@define
class Child(Point):
    z: int = 0

@fleet.function
def work(x):
    found = [Point(x), Point(1, "7").total(), Frozen(1) == Frozen(1, "c"), hash(Frozen(1)) == hash(Frozen(1)), Old(1) < Old(2),
             Child(1, z=4), Child(1).total(), [one.name for one in attrs.fields(Child)], hasattr(Point(1), "__dict__")]
    for wrong in (lambda: Point("text"), lambda: setattr(Frozen(1), "a", 2), lambda: setattr(Point(1), "x", "text")):
        try:
            wrong()
        except Exception as error:
            found.append(type(error).__name__)
    return found
"""


def test_attrs_classes_travel_where_attrs_is(tmp_path: Path) -> None:
    pytest.importorskip("attrs")
    script = TELL + ATTRS + "tell(work)\nprint(work(3))\n"
    script = script.replace("bundle_of(function)", "bundle_of(function, TOPS)")
    (tmp_path / "has.py").write_text("TOPS = ['attr', 'attrs']\n" + script + "print(work(20))")
    there, _, here = run(sys.executable, str(tmp_path / "has.py")).splitlines()
    assert there == f"{here} True"
    (tmp_path / "lacks.py").write_text("TOPS = []\n" + script)
    said = run(sys.executable, str(tmp_path / "lacks.py")).splitlines()[0]
    assert said.startswith("function work uses the global Child (the attrs class Child), which needs attrs on the car")
    assert 'packages=["attrs"]' in said


def test_long_chains_of_functions_and_deep_values(tmp_path: Path) -> None:
    lines = [f"def f{n}(x): return f{n + 1}(x) + 1 if x < 0 else f{n + 1}(x)" for n in range(600)]
    script = TELL + "\n".join(lines) + "\ndef f600(x): return x\nimport sys; sys.setrecursionlimit(5000)\n"
    deep = "deep = []\nfor _ in range(100_000): deep = [deep]\n"
    for limit in (1000, 5000):
        text = script.replace("setrecursionlimit(5000)", f"setrecursionlimit({limit})")
        text += f"f = fleet.function(f0)\nbundle = _bundle.bundle_of(f)\nsys.setrecursionlimit(5000)\ntell(f)\n{deep}"
        (tmp_path / "chain.py").write_text(text + "tell(fleet.function(lambda x: deep))\n")
        first, second = run(sys.executable, str(tmp_path / "chain.py")).splitlines()
        assert first == "20 True"
        assert second.startswith("a value is nested too deeply to travel to a car")


# --- names


def test_names_and_tokens() -> None:
    import functools

    partial = fleet.function(functools.partial(sdk_sample.add.local, 1))
    assert (partial.display_name, partial.app_name) == ("Function.local", "_function")
    one, other = fleet.function(lambda x: x), fleet.function(lambda x: x)
    assert one.name != other.name, "two lambdas of one file share no token"
    assert one.name.startswith("test_names_and_tokens-locals-lambda-")
    assert sdk_sample.alias.name == "alias"
    assert fleet.function(sdk_sample.Point(1).__init__).name.startswith("Point")  # type: ignore[misc]
