"""Arguments: plain values fast, own classes by name, a clear path to whatever can't travel."""

from __future__ import annotations

import datetime as dt
import decimal
import pickle
import threading
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import _pickling
from fleet._pickling import ArgumentPickler
from fleet.protocol.errors import PayloadTooLarge, WrongArguments
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


@pytest.mark.parametrize(
    ("args", "kwargs", "path", "why"),
    [
        ((1, lambda: 0), {}, "argument 1 can't", "not at the top level"),
        ((), {"key": {"a": [1, {2: lambda: 0}]}}, "argument key['a'][1][2] can't", "not at the top level"),
        ((sdk_sample.Point(threading.Lock()),), {}, "argument 0.x can't", "lock"),
        (([pydantic.TypeAdapter(int)],), {}, "argument 0[0]", "package pydantic"),
        ((pydantic,), {}, "argument 0 can't", "package pydantic"),
        (
            (test_standard_classes_and_own_classes_go_by_name,),
            {},
            "argument 0 can't",
            "not part of the function's bundle",
        ),
    ],
)
def test_what_cannot_travel_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], path: str, why: str) -> None:
    with pytest.raises(WrongArguments) as caught:
        OWN.dumps(args, kwargs)
    assert path in str(caught.value)
    assert why in str(caught.value)


def test_nesting_without_end_is_named() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(WrongArguments, match="nested too deeply"):
        OWN.dumps((deep,), {})


def test_without_a_bundle_names_are_trusted_but_packages_are_not() -> None:
    found_by_name = ArgumentPickler(None)
    assert pickle.loads(found_by_name.dumps((sdk_sample.Point(1),), {}))[0][0].x == 1
    with pytest.raises(WrongArguments, match="package pydantic"):
        found_by_name.dumps((pydantic.BaseModel,), {})


@pytest.mark.parametrize("value", [b"x" * 2000, [b"x" * 2000]])
def test_the_limit_is_told(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.setattr(_pickling, "PAYLOAD_BYTES_MAX", 1000)
    with pytest.raises(PayloadTooLarge, match="the limit is 1000 B"):
        OWN.dumps((value,), {})
