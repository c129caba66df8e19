"""Dead letters exactly of what failed for good: every item of a chunk, also across a crash between two writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from fleet.protocol import frames
from fleet.protocol.ids import event_key
from fleet.protocol.messages import (
    CallRequest,
    CallState,
    CancelReply,
    DeadLetter,
    EventHead,
    OutcomeRecord,
    Retries,
    RunStatus,
)
from fleet.protocol.subjects import STREAM_DEAD, STREAM_OUTCOMES, ApiVerb
from fnplatform import dead_letters
from fnplatform.jetstream import JetStream, StreamFull
from tests.integration.dispatcher_rig import FakeCar, Plane, with_plane

ONCE = Retries(max_attempts=1)


async def letters(js: JetStream) -> list[tuple[str, DeadLetter, bytes]]:
    """What DEAD holds: (subject, letter, payload), the oldest first."""
    found = []
    for message in await js.get_range(STREAM_DEAD, "dead.>"):
        letter, parts = frames.unpack(message.data, DeadLetter)
        found.append((message.subject, letter, bytes(parts[0])))
    return found


async def until_ended(made: Plane, call: str) -> OutcomeRecord:
    await made.until(lambda: any(record.call == call and record.final for record, _ in made.outcomes))
    return next(record for record, _ in made.outcomes if record.call == call and record.final)


async def fail_all(car: FakeCar, items: int) -> None:
    """A car that reports item after item, each a failure, until ``items`` of them are over."""
    over = 0
    while over < items:
        grant, _, _ = await car.granted.receive()
        numbers = [n for first, last in grant.item_numbers or [] for n in range(first, last + 1)]
        for number in numbers:
            last = number == numbers[-1]
            status = RunStatus.OK if last else RunStatus.PARTIAL
            part = frames.pack_items([b"\x01item %d" % number])
            await car.report(grant.lease, part, status, done=[(number, number)], summary=f"ValueError: {number}")
            over += 1


def test_every_item_of_a_chunk_that_fails_for_good_has_its_letter(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register(retries=ONCE)
        car = await made.car("car-1")
        items = [b"item-%d" % number for number in range(5)]
        (call,) = await made.submit(frames.pack_items(items), items=5)
        await fail_all(car, 5)
        assert (await until_ended(made, call)).state is CallState.FAILED
        buried: list[bytes] = []
        for _, letter, payload in await letters(made.js):
            assert letter.state.call == call and letter.state.item_attempts == {len(buried): 1}
            assert (
                letter.state.pending == [(len(buried), len(buried))] and f"ValueError: {len(buried)}" in letter.reason
            )
            buried += map(bytes, frames.unpack_items(payload, 5))
        assert buried == items, "none replaced another"

    with_plane(tmp_path, test)


def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The next letter meets a leader that dies before it is stored; returns how to let the following ones through."""
    true = dead_letters.bury_call
    alive = anyio.Event()

    async def bury(*args: object) -> bool:
        await alive.wait()
        return await true(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("fnplatform.dispatcher.stores.bury_call", bury)
    return alive.set


@pytest.mark.parametrize(("chunk", "reports_again"), [(False, True), (False, False), (True, False)])
def test_a_leader_that_dies_behind_the_outcome_leaves_the_letter_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: bool, reports_again: bool
) -> None:
    async def test(made: Plane) -> None:
        await made.register(retries=ONCE)
        async with anyio.create_task_group() as group:
            await group.start(made.dispatcher.run)
            while not made.dispatcher.leading:
                await anyio.sleep(0.01)
            car = await made.car("car-1")
            (call,) = await made.submit(
                frames.pack_items([b"one", b"two"]) if chunk else b"args", items=2 if chunk else None
            )
            grant, _, _ = await car.granted.receive()
            revive = failing(monkeypatch)
            result = frames.pack_items([b"\x01no"]) if chunk else b"\x01no"
            more = {"done": [(0, 0)]} if chunk else {}
            status = RunStatus.PARTIAL if chunk else RunStatus.OK
            made.group.start_soon(lambda: car.report(grant.lease, result, status, summary="ValueError: no", **more))
            while not (await made.js.stream_info(STREAM_OUTCOMES))["state"]["messages"]:
                await anyio.sleep(0.005)
            assert await letters(made.js) == []
            car.beating = reports_again
            group.cancel_scope.cancel()
        revive()
        await made.group.start(made.new_dispatcher("second").run)
        other = car if reports_again else await made.car("car-2")
        if chunk:
            again, payload, _ = await other.granted.receive()
            assert again.item_numbers == [(1, 1)], "what has an outcome runs no more"
            assert await other.report(again.lease, frames.pack_items([b"\x00ok"]), done=[(1, 1)]) == "committed"
        record = await until_ended(made, call)
        assert record.state is CallState.FAILED
        ((_, letter, payload),) = await letters(made.js)
        assert (letter.state.call, letter.state.pending) == (call, [(0, 0)] if chunk else None)
        assert payload == (frames.pack_items([b"one"]) if chunk else b"args")
        assert "ValueError: no" in letter.reason

    with_plane(tmp_path, test, dispatcher=False)


def test_what_was_cancelled_first_has_no_letter(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register(retries=ONCE)
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        reply = await made.ask(ApiVerb.CANCEL, CallRequest(calls=[call]), CancelReply)
        assert isinstance(reply, CancelReply) and reply.cancelled == [call]
        assert await car.report(grant.lease, b"\x01no", summary="ValueError: no") == "refused"
        assert await letters(made.js) == []

    with_plane(tmp_path, test)


def test_an_outcome_does_not_wait_for_a_full_store_of_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(made: Plane) -> None:
        true = JetStream.publish

        async def publish(js: JetStream, subject: str, *args: object, **more: object) -> int:
            if subject.startswith("dead."):
                raise StreamFull("maximum bytes exceeded", 10077)
            return await true(js, subject, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(JetStream, "publish", publish)
        await made.register(retries=ONCE)
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        assert await car.report(grant.lease, b"\x01no", summary="ValueError: no") == "committed"
        record = await until_ended(made, call)
        assert record.dead is not None and "ValueError: no" in record.dead.reason and record.dead.attempts == 1
        assert not await dead_letters.bury_event(made.js, "default", dead_letters.HOPS, EventHead(), b"", "full")

    with_plane(tmp_path, test)


def test_an_event_that_never_became_a_call_has_one_letter(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        head = EventHead(id="1", source="/s", subject="a.b", hops=16)
        for _ in range(2):
            assert await dead_letters.bury_event(made.js, "default", dead_letters.HOPS, head, b"data", "16 hops")
        garbage = b"x" * (dead_letters.RAW_BYTES_MAX + 1)
        await dead_letters.bury_event(
            made.js, "default", dead_letters.UNDECODABLE, EventHead(subject="c"), garbage, "no id"
        )
        hops, raw = await letters(made.js)
        assert hops[0] == f"dead.default._events.hops.{event_key('/s', '1')}"
        assert (hops[1].event, hops[2], hops[1].reason) == (head, b"data", "16 hops")
        assert len(raw[2]) == dead_letters.RAW_BYTES_MAX and str(len(garbage)) in raw[1].reason

    with_plane(tmp_path, test, dispatcher=False)
