"""Events that a function returns: in front of its value, within limits, in calls, chunks and coroutines; none are yielded."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

import fleet
from fleet._results import decode_item
from fleet.protocol.codec import decode_exception
from fleet.protocol.limits import EMITS_BYTES_MAX, INLINE_RESULT_BYTES_MAX
from tests.sandbox.test_generators import stream
from tests.sandbox.wasm_bench import Bench

SOURCE = """
import fleet
def f(how="one"):
    one = fleet.emit("alerts.hot", {"t": 31})
    if how == "many":
        return (one, fleet.emit("b", b"raw", type="t"), fleet.emit("c", "text"))
    if how == "none":
        return []
    if how == "deeper":
        return {"events": [one]}
    if how == "mixed":
        return [one, {"status": "ok"}]
    if how == "too many":
        return [one] * 257
    if how == "too large":
        return [fleet.emit("a", bytes(600_000))] * 2
    if how == "largest":
        return [fleet.emit("a" * 64, bytes(3_900), type="a\\"" * 16) for _ in range(256)]
    if how == "bad subject":
        return fleet.emit("alerts.*", 1)
    if how == "changed":
        one.subject = "a..b"
        return one
    if how == "changed data":
        one.body = "text"
        return one
    if how == "no JSON":
        return fleet.emit("a", object())
    if how == "raise":
        raise ValueError("after making one")
    return one
async def coro(how="one"):
    return f(how)
def gen(how="one"):
    yield 1
    yield f(how)
def respond():
    return fleet.Response({"a": 1}, status=201, headers={"X-Fleet": "yes"})
def event():
    return [fleet.Event("a.b", {"t": 1}, id="1", source="/s"), fleet.Response("x")]
"""


def emitted(result: bytes) -> list[dict[str, Any]]:
    assert result[0] == 3, decode_exception(result[1:]).summary if result[0] == 1 else result[:9]
    (size,) = struct.unpack_from("<I", result, 1)
    rows: list[dict[str, Any]] = json.loads(result[5 : 5 + size])
    return rows


@pytest.mark.parametrize("name", ["f", "coro"])
@pytest.mark.parametrize("isolation", ["instance", "call"])
def test_events_stand_before_the_value(bench: Bench, name: str, isolation: str) -> None:
    program = bench.load(SOURCE, name, isolation=isolation)
    one = bytes(bench.run(program).result)
    (row,) = emitted(one)
    assert row == {
        "subject": "alerts.hot", "type": "fleet.event", "data": "eyJ0IjozMX0=", "datacontenttype": "application/json"
    }  # fmt: skip
    back = decode_item(one)
    assert type(back) is fleet.Emit and back.subject == "alerts.hot" and back.body == b'{"t":31}'
    many = bytes(bench.run(program, "many").result)
    assert [row["subject"] for row in emitted(many)] == ["alerts.hot", "b", "c"]
    back = decode_item(many)
    assert [type(one) for one in back] == [fleet.Emit] * 3 and type(back) is tuple and back[1].type == "t"


def test_what_is_no_list_of_events_is_a_plain_value(bench: Bench) -> None:
    program = bench.load(SOURCE)
    assert bytes(bench.run(program, "none").result)[0] == 0
    deeper = bytes(bench.run(program, "deeper").result)
    assert deeper[0] == 0 and decode_item(deeper)["events"][0].subject == "alerts.hot"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("mixed", "a result mixes fleet.emit(...) with other values"),
        ("too many", "a call emits 257 events, the limit is 256"),
        ("too large", f"bytes of events, the limit is {EMITS_BYTES_MAX}"),
        ("bad subject", "subject='alerts.*' is not allowed for an event"),
        ("changed", "subject='a..b' is not allowed for an event"),
        ("changed data", "bytes-like"),
        ("no JSON", "can't be written as JSON"),
        ("raise", "after making one"),
    ],
)
def test_what_may_not_be_emitted_fails_the_call(bench: Bench, how: str, said: str) -> None:
    assert said in bench.raised(bench.load(SOURCE), how).message


def test_the_most_that_may_be_emitted_stays_in_the_record(bench: Bench) -> None:
    result = bytes(bench.run(bench.load(SOURCE), "largest").result)
    assert len(emitted(result)) == 256 and len(result) < INLINE_RESULT_BYTES_MAX


def test_items_of_a_chunk_emit_each_for_itself(bench: Bench) -> None:
    items = bench.items(bench.load(SOURCE), ["one", "none", "raise", "many"])
    assert [item[0] for item in items] == [3, 0, 1, 3]
    assert [len(emitted(item)) for item in (items[0], items[3])] == [1, 3]


def test_a_large_item_of_a_chunk_travels_alone(bench: Bench) -> None:
    """Else the events before it would lie in a blob, which the control plane doesn't read."""
    source = "import fleet\ndef f(n): return fleet.emit('a', n) if n % 2 else bytes(5_000_000)\n"
    items = bench.items(bench.load(source), [1, 2, 3, 3])
    assert [item[0] for item in items] == [3, 0, 3, 3]
    assert [first for first, _ in bench.desk.delivered] == [0, 1]
    assert len(bench.desk.delivered[0][1]) < 1000


def test_what_a_generator_yields_is_no_event(bench: Bench) -> None:
    assert stream(bench, bench.load(SOURCE, "gen")) == [1]
    end: bytes = bench.end  # type: ignore[attr-defined]
    assert end[0] == 1 and "only what a function returns is published" in decode_exception(end[1:]).message


def test_the_platforms_classes_come_back_as_such(bench: Bench) -> None:
    result = bytes(bench.run(bench.load(SOURCE, "respond")).result)
    back = decode_item(result)
    assert result[0] == 0 and type(back) is fleet.Response
    assert (back.status, back.headers, back.body, back.content_type) == (
        201, {"X-Fleet": "yes"}, b'{"a":1}', "application/json"
    )  # fmt: skip
    event, answer = decode_item(bytes(bench.run(bench.load(SOURCE, "event")).result))
    assert type(event) is fleet.Event and (event.subject, event.id, event.data) == ("a.b", "1", {"t": 1})
    assert type(answer) is fleet.Response and answer.body == b"x"
