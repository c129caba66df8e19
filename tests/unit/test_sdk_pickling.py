"""Arguments: plain values fast, own classes by name, a clear path to whatever can't travel."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import os
import pickle
import sys
import threading
import types
import zipfile
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fleet
from fleet import _bundle
from fleet._portable import arguments as _pickling
from fleet._portable.arguments import ArgumentPickler
from fleet._portable.world import World
from fleet._rebuild import functions as _rebuild
from fleet.protocol.errors import PayloadTooLarge, WrongArguments
from runtime.guest.inside import fleet_parts
from tests.unit import sdk_sample

OWN = ArgumentPickler(frozenset({"tests.unit.sdk_sample"}))

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(st.lists(values).map(tuple), st.dictionaries(st.text(min_size=1), values))
def test_values_come_back(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert pickle.loads(OWN.dumps(args, kwargs)) == (args, kwargs)


def test_standard_classes_and_own_classes_go_by_name() -> None:
    point = sdk_sample.Point([1])
    args = (
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        decimal.Decimal("1.5"),
        point,
        sdk_sample.Point,
        len,
        sdk_sample.add,
    )
    back, _ = pickle.loads(OWN.dumps(args, {}))
    assert back[:2] == args[:2]
    assert back[2].x == [1]
    assert back[3:] == (sdk_sample.Point, len, sdk_sample.add)


class Deep:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


def counted() -> int:
    return LOCK.locked()


LOCK = threading.Lock()
made_up = type("ndarray", (), {"__module__": "numpy"})


@pytest.mark.parametrize(
    ("args", "kwargs", "said", "hint"),
    [
        ((sdk_sample.Point(threading.Lock()),), {}, "argument 0.x is a _thread.lock, which can't travel", "plain values"),
        ((), {"key": {"a": [1, {2: iter("x")}, open]}, "b": (n for n in ())}, "argument b is a generator, which", ""),
        (([pydantic.TypeAdapter(int)],), {}, "argument 0[0] is a pydantic.TypeAdapter, which the sandbox", "packages"),
        ((pydantic,), {}, "argument 0 is the module pydantic, which the sandbox doesn't have", "packages"),
        ((1, counted), {}, "function counted uses the global LOCK (a _thread.lock), which can't travel", "inside the function"),
        ((Deep({"x": made_up()}),), {}, "argument 0.inner['x'] is a numpy.ndarray, which the sandbox", ".tolist()"),
        ((sys._getframe(),), {}, "argument 0 is a frame, which can't travel", "plain values"),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], said: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy = types.ModuleType("numpy")
    numpy.__file__ = os.path.join(os.path.dirname(pydantic.__file__), "..", "numpy", "__init__.py")
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    with pytest.raises(WrongArguments) as caught:
        OWN.dumps(args, kwargs)
    assert caught.value.message.startswith(said)
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        ("pandas.core.frame", "DataFrame", 'pass .to_dict("records")'),
        ("pandas.core.series", "Series", "pass .tolist()"),
        ("polars.dataframe.frame", "DataFrame", "pass .to_dicts()"),
        ("torch", "Tensor", 'pass .tolist(), or use runtime="jax" for array programs'),
        ("PIL.Image", "Image", "pass the bytes of the image file"),
        ("shapely.geometry", "Point", "pass plain values, or name shapely in packages=[...] if it is pure Python"),
    ],
)
def test_ways_out_of_values_of_libraries(module: str, name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType(module)
    made.__file__ = os.path.join(os.path.dirname(pydantic.__file__), "..", module, "__init__.py")
    monkeypatch.setitem(sys.modules, module, made)
    kind = type(name, (), {"__module__": module, "__len__": lambda self: 0})
    with pytest.raises(WrongArguments, match=f"argument 0 is a {module.partition('.')[0]}.{name}, which the") as caught:
        OWN.dumps((kind(),), {})
    assert caught.value.hint == hint


def test_what_of_the_sdk_a_sandbox_lacks_is_refused() -> None:
    world = World(frozenset())
    for name in fleet.__all__:
        home = getattr(getattr(fleet, name), "__module__", "fleet")
        assert world.has(home) == (home in fleet_parts.MODULES), name
    for module in fleet_parts.MODULES:
        assert world.has(module)
    with pytest.raises(WrongArguments, match=r"argument 0 is a fleet.Call, which the sandbox doesn't have"):
        OWN.dumps((object.__new__(fleet.Call),), {})


def test_what_no_module_of_the_bundle_holds_goes_by_value() -> None:
    n = 3
    args = (lambda x: x + n, Deep(1), Deep, [Deep(2)])
    there = pickle.loads(OWN.dumps(args, {}))[0]
    assert there[0](1) == 4
    assert there[0] is not args[0]
    assert type(there[1]).__qualname__ == "Deep" and type(there[1]) is not Deep, "made from its source"
    assert type(there[1]) is there[2] is type(there[3][0])
    again = pickle.loads(OWN.dumps((Deep(5),), {}))[0][0]
    assert type(again) is there[2], "the same class in every call"
    assert OWN.classes[__name__, "Deep"] is Deep


def test_members_of_the_program_are_named_not_sent() -> None:
    class Local(Deep):
        pass

    bundle = _bundle.bundle_of(sdk_sample.make_user(Local))
    assert bundle.classes[__name__, Local.__qualname__] is Local
    pickler = ArgumentPickler(bundle.modules, bundle.members)
    data = pickler.dumps((Local(1),), {})
    assert len(data) < 150, data
    with zipfile.ZipFile(io.BytesIO(bundle.data)) as archive:
        program = _rebuild.load_program(archive.read(_bundle.PICKLE))
    assert program(pickle.loads(data)[0][0]) is True
    put = ArgumentPickler(None).dumps((Local(2),), {})
    assert program(pickle.loads(put)[0][0]) is True, "a value that was put apart is of the program's class"


def test_an_argument_function_has_its_own_globals() -> None:
    first = pickle.loads(OWN.dumps((bump,), {}))[0][0]
    second = pickle.loads(OWN.dumps((bump,), {}))[0][0]
    assert (first(), first(), second()) == (1, 2, 1), "what one call does to them, no other sees"


counter = 0


def bump() -> int:
    global counter
    counter += 1
    return counter


def test_nesting_without_end_is_named() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(WrongArguments, match="nested too deeply"):
        OWN.dumps((deep,), {})


def test_without_a_bundle_names_are_trusted_but_packages_are_not() -> None:
    found_by_name = ArgumentPickler(None)
    assert pickle.loads(found_by_name.dumps((sdk_sample.Point(1),), {}))[0][0].x == 1
    with pytest.raises(WrongArguments, match=r"pydantic.main.BaseModel, which the sandbox"):
        found_by_name.dumps((pydantic.BaseModel,), {})


@pytest.mark.parametrize("value", [b"x" * 2000, [b"x" * 2000]])
def test_the_limit_is_told(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.setattr(_pickling, "PAYLOAD_BYTES_MAX", 1000)
    with pytest.raises(PayloadTooLarge, match="the limit is 1000 B"):
        OWN.dumps((value,), {})
