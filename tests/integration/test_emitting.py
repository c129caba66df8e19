"""Functions that emit, on real cars: what callers get, what is published, what that starts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

import fleet
from fleet import _client, _deploy
from fleet.protocol import frames
from fleet.protocol.limits import EMITS_MAX, EVENT_HOPS_MAX
from fleet.protocol.messages import CallsRequest, DeadReply, DeadRequest, StatusReply, StoredEvent
from fleet.protocol.subjects import EMITTED, STORED_EVENT, STREAM_EVENTS, STREAM_OUTCOMES, ApiVerb
from fleet.testing import LocalFleet
from fleet.transport import Bus
from fnplatform.jetstream import JetStream
from tests.integration import chain_functions as fn

APP = "chains"
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def local(shared_fleet: LocalFleet) -> LocalFleet:
    _deploy.deploy(_client.current(), _deploy.load_app("tests.integration.chain_functions", APP))
    return shared_fleet


async def _stored(url: str, data: Path) -> tuple[list[tuple[StoredEvent, bytes]], bool]:
    secret = json.loads((data / "secrets.json").read_text())["control"]
    bus = await Bus.connect(url, kind="control", name="checker", user="control", password=secret)
    try:
        js = JetStream(bus)
        left = await js.get_next(STREAM_OUTCOMES, EMITTED.wildcard()) is not None
        events, seq = [], 1
        while page := await js.get_range(STREAM_EVENTS, STORED_EVENT.wildcard(), seq=seq):
            events += [frames.unpack(message.data, StoredEvent) for message in page]
            seq = page[-1].seq + 1
        return [(event, bytes(parts[0])) for event, parts in events], left
    finally:
        await bus.close()


def stored(local: LocalFleet) -> tuple[list[tuple[StoredEvent, bytes]], bool]:
    """Everything in EVENTS, read past all of ours but the format; whether the outbox holds more."""
    return anyio.run(_stored, local.url, Path(local.data))


def emitted(local: LocalFleet, subject: str, count: int) -> list[tuple[StoredEvent, bytes]]:
    """The events on ``subject`` once there are ``count`` and the outbox is empty."""

    def look() -> list[tuple[StoredEvent, bytes]] | None:
        events, left = stored(local)
        found = [one for one in events if one[0].head.subject == subject]
        return found if len(found) >= count and not left else None

    return local.wait_for(look, f"{count} events on {subject}", LIMIT_S)


def runs(local: LocalFleet, function: str) -> Counter[str]:
    """States of the calls of ``function``, of each item of a chunk."""
    found: Counter[str] = Counter()
    request = CallsRequest(app=APP, function=function, limit=1000)
    for row in local.ask(ApiVerb.CALLS, request, StatusReply).calls:
        found[str(row.state)] += row.items or 1
    return found


def test_a_caller_gets_what_was_returned(local: LocalFleet) -> None:
    one = fn.sense.remote(8)
    assert type(one) is fleet.Emit and (one.subject, one.body) == ("chain.heat", b'{"n":8}')
    several = fn.senses.remote(0)
    assert several == []
    back = fn.respond.remote()
    assert type(back) is fleet.Response
    assert (back.status, back.headers, back.body) == (201, {"X-Fleet": "yes"}, b'{"a":1}')
    assert fleet.Function.from_name(APP, "respond").remote().status == 201


def test_events_start_the_next_function_and_that_one_emits_again(local: LocalFleet) -> None:
    call = fleet.Function.from_name(APP, "senses").spawn(5)
    assert [one.subject for one in call.result()] == ["chain.heat"] * 5
    alarms = emitted(local, "chain.alarm", 2)
    told = {json.loads(data)["n"]: json.loads(data)["from"] for _, data in alarms}
    assert told == {1: "/fleet/default/chains/senses", 3: "/fleet/default/chains/senses"}
    assert {(event.head.hops, event.head.type) for event, _ in alarms} == {(2, "alarm")}
    heat = [event.head for event, _ in stored(local)[0] if event.head.id.startswith(call.id)]
    assert [(head.id, head.hops) for head in heat] == [(f"{call.id}.{n}", 1) for n in range(5)]
    count = len(emitted(local, "chain.heat", 5))
    local.wait_for(lambda: runs(local, "alarm") == {"succeeded": count}, "a run for each event")


def test_a_failed_call_emits_nothing_and_retries_emit_once(local: LocalFleet) -> None:
    with pytest.raises(fleet.PayloadTooLarge, match=f"257 events, the limit is {EMITS_MAX}"):
        fn.too_many.remote()
    with pytest.raises(fleet.InvalidOption, match="only what a function returns is published"):
        list(fn.generated.remote_gen())
    assert fn.third_time.remote().body == b"3"
    assert [data for _, data in emitted(local, "chain.third", 1)] == [b"3"]
    assert not [one for one in stored(local)[0] if one[0].head.subject == "chain.never"]


def test_items_emit_beside_items_that_become_blobs(local: LocalFleet) -> None:
    results = list(fn.large.map([1, 2, 3, 5, 4, 7]))
    assert [type(one) for one in results] == [fleet.Emit, bytes, fleet.Emit, fleet.Emit, bytes, fleet.Emit]
    events = emitted(local, "chain.large", 4)
    assert sorted(data for _, data in events) == [b"1", b"3", b"5", b"7"]
    assert all("/" in event.head.id for event, _ in events)


def test_a_circle_ends_after_its_hops_with_a_letter(local: LocalFleet) -> None:
    """The function is called once, and then started by each of the 16 events that a chain may hold."""
    fleet.Function.from_name(APP, "loop").remote(fleet.Event("chain.loop", 0))
    events = emitted(local, "chain.loop", EVENT_HOPS_MAX)
    assert sorted(event.head.hops for event, _ in events) == list(range(1, EVENT_HOPS_MAX + 1))

    def letters() -> list[Any]:
        found = local.ask(ApiVerb.DEAD, DeadRequest(action="list"), DeadReply).letters
        return [one for one in found if one.event and one.event.source == f"/fleet/default/{APP}/loop"]

    (letter,) = local.wait_for(letters, "a letter")
    assert (letter.state.function, letter.event.hops) == ("hops", EVENT_HOPS_MAX + 1)
    assert "chains.loop emitted chain.loop as event number 17 of a chain, and a chain ends after 16" in letter.reason
    assert runs(local, "loop") == {"succeeded": EVENT_HOPS_MAX + 1}
    assert len(emitted(local, "chain.loop", EVENT_HOPS_MAX)) == EVENT_HOPS_MAX
