"""Filters and keys: CEL over events, and only what takes time in proportion to them."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption
from fleet.protocol.messages import EventHead
from fnplatform.triggers.cel_subset import FUNCTIONS, LOOPS_MAX, PATTERN_REPEATS_MAX, SUMS_MAX
from fnplatform.triggers.expressions import PATTERN_DATA_BYTES_MAX, EventVars, compile_expression, event_vars

DATA: dict[str, Any] = {
    "temperature": 31,
    "exact": 31.5,
    "user": "ada",
    "urgent": True,
    "none": None,
    "list": [1, 2, 3],
    "a b": 2,
    "orders": [{"lines": [{"count": 1}, {"count": 7}]}],
}


def event_of(data: Any = DATA, kind: str | None = "application/json") -> EventVars:
    head = EventHead(
        id="1", source="/s", type="reading", subject="sensors.7.temperature", time="2027-05-01T05:00:00Z",
        datacontenttype=kind, extensions={"region": "eu"},
    )  # fmt: skip
    return event_vars(head, data if isinstance(data, bytes) else json.dumps(data).encode())


@pytest.mark.parametrize(
    "text",
    [
        "data.temperature > 30",
        "data.temperature > 30.5 && data.exact > 31",
        "data['a b'] == 2",
        "has(data.user) && !has(data.humidity)",
        "data.humidity > 3 || data.temperature > 3",
        "'user' in data",
        "size(data.list) == 3 && data.list[0] == 1",
        "data.list.exists(x, x > 2) && data.list.all(x, x < 4)",
        "data.list.exists_one(x, x > 2)",
        "data.orders.exists(o, o.lines.exists(l, l.count > 5))",
        "data.user.matches(r'^a\\w+$') && data.user.startsWith('a')",
        "data.user in ['ada', 'grace']",
        "data.none == null",
        "time.getHours() == 5 && time > timestamp('2027-01-01T00:00:00Z')",
        "extensions.region == 'eu' && type == 'reading' && id == '1' && source == '/s'",
        "subject.startsWith('sensors.') && datacontenttype == 'application/json'",
        "type(data.user) == string",
        "data.temperature * 1.8 + 32 > 80.0",
        "data.exact + 1 > 32",
        "(data.urgent ? 1 : 2) == 1",
        " data.temperature\n > 30 ",
    ],
)
def test_what_an_expression_can_ask(text: str) -> None:
    expression = compile_expression(text)
    assert expression.holds(event_of()), expression.failure
    assert not compile_expression(f"!({text})").holds(event_of())
    assert expression.failures == 0


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("text/plain", b"hot", "data == 'hot'"),
        ("application/octet-stream", b"\xff\x00", "size(data) == 2"),
        (None, b"[1]", "data[0] == 1"),
        ("application/cloudevents+json", b"7", "data == 7"),
        ("application/json", b"", "data == null"),
        ("application/json", b"", "subject != ''"),
    ],
)
def test_data_is_what_its_content_type_says(kind: str | None, data: bytes, text: str) -> None:
    assert compile_expression(text).holds(event_of(data, kind))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"{", "application/json"),
        (b"\xff", "text/plain"),
        (b'"\\ud800"', "application/json"),
        (b"[" * 200_000, "application/json"),
        (b"1e999", "application/json"),
        (b"9" * 5000, "application/json"),
        (b"[1]", "application/json"),
        (b'{"temperature": "hot"}', "application/json"),
        (b'{"temperature": {"c": 1}}', "application/json"),
        (b'{"temperature": null}', "application/json"),
    ],
)
def test_what_cannot_be_evaluated_is_false_and_counted(data: bytes, kind: str) -> None:
    expression = compile_expression("data.temperature > 30")
    event = event_of(data, kind)
    assert not expression.holds(event) and expression.key(event) == ""
    assert expression.failures == 2 and expression.failure
    assert compile_expression("subject != ''").holds(event), "who doesn't ask for the data isn't hindered by it"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("data.user", "ada"),
        ("data.temperature", "31"),
        ("data.exact", "31.5"),
        ("data.urgent", "true"),
        ("data.user + '/' + subject", "ada/sensors.7.temperature"),
        ("string(data.temperature) + data.user", "31ada"),
        ("data.none", ""),
        ("data.list", ""),
        ("data.humidity", ""),
        ("data", ""),
    ],
)
def test_a_key_is_a_text(text: str, key: str) -> None:
    expression = compile_expression(text)
    assert expression.key(event_of()) == key
    assert expression.failures == (key == "")


def test_a_long_key_stands_as_its_digest() -> None:
    long, other = (compile_expression("data.user").key(event_of({"user": one * 900_000})) for one in "xy")
    assert len(long) == 64 == len(other) and long != other


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("data.temperature >", "at character 19: mismatched input end of the text"),
        ("data.temperature\n > > 3", "in line 2 at character 4"),
        ("(" * 120 + "1" + ")" * 120, "nested too deeply"),
        ("x" * (limits.EXPRESSION_CHARS_MAX + 1), "characters, 1000 are allowed"),
        ("temprature > 3", "at character 1: no event has temprature"),
        ("sourc == 'x'", "did you mean source"),
        ("data.user == now()", r"at character 14: there is no function now\(\)"),
        ("cel.bind(a, data, a + a) == 1", "no event has cel|no function bind"),
        ("data.list.map(x, x + x) == []", r"map\(\) is not allowed"),
        ("data.list.exists(x, data.list.exists(y, y > x))", "data is not allowed inside a loop"),
        ("data.list.exists(x, x in data.list)", "data is not allowed inside a loop"),
        ("data.list.exists(x, x.exists(y, x == y))", "x is not allowed inside a loop"),
        ("data.list.exists(x, [1, 2, 3].exists(y, y > 1))", "can only go through a field of x"),
        ("data.list.exists(x, (x).exists(y, y > 1))", "can only go through a field of x"),
        ("data.list.exists(data, data > 1)", "needs a name of its own"),
        ("data.list.exists(x, x.matches('a'))", "not allowed inside a loop"),
        ("data.list.filter(x, x > 1) == []", r"filter\(\) is not allowed"),
        ("data.list.all(x, true)" + " && data.list.all(x, true)" * LOOPS_MAX, "more than 4 loops"),
        ("data.user" + " + data.user" * (SUMS_MAX + 1), "more than 16 sums"),
        ("data.user.matches(data.user)", "must be a text that is written here"),
        ("data.user.matches('a' + 'b')", "must be a text that is written here"),
        ("data.user.matches('(')", "no.? ?a? regular expression: unclosed group|not a regular expression"),
        ("data.user.matches('(a+){9}')", "repeat"),
        (f"data.user.matches('a{{{PATTERN_REPEATS_MAX + 1}}}')", "repeat"),
        (r"data.user.matches('a\x7b900}')", "repeat"),
        ("data.user.matches('(?x) (a) {9}')", "repeat"),
        ("data.user.matches('" + "a" * 201 + "')", "at most 200 characters"),
        ('"""a""" == "a"', "three quotes"),
        ("r'''a''' == 'a'", "three quotes"),
        ("data.user == 'a' // why", "comments"),
        ("data.`user`", "unsupported syntax"),
        ("1 == 1) || (true", "is no CEL expression"),
        ("Foo{a: 1}", "no event has Foo"),
    ],
)
def test_what_is_refused_when_it_is_deployed(text: str, why: str) -> None:
    with pytest.raises(InvalidOption) as error:
        compile_expression(text)
    found = f"{error.value.message} {error.value.hint}"
    assert re.search(why, found), found


WORST = [
    "data.list.exists(x, x == 'none')",
    "data.list.all(x, x != 'none' && x + x + x != 'none')",
    "data.list.exists_one(x, x == 'none') || data.list.all(x, x == x && (x + x).contains(x))",
    "data == data && data.list == data.list",
    "[data, data, data] == [data, data, data]",
    "data" + " + data" * SUMS_MAX + " == data",
    "data.list.exists(x, x.f.exists(y, y.g.exists(z, z.h == 1)))",
    "data.temperature > 30",
    r"data.matches('[01]*1[01]{64}2')",
    r"data.matches('(\\w\\w?)*\\w{0,60}-$')",
]


@pytest.mark.parametrize("text", WORST)
def test_no_expression_takes_long_over_large_events(text: str) -> None:
    """In proportion to reading the data as JSON, whatever that takes here: 20 ms."""
    most = limits.EVENT_DATA_BYTES_MAX // 8
    texts = [json.dumps({"list": ["abcdefgh"] * (most // 13), "temperature": 1}).encode()]
    texts += [json.dumps({"list": [{"f": [1]}] * (most // 13)}).encode(), json.dumps("01" * (most // 2 - 1)).encode()]
    texts += [json.dumps(("01é" * PATTERN_DATA_BYTES_MAX)[: PATTERN_DATA_BYTES_MAX // 2]).encode()]
    expression = compile_expression(text)
    for data in texts:
        assert len(data) <= most
        started_s = time.process_time()
        json.loads(b'[{"a":1}' + b',{"a":1}' * 100_000 + b"]")
        unit_s = time.process_time() - started_s
        expression.holds(event_of(data))
        assert time.process_time() - started_s - unit_s < 20 * unit_s + 0.2, text


def test_a_pattern_is_not_tried_on_large_data() -> None:
    expression = compile_expression("data.user.matches('a')")
    assert not expression.holds(event_of({"user": "a", "rest": "x" * PATTERN_DATA_BYTES_MAX}))
    assert "64 KiB" in expression.failure


def test_one_event_serves_many_expressions() -> None:
    event = event_of()
    for _ in range(2):
        assert compile_expression("data.temperature == 31").holds(event)
        assert compile_expression("data.user == 'ada' && data.temperature == 31").holds(event)
        assert compile_expression("size(data) == 8").holds(event)
        assert compile_expression("type == 'reading'").holds(event)
        assert compile_expression("data.exact * 2 == 63").holds(event)


_WORDS = ["data", "data.list", "data.user", "subject", "x", "1", "1.5", "'a'", "true", "null", "[1, 2]", "time", "{}"]
_TEXT = st.recursive(
    st.sampled_from(_WORDS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " > ", " == ", " in ", " && ", " ? 1 : ", "."]), inner).map("".join),
        st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner).map(lambda pair: f"{pair[0]}({pair[1]})"),
        st.tuples(inner, st.sampled_from(["exists", "all", "exists_one"]), inner).map(
            lambda t: f"{t[0]}.{t[1]}(x, {t[2]})"
        ),
        inner.map(lambda one: f"({one})"),
    ),
    max_leaves=8,
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["list", "user", "x"]), inner),
    max_leaves=8,
)


@given(_TEXT | st.text(max_size=40), _JSON | st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
@example("'\\0' == data", b"\x00")
def test_nothing_but_refusals_comes_of_any_text_over_any_data(text: str, data: Any) -> None:
    event = event_of(data)
    try:
        expression = compile_expression(text)
    except InvalidOption:
        return
    assert expression.holds(event) in (True, False)
    assert len(expression.key(event)) <= 64
