"""Modules that a sandbox doesn't have: importing them at top level is forgiven, using them in a function isn't."""

from __future__ import annotations

import pytest

from runtime.slot_wire import SlotJob
from tests.sandbox.wasm_bench import Bench

SENTENCE = "pandas isn't available on a car: it is native code, and a sandbox runs pure Python only; "


def test_a_test_file_runs_its_function(bench: Bench) -> None:
    source = """
import pytest, pandas as pd, numpy.random as nr, fleet, fleet.testing
import anyio.abc, tkinter.ttk
from fleet.testing import LocalFleet
from fleet import testing as platform, Client
from pydantic import BaseModel, Field
from sqlalchemy.orm import DeclarativeBase
import abc, dataclasses, typing

pytestmark = pytest.mark.anyio
LIMIT = pd.Timedelta("1h") * 2 + 1
SEEN = [row for row in pd.read_csv("x.csv")]
if nr.gpu.is_available() or pd.__version__ > "2":
    raise SystemExit("never")
Frame = typing.Optional[pd.DataFrame]
Either = pd.DataFrame | int

class Model(BaseModel, frozen=True):
    name: str = Field(default="x")
    def shout(self): return self.name.upper()

class Mixed(Model, abc.ABC): pass
class Table(DeclarativeBase): pass
class Failed(pd.errors.ParserError): pass

@dataclasses.dataclass
class Row:
    value: pd.Series
    at: int = 0

@pytest.fixture(scope="session")
def running() -> "LocalFleet":
    with LocalFleet(cars=1) as local:
        yield local

@pytest.mark.parametrize("x", [1, 2])
@pytest.mark.slow
def test_it(running, x): assert f.remote(x) == x

with pytest.raises(ValueError) as caught:
    pass

@fleet.function(memory="128MiB")
def f(x) -> pd.DataFrame:
    return x, Row(3).value, SEEN, issubclass(Mixed, Model)

@fleet.function
def g():
    try: raise ValueError("mine")
    except Failed: return "wrong"
    except ValueError: return "right"
"""
    assert bench.value(bench.load(source), 5) == (5, 3, [], True)
    assert bench.value(bench.load(source, "g")) == "right"


@pytest.mark.parametrize(
    "body",
    [
        "return pd.DataFrame",
        "return DataFrame([1])",
        "return MADE + 1",
        "return str(MADE)",
        "return bool(pd)",
        "return [x for x in pd]",
        "return Frame()",
        "return Frame.load()",
        "return decorated(1)",
        "with pd.option_context(): pass",
        "return isinstance(1, DataFrame)",
        "MADE.x = 1",
        "import pandas.plotting",
        "return hasattr(pd, 'x')",
        "import importlib; importlib.import_module('pandas')",
        "import pickle; return pickle.dumps(MADE)",
    ],
)
def test_using_one_in_a_function_is_told_in_a_sentence(bench: Bench, body: str) -> None:
    source = f"""
import pandas as pd
from pandas import DataFrame
MADE = pd.Series([1, 2])
class Frame(DataFrame): pass
@pd.api.register
def decorated(x): return x
def f():
    {body}
"""
    error = bench.error(source)
    assert (error.type_name, error.message.startswith(SENTENCE)) == ("ModuleNotFoundError", True), error
    assert body.rpartition("; ")[2] in error.traceback and error.traceback.count('File "') == 1, error.traceback


@pytest.mark.parametrize("guard", ["except ImportError:", "except Exception:"])
def test_an_import_in_a_try_fails_at_once(bench: Bench, guard: str) -> None:
    source = f"""
import numpy
try:
    import numpy
    HAVE = True
{guard}
    HAVE = False
import importlib.util, contextlib
pandas = None
with contextlib.suppress(ImportError):
    import pandas
def inside():
    import numpy
try:
    inside()
except ModuleNotFoundError as error:
    NAME = error.name
def f(): return HAVE, NAME, pandas, importlib.util.find_spec("numpy")
"""
    assert bench.eval(source) == (False, "numpy", None, None)


def test_a_try_around_the_import_of_an_importing_module_counts(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "fast.py": "import numpy\ndef total(xs): return numpy.sum(xs)\n",
        "plain.py": "import numpy\nGIVEN = 3\n",
        "work.py": """
try:
    import fast
except ImportError:
    fast = None
def f():
    import plain
    return fast, plain.GIVEN
""",
    }
    assert bench.value(bench.load(files, module="work")) == (None, 3)


def test_mistakes_of_the_developers_own_stay_errors(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "shop/__init__.py": "",
        "broken.py": "def inner():\n    import nowhere\ninner()\n",
    }
    for line, words in [
        ("from shop import missing", "cannot import name 'missing'"),
        ("import shop.missing", "No module named 'shop.missing'"),
        ("from shop.missing import x", "No module named 'shop.missing'"),
        ("import broken", "nowhere isn't available on a car"),
        ("from pandas import *", "pandas isn't available on a car"),
    ]:
        program = bench.load({**files, "__main__.py": f"{line}\ndef f(): return 1"})
        error = bench.raised(program)
        assert words in error.message and "_fleet_guest" not in error.traceback, error


def test_sentences_fit_what_is_missing(bench: Bench) -> None:
    for name, words in [
        ("tkinter", "there is no terminal"),
        ("venv", "nothing can be installed"),
        ("fleet.testing", "can't reach the platform"),
        ("torch", "a sandbox runs pure Python only"),
        ("attrs", "name it in packages=[...]"),
    ]:
        error = bench.error(f"def f():\n    import {name}")
        assert error.message.startswith(f"{name} isn't available on a car: ") and words in error.message, error
    program = bench.load("def f(x): return x")
    result = bench.sandbox.run(SlotJob(1, program, b"cnumpy\narray\n."))
    assert result.result[0] == 1 and result.summary.startswith("ModuleNotFoundError: numpy isn't available on a car")


def test_functions_import_as_fast_as_ever(bench: Bench) -> None:
    source = """
import pandas, builtins, types
def f(): return type(builtins.__import__) is types.BuiltinFunctionType
"""
    assert bench.eval(source) is True
