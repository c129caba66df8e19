"""Events come in: by NATS with any client, by the publish verb; each stored once, answered, or a dead letter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import nats
import nats.errors
import pytest
from nats.aio.client import Client

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, QueueFull
from fleet.protocol.ids import event_key
from fleet.protocol.messages import DeadLetter, EventHead, PublishReply, PublishRequest, StoredEvent
from fleet.protocol.subjects import STREAM_DEAD, STREAM_EVENTS, ApiVerb, is_event_reply
from fnplatform import dead_letters
from fnplatform.events import intake
from fnplatform.frontdoor import events
from fnplatform.jetstream import StreamFull
from tests.integration.frontdoor_rig import Rig, with_rig
from tests.integration.test_confused_deputy import FOREIGN, settled

HERE = "fleet.evt.default.sensors.7"
HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "content-type": "text/plain"}


async def stranger(rig: Rig) -> Client:
    """A NATS client that knows nothing of us."""
    return await nats.connect(rig.broker.url)


async def ask(client: Client, data: bytes, subject: str = HERE, **headers: str) -> dict[str, Any]:
    reply = await client.request(subject, data, timeout=10, headers=headers or None)
    return dict(json.loads(reply.data))


async def stored(rig: Rig) -> list[tuple[StoredEvent, bytes]]:
    found = []
    for message in await rig.js.get_range(STREAM_EVENTS, "evt.>"):
        event, parts = frames.unpack(message.data, StoredEvent)
        assert message.subject == f"evt.{event.tenant}.{event_key(event.head.source, event.head.id)}"
        found.append((event, bytes(parts[0])))
    return found


async def letters(rig: Rig, count: int) -> list[tuple[DeadLetter, bytes]]:
    """The dead letters, once there are ``count``."""
    while True:
        found = await rig.js.get_range(STREAM_DEAD, "dead.>")
        if len(found) >= count:
            unpacked = [frames.unpack(message.data, DeadLetter) for message in found]
            return [(letter, bytes(parts[0])) for letter, parts in unpacked]
        await anyio.lowlevel.checkpoint()


async def publish(rig: Rig, *heads: EventHead, data: bytes = b"1") -> PublishReply:
    request = PublishRequest(events=list(heads))
    reply, _ = await rig.ask(ApiVerb.PUBLISH, request, PublishReply, [data] * len(heads))
    return reply


def test_any_nats_client_publishes(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        client = await stranger(rig)
        first = await ask(client, b'{"t": 21.5}')
        assert first["duplicate"] is False
        assert await ask(client, b"again", **{"Nats-Msg-Id": "m"}) == {"id": "m", "duplicate": False}
        assert await ask(client, b"again", **{"Nats-Msg-Id": "m"}) == {"id": "m", "duplicate": True}
        assert await ask(client, b"ce", **HEADERS) == {"id": "1", "duplicate": False}
        assert await ask(client, b"other", **{**HEADERS, "ce-id": "2"}) == {"id": "2", "duplicate": False}
        await client.publish(HERE, b"bare")
        await client.flush()
        await settled(rig)
        while rig.intake.busy:
            await anyio.lowlevel.checkpoint()
        found = [
            (event.head.id, event.head.source, event.head.datacontenttype, data) for event, data in await stored(rig)
        ]
        assert found[:4] == [
            (first["id"], "/nats/default", "application/json", b'{"t": 21.5}'),
            ("m", "/nats/default", "text/plain", b"again"),
            ("1", "/s", "text/plain", b"ce"),
            ("2", "/s", "text/plain", b"other"),
        ]
        assert found[4][3] == b"bare" and len(found) == 5
        assert {event.head.subject for event, _ in await stored(rig)} == {"sensors.7"}
        assert (rig.intake.stored, rig.intake.duplicates) == (5, 1)
        await client.close()

    with_rig(tmp_path, test)


def test_what_can_not_be_decoded_is_said_or_buried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "RAW_BYTES_MAX", 100)

    async def test(rig: Rig) -> None:
        client = await stranger(rig)
        broken = {**HEADERS, "ce-source": ""}
        answer = await ask(client, b"x", **broken)
        assert answer["error"]["code"] == "invalid_option" and "source" in answer["error"]["message"]
        assert (await ask(client, b"x" * ((1 << 20) + 1)))["error"]["code"] == "payload_too_large"
        assert "subject" in (await ask(client, b"x", subject="fleet.evt.default.a$b"))["error"]["message"]
        for _ in range(2):
            await client.publish(HERE, b"x" * 300, headers=broken)
        await client.publish("fleet.evt.default.ü.b", b"y")
        found = await letters(rig, 2)
        await settled(rig)
        assert len(await letters(rig, 2)) == 2, "of the same bytes there is one letter"
        letter, data = max(found, key=lambda one: len(one[1]))
        assert letter.event is not None and letter.event.subject == "sensors.7" and letter.state.app == "_events"
        assert letter.state.function == "undecodable" and data == b"x" * 100 and "100 of 300 bytes" in letter.reason
        assert "source" in letter.reason and letter.event.extensions["ce-type"] == "t"
        assert await stored(rig) == []
        await client.close()

    with_rig(tmp_path, test)


def test_subjects_that_are_no_text(tmp_path: Path) -> None:
    """Core NATS takes any bytes: they are a dead letter where the tenant is one, and cost nothing else."""

    async def test(rig: Rig) -> None:
        stream = await anyio.connect_tcp(rig.broker.host, rig.broker.port)
        async with stream:
            await stream.send(b'CONNECT {"verbose":false}\r\n')
            for subject in (b"default.a\xff", b"t\xff.a", b"t$.a", b"default.a\xff _INBOX.\xff"):
                await stream.send(b"PUB fleet.evt." + subject + b" 1\r\nx\r\n")
            ((letter, data),) = await letters(rig, 1)
            assert letter.event is not None and "xff" in letter.event.subject and data == b"x"
            while rig.frontdoor._events.dropped < 2 or rig.responder.dropped < 1:
                await anyio.lowlevel.checkpoint()
        assert await stored(rig) == []

    with_rig(tmp_path, test)


def test_nonsense_does_not_push_out_dead_letters_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "DEAD_BYTES_MAX", 1000)
    monkeypatch.setattr(events, "LOOK_EVERY_S", 0.0)

    async def test(rig: Rig) -> None:
        client = await stranger(rig)
        for number in range(10):
            await client.publish(HERE, b"%d" % number, headers={"ce-id": "1"})
            await client.flush()
            await settled(rig)
            while rig.frontdoor._events.busy:
                await anyio.lowlevel.checkpoint()
        assert len(await letters(rig, 1)) == 1
        assert rig.frontdoor._events.dropped == 9
        await client.close()

    with_rig(tmp_path, test)


def test_replies_go_to_inboxes_alone(tmp_path: Path) -> None:
    """The confused deputy again: an event whose reply subject is no inbox isn't even stored."""

    async def test(rig: Rig) -> None:
        foreign = [
            *FOREIGN,
            "fleet.evt.default.a",
            "_INBOX",
            "_INBOX.*",
            "_INBOX.>",
            "_INBOX.a.$JS",
            "evt.default.x",
            "$KV.x.y",
        ]
        heard: list[str] = []
        deaf = ("..", "fleet.", "*", ">")
        watches = [
            await rig.js.bus.listen(one, lambda request: heard.append(request.subject))
            for one in foreign
            if not any(part in one for part in deaf)
        ]
        for reply in foreign:
            rig.dev.publish(HERE, b"1", reply=reply)
            rig.dev.publish(HERE, b"1", reply=reply, headers={"ce-id": "broken"})
        await settled(rig)
        await rig.js.api("INFO")
        assert rig.responder.dropped == 2 * len(foreign)
        assert heard == [] and await stored(rig) == []
        assert not (await rig.js.get_range(STREAM_DEAD, "dead.>"))
        own = json.loads((await rig.dev.request(HERE, b"1")).data)
        assert own["duplicate"] is False, "the inbox of our own clients"
        for watch in watches:
            await watch.close()

    with_rig(tmp_path, test)


def test_which_replies_are_inboxes() -> None:
    for good in ("_INBOX.abc", "_INBOX.Ab-1_.2.x", "_INBOX_dev_default.q.r.1"):
        assert is_event_reply(good, "default")
    for bad in ("", "_INBOX", "_INBOX.", "_INBOX.a.", "_INBOX..a", "_INBOX.a b", "_INBOX.a\n", "x._INBOX.a", "_INBOXES.a",
                "_INBOX.$JS", "_INBOX_dev_other.a", "_INBOX_car_default.a", "_INBOX." + ".".join("a" * 9)):  # fmt: skip
        assert not is_event_reply(bad, "default"), bad


def test_strangers_neither_listen_to_events_nor_write_streams(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        client = await stranger(rig)
        heard: list[object] = []
        errors: list[Exception] = []

        async def on_message(message: object) -> None:
            heard.append(message)

        async def on_error(error: Exception) -> None:
            errors.append(error)

        client._error_cb = on_error
        for subject in ("fleet.evt.>", "evt.>"):
            await client.subscribe(subject, cb=on_message)
        await client.publish("evt.default.forged", b"x")
        await ask(client, b"1")
        await client.flush()
        assert len(errors) == 3 and heard == [] and len(await stored(rig)) == 1
        await client.close()

    with_rig(tmp_path, test)


def test_headers_of_strangers_reach_no_stream(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        client = await stranger(rig)
        await ask(
            client, b"1", **{"Nats-Rollup": "all", "Nats-TTL": "1s", "Nats-Expected-Stream": "X", "Nats-Msg-Id": "a"}
        )
        (message,) = await rig.js.get_range(STREAM_EVENTS, "evt.>")
        raw = await rig.js.bus.request(f"$JS.API.DIRECT.GET.{STREAM_EVENTS}", b'{"seq":%d}' % message.seq)
        assert not any(word in raw.headers for word in (b"Rollup", b"TTL", b"Expected-Stream", b"Msg-Id"))
        await client.close()

    with_rig(tmp_path, test)


@pytest.mark.parametrize("batching", [False, True])
def test_the_publish_verb(tmp_path: Path, batching: bool) -> None:
    async def test(rig: Rig) -> None:
        heads = [EventHead(id=str(number % 40), source="/s", subject=f"a.{number}", hops=5) for number in range(60)]
        reply = await publish(rig, *heads)
        assert reply.error is None and reply.ids == [head.id for head in heads]
        assert reply.duplicates == [str(number) for number in range(20)], "copies within one request, too"
        again = await publish(rig, heads[5])
        assert again.ids == again.duplicates == ["5"]
        nameless = await publish(rig, EventHead(subject="a"), EventHead(subject="a"))
        assert len(set(nameless.ids)) == 2 and nameless.duplicates == []
        found = await stored(rig)
        assert len(found) == 42
        assert {event.head.hops for event, _ in found} == {0}, "nobody outside counts them"
        assert [event.head.subject for event, _ in found[:40]] == [f"a.{number}" for number in range(40)]

    with_rig(tmp_path, test, batching=batching)


def test_a_publish_request_is_checked_whole(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        good = EventHead(subject="a", source="/s", id="1")
        for attribute, bad in (
            ("subject", EventHead(subject="a b")),
            ("source", EventHead(subject="a", source="/fleet/x")),
            ("time", EventHead(subject="a", time="soon")),
        ):
            reply = await publish(rig, good, bad)
            assert reply.error is not None and reply.error.details["attribute"] == attribute, reply
        large = await publish(rig, good, data=b"x" * ((1 << 20) + 1))
        assert large.error is not None and large.error.code == "payload_too_large"
        lacks, _ = await rig.ask(ApiVerb.PUBLISH, PublishRequest(events=[good]), PublishReply)
        assert lacks.error is not None and lacks.error.code == "protocol_error"
        assert await stored(rig) == []

    with_rig(tmp_path, test)


class Full:
    """A disk without room."""

    def check(self) -> None:
        raise QueueFull("the disk of the platform is full")


def test_without_room_nothing_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        client = await stranger(rig)
        for name, value in (("_disk", Full()), ("_store", Answering(StreamFull("maximum messages exceeded", 10077)))):
            with monkeypatch.context() as patch:
                patch.setattr(rig.intake, name, value)
                assert (await ask(client, b"1"))["error"]["code"] == "queue_full"
                reply = await publish(rig, EventHead(subject="a"))
                assert reply.error is not None and reply.error.code == "queue_full"
                await client.publish(HERE, b"1")
                await client.flush()
        with monkeypatch.context() as patch:
            patch.setattr(intake, "IN_FLIGHT_MAX", 3)
            assert (await publish(rig, *[EventHead(subject="a")] * 4)).error is not None
            assert (await publish(rig, *[EventHead(subject="a")] * 3)).error is None
            patch.setattr(intake, "IN_FLIGHT_BYTES_MAX", 10)
            assert (await ask(client, b"x" * 11))["error"]["code"] == "queue_full"
            assert "id" in await ask(client, b"x" * 10)
        await settled(rig)
        assert rig.frontdoor._events.dropped == 2
        assert len(await stored(rig)) == 4 and not rig.intake.busy
        await client.close()

    with_rig(tmp_path, test)


class Answering:
    """A stream that answers every publish with the same error; the event may be stored before."""

    def __init__(self, error: FleetError, store: Any = None) -> None:
        self.error = error
        self.store = store

    def publish_then(
        self, subject: str, data: bytes, on_stored: Callable[[int | FleetError], None], **more: Any
    ) -> None:
        if self.store is None:
            on_stored(self.error)
        else:
            self.store.publish_then(subject, data, lambda stored: on_stored(self.error), **more)


def test_when_nobody_knows_whether_it_is_stored_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        client = await stranger(rig)
        with monkeypatch.context() as patch:
            patch.setattr(rig.intake, "_store", Answering(FleetUnavailable("no answer in time"), rig.intake._store))
            assert (await ask(client, b"x", **HEADERS))["error"]["code"] == "unavailable"
            reply = await publish(rig, EventHead(id="2", source="/s", subject="a"))
            assert reply.error is not None and reply.error.code == "unavailable"
        assert await ask(client, b"x", **HEADERS) == {"id": "1", "duplicate": True}
        assert (await publish(rig, EventHead(id="2", source="/s", subject="a"))).duplicates == ["2"]
        assert len(await stored(rig)) == 2
        await client.close()

    with_rig(tmp_path, test)
