"""JSON Schemas of signatures, and arguments made of JSON by them."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict, TypeVar, Union

import jsonschema
import numpy
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st

import fleet
from fleet import _register
from fleet._json_arguments import Unfit, arguments_of
from fleet._schema import SCHEMA_BYTES_MAX, schema_of
from fleet.protocol import limits

T = TypeVar("T")
Metres = NewType("Metres", float)


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Odd(enum.Enum):
    ONE = 1


class Place(TypedDict):
    lat: float
    seen: NotRequired[datetime.datetime]
    near: NotRequired[list[Spot]]


class Spot(TypedDict, total=False):
    name: str


class Node(typing_extensions.TypedDict):
    value: Annotated[datetime.date, "when"]
    left: NotRequired[Node | None]


class Custom:
    pass


def double(x: Any) -> Any:
    return 2 * x


def schema(raw: Callable[..., Any]) -> Any:
    text, why_not = schema_of(fleet.function(raw))
    assert not why_not, why_not
    found = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def call(raw: Callable[..., Any], **values: Any) -> Any:
    """What ``raw`` returns for JSON arguments that went over a wire, validated and converted."""
    found = schema(raw)
    sent = json.loads(json.dumps(values))
    jsonschema.validate(sent, found, cls=jsonschema.Draft202012Validator)
    args, kwargs = pickle.loads(pickle.dumps(arguments_of(found, sent)))
    return raw(*args, **kwargs)


def of(kind: Any) -> Callable[..., Any]:
    """A function with one argument of that type; it returns it."""

    def f(x: Any) -> Any:
        return x

    f.__annotations__["x"] = kind
    return f


def test_the_whole_of_a_schema() -> None:
    def f(a: int, b: float = 1.5, *rest: str, c: str | None = None, plain=(), **more: bool) -> None:  # type: ignore[no-untyped-def]
        raise AssertionError(a, b, rest, c, plain, more)

    assert schema(f) == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "number", "default": 1.5},
            "rest": {"type": "array", "items": {"type": "string"}},
            "c": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "plain": {},
        },
        "required": ["a"],
        "additionalProperties": {"type": "boolean"},
        "x-fleet-rest": "rest",
    }


def test_one_without_arguments() -> None:
    assert schema(lambda: 1) == {"type": "object", "properties": {}, "additionalProperties": False}
    assert call(lambda: 1) == 1


UTC_NOON = "2026-05-01T12:00:00+00:00"
VALUES = [
    (int, 3, 3),
    (int, 3.0, 3),
    (float, 3, 3.0),
    (float, 2.5, 2.5),
    (bool, True, True),
    (str, "é", "é"),
    (None, None, None),
    (Any, {"a": [1, 2.0]}, {"a": [1, 2.0]}),
    (object, 1, 1),
    (list, [1, "a"], [1, "a"]),
    (list[int], [1, 2.0], [1, 2]),
    (Sequence[str], ["a"], ["a"]),
    (Iterable[int], [1], [1]),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple, [1, [2]], (1, [2])),
    (set[int], [1, 2], {1, 2}),
    (frozenset[str], ["a"], frozenset("a")),
    (set[tuple[int, int]], [[1, 2]], {(1, 2)}),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (Mapping[str, Any], {"a": None}, {"a": None}),
    (dict, {"a": 1}, {"a": 1}),
    (dict[Colour, int], {"red": 1}, {"red": 1}),
    (Literal["a", 1, True, None], "a", "a"),
    (int | None, None, None),
    (Union[int, str], "x", "x"),  # noqa: UP007 - the old way of writing it
    (list[int] | tuple[str, ...], ["a"], ("a",)),
    (datetime.date | int, 3, 3),
    (datetime.datetime, UTC_NOON, datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)),
    (datetime.datetime, "2026-05-01T12:00:00Z", datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)),
    (datetime.date, "2026-05-01", datetime.date(2026, 5, 1)),
    (datetime.time, "12:30:00", datetime.time(12, 30)),
    (datetime.timedelta, "P1DT90S", datetime.timedelta(days=1, seconds=90)),
    (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
    (decimal.Decimal, 1.1, decimal.Decimal("1.1")),
    (bytes, base64.b64encode(b"\0\xff").decode(), b"\0\xff"),
    (Colour, "red", Colour.RED),
    (Level, 1, Level.LOW),
    (Metres, 2, 2.0),
    (T, "anything", "anything"),
    (Annotated[int, "says nothing"], 5, 5),
    (Place, {"lat": 1}, {"lat": 1.0}),
    (Place, {"lat": 1, "near": [{"name": "a"}], "seen": UTC_NOON},
     {"lat": 1.0, "near": [{"name": "a"}], "seen": datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)}),
    (Place | Spot, {"name": "a"}, {"name": "a"}),
    (Node, {"value": "2026-05-01", "left": {"value": "2026-05-02", "left": None}},
     {"value": datetime.date(2026, 5, 1), "left": {"value": datetime.date(2026, 5, 2), "left": None}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "sent", "expected"), VALUES)
def test_values_arrive_as_what_they_are_annotated_as(kind: Any, sent: Any, expected: Any) -> None:
    got = call(of(kind), x=sent)
    assert got == expected
    assert type(got) is type(expected) or isinstance(expected, enum.Enum)


@pytest.mark.parametrize(
    ("kind", "sent", "says"),
    [
        (datetime.datetime, "yesterday", "/x: it is no date-time"),
        (datetime.timedelta, "90", "it is no duration: ISO 8601"),
        (datetime.timedelta, "PX", "it is no duration"),
        (uuid.UUID, "abc", "it is no uuid"),
        (decimal.Decimal, "1,5", "it is no decimal: digits are expected"),
        (bytes, "no base64!", "it is no binary"),
        (bytes, "é", "it is no binary"),
        (float, 10**400, "it is no number"),
        (list[bytes], ["AA==", "?"], "/x/1: it is no binary"),
        (dict[str, datetime.date], {"a/b~": "no"}, "/x/a~1b~0: it is no date"),
        (set[Any], [[1]], "can't be part of a set"),
        (datetime.date | uuid.UUID, "neither", "it is no"),
    ],
)
def test_values_that_a_schema_lets_through_and_are_none(kind: Any, sent: Any, says: str) -> None:
    with pytest.raises(Unfit, match=says):
        call(of(kind), x=sent)


class Event(TypedDict):
    when: datetime.datetime


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Custom, "x of of.<locals>.f: tests.unit.test_schema.Custom"),
        (list[Custom], "Custom"),
        (dict[str, Custom | None], "Custom"),
        (fleet.Event, r": fleet\.Event$"),
        (numpy.ndarray, "numpy.ndarray"),
        (complex, "complex"),
        (Callable[[int], int], "Callable"),
        (Odd, "StrEnum or enum.IntEnum"),
        (Literal[Odd.ONE], "values that JSON lacks"),
        (Literal[b"a"], "values that JSON lacks"),
        (dict[int, str], "the keys of dict"),
        (Collection[int], "Collection"),
        ("Missing", "annotation of x .* can't be read: NameError: name 'Missing'"),
        ("1 +", "can't be read: SyntaxError"),
    ],
)
def test_what_json_cant_express(kind: Any, says: str) -> None:
    text, why_not = schema_of(fleet.function(of(kind)))
    assert text == ""
    with pytest.raises(ValueError, match=says):
        raise ValueError(why_not)


def test_annotations_as_text_are_read_where_the_function_was_made() -> None:
    class Local(TypedDict):
        n: int

    def f(x: Local, y: Colour = Colour.RED) -> Any:
        return Local, x, y

    assert f.__annotations__["x"] == "Local"
    assert call(f, x={"n": 1})[1:] == ({"n": 1}, "red")


def test_equal_json_gives_equal_pickles_in_every_process() -> None:
    """An idempotency key compares them."""
    code = (
        "import pickle; from fleet._json_arguments import arguments_of\n"
        "x, y = ({'type': 'array', 'x-fleet-type': kind} for kind in ('set', 'frozenset'))\n"
        "schema = {'properties': {'x': x, 'y': y}}\n"
        "print(pickle.dumps(arguments_of(schema, {'y': list('abcdefgh'), 'x': list('stuvwxyz')})))"
    )
    command = [sys.executable, "-c", code]
    said = {
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout for seed in "12"
    }
    assert len(said) == 1


def test_by_position_and_by_name() -> None:
    def f(a: int, b: int = 2, /, c: int = 3, *rest: int, d: int = 4, **more: int) -> Any:
        return a, b, c, rest, d, more

    assert schema(f)["x-fleet-positional"] == ["a", "b"]
    assert call(f, a=1) == (1, 2, 3, (), 4, {})
    assert call(f, a=1, c=5, d=6, e=7) == (1, 2, 5, (), 6, {"e": 7})
    assert call(f, a=1, b=5, c=6, rest=[8, 9], d=1) == (1, 5, 6, (8, 9), 1, {})
    assert call(f, a=1, rest=[]) == (1, 2, 3, (), 4, {})
    with pytest.raises(Unfit, match="/b: it is needed where c is given"):
        call(f, a=1, c=5, rest=[8])
    with pytest.raises(Unfit, match="/b: it is needed where rest is given"):
        call(f, a=1, rest=[8])

    def g(a: int = 1, b: int = 2, /) -> Any:
        return a, b

    assert call(g) == (1, 2)
    with pytest.raises(Unfit, match="/a: it is needed where b is given"):
        call(g, b=3)


def test_weights_are_no_arguments_and_arrays_have_no_json() -> None:
    text, why_not = schema_of(fleet.function(runtime="jax")(double))
    assert (text, why_not) == ("", "double takes arrays, which JSON can't express")


def test_defaults_that_json_lacks_are_left_out() -> None:
    def f(a: float = float("inf"), b: object = object(), c: str = "x" * 300, d: bool = True) -> None:
        raise AssertionError(a, b, c, d)

    found = schema(f)
    assert [("default" in one) for one in found["properties"].values()] == [False, False, False, True]
    assert "required" not in found


def test_one_that_is_too_long() -> None:
    names = [f"{'name' * 20}{n}" for n in range(200)]
    text, why_not = schema_of(fleet.function(eval(f"lambda {', '.join(names)}: 1")))
    assert text == ""
    assert f"allowed are {SCHEMA_BYTES_MAX}" in why_not
    assert SCHEMA_BYTES_MAX * 2 < limits.MANIFEST_BYTES_MAX


def test_a_manifest_has_it() -> None:
    def f(x: int) -> int:
        return x

    manifest = _register.describe(fleet.function(f), "app")[0]
    assert json.loads(manifest.json_schema)["properties"] == {"x": {"type": "integer"}}
    refused = _register.describe(fleet.function(of(Custom)), "app")[0]
    assert refused.json_schema == ""
    assert "Custom" in refused.json_why_not


def test_a_type_that_refers_to_itself_needs_the_newer_typed_dict() -> None:
    class Loop(TypedDict):
        again: NotRequired[Loop]

    globals()["Loop"] = Loop
    try:
        text, why_not = schema_of(fleet.function(of(Loop)))
    finally:
        del globals()["Loop"]
    assert bool(text) is (sys.version_info >= (3, 12))
    assert bool(text) or "use typing_extensions.TypedDict" in why_not


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from([kind for kind, _, _ in VALUES]))
def test_anything_is_taken_or_refused_in_words(value: Any, kind: Any) -> None:
    found = schema(of(kind))
    refused = refusal(found, {"x": value})
    assert refused is None or refused.pointer.startswith("/x")
    assert (
        refused is not None
        or jsonschema.Draft202012Validator(found).is_valid({"x": value})
        or "uniqueItems" in str(found)
    )


def refusal(found: Any, values: Any) -> Unfit | None:
    try:
        arguments_of(found, values)
    except Unfit as error:
        return error
    return None


def test_a_hostile_schema_costs_no_more_than_its_size() -> None:
    """Alternatives of alternatives, each of which fails at the very end."""
    both = [{"type": "array", "items": {"$ref": "#/$defs/a"}}, {"type": "array", "items": {"$ref": "#/$defs/b"}}]
    hostile = {"properties": {"x": {"$ref": "#/$defs/a"}},
               "$defs": {"a": {"anyOf": [*both, {"type": "null"}]}, "b": {"anyOf": [*both, {"type": "null"}]}}}  # fmt: skip
    value: Any = "no"
    for _ in range(60):
        value = [value]
    with pytest.raises(Unfit):
        arguments_of(hostile, {"x": value})
    for _ in range(100_000):
        value = [value]
    with pytest.raises(Unfit, match="nested too deep"):
        arguments_of(hostile, {"x": value})
    with pytest.raises(Unfit, match="nested too deep"):
        arguments_of({"properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}, {"x": 1})


@pytest.mark.parametrize("nonsense", [5, {"x": {"$ref": "#/a"}}, {"x": {"anyOf": 1}}])
def test_a_schema_that_is_none(nonsense: Any) -> None:
    refused = refusal({"properties": nonsense}, {"x": 1})
    assert refused is not None and "makes no sense" in refused.detail
