"""Events that functions emit, on a real broker: stored with their outcomes, published once, whoever dies in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

import fleet
from fleet._event import pack_emits
from fleet.protocol import frames, limits
from fleet.protocol.codec import encode
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.messages import (
    CallRequest,
    CallState,
    CancelReply,
    DeadLetter,
    OutboxEntry,
    OutcomeRecord,
    Retries,
    RunStatus,
    StoredEvent,
)
from fleet.protocol.subjects import (
    DEAD_LETTER,
    EMITTED,
    STORED_EVENT,
    STREAM_DEAD,
    STREAM_EVENTS,
    STREAM_OUTCOMES,
    ApiVerb,
)
from fnplatform.atomic import Put
from fnplatform.group_commit import Steps
from fnplatform.jetstream import StreamFull, WrongSequence
from fnplatform.triggers.relay import JetStreamOutbox, Relay
from tests.integration.dispatcher_rig import Plane, with_plane


def result(*emits: fleet.Emit) -> bytes:
    packed = pack_emits(emits)
    return b"\x03" + len(packed).to_bytes(4, "little") + packed + encode(list(emits))


async def published(made: Plane) -> list[tuple[StoredEvent, bytes]]:
    found = await made.js.get_range(STREAM_EVENTS, STORED_EVENT.wildcard())
    events = []
    for message in found:
        event, parts = frames.unpack(message.data, StoredEvent)
        events.append((event, bytes(parts[0])))
    return events


async def relayed(made: Plane) -> None:
    """Wait until the outbox is empty."""
    while await made.js.get_next(STREAM_OUTCOMES, EMITTED.wildcard()) is not None:
        await anyio.sleep(0.005)


async def ids(made: Plane) -> list[str]:
    return [event.head.id for event, _ in await published(made)]


def test_what_a_call_emits_is_published_once(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        part = result(fleet.emit("alerts.hot", {"t": 31}), fleet.emit("b", "text", type="note"))
        assert await car.report(grant.lease, part) == "committed"
        assert await car.report(grant.lease, part) == "committed", "sent again: it was"
        await made.until(lambda: bool(made.outcomes))
        record, told = made.outcomes[0]
        assert (record.state, told) == (CallState.SUCCEEDED, part)
        await relayed(made)
        one, two = await published(made)
        head = one[0].head
        assert (one[0].tenant, head.id, head.source, head.subject, head.hops) == (
            "default", f"{call}.0", "/fleet/default/shop/f", "alerts.hot", 1,
        )  # fmt: skip
        assert (head.type, head.datacontenttype, one[1]) == ("fleet.event", "application/json", b'{"t":31}')
        assert head.time is not None and head.time.endswith("Z")
        assert (two[0].head.id, two[0].head.type, two[1]) == (f"{call}.1", "note", b"text")

    with_plane(tmp_path, test)


def test_a_failed_attempt_emits_nothing_and_its_retry_once(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register(retries=Retries(max_attempts=2, delay_s=0.0))
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        assert await car.report(grant.lease, b"\x01" + encode(None)) == "committed"
        again, _, _ = await car.granted.receive()
        assert await car.report(grant.lease, result(fleet.emit("late"))) in ("committed", "refused")
        assert await car.report(again.lease, result(fleet.emit("a"))) == "committed"
        await relayed(made)
        assert await ids(made) == [f"{call}.0"]

    with_plane(tmp_path, test)


def test_a_cancelled_call_emits_nothing(tmp_path: Path) -> None:
    """The outcome `cancelled` was stored first: in one step means that the events aren't stored either."""

    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        subject = f"out.default.shop.f.{call}"
        record = OutcomeRecord(call=call, app="shop", function="f", version=made.version, state=CallState.CANCELLED)
        await made.js.publish(subject, frames.pack(record))  # as a frontdoor elsewhere does, and its word is late
        assert await car.report(grant.lease, result(fleet.emit("a"))) == "refused"
        assert await made.js.get_next(STREAM_OUTCOMES, EMITTED.wildcard()) is None
        assert await published(made) == []

    with_plane(tmp_path, test)


def test_a_forged_result_is_no_outcome(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        one, two = await made.car("car-1"), await made.car("car-2")
        await made.submit(b"args")
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for car, part in ((one, b"\x03\x0a\x00\x00\x00[{}]"), (two, result(fleet.emit("a")))):
                    group.start_soon(answer, car, part)
                await made.until(lambda: bool(made.outcomes))
                group.cancel_scope.cancel()
        assert made.outcomes[0][0].state is CallState.SUCCEEDED
        await relayed(made)
        assert len(await ids(made)) == 1

    async def answer(car: Any, part: bytes) -> None:
        while True:
            grant, _, _ = await car.granted.receive()
            await car.report(grant.lease, part)

    with_plane(tmp_path, test)


def test_items_of_a_chunk_emit_with_the_part_that_holds_them(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        (call,) = await made.submit(frames.pack_items([b"x"] * 4), items=4)
        grant, _, _ = await car.granted.receive()
        value, raised = b"\x00" + encode(1), b"\x01" + encode(1)
        first = frames.pack_items([result(fleet.emit("a"), fleet.emit("b")), value])
        assert await car.report(grant.lease, first, RunStatus.PARTIAL, done=[(0, 1)]) == "committed"
        assert await car.report(grant.lease, first, RunStatus.PARTIAL, done=[(0, 1)]) == "committed"
        last = frames.pack_items([raised, result(fleet.emit("c"))])
        assert await car.report(grant.lease, last, done=[(2, 3)]) == "committed"
        await relayed(made)
        assert await ids(made) == [f"{call}/0.0", f"{call}/0.1", f"{call}/3.0"]

    with_plane(tmp_path, test)


def test_the_next_leader_publishes_what_the_last_one_left(tmp_path: Path) -> None:
    """Outcome and entry are stored, nobody relays: as after a crash in between."""

    async def test(made: Plane) -> None:
        entry = OutboxEntry(
            tenant="default", app="shop", function="f", call="c", outcome="out.x", hops=1, at_unix_s=1.0
        )
        packed = [pack_emits([fleet.emit("a"), fleet.emit("b")])]
        subject = EMITTED.build(tenant="default", app="shop", function="f", call="c", part="0")
        await made.js.publish(subject, frames.pack(entry, packed))
        async with anyio.create_task_group() as group:
            await group.start(made.dispatcher.run)
            await relayed(made)
            assert await ids(made) == ["c.0", "c.1"]
            # Again, as if it had died before the entry was removed: nothing new.
            seq = await made.js.publish(subject, frames.pack(entry, packed))
            await relayed(made)
            assert seq and await ids(made) == ["c.0", "c.1"]
            group.cancel_scope.cancel()

    with_plane(tmp_path, test, dispatcher=False)


def test_a_chain_ends_after_its_hops_with_a_letter(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        relay = Relay(JetStreamOutbox(made.js))
        for hops in range(1, limits.EVENT_HOPS_MAX + 2):
            entry = OutboxEntry(
                tenant="default", app="shop", function="f", call=f"c{hops}", outcome="out.x", hops=hops, at_unix_s=1.0
            )  # fmt: skip
            subject = EMITTED.build(tenant="default", app="shop", function="f", call=f"c{hops}", part="0")
            await made.js.publish(subject, frames.pack(entry, [pack_emits([fleet.emit("loop", "x")])]))
        async with anyio.create_task_group() as group:
            await group.start(relay.run)
            await relayed(made)
            group.cancel_scope.cancel()
        assert [event.head.hops for event, _ in await published(made)] == list(range(1, 17))
        (letter,) = await made.js.get_range(STREAM_DEAD, DEAD_LETTER.wildcard())
        dead, parts = frames.unpack(letter.data, DeadLetter)
        assert letter.subject.startswith("dead.default._events.hops.")
        assert dead.event is not None and (dead.event.id, bytes(parts[0])) == ("c17.0", b"x")
        assert dead.reason.startswith("shop.f emitted loop as event number 17 of a chain, and a chain ends after 16")

    with_plane(tmp_path, test, dispatcher=False)


# --- one step ---------------------------------------------------------------------------------------------------------


def test_steps_are_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        steps = Steps(made.js)
        answers: dict[int, Any] = {}
        done = anyio.Event()
        await made.js.publish("out.t.a.f.c7", b"taken")

        def store(number: int) -> None:
            def on_stored(stored: Any) -> None:
                answers[number] = stored
                if len(answers) == 40:
                    done.set()

            pair = [Put(f"out.t.a.f.c{number}", b"o", 0, 60.0), Put(f"emt.t.a.f.c{number}.0", b"e")]
            steps.publish_then(pair, on_stored)

        for number in range(40):
            store(number)
        await done.wait()
        assert isinstance(answers.pop(7), WrongSequence)
        for number, seq in answers.items():
            one, two = await made.js.get_seq(STREAM_OUTCOMES, seq), await made.js.get_seq(STREAM_OUTCOMES, seq + 1)
            assert one is not None and two is not None
            assert (one.subject, two.subject, one.ttl_s) == (f"out.t.a.f.c{number}", f"emt.t.a.f.c{number}.0", 60.0)
        assert await made.js.get_next(STREAM_OUTCOMES, "emt.t.a.f.c7.0") is None

    with_plane(tmp_path, test, dispatcher=False)


def test_a_step_that_the_broker_refuses_or_never_answers(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        answers: list[Any] = []
        done = anyio.Event()
        steps = Steps(made.js)

        def on_stored(stored: Any) -> None:
            answers.append(stored)
            done.set()

        config = (await made.js.stream_info(STREAM_OUTCOMES))["config"]
        await made.js.api(f"STREAM.UPDATE.{STREAM_OUTCOMES}", {**config, "max_msgs": 1})
        steps.publish_then([Put("out.t.a.f.c", b"o", 0), Put("emt.t.a.f.c.0", b"e")], on_stored)
        await done.wait()
        assert isinstance(answers.pop(), StreamFull)
        assert (await made.js.stream_info(STREAM_OUTCOMES))["state"]["messages"] == 0
        await made.js.bus.close()
        done = anyio.Event()
        for number in range(3):
            steps.publish_then([Put(f"out.t.a.f.d{number}", b"o", 0), Put("emt.t.a.f.d.0", b"e")], on_stored)
        await done.wait()
        await anyio.lowlevel.checkpoint()
        assert [type(one) for one in answers] == [FleetUnavailable] * 3

    with_plane(tmp_path, test, dispatcher=False)


def test_cancel_by_the_api_and_a_late_result(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        reply = await made.ask(ApiVerb.CANCEL, CallRequest(calls=[call]), CancelReply)
        assert isinstance(reply, CancelReply) and reply.cancelled == [call]
        assert await car.report(grant.lease, result(fleet.emit("a"))) == "refused"
        assert await published(made) == []

    with_plane(tmp_path, test)
