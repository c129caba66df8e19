"""Events: how long from publishing one until its function runs, and how many a second go through.

The delay is told by the outcome (``Metering.started_unix_s``, the car's clock, which is this machine's), so the function
itself does nothing. It is compared with warm ``.remote()`` calls in neighbouring blocks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import fleet
from benchmarks.functions import noop
from benchmarks.harness import Figure, Pair, Settings, Sync, figure, fleet_of, interleaved, timed
from fleet import _deploy
from fleet._client import Client, current
from fleet.protocol import frames
from fleet.protocol.ids import event_call_id
from fleet.protocol.messages import (
    EventHead,
    OutcomeRecord,
    PlatformReply,
    PlatformRequest,
    PublishReply,
    PublishRequest,
    ResultReply,
    ResultRequest,
)
from fleet.protocol.subjects import ApiVerb

APP = "benchevents"
SOURCE = "/bench"
WARM_UP = 30
ANSWER_S = 30.0
EVENTS_AT_ONCE = 128
app = fleet.App(APP)


@app.function(on=[fleet.subject("bench.one.*")])
def one(event: fleet.Event) -> None:
    """A function that an event starts."""


@app.function(on=[fleet.subject("bench.many.*")])
def many(event: fleet.Event) -> int:
    """What the stream of events starts."""
    return event.json()


@contextmanager
def deployed() -> Iterator[Client]:
    """This module's functions, deployed on the present fleet."""
    client = current()
    _deploy.deploy(client, _deploy.LoadedApp(APP, [one, many]))
    yield client


def started_unix_s(client: Client, event: str) -> float:
    """When the function that ``event`` started began to run; waits for its outcome."""
    request = ResultRequest(call=event_call_id(client.settings.tenant, APP, "one", SOURCE, event))
    until_s = time.monotonic() + ANSWER_S
    while time.monotonic() < until_s:
        _, parts = client.request(ApiVerb.RESULT, request, ResultReply)
        if parts:
            record, _ = frames.unpack(parts[-1], OutcomeRecord)
            assert record.metering is not None and record.state == "succeeded", record
            return record.metering.started_unix_s
    raise TimeoutError(f"event {event} started nothing within {ANSWER_S:.0f} s")


def event_block(client: Client, count: int) -> list[float]:
    """Seconds from publishing to the start of the function, one event after the other."""
    seconds = []
    for _ in range(count):
        event = f"{time.time_ns():x}"
        began_unix_s = time.time()
        fleet.publish("bench.one.x", {"n": 1}, id=event, source=SOURCE)
        seconds.append(started_unix_s(client, event) - began_unix_s)
    return seconds


def stream_rate(client: Client, count: int) -> float:
    """Events per second from the first publish until every function has run."""
    tenant = client.settings.tenant

    def request(first: int) -> tuple[PublishRequest, list[bytes]]:
        numbers = range(first, min(first + EVENTS_AT_ONCE, count))
        heads = [
            EventHead(id=f"{run}.{number}", source=SOURCE, subject="bench.many.x", datacontenttype="application/json")
            for number in numbers
        ]
        return PublishRequest(events=heads), [b"%d" % number for number in numbers]

    run = f"{time.time_ns():x}"
    began = time.perf_counter()
    for first in range(0, count, EVENTS_AT_ONCE):
        message, parts = request(first)
        reply, _ = client.request(ApiVerb.PUBLISH, message, PublishReply, parts)
        assert len(reply.ids) == len(message.events) and not reply.duplicates, reply
    last = event_call_id(tenant, APP, "many", SOURCE, f"{run}.{count - 1}")
    assert last
    while True:
        platform, _ = client.request(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply)
        if platform.events_waiting == 0 and platform.waiting == 0 and platform.running == 0:
            return count / (time.perf_counter() - began)
        if time.perf_counter() - began > 20 * ANSWER_S:
            raise TimeoutError(f"{platform.waiting} calls wait, {platform.running} run")
        time.sleep(0.02)


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """The delay as a ratio within pairs of blocks, over several fresh starts; the rate once on each."""
    pairs: list[Pair] = []
    rates = []
    for _ in range(settings.starts):
        with fleet_of(cars=2, sync=sync), deployed() as client:
            timed(noop.remote, WARM_UP)
            event_block(client, WARM_UP)
            pairs += interleaved(
                lambda count: event_block(client, count), lambda count: timed(noop.remote, count), settings
            )
            rates += [stream_rate(client, 10_000 if settings.quick else 30_000)]
    delays = [1000 * second for pair in pairs for second in pair.first]
    return [
        figure(
            "event published to function started, over a warm .remote()", [pair.ratio for pair in pairs], "x",
            target=2.0, sync=sync, note="ratio of p50s of neighbouring blocks",
        ),
        figure("event published to function started, p50", delays, "ms", sync=sync),
        figure("event published to function started, p99", delays, "ms", share=0.99, sync=sync),
        figure("events from publish to outcome", rates, "events/s", target=2000.0, better="more", sync=sync),
    ]  # fmt: skip
