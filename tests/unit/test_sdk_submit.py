"""Handing calls over: coalesced, sent again until answered, followed until their outcome is here.

The bus is a twin in memory whose answers the test gives; time passes through the running loop alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fleet import _submit
from fleet._submit import Submitter
from fleet._ticket import Ticket
from fleet.protocol import frames
from fleet.protocol.codec import encode
from fleet.protocol.errors import FleetUnavailable, QueueFull, ResultExpired
from fleet.protocol.ids import digest
from fleet.protocol.limits import CONNECT_S
from fleet.protocol.messages import (
    CallRequest,
    CallState,
    CallStatus,
    OutcomeRecord,
    ResultReply,
    ResultRequest,
    StatusReply,
    SubmitCall,
    SubmitReply,
    SubmitRequest,
    SubmitResult,
    WireError,
)  # fmt: skip
from fleet.transport import Request

OnReply = Callable[[Request | FleetUnavailable], None]


class TwinBus:
    """A bus that keeps what is asked until the test answers."""

    def __init__(self) -> None:
        self.url = "nats://twin"
        self.inbox = "_INBOX_dev_default.x"
        self.connected = True
        self.payload_bytes_max = 8 << 20
        self.asked: list[tuple[str, bytes, OnReply]] = []

    def ask(self, subject: str, data: bytes, on_reply: OnReply, *, timeout_s: float = 5.0) -> None:
        self.asked.append((subject.rpartition(".")[2], data, on_reply))

    def next(self, verb: str) -> tuple[bytes, OnReply]:
        for index, (asked, data, on_reply) in enumerate(self.asked):
            if asked == verb:
                del self.asked[index]
                return data, on_reply
        raise AssertionError(f"nobody asked {verb}: {[asked for asked, _, _ in self.asked]}")

    def submits(self) -> list[SubmitRequest]:
        return [frames.unpack(data, SubmitRequest)[0] for verb, data, _ in self.asked if verb == "submit"]

    def accept(self, **changed: Any) -> SubmitRequest:
        data, on_reply = self.next("submit")
        message, _ = frames.unpack(data, SubmitRequest)
        results = [SubmitResult(call=call.call, **changed) for call in message.calls]
        on_reply(Request("", frames.pack(SubmitReply(results=results)), ""))
        return message


class Rig:
    def __init__(self) -> None:
        self.bus = TwinBus()
        self.started: list[Coroutine[Any, Any, None]] = []
        self.blobs: dict[str, bytes] = {}
        bus: Any = self.bus
        self.submitter = Submitter(bus, "default", self.start, self.put, self.get)

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self.started.append(work(*args))

    async def settle(self) -> None:
        while self.started:
            await self.started.pop(0)

    async def put(self, name: str, data: bytes) -> None:
        self.blobs[name] = data

    async def get(self, name: str, size_bytes: int) -> bytes:
        assert len(self.blobs[name]) == size_bytes
        return self.blobs[name]

    def push(self, message: OutcomeRecord, part: bytes | None = None) -> None:
        self.submitter.on_push(Request("", frames.pack(message, [] if part is None else [part]), ""))


def ticket(name: str, payload: bytes = b"args") -> Ticket:
    submit = SubmitCall(call=name, app="a", function="f", digest=digest(payload), payload_bytes=len(payload))
    return Ticket(name, submit, payload)


def record(name: str, **changed: Any) -> OutcomeRecord:
    return OutcomeRecord(call=name, app="a", function="f", version="0" * 16, state=CallState.SUCCEEDED, **changed)


def value(x: Any) -> bytes:
    return encode(x, prefix=b"\x00")


def run(test: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await test(Rig())

    asyncio.run(main())


async def until(check: Callable[[], bool]) -> None:
    while not check():
        await asyncio.sleep(0)


def test_what_comes_together_shares_a_request() -> None:
    async def test(rig: Rig) -> None:
        tickets = [ticket(f"c{n}") for n in range(5)]
        rig.submitter.submit(tickets)
        (request,) = rig.bus.submits()
        assert [call.call for call in request.calls] == ["c0", "c1", "c2", "c3", "c4"]
        assert request.fresh
        assert request.inbox == rig.bus.inbox
        rig.bus.accept()
        assert all(one.accepted and one.payload is None for one in tickets)
        rig.push(record("c3"), value(3))
        assert tickets[3].outcome() == 3
        assert not tickets[2].done

    run(test)


def test_a_flood_gathers_while_requests_are_open() -> None:
    async def test(rig: Rig) -> None:
        for number in range(1000):
            rig.submitter.submit([ticket(f"c{number}")])
        assert len(rig.bus.submits()) == _submit.REQUESTS_OPEN_MAX
        sizes = []
        while rig.bus.asked:
            sizes.append(len(rig.bus.accept().calls))
        assert sum(sizes) == 1000
        assert len(sizes) <= _submit.REQUESTS_OPEN_MAX + 3
        assert max(sizes) <= 512

    run(test)


def test_requests_are_bounded_in_bytes() -> None:
    async def test(rig: Rig) -> None:
        rig.submitter.submit([ticket(f"c{n}", bytes(1 << 20)) for n in range(8)])
        sizes = [len(frames.unpack(data, SubmitRequest)[1]) for _, data, _ in rig.bus.asked]
        assert sizes == [4, 4]

    run(test)


def test_an_unanswered_submit_is_sent_again_under_its_id() -> None:
    async def test(rig: Rig) -> None:
        one = ticket("c")
        rig.submitter.submit([one])
        _, on_reply = rig.bus.next("submit")
        on_reply(FleetUnavailable("no answer in time", timed_out=True))
        assert not one.done
        await until(lambda: bool(rig.bus.asked))
        (again,) = rig.bus.submits()
        assert again.calls[0].call == "c"
        assert not again.fresh, "it may have arrived the first time"
        rig.bus.accept()
        assert one.accepted

    run(test)


def test_resent_calls_are_not_mixed_with_fresh_ones() -> None:
    async def test(rig: Rig) -> None:
        rig.submitter.submit([ticket("old")])
        _, on_reply = rig.bus.next("submit")
        on_reply(FleetUnavailable("broke"))
        await until(lambda: bool(rig.bus.asked))
        rig.submitter.submit([ticket("new")])
        assert [(request.fresh, request.calls[0].call) for request in rig.bus.submits()] == [
            (False, "old"),
            (True, "new"),
        ]

    run(test)


@pytest.mark.parametrize(
    ("answered", "connected", "details", "says"),
    [
        (False, True, {"no_responders": True}, "no control plane"),
        (False, False, {}, "did not come back"),
        (False, True, {"timed_out": True}, "does not answer"),
    ],
)
def test_giving_up(
    monkeypatch: pytest.MonkeyPatch, answered: bool, connected: bool, details: dict[str, Any], says: str
) -> None:
    async def test(rig: Rig) -> None:
        one = ticket("c")
        rig.bus.connected = connected
        rig.submitter.submit([one])
        one.born_s -= CONNECT_S + 1
        _, on_reply = rig.bus.next("submit")
        on_reply(FleetUnavailable("", **details))
        with pytest.raises(FleetUnavailable, match=says):
            one.outcome()

    run(test)


def test_a_fleet_that_answered_before_is_given_more_time() -> None:
    async def test(rig: Rig) -> None:
        rig.submitter.submit([ticket("first")])
        rig.bus.accept()
        one = ticket("second")
        rig.submitter.submit([one])
        one.born_s -= CONNECT_S + 1
        _, on_reply = rig.bus.next("submit")
        on_reply(FleetUnavailable("broke"))
        assert not one.done
        one.born_s -= _submit.OUTAGE_S
        await until(lambda: bool(rig.bus.asked))
        _, on_reply = rig.bus.next("submit")
        on_reply(FleetUnavailable("broke"))
        assert isinstance(one.error, FleetUnavailable)

    run(test)


def test_a_refused_call_fails_alone() -> None:
    async def test(rig: Rig) -> None:
        tickets = [ticket("a"), ticket("b")]
        rig.submitter.submit(tickets)
        _, on_reply = rig.bus.next("submit")
        results = [SubmitResult(call="a", error=WireError.of(QueueFull("full"))), SubmitResult(call="b")]
        on_reply(Request("", frames.pack(SubmitReply(results=results)), ""))
        with pytest.raises(QueueFull):
            tickets[0].outcome()
        assert tickets[1].accepted

    run(test)


def test_an_outcome_before_the_answer_is_acceptance_enough() -> None:
    async def test(rig: Rig) -> None:
        one = ticket("c")
        rig.submitter.submit([one])
        rig.push(record("c"), value("quick"))
        assert one.outcome() == "quick"
        rig.bus.accept()
        assert one.outcome() == "quick"
        rig.push(record("c"), value("another"))
        assert one.outcome() == "quick", "the first outcome stays"

    run(test)


def test_an_outcome_that_exists_is_asked_for() -> None:
    async def test(rig: Rig) -> None:
        one = ticket("c")
        rig.submitter.submit([one])
        rig.bus.accept(done=True)
        answer_result(rig, [(record("c"), value(5))])
        assert one.outcome() == 5

    run(test)


def answer_result(
    rig: Rig, records: list[tuple[OutcomeRecord, bytes]], known: bool = True, more: bool = False
) -> ResultRequest:
    data, on_reply = rig.bus.next("result")
    parts = [frames.pack(one, [part]) for one, part in records]
    on_reply(Request("", frames.pack(ResultReply(known=known, more=more), parts), ""))
    return frames.unpack(data, ResultRequest)[0]


def test_a_lost_push_is_asked_for_after_a_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit, "POLL_TICK_S", 0.001)

    async def test(rig: Rig) -> None:
        one = ticket("c")
        rig.submitter.submit([one])
        rig.bus.accept()
        rig.submitter.on_reconnect()
        await until(lambda: bool(rig.bus.asked))
        answer_result(rig, [(record("c"), value(1))])
        assert one.outcome() == 1

    run(test)


def test_many_are_asked_about_in_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit, "POLL_TICK_S", 0.001)

    async def test(rig: Rig) -> None:
        tickets = [ticket(f"c{n}") for n in range(100)]
        rig.submitter.submit(tickets)
        rig.bus.accept()
        rig.submitter.on_reconnect()
        await until(lambda: bool(rig.bus.asked))
        assert [verb for verb, _, _ in rig.bus.asked] == ["status"]
        data, on_reply = rig.bus.next("status")
        calls = frames.unpack(data, CallRequest)[0].calls
        rows = [
            CallStatus(call=call, state=CallState.SUCCEEDED if call == "c7" else CallState.QUEUED) for call in calls
        ]
        on_reply(Request("", frames.pack(StatusReply(calls=rows)), ""))
        assert answer_result(rig, [(record("c7"), value(7))]).call == "c7"
        assert tickets[7].outcome() == 7
        assert sum(one.done for one in tickets) == 1

    run(test)


def test_a_missing_part_is_asked_for() -> None:
    async def test(rig: Rig) -> None:
        seen: list[tuple[int, Any]] = []
        one = ticket("c")
        one.on_part = lambda _, got, part: seen.append((got.part, got.indices))
        rig.submitter.submit([one])
        rig.bus.accept()
        first, second, last = (
            record("c", part=0, final=False, indices=[(0, 1)]),
            record("c", part=1, final=False, indices=[(2, 3)]),
            record("c", part=2, indices=[(4, 4)]),
        )
        rig.push(first, b"")
        rig.push(last, b"")
        assert not one.done
        rig.push(first, b"")
        assert answer_result(rig, [(second, b"x"), (last, b"x")]).part_from == 1
        assert one.done
        assert [part for part, _ in seen] == [0, 2, 1], "each part once"

    run(test)


def test_large_payloads_go_as_blobs_both_ways() -> None:
    async def test(rig: Rig) -> None:
        payload = bytes(5 << 20)
        one = ticket("c", payload)
        rig.submitter.submit([one])
        assert not rig.bus.asked
        await rig.settle()
        assert rig.blobs[digest(payload)] == payload
        request = rig.bus.accept(blob_missing=True)
        assert request.calls[0].blob
        await rig.settle()
        rig.bus.accept()
        result = value("large")
        rig.blobs[digest(result)] = result
        rig.push(record("c", blob=digest(result), blob_bytes=len(result)))
        await rig.settle()
        assert one.outcome() == "large"

    run(test)


def test_a_call_nobody_knows() -> None:
    async def test(rig: Rig) -> None:
        watched = Ticket("w")
        rig.submitter.watch(watched)
        answer_result(rig, [], known=False)
        with pytest.raises(ResultExpired):
            watched.outcome()
        mine = ticket("m")
        rig.submitter.submit([mine])
        rig.bus.accept(done=True)
        answer_result(rig, [], known=False)
        assert not mine.done, "a control plane that has just started may not know it yet"

    run(test)


def test_an_unreadable_push_harms_nobody() -> None:
    async def test(rig: Rig) -> None:
        one = ticket("c")
        rig.submitter.submit([one])
        rig.submitter.on_push(Request("", b"garbage", ""))
        rig.push(record("someone-else"), value(1))
        rig.push(record("c"), value(2))
        assert one.outcome() == 2

    run(test)
