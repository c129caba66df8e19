"""The codec: every value comes back as it was, nothing else comes back at all."""

from __future__ import annotations

import datetime as dt
import math
import struct
import tracemalloc
import zoneinfo
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol.codec import ExceptionData, decode, decode_exception, encode, encode_exception
from fleet.protocol.errors import CallTimeout, ProtocolError, ResultNotPortable
from fleet.protocol.limits import CODEC_DEPTH_MAX, ERROR_TEXT_CHARS_MAX

OSLO = zoneinfo.ZoneInfo("Europe/Oslo")

zones = st.one_of(
    st.none(),
    st.just(OSLO),
    st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone),
    st.just(dt.timezone(dt.timedelta(hours=1), "Lunch")),
)
hashables = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=[])),
        st.binary(),
        st.dates(),
        st.datetimes(timezones=zones, allow_imaginary=False),
        st.times(),
        st.timedeltas(),
    ),
    lambda inner: st.one_of(st.frozensets(inner, max_size=3), st.lists(inner, max_size=4).map(tuple)),
    max_leaves=8,
)
values = st.recursive(
    hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=20),
        st.dictionaries(hashables, inner, max_size=5),
        st.sets(hashables, max_size=4),
        st.lists(st.floats(), min_size=16, max_size=20),
        st.lists(st.integers(-(2**64), 2**64), min_size=16, max_size=20),
    ),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Equal in value and in every type inside; NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, dt.datetime | dt.time):
        return bool(left.replace(tzinfo=None) == right.replace(tzinfo=None)) and (
            left.fold == right.fold and left.tzinfo == right.tzinfo and left.tzname() == right.tzname()
        )
    return bool(left == right)


@given(values)
@settings(max_examples=300, deadline=None)
def test_values_come_back_as_they_were(value: Any) -> None:
    data = encode(value)
    assert same(decode(data), value)
    assert same(decode(memoryview(data)), value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            sign * 2**bits + delta
            for bits in (5, 7, 8, 31, 32, 63, 64, 200)
            for delta in (-1, 0, 1)
            for sign in (1, -1)
        ),
        *(math.inf, -math.inf, math.nan, -0.0, 5e-324),
        *("", "x" * 31, "x" * 32, "ø" * 70_000, "\ud800", b"", bytes(255), bytes(256), bytes(70_000)),
        *([], [None] * 15, [None] * 16, [None] * 70_000, [1.5] * 16, [2**63] * 16, [1, 1.0] * 8, [True] * 16),
        *((), (1,), {()}, {}, {1: 2, "1": 3, None: {(): frozenset()}}, set(), frozenset({frozenset()})),
        *(dt.UTC, OSLO, dt.datetime(2026, 10, 25, 2, 30, tzinfo=OSLO, fold=1), dt.time(1, fold=1), dt.timedelta.min),
    ],
)
def test_edges_come_back_as_they_were(value: Any) -> None:
    assert same(decode(encode(value)), value)


def test_the_order_of_a_dict_is_kept() -> None:
    value = dict.fromkeys("zebra", 0)
    assert list(decode(encode(value))) == list("zebra")


def test_the_prefix_stands_before_the_value() -> None:
    assert encode(5, prefix=b"\0")[0] == 0 and decode(encode([5], prefix=b"ab")[2:]) == [5]


class Point:
    pass


class Attributes(dict[str, int]):
    pass


class Count(int):
    pass


def looped() -> Any:
    value: dict[str, Any] = {"a": []}
    value["a"].append(value)
    return value


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def broad() -> Any:
    value: Any = [1]
    for _ in range(12):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, 2, 3, Point()]}, "result['a'][3] is of type tests.unit.test_codec.Point"),
        ((1, {2: {Point}}), "an element of result[1][2] is of type type"),
        ({(1, Point): 1}, "a key of result[1] is of type type"),
        (Attributes(a=1), "a subclass of dict: convert it with dict(...)"),
        ([Count(1)], "result[0] is of type tests.unit.test_codec.Count (a subclass of int: convert it with int(...))"),
        (looped(), "result['a'][0] contains itself"),
        (nested(CODEC_DEPTH_MAX + 1), "is nested more than 64 deep"),
        (nested(5000), "is nested more than 64 deep"),
        (dt.datetime(2026, 1, 1, tzinfo=type("Z", (dt.tzinfo,), {})()), "result.tzinfo is of type"),
        (print, "result is of type builtin_function_or_method"),
    ],
)
def test_what_cannot_travel_is_named(value: Any, words: str) -> None:
    with pytest.raises(ResultNotPortable) as caught:
        encode(value)
    assert words in caught.value.message and "\n" not in caught.value.message


def test_the_deepest_value_travels() -> None:
    assert decode(encode(nested(CODEC_DEPTH_MAX))) == nested(CODEC_DEPTH_MAX)


def test_too_many_values_are_refused_before_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.protocol._codec.encode.CODEC_VALUES_MAX", 100_000)
    with pytest.raises(ResultNotPortable, match="takes more than"):
        encode(broad())
    with pytest.raises(ResultNotPortable, match="takes more than"):
        encode([1.5] * 20 + [broad()])


@given(st.binary(max_size=60))
@settings(max_examples=500, deadline=None)
def test_noise_is_a_protocol_error_or_a_value(data: bytes) -> None:
    try:
        decode(data)
    except ProtocolError:
        pass


@given(values, st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_a_protocol_error_or_another_value(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    for cut in (encoded, encoded[:at]):
        try:
            decode(bytes(cut))
        except (ProtocolError, ResultNotPortable):
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        encode(1) + b"\x00",
        b"\xdd\xff\xff\xff\xff" + bytes(1000),
        b"\xdf\x7f\xff\xff\xff" + bytes(1000),
        b"\xc6\xff\xff\xff\xff" + bytes(1000),
        b"\xdb\xff\xff\xff\xff" + bytes(1000),
        b"\x91" * 200 + b"\x00",
        b"\xd4\x03\x01",
        b"\x81\x90\x00",
        b"\x92\xd4\x03\x02\x90",
        b"\x91\xd4\x03\x7f",
        b"\x92\xd4\x03\x0b\xc4\x03abc",
        b"\x92\xd4\x03\x0a\x00",
        b"\x92\xd4\x03\x09\xa9../passwd",
        b"\x92\xd4\x03\x09\xaa/etc/hosts",
        b"\x94\xd4\x03\x05\x00\x00\x00",
        b"\xa1\xff",
    ],
)
def test_malformed_data_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_a_length_is_not_believed() -> None:
    """2**28 elements are announced, a thousand bytes are there: nothing is allocated for them."""
    data = b"\x91" * 30 + b"\xdd\x10\x00\x00\x00" + b"\x90" * 1000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


class SoldOut(Exception):
    def __init__(self, what: str, left: int) -> None:
        super().__init__(what, left)


def test_an_exception_is_data_with_all_that_can_travel() -> None:
    try:
        try:
            raise KeyError("apples")
        except KeyError as cause:
            cause.add_note("look in the shed")
            raise SoldOut("apples", 0) from cause
    except SoldOut as error:
        error.add_note("try pears")
        data = encode_exception(error)
    told = decode_exception(data)
    assert (told.module, told.qualname, told.args) == (__name__, "SoldOut", ("apples", 0))
    assert told.type_name == f"{__name__}.SoldOut" and told.summary == f"{__name__}.SoldOut: ('apples', 0)"
    assert told.notes == ("try pears",) and told.context is None
    assert told.cause is not None and told.cause.type_name == "KeyError" and told.cause.notes == ("look in the shed",)
    assert 'raise SoldOut("apples", 0) from cause' in told.traceback and "direct cause" in told.traceback


def test_frames_can_be_hidden() -> None:
    try:
        decode(b"\xc1")
    except ProtocolError as error:
        shown = decode_exception(encode_exception(error)).traceback
        hidden = decode_exception(
            encode_exception(error, lambda name: name.endswith(("codec.py", "decode.py")))
        ).traceback
    assert "in long" in shown and "in long" not in hidden


def test_errors_of_the_platform_keep_their_code_and_hint() -> None:
    told = decode_exception(encode_exception(CallTimeout("took 2 s", hint="hurry")))
    assert (told.code, told.message, told.hint) == ("call_timeout", "took 2 s", "hurry")


class Liar(Exception):
    args = property(lambda self: 1 / 0)

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "error",
    [Liar(), ValueError(Point()), ValueError("x" * 10**6), ExceptionGroup("g", [ValueError(1)]), OSError(2, "no")],
)
def test_every_exception_can_be_told(error: BaseException) -> None:
    told = decode_exception(encode_exception(error))
    assert told.qualname == type(error).__qualname__
    assert len(told.message) <= ERROR_TEXT_CHARS_MAX + 100


def test_endless_recursion_is_told_in_reasonable_size() -> None:
    def endless(n: int) -> int:
        return endless(n + 1)

    try:
        endless(0)
    except RecursionError as error:
        told = decode_exception(encode_exception(error))
    assert told.type_name == "RecursionError" and len(told.traceback) < 20_000


def test_exceptions_inside_values_are_revived_once() -> None:
    try:
        raise ValueError("outer") from KeyError("inner")
    except ValueError as error:
        data = encode([error, {"b": TypeError("x")}])
    plain = decode(data)
    assert isinstance(plain[0], ExceptionData) and plain[0].cause is not None
    revived = decode(data, lambda told: told.summary)
    assert revived == ["ValueError: outer", {"b": "TypeError: x"}]


def test_a_value_is_no_exception() -> None:
    with pytest.raises(ProtocolError):
        decode_exception(encode("ValueError"))
    with pytest.raises(ProtocolError):
        decode(encode(ExceptionData(1, "x", "y")))  # type: ignore[arg-type]
