"""The client's side of a generator call: parts in order, once, none left out; positions told; nothing kept that was taken."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import fleet
from fleet import _positions
from fleet._positions import Positions, StreamTicket
from fleet._stream import TELL_ITEMS, Stream, _Items
from fleet.protocol import frames
from fleet.protocol.errors import CallCancelled
from fleet.protocol.ids import digest
from fleet.protocol.messages import (
    CallState,
    ConsumeRequest,
    OutcomeRecord,
    ResultReply,
    ResultRequest,
    SubmitCall,
    WireError,
)
from fleet.transport import Request
from tests.unit.test_sdk_submit import Rig, record, run, value


def ticket() -> StreamTicket:
    submit = SubmitCall(call="c", app="a", function="f", digest=digest(b"args"), payload_bytes=4, stream=True)
    return StreamTicket("c", submit, b"args")


def part(number: int, first: int, *items: Any) -> tuple[OutcomeRecord, bytes]:
    changed: dict[str, Any] = {"state": CallState.RUNNING}
    made = record("c", part=number, final=False, indices=[(first, first + len(items) - 1)]).model_copy(update=changed)
    return made, frames.pack_items([value(item) for item in items])


class TwinClient:
    """Remembers what a stream asks of its client."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.cancelled: list[str] = []
        self.abandoned: list[str] = []

    def tell_position(self, ticket: StreamTicket) -> None:
        self.told.append(ticket.consumed)

    def cancel_soon(self, tickets: list[StreamTicket]) -> None:
        self.cancelled += [one.call for one in tickets]

    def abandon(self, tickets: list[StreamTicket], what: str) -> None:
        self.abandoned.append(what)


def stream_of(one: StreamTicket) -> tuple[Stream[Any], TwinClient]:
    client: Any = TwinClient()
    return Stream(_Items(client, one, "call c of a.f")), client


def test_parts_in_any_order_come_out_in_theirs_and_once() -> None:
    one = ticket()
    stream, client = stream_of(one)
    assert one.take(*part(1, 2, "c"))
    assert one.lacks and one.next_part == 0
    assert one.take(*part(0, 0, "a", "b"))
    assert not one.take(*part(0, 0, "a", "b")) and not one.take(*part(1, 2, "c"))
    assert one.take(record("c", part=2), value(None))
    assert one.complete and not one.lacks
    one.finish()
    assert list(stream) == ["a", "b", "c"]
    stream.close()
    assert client.cancelled == [], "it was over"


def test_an_end_before_its_parts_is_not_the_end() -> None:
    one = ticket()
    one.take(record("c", part=2), value(None))
    assert one.lacks and not one.complete
    one.take(*part(0, 0, "a"))
    assert one.lacks
    one.take(*part(1, 1, "b"))
    assert one.complete


def test_who_cancels_does_not_know_the_number_of_parts() -> None:
    one = ticket()
    stream, _ = stream_of(one)
    one.take(*part(0, 0, "a"))
    one.take(*part(1, 1, "b"))
    error = WireError.of(CallCancelled("the call was cancelled"))
    cancelled = record("c", part=0, error=error).model_copy(update={"state": CallState.CANCELLED})
    assert one.take(cancelled, b"")
    one.finish()
    assert [next(stream), next(stream)] == ["a", "b"]
    with pytest.raises(CallCancelled):
        next(stream)


@pytest.mark.parametrize(
    "wrong",
    [part(0, 1, "gap"), (part(0, 0, "a", "b")[0], frames.pack_items([value("a")])), (part(0, 0, "a")[0], b"\xff")],
    ids=["gap", "count", "bytes"],
)
def test_parts_that_do_not_add_up_end_it(wrong: tuple[OutcomeRecord, bytes]) -> None:
    one = ticket()
    stream, _ = stream_of(one)
    one.take(*wrong)
    assert one.done
    with pytest.raises(fleet.FleetError):
        next(stream)
    assert list(stream) == []


def test_what_was_taken_is_forgotten() -> None:
    class Data(bytearray):
        pass

    one = ticket()
    stream, _ = stream_of(one)
    made, packed = part(0, 0, "a", "b")
    data = Data(packed)
    gone = weakref.ref(data)
    one.take(made, data)
    assert [next(stream), next(stream)] == ["a", "b"]
    one.take(*part(1, 2, "c"))
    assert next(stream) == "c"
    del data, packed
    gc.collect()
    assert gone() is None
    assert not one.parts


def test_it_tells_how_far_it_is_when_it_took_much() -> None:
    one = ticket()
    stream, client = stream_of(one)
    one.take(*part(0, 0, *range(3 * TELL_ITEMS)))
    for _ in range(2 * TELL_ITEMS + 5):
        next(stream)
    assert client.told == [TELL_ITEMS, 2 * TELL_ITEMS]
    one.take(*part(1, 3 * TELL_ITEMS, *[bytes(600_000)] * 4))
    for _ in range(TELL_ITEMS - 5 + 4):
        next(stream)
    assert client.told[2:] == [3 * TELL_ITEMS, 3 * TELL_ITEMS + 2, 3 * TELL_ITEMS + 4]


def test_leaving_cancels_once() -> None:
    one = ticket()
    stream, client = stream_of(one)
    one.take(*part(0, 0, "a", "b"))
    assert next(stream) == "a"
    del stream
    gc.collect()
    assert client.cancelled == ["c"]
    one = ticket()
    stream, client = stream_of(one)
    with stream:
        pass
    stream.close()
    assert list(stream) == []
    assert client.cancelled[:1] == ["c"]


def test_a_value_that_cannot_be_read_cancels_it() -> None:
    one = ticket()
    stream, client = stream_of(one)
    made, _ = part(0, 0, "a")
    one.take(made, frames.pack_items([b"\0\xff\xff"]))
    with pytest.raises(fleet.FleetError):
        next(stream)
    assert client.cancelled == ["c"]


def test_a_lost_part_is_asked_for_at_once() -> None:
    async def test(rig: Rig) -> None:
        one = ticket()
        rig.submitter.submit([one])
        rig.bus.accept()
        rig.push(*part(1, 1, "b"))
        data, reply = rig.bus.next("result")
        assert frames.unpack(data, ResultRequest)[0].part_from == 0
        stored = [frames.pack(made, [packed]) for made, packed in (part(0, 0, "a"), part(1, 1, "b"))]
        reply(Request("", frames.pack(ResultReply(), stored), ""))
        rig.push(record("c", part=2), value(None))
        assert one.done and one.error is None
        assert [len(batch) for batch in iter(one.next_batch, None)] == [1, 1]

    run(test)


def test_a_large_part_is_fetched_once_and_nothing_is_missing_meanwhile() -> None:
    async def test(rig: Rig) -> None:
        one = ticket()
        rig.submitter.submit([one])
        rig.bus.accept()
        made, packed = part(0, 0, "a")
        name = digest(packed)
        rig.blobs[name] = packed
        blob = made.model_copy(update={"blob": name, "blob_bytes": len(packed)})
        rig.push(blob)
        rig.push(*part(1, 1, "b"))
        rig.push(blob)
        assert not [verb for verb, _, _ in rig.bus.asked if verb == "result"]
        assert len(rig.started) == 1
        await rig.settle()
        rig.push(record("c", part=2), value(None))
        assert one.done and one.error is None

    run(test)


def test_positions_are_told_together_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_positions, "STREAM_BEAT_S", 0.01)

    async def test(rig: Rig) -> None:
        bus: Any = rig.bus
        positions = Positions(bus, "default")
        one, other = ticket(), ticket()
        for each in (one, other):
            positions.tell(each)
            each.accept()
        one.consumed = 256
        positions.tell(one)
        positions.tell(one)
        while not rig.bus.asked:
            await asyncio.sleep(0)
        told = [frames.unpack(data, ConsumeRequest)[0] for _, data, _ in rig.bus.asked]
        assert [[(row.call, row.items) for row in request.positions] for request in told] == [[("c", 256)]]
        rig.bus.asked.clear()
        while len(rig.bus.asked) < 2:
            await asyncio.sleep(0.001)
        beat = frames.unpack(rig.bus.asked[0][1], ConsumeRequest)[0]
        assert sorted(row.items for row in beat.positions) == [0, 256]
        one.finish()
        other.finish()
        while positions._beating:
            await asyncio.sleep(0.001)

    run(test)


# --- what they are right here


@fleet.function
def saves(n: int) -> Iterator[int]:
    call = fleet.current()
    for i in range(call.resume(0), n):
        yield i
        fleet.current().checkpoint(i + 1)


@fleet.function
async def saves_async(n: int) -> AsyncIterator[int]:
    call = fleet.current()
    for i in range(call.resume(0), n):
        await asyncio.sleep(0)
        yield i
        fleet.current().checkpoint(i + 1)


def test_local_generators_are_calls_of_their_own() -> None:
    assert list(saves(3)) == [0, 1, 2] == list(saves.local(3))
    assert list(zip(saves(2), saves(2), strict=True)) == [(0, 0), (1, 1)]

    async def collect() -> list[int]:
        return [i async for i in saves_async(3)]

    assert asyncio.run(collect()) == [0, 1, 2]
    assert asyncio.run(collect()) == [0, 1, 2]


def test_local_generators_can_do_what_generators_do() -> None:
    closed = []

    @fleet.function
    def echo() -> Iterator[Any]:
        got = None
        try:
            while True:
                try:
                    got = yield got
                except ValueError as error:
                    got = error
        finally:
            closed.append(True)

    generator: Any = echo()
    assert next(generator) is None
    assert generator.send(5) == 5
    assert isinstance(generator.throw(ValueError("x")), ValueError)
    generator.close()
    assert closed == [True]
    with pytest.raises(StopIteration):
        next(generator)


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return list(function(*args))

    return wrapper


def test_what_is_a_generator_function() -> None:
    def plain() -> list[int]:
        return [1]

    def yielding() -> Iterator[int]:
        yield 1

    assert fleet.function(yielding).yields and not fleet.function(plain).yields
    collecting = fleet.function(wrapped(yielding))
    assert not collecting.yields and collecting() == [1], "one value, whatever it wraps"
    with pytest.raises(fleet.InvalidOption, match="yields nothing"):
        fleet.function(plain).remote_gen()  # type: ignore[call-overload]
    with pytest.raises(fleet.InvalidOption, match="remote_gen"):
        fleet.function(yielding).for_each([1])
    with pytest.raises(fleet.InvalidOption, match="remote_gen"):
        fleet.function(yielding).spawn_map([1])
