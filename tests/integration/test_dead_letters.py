"""Dead letters exactly of what failed for good: every item of a chunk, also across a crash between two writes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from fleet._event import Event, HttpRequest, pack_call
from fleet._letters import events_of, events_of_call, plain
from fleet.protocol import frames, limits
from fleet.protocol.errors import ProtocolError
from fleet.protocol.ids import digest, event_key, new_call_id
from fleet.protocol.messages import (
    CallRequest,
    CallState,
    CancelReply,
    DeadLetter,
    DeadReply,
    DeadRequest,
    DeployReply,
    DeployRequest,
    EventHead,
    InvocationState,
    OutcomeRecord,
    Retries,
    RunStatus,
    StoredEvent,
)
from fleet.protocol.subjects import DEAD_LETTER, INVOCATION, PARTITION, STREAM_DEAD, STREAM_OUTCOMES, ApiVerb
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


@pytest.mark.parametrize(("chunk", "reports_again"), [(False, True), (True, False)])
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


# --- read, replayed, dropped --------------------------------------------------------------------------------------------


async def ask(made: Plane, **fields: object) -> tuple[DeadReply, list[memoryview]]:
    reply = await made.dev.request("fleet.api.default.dead", frames.pack(DeadRequest(**fields)))
    return frames.unpack(reply.data, DeadReply)


async def start_events(made: Plane, *events: Event, chunk: bool = True) -> str:
    """A call as events start it; its id."""
    payload = frames.pack_items([pack_call(event) for event in events]) if chunk else pack_call(events[0])
    call = new_call_id()
    state = InvocationState(
        tenant="default", call=call, app="shop", function="f", version=made.version, inbox="", digest=digest(payload),
        payload_bytes=len(payload), submitted_unix_s=1.0, items=len(events) if chunk else None, trigger="subject",
    )  # fmt: skip
    subject = INVOCATION.build(partition=PARTITION, tenant="default", app="shop", function="f", call=call)
    await made.js.publish(subject, frames.pack(state, [payload]), expect_last_subject_seq=0)
    return call


def test_failed_items_of_a_chunk_are_shown_and_replayed_as_one_call(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        old = await made.register(retries=ONCE)
        car = await made.car("car-1")
        events = [Event("a.b", {"n": number}, id=str(number), source="/s") for number in range(4)]
        call = await start_events(made, *events)
        grant, payload, _ = await car.granted.receive()
        for number, byte in enumerate((1, 0, 1, 0)):
            status = RunStatus.OK if number == 3 else RunStatus.PARTIAL
            part = frames.pack_items([bytes([byte])])
            await car.report(grant.lease, part, status, done=[(number, number)], summary="ValueError: no")
        shown, parts = await ask(made, action="show", calls=[call])
        assert shown.error is None and len(shown.letters) == 2
        read = [event for one, part in zip(shown.letters, parts, strict=True) for event in events_of(one, part)]
        assert read == [events[0], events[2]] and plain(read[1])["data"] == {"n": 2}
        new = await made.register(retries=ONCE, memory_bytes=128 * limits.MIB)
        assert new != old
        await made.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=[made.manifest]), DeployReply)
        done, _ = await ask(made, action="replay", calls=[call])
        assert done.error is None and len(done.replayed) == 1 and len(done.letters) == 2
        again, payload, _ = await car.granted.receive()
        assert (again.lease.call, again.version, again.item_numbers) == (done.replayed[0], new, [(0, 1)])
        items = frames.unpack_items(payload, 2)
        assert [event for item in items for event in events_of_call(item)] == read
        assert (await ask(made, action="replay", calls=[call]))[0].error is not None, "its letters are gone"

    with_plane(tmp_path, test)


def test_a_replay_asked_twice_is_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(made: Plane) -> None:
        await made.register(retries=ONCE)
        car = await made.car("car-1")
        call = await start_events(made, Event("a", "x", id="1", source="/s"), chunk=False)
        grant, _, _ = await car.granted.receive()
        await car.report(grant.lease, b"\x01no", summary="ValueError: no")

        async def keep(self: object, letters: object) -> None:
            """As a control plane that dies before it removes them."""

        with monkeypatch.context() as patched:
            patched.setattr("fnplatform.frontdoor.dead.DeadLetters._delete", keep)
            first, _ = await ask(made, action="replay", calls=[call])
            waiting, _ = await ask(made, action="replay", calls=[call])
        assert first.replayed == waiting.replayed and first.error is None
        grant, _, _ = await car.granted.receive()
        await car.report(grant.lease, b"\x00yes")
        over, _ = await ask(made, action="replay", calls=[call])
        assert over.replayed == first.replayed and await letters(made.js) == []
        assert car.granted.statistics().current_buffer_used == 0

    with_plane(tmp_path, test)


def test_all_letters_that_match_are_replayed_or_dropped_once(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register(retries=ONCE)
        for index in range(7):
            state = InvocationState(
                tenant="default", call=f"c{index}", app="shop" if index else "gone", function="f", version=made.version,
                inbox="", digest=digest(b"args"), payload_bytes=4, submitted_unix_s=1.0,
            )  # fmt: skip
            letter = DeadLetter(state=state, reason="no", at_unix_s=float(index))
            subject = DEAD_LETTER.build(tenant="default", app=state.app, function="f", call=state.call)
            await made.js.publish(subject, frames.pack(letter, [b"args"]))
        await made.js.publish("dead.default.shop.f.raw", b"nonsense")
        head = EventHead(id="1", source="/s", subject="loop", hops=16)
        await dead_letters.bury_event(made.js, "default", dead_letters.HOPS, head, b"data", "16 hops")
        await dead_letters.bury_event(made.js, "default", dead_letters.UNDECODABLE, EventHead(), b"bad", "no")
        listed, _ = await ask(made, limit=100)
        assert len(listed.letters) == 10 and [one.garbage for one in listed.letters[2:4]] == [True, False]
        only, _ = await ask(made, app="_events", function="hops")
        assert [one.state.function for one in only.letters] == ["hops"]

        page, _ = await ask(made, action="replay", every=True, limit=3, before_unix_s=6.0)
        assert [one.call for one in page.problems] == ["c0"] and "no function gone.f" in page.problems[0].error.message
        assert len(page.replayed) == 2 and page.next_seq == 4
        page, _ = await ask(made, action="replay", every=True, limit=10, before_unix_s=6.0, from_seq=page.next_seq)
        problems = [one.call for one in page.problems]
        assert len(page.replayed) == 3 and problems == ["raw"] and page.next_seq == 0
        page, _ = await ask(made, action="replay", every=True, app="_events")
        assert len(page.replayed) == 1 and len(page.problems) == 1
        last, _ = await ask(made, action="replay", every=True, app="_events", from_seq=page.next_seq)
        assert page.next_seq and not last.next_seq and not last.problems, "a short page isn't the last one"
        (message,) = await made.js.get_range("EVENTS", "evt.>")
        stored, parts = frames.unpack(message.data, StoredEvent)
        assert (stored.head.id, stored.head.hops, stored.head.subject) == (page.replayed[0], 0, "loop")
        assert bytes(parts[0]) == b"data" and stored.head.id != "1"

        dropped, _ = await ask(made, action="drop", every=True, app="shop")
        assert sorted(one.state.call for one in dropped.letters) == ["c6", "raw"]
        assert [one[1].state.call for one in await letters(made.js) if one[1].state.app == "gone"] == ["c0"]

    with_plane(tmp_path, test)


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("false",)


@pytest.mark.parametrize("argument", [Harmful(), [Harmful()], 7, "x", {"a": Event("a")}, (Event("a"),)])
def test_only_events_are_read(argument: object) -> None:
    with pytest.raises(ProtocolError):
        events_of_call(pickle.dumps(((argument,), {})))


@pytest.mark.parametrize("payload", [b"", b"\x80\x05.", b"cos\nsystem\n(S'false'\ntR.", pickle.dumps(((), {"a": 1}))])
def test_nothing_else_is_unpickled(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        events_of_call(payload)


def test_every_form_of_an_event_is_read() -> None:
    request = HttpRequest("POST", "/x/1", {"id": "1"}, [("q", "1")], [("A", "b")], b"body")
    full = Event(
        "a.b", b"\xff", id="1", source="/s", time="2026-01-02T03:04:05+00:00", dataschema="/d", extensions={"x": "y"},
        http=request,
    )  # fmt: skip
    (got,) = events_of_call(pack_call(full))
    assert got == full and got.http is not None and got.http.headers == {"a": "b"} and got.extensions == {"x": "y"}
    assert plain(got)["data_base64"] == "/w==" and plain(got)["time"].startswith("2026-01-02T03:04:05")
    assert plain(Event("a", b"{", datacontenttype="application/json"))["data_base64"] == "ew=="
    assert events_of_call(pack_call([full, full])) == [full, full]
    assert events_of_call(pack_call(None)) == []
