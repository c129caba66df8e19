"""Every kind of value that a result may have: there and back, on its own, inside others, and refused with its path."""

from __future__ import annotations

import array
import asyncio
import collections
import enum
import fractions
import re
import time
import types
from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fleet
from fleet._results import Failure, decode_item
from fleet.protocol._codec import encode as _encode
from fleet.protocol._codec.decode import Decoder
from fleet.protocol.codec import ExceptionData, decode, encode, encode_exception
from fleet.protocol.errors import ProtocolError, ResultNotPortable
from tests.unit import codec_corpus as corpus
from tests.unit.codec_corpus import CLASSES, Colour, Item, Pair, Point, Slotted, same


def back(value: Any) -> Any:
    return decode_item(encode(value, prefix=b"\0"), CLASSES)


@pytest.mark.parametrize("value", corpus.everything(), ids=lambda value: type(value).__name__)
def test_every_kind_comes_back(value: Any) -> None:
    assert same(back(value), value)


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: [{"a": v, "b": 1}] * 20, lambda v: (v,) * 17]
)
def test_every_kind_comes_back_inside_others(wrap: Any) -> None:
    for value in corpus.everything():
        assert same(back(wrap(value)), wrap(value)), value


def test_no_code_of_a_class_is_run() -> None:
    data = [encode(value, prefix=b"\0") for value in corpus.instances() + corpus.raised()]
    corpus.ran.clear()
    made = [decode_item(one, CLASSES) for one in data]
    assert corpus.ran == []
    assert made[0].double == 2 and corpus.ran == ["property"]


kinds = st.one_of(
    st.complex_numbers(allow_nan=False), st.decimals(allow_nan=False), st.uuids(), st.fractions(), st.booleans(),
    st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.sampled_from(Colour),
    st.builds(Point, st.floats(allow_nan=False)), st.builds(Slotted, st.integers(), st.text()), st.builds(Pair, st.integers()),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9)), st.ip_addresses(),
)  # fmt: skip
nested = st.recursive(
    kinds,
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.lists(inner, max_size=9).map(collections.deque),
        st.lists(inner, max_size=5).map(tuple),
        st.lists(kinds, min_size=16, max_size=20), st.dictionaries(st.text(), inner, max_size=20),
        st.dictionaries(kinds, inner, max_size=3).map(collections.OrderedDict), st.sets(kinds, max_size=20),
        st.builds(Item, st.text(), st.integers(), st.lists(inner, max_size=3)),
        st.tuples(st.text(min_size=1, max_size=3), st.lists(inner, min_size=16, max_size=18)).map(
            lambda pair: [{pair[0]: one} for one in pair[1]]
        ),
    ),
    max_leaves=30,
)  # fmt: skip


@given(nested)
@settings(max_examples=150, deadline=None)
def test_kinds_nest(value: Any) -> None:
    assert same(back(value), value)


@given(st.lists(st.one_of(st.floats(), st.integers(-3, 300)), min_size=16, max_size=40))
@settings(max_examples=100, deadline=None)
def test_numbers_of_two_kinds_are_not_confused(value: list[Any]) -> None:
    assert same(back(value), value) and same(back(tuple(value)), tuple(value))


class Text(str):
    pass


def test_what_equals_a_string_is_not_taken_for_one() -> None:
    rows: list[dict[Any, int]] = [{"a": 1}] * 20 + [{Text("a"): 1}]
    with pytest.raises(
        ResultNotPortable, match=re.escape("a key of result[20] is of type tests.unit.test_codec_kinds.Text")
    ):
        encode(rows)
    with pytest.raises(ResultNotPortable, match=re.escape("result[16] is of type")):
        encode(["a"] * 16 + [Text("b")])


def test_shared_objects_come_back_as_two() -> None:
    inner = [1]
    made = back([inner, inner])
    assert made == [[1], [1]] and made[0] is not made[1]


# --- padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [None] * 3_000_000, [[] for _ in range(300_000)], [{"x": n, "y": None} for n in range(150_000)],
        {str(n): n for n in range(200_000)}, {n: n for n in range(200_000)}, ["ab"] * 400_000, ["ø"] * 200_000,
        [(n,) for n in range(200_000)], set(range(200_000)), "ø" * 4_000_000, [Point(1.0)] * 50_000, [Colour.RED] * 50_000,
        [[str(n), 1.5] for n in range(60_000)], list(range(600_000)), 10 * [["a", 1, "b"] * 9_000],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_takes_much_memory_is_padded_so_that_it_is_accepted(value: Any) -> None:
    """The writer charges at least what the reader does, for values that expand most."""
    assert back(value) == value


def test_floats_and_bytes_are_never_padded() -> None:
    assert len(encode([0.5] * 1_000_000)) < 8_000_020
    assert len(encode(b"x" * 20_000_000)) < 20_000_010
    assert len(encode("x" * 20_000_000)) < 20_000_010


# --- what can't travel -----------------------------------------------------------------------------------------------


class Plain:
    pass


class Meters(float):
    pass


class Unit(str, enum.Enum):  # noqa: UP042
    M = "m"


class Tagged(Pair):
    pass


def tagged() -> Tagged:
    value = Tagged(1)
    value.tag = 1  # type: ignore[attr-defined]
    return value


@dataclass
class Node:
    next: Any = None


def ring() -> Node:
    node = Node()
    node.next = Node({"a": node})
    return node


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            Item("a", 1, [Point(1.0), Plain()]),
            "result.parts[1] is of type tests.unit.test_codec_kinds.Plain (make its class a",
        ),
        (
            {"a": [Meters(1)]},
            "result['a'][0] is of type tests.unit.test_codec_kinds.Meters (a subclass of float: convert",
        ),
        (ring(), "result.next.next['a'] contains itself"),
        (
            collections.defaultdict(lambda: 1, a=1),
            "result is a defaultdict whose factory <lambda> is code",
        ),
        ([collections.deque([print])], "result[0][0] is of type builtin_function_or_method"),
        (types.SimpleNamespace(a={1: Plain}), "result.a[1] is of type type"),
        ((n for n in ()), "result is of type generator (return list(...) of it)"),
        ({1: {}.values()}, "result[1] is of type dict_values (return list(...) of it)"),
        (re.match("a", "a"), "result is of type re.Match (return its .group()"),
        (time.gmtime(0), "result is of type time.struct_time (a subclass of tuple: convert it with tuple(...))"),
        (fractions.Fraction(1, 1 << 20_000), "result is a Fraction of more than 16,384 bits"),
        (memoryview(array.array("l", [1])), "result is a memoryview of format 'l'"),
        (tagged(), "result is a Tagged with attributes beside its fields"),
        ([collections.UserDict()], "result[0] is of type collections.UserDict"),
        (Pair(1, Plain()), "result.right is of type"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_travel_is_named(value: Any, words: str) -> None:
    with pytest.raises(ResultNotPortable) as caught:
        encode(value)
    assert words in caught.value.message and "\n" not in caught.value.message


def test_members_of_every_enum_travel() -> None:
    assert decode(encode(Unit.M), find=lambda *_: Unit) is Unit.M


@pytest.mark.parametrize("depth", range(58, 66))
@pytest.mark.parametrize(
    "leaf",
    [[1.5] * 20, (1,) * 20, {str(n): n for n in range(20)}, [{"a": 1}] * 20, [(1, 2)] * 20, [Point(1.0)] * 20, {1},
     set(range(20)), collections.Counter("ab"), Point(1.0), ValueError("x")],
    ids=lambda leaf: type(leaf).__name__,
)  # fmt: skip
def test_what_the_writer_accepts_the_reader_does(leaf: Any, depth: int) -> None:
    value = leaf
    for _ in range(depth):
        value = [value]
    try:
        data = encode(value)
    except ResultNotPortable as error:
        assert "deep" in error.message  # noqa: PT017
        return
    assert repr(decode(data, find=CLASSES.find, revive=lambda told: ValueError(*told.args or ()))) == repr(value)


# --- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Point(1.0), "result"), ([1, {"a": Point(1.0)}], "result[1]['a']"), ([{"n": 1, "p": Pair(1)}] * 20, "result[0]['p']"),
        ({str(n): [n, Colour.RED] for n in range(20)}, "result['0'][1]"), (types.SimpleNamespace(a=Colour.RED), "result.a"),
        ([(1, Point(2.0))] * 20, "result[0][1]"), ({Point(1.0): 1}, "a key of result"), ({Pair(1)}, "an element of result"),
        ([[Point(1.0)] * 20] * 20, "result[0][0]"), (collections.deque([1, Pair(1)]), "result[1]"),
        ([{"a": [{"b": Point(1.0)}] * 20}] * 20, "result[0]['a'][0]['b']"), ((None,) * 20 + (Pair(1),), "result[20]"),
        (collections.OrderedDict(a=[Colour.RED]), "result['a'][0]"), (2 * [{1: {2: Point(1.0)}}], "result[0][1][2]"),
    ],
)  # fmt: skip
def test_an_unknown_class_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(ResultNotPortable) as caught:
        decode(encode(value))
    assert caught.value.message.startswith(f"{path} is of class tests.unit.codec_corpus.")
    assert "annotated" in caught.value.hint


def test_records_stand_in_for_unknown_classes() -> None:
    assert repr(decode(encode([Item("a", 2), Colour.RED, Pair(1)]), records=True)) == (
        "[Item(name='a', qty=2, parts=[]), Colour.RED, Pair(left=1, right='r')]"
    )


def changed(name: str, fields: list[Any], **options: Any) -> type:
    return make_dataclass(name, fields, **options)


class Abstract(__import__("abc").ABC):  # type: ignore[misc]
    pass


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (changed("Point", ["x"]), "has no field 'y' here"),
        (changed("Point", ["x", "y", ("z", int, 3)]), "has a field 'z' here that the result lacks"),
        (Pair, "is not a dataclass here"),
        (Plain, "is not a dataclass here"),
        (int, "is not a dataclass here"),
        (type("Point", (dict, Point), {}), "can't be made from its fields"),
    ],
)
def test_a_class_that_does_not_fit_is_refused(kind: type, words: str) -> None:
    with pytest.raises(ResultNotPortable, match=words):
        decode(encode([Point(1.0)]), find=lambda *_: kind)


def test_an_added_attribute_travels_unless_it_would_hide_something() -> None:
    made = back(corpus.Derived(5))
    assert made.three == [5]
    point = Node(1)
    point.__dict__["walk"] = "hidden"
    fine = decode(encode(point), find=lambda *_: Node)
    assert fine.walk == "hidden"
    walker = type("Node", (Node,), {"walk": lambda self: 1})
    with pytest.raises(ResultNotPortable, match="has no place for 'walk' here"):
        decode(encode(point), find=lambda *_: walker)


def test_a_member_that_an_enum_lacks_is_refused() -> None:
    with pytest.raises(ResultNotPortable, match=r"result\[0\] is .*Colour.RED, which the class doesn't have here"):
        decode(encode([Colour.RED]), find=lambda *_: enum.Enum("Colour", ["GREEN"]))


def test_a_tuple_is_no_tagged_one() -> None:
    assert decode(encode(Tagged(1)), find=lambda *_: Tagged) == Tagged(1)


# --- exceptions ------------------------------------------------------------------------------------------------------


def caught(error: BaseException) -> Exception:
    try:
        raise error
    except BaseException as met:
        failure = decode_item(encode_exception(met, prefix=b"\1"), CLASSES)
    assert isinstance(failure, Failure)
    return failure.error


def test_errors_of_the_system_keep_their_file() -> None:
    try:
        open("/nowhere/at/all")  # noqa: SIM115
    except OSError as error:
        met = caught(error)
    assert isinstance(met, FileNotFoundError) and (met.errno, met.filename) == (2, "/nowhere/at/all")
    assert str(met) == "[Errno 2] No such file or directory: '/nowhere/at/all'"


def test_attributes_come_along() -> None:
    met = caught(corpus.SoldOut("pear", 3))
    assert isinstance(met, corpus.SoldOut) and (str(met), met.what, met.left) == ("pear: 3", "pear", 3)
    import json

    try:
        json.loads("[1,")
    except ValueError as error:
        again = caught(error)
    assert isinstance(again, json.JSONDecodeError) and (again.pos, again.doc) == (3, "[1,")


def test_the_whole_chain_comes_along() -> None:
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("second")  # noqa: B904
        except ValueError as error:
            error.add_note("look here")
            raise TypeError("third") from error
    except TypeError as error:
        met = caught(error)
    second = met.__cause__
    assert repr(second) == "ValueError('second')" and second is not None and second.__notes__ == ["look here"]
    assert (
        repr(second.__context__) == "KeyError('first')" and met.__suppress_context__ and not second.__suppress_context__
    )


def test_what_no_handler_catches_may_be_a_cause_or_a_value_but_is_not_raised() -> None:
    error = TimeoutError()
    error.__cause__ = asyncio.CancelledError()
    assert isinstance(caught(error).__cause__, asyncio.CancelledError)
    assert isinstance(back([KeyboardInterrupt()])[0], KeyboardInterrupt)
    assert isinstance(caught(KeyboardInterrupt()), fleet.RemoteError)


def test_exceptions_that_were_renamed_since_are_found_under_their_earlier_name() -> None:
    data = encode(ExceptionData("re", "PatternError", "bad", ("bad",)), prefix=b"\1")
    failure = decode_item(data)
    assert isinstance(failure, Failure) and isinstance(failure.error, re.error)


def test_raised_from_none_shows_no_context() -> None:
    try:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None
    except ValueError as error:
        met = caught(error)
    assert met.__context__ is None and met.__suppress_context__


def test_groups_come_back_whole_and_can_be_split() -> None:
    inner = ExceptionGroup("inner", [corpus.SoldOut("a", 1), OSError(2, "gone", "f")])
    met = caught(ExceptionGroup("outer", [ValueError("v"), inner]))
    assert isinstance(met, ExceptionGroup) and met.message == "outer"
    os_errors, rest = met.split(OSError)
    assert os_errors is not None and os_errors.exceptions[0].exceptions[0].filename == "f"  # type: ignore[union-attr]
    assert rest is not None and isinstance(rest.exceptions[1].exceptions[0], corpus.SoldOut)  # type: ignore[union-attr]


def test_a_returned_exception_has_no_traceback_note() -> None:
    assert not hasattr(back(ValueError("kept")), "__notes__")


def test_exceptions_of_unknown_parts_still_tell() -> None:
    error = ValueError("odd", Point(1.0))
    failure = decode_item(encode_exception(error, prefix=b"\1"))
    assert isinstance(failure, Failure) and repr(failure.error.args) == "('odd', Point(x=1.0, y=0.0))"


@pytest.mark.parametrize("width", [1, 50])
def test_deep_and_wide_groups_are_told_in_linear_time(width: int) -> None:
    error: Exception = ValueError("leaf")
    for _ in range(14):
        error = ExceptionGroup("g", [error] * width) if width == 1 else ExceptionGroup("g", [error])
    wide = ExceptionGroup("wide", [error] * width)
    for member in wide.exceptions:
        member.__context__ = wide
    assert isinstance(caught(wide), (ExceptionGroup, fleet.RemoteError))


def test_a_cause_that_is_its_own_cause_ends() -> None:
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    met = caught(one)
    assert repr(met.__cause__) == "ValueError(2)"


def test_an_attribute_does_not_hide_what_a_class_defines() -> None:
    class Careful(Exception):
        def explain(self) -> str:
            return "method"

    error = Careful("x")
    error.__dict__["explain"] = "data"
    error.__dict__["fine"] = 1
    known = corpus.Classes(None, {(Careful.__module__, Careful.__qualname__): Careful})
    failure = decode_item(encode_exception(error, prefix=b"\1"), known)
    assert isinstance(failure, Failure) and failure.error.fine == 1  # type: ignore[attr-defined]
    assert failure.error.explain() == "method"  # type: ignore[attr-defined]


def test_a_value_of_another_kind_is_no_exception() -> None:
    with pytest.raises(ProtocolError):
        decode_item(encode(Point(1.0), prefix=b"\1"), CLASSES)


def costs(value: Any) -> tuple[int, int]:
    """What the writer and the reader think that reading ``value`` takes."""
    out: list[Any] = [0, None]
    _encode.WRITERS.get(type(value), _encode.other)(value, out, 0)
    reader = Decoder(b"".join(out[2:]), None, CLASSES.find, False)
    reader.left = before = 1 << 60
    reader.value(0)
    return out[0] + _encode._cost_of_short_strs(out), before - reader.left


@pytest.mark.parametrize("value", corpus.everything(), ids=lambda value: type(value).__name__)
def test_the_writer_charges_at_least_what_the_reader_does(value: Any) -> None:
    for one in (
        value,
        [value],
        {1: value},
        (value,) * 20,
        [{"a": value, "ø" * 9: 1}] * 20,
        {"k" * n: value for n in range(70)},
    ):
        writer, reader = costs(one)
        assert writer >= reader
