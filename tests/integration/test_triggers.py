"""Events that become calls, on a real broker: cars are fakes, so that every argument and outcome is seen."""

from __future__ import annotations

import pickle
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from fleet._event import Event
from fleet.protocol import frames
from fleet.protocol.ids import digest, event_call_id, event_key
from fleet.protocol.messages import (
    BlobPut,
    BlobPutReply,
    CallRequest,
    CallState,
    CancelReply,
    DeleteReply,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    EventHead,
    ExplainReply,
    ExplainRequest,
    InvocationState,
    LeaseGrant,
    Manifest,
    Program,
    Retries,
    RollbackReply,
    RollbackRequest,
    StatusReply,
    StoredEvent,
)
from fleet.protocol.messages.triggers import SubjectTrigger
from fleet.protocol.subjects import (
    BUCKET_FUNCTIONS,
    PARTITION,
    STORED_EVENT,
    STREAM_EVENTS,
    STREAM_INVOCATIONS,
    STREAM_OUTCOMES,
    ApiVerb,
)
from fnplatform.dispatcher.service import Dispatcher
from fnplatform.triggers.commit import JetStreams
from fnplatform.triggers.service import TriggerService
from tests.integration.dispatcher_rig import FakeCar, Plane, with_plane

TENANT = "default"


async def deploy(plane: Plane, app: str = "shop", **functions: list[SubjectTrigger]) -> None:
    """An app with these functions and their triggers."""
    await plane.ask(ApiVerb.BLOB_PUT, BlobPut(digest=digest(b"code"), size_bytes=4), BlobPutReply, (b"code",))
    program = Program(bundle=digest(b"code"), bundle_bytes=4, module="shop", qualname="f")
    manifests = [
        Manifest(
            app=app, function=name, display_name=name, program=program, triggers=list(triggers), retries=Retries(max_attempts=1)
        )
        for name, triggers in functions.items()
    ]  # fmt: skip
    await plane.ask(ApiVerb.DEPLOY, DeployRequest(app=app, manifests=manifests), DeployReply)


async def publish(plane: Plane, *events: tuple[str, str], data: bytes = b'{"t":1}') -> None:
    """Events (subject, id), as the intake stores them."""
    for subject, name in events:
        head = EventHead(id=name, source="/test", subject=subject, datacontenttype="application/json")
        stored = StoredEvent(tenant=TENANT, head=head, accepted_unix_s=time.time())
        await plane.js.publish(
            STORED_EVENT.build(tenant=TENANT, event=event_key("/test", name)),
            frames.pack(stored, [data]),
            expect_last_subject_seq=0,
        )


def events_of(grant: LeaseGrant, payload: bytes) -> list[Event]:
    """The events that a granted call is about, one for each item."""
    items = [payload] if grant.item_numbers is None else frames.unpack_items(payload, 4096)
    found = []
    for item in items:
        (event,), _ = pickle.loads(item)
        found.append(event)
    return found


async def served(car: FakeCar, count: int) -> dict[str, list[str]]:
    """Run ``count`` events; their ids by function, in order."""
    found: dict[str, list[str]] = {}
    total = 0
    while total < count:
        grant, payload, _ = await car.granted.receive()
        events = events_of(grant, payload)
        found.setdefault(grant.function, []).extend(event.id for event in events)
        total += len(events)
        done: dict[str, Any] = {}
        result = b"\x00ok"
        if grant.item_numbers is not None:
            done["done"] = grant.item_numbers
            result = frames.pack_items([b"\x00ok"] * len(events))
        assert await car.report(grant.lease, result, **done) == "committed"
    return found


def test_an_event_starts_each_function_whose_trigger_matches(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        car = await plane.car("car-1", slots=4)
        await deploy(
            plane,
            one=[SubjectTrigger(subject="sensors.*.temperature"), SubjectTrigger(subject="sensors.>")],
            two=[SubjectTrigger(subject="sensors.7.>")],
            other=[SubjectTrigger(subject="orders.*")],
        )
        await publish(plane, ("sensors.7.temperature", "a"))
        assert await served(car, 2) == {"one": ["a"], "two": ["a"]}
        await publish(plane, ("sensors.8.temperature", "b"), ("nobody", "c"), ("orders.1", "d"), ("orders", "e"))
        assert await served(car, 2) == {"one": ["b"], "other": ["d"]}

    with_plane(tmp_path, test)


def test_events_that_wait_for_one_function_travel_together(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        await deploy(plane, one=[SubjectTrigger(subject="s.*")], two=[SubjectTrigger(subject="s.>")])
        names = [f"e{number}" for number in range(400)]
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(publish, plane, (f"s.{name}", name))
        car = await plane.car("car-1", slots=2)
        found = await served(car, 800)
        assert {function: sorted(ids) for function, ids in found.items()} == {
            "one": sorted(names),
            "two": sorted(names),
        }

    with_plane(tmp_path, test)


def test_a_large_event_is_a_blob_and_what_is_none_of_ours_is_passed(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        car = await plane.car("car-1", slots=2)
        await deploy(plane, one=[SubjectTrigger(subject="s")])
        await plane.js.publish(STORED_EVENT.build(tenant=TENANT, event="0" * 32), b"what is this")
        await publish(plane, ("s", "a"), data=b"1" * 500_000)
        grant, payload, _ = await car.granted.receive()
        assert grant.blob is not None or len(payload) > 500_000
        await car.report(grant.lease)
        await publish(plane, ("s", "b"))
        assert await served(car, 1) == {"one": ["b"]}

    with_plane(tmp_path, test)


def test_what_is_deployed_counts_from_its_answer_on(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        car = await plane.car("car-1", slots=2)
        await deploy(plane, one=[SubjectTrigger(subject="s")])
        await publish(plane, ("s", "a"))
        await deploy(plane, one=[SubjectTrigger(subject="t")], two=[SubjectTrigger(subject="s")])
        await publish(plane, ("s", "b"), ("t", "c"))
        assert await served(car, 3) == {"one": ["a", "c"], "two": ["b"]}
        await plane.ask(ApiVerb.ROLLBACK, RollbackRequest(app="shop"), RollbackReply)
        await publish(plane, ("s", "d"), ("t", "e"))
        assert await served(car, 1) == {"one": ["d"]}
        await plane.ask(ApiVerb.DELETE, DeleteRequest(app="shop", cancel=True), DeleteReply)
        await publish(plane, ("s", "f"))
        await handled(plane)
        assert await plane.js.subjects(STREAM_INVOCATIONS, "inv.>") == {}

    with_plane(tmp_path, test)


def test_a_triggered_call_is_explained_listed_and_cancelled_as_any(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        await deploy(plane, one=[SubjectTrigger(subject="s")])
        await publish(plane, ("s", "a"))
        call = event_call_id(TENANT, "shop", "one", "/test", "a")
        await until(lambda: queued(plane, call))
        explained = await plane.ask(ApiVerb.EXPLAIN, ExplainRequest(call=call), ExplainReply)
        assert isinstance(explained, ExplainReply) and explained.state is CallState.QUEUED
        cancelled = await plane.ask(ApiVerb.CANCEL, CallRequest(calls=[call]), CancelReply)
        assert isinstance(cancelled, CancelReply) and cancelled.cancelled == [call]
        status = await plane.ask(ApiVerb.STATUS, CallRequest(calls=[call]), StatusReply)
        assert isinstance(status, StatusReply) and status.calls[0].state is CallState.CANCELLED
        kept = await plane.js.get_last(STREAM_OUTCOMES, f"out.{TENANT}.shop.one.{call}")
        assert kept is not None and kept.ttl_s is not None and kept.ttl_s >= 24 * 3600
        assert plane.responder.dropped == 0, "nobody waits: nothing is pushed"

    with_plane(tmp_path, test)


def test_the_next_leader_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        await deploy(plane, one=[SubjectTrigger(subject="s.>")])
        await publish(plane, ("s.1", "a"))
        await until(lambda: queued(plane, event_call_id(TENANT, "shop", "one", "/test", "a")))
        first = service_of(plane.dispatcher)
        assert first.life is not None
        # Another one leads without asking: what the first one sends from now on is void.
        second = TriggerService(plane.js, plane.registry, plane.blobs, PARTITION, 1000)
        async with anyio.create_task_group() as group:
            group.start_soon(second.lead, Usurper(plane.dispatcher.epoch + 1))
            await until(lambda: leads(second))
            await publish(plane, *((f"s.{number}", f"b{number}") for number in range(20)))
            await until(lambda: all_stored(plane, 21))
            await until(lambda: rests(first))
            group.cancel_scope.cancel()
        ids = [call async for call in calls_of(plane)]
        assert len(ids) == len(set(ids)) == 21

    with_plane(tmp_path, test)


def test_nothing_is_missed_when_the_reader_is_cut_off(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        car = await plane.car("car-1", slots=2)
        await deploy(plane, one=[SubjectTrigger(subject="s")])
        for number in range(3):
            (name,) = (await plane.js.api("CONSUMER.NAMES.EVENTS"))["consumers"]
            await plane.js.api(f"CONSUMER.DELETE.EVENTS.{name}")
            await publish(plane, ("s", f"e{number}"))
            assert await served(car, 1) == {"one": [f"e{number}"]}

    with_plane(tmp_path, test)


def test_handled_events_go_when_there_is_no_room(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        streams = JetStreams(plane.js, PARTITION)
        config = (await plane.js.stream_info(STREAM_EVENTS))["config"]
        await plane.js.ensure_stream({**config, "max_msgs": 40})
        await publish(plane, *(("nobody", f"e{number}") for number in range(28)))
        assert await streams.purge_events(28, 0.75, 0.5) == 0
        await publish(plane, *(("nobody", f"f{number}") for number in range(8)))
        assert await streams.purge_events(3, 0.75, 0.5) == 3, "no further than what is handled"
        assert await streams.purge_events(36, 0.75, 0.5) == 13
        assert (await plane.js.stream_info(STREAM_EVENTS))["state"]["messages"] == 20

    with_plane(tmp_path, test)


# --- what these tests look at -----------------------------------------------------------------------------------------


class Usurper:
    """A term of a later leader."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.over = False

    def submit(self, state: InvocationState, seq: int, payload: bytes) -> None: ...

    def run_s(self, tenant: str, app: str, function: str, version: str) -> float | None:
        return None

    def crowded(self, tenant: str, app: str, function: str, version: str) -> bool:
        return False

    def queued(self, tenant: str) -> int:
        return 0

    def knows(self, tenant: str, call: str) -> bool:
        return False


def service_of(dispatcher: Dispatcher) -> TriggerService:
    (found,) = [one for one in dispatcher._companions if isinstance(one, TriggerService)]
    return found


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    """Ask until it is so."""
    while not await holds():
        await anyio.sleep(0.01)


async def leads(service: TriggerService) -> bool:
    return service.life is not None


async def rests(service: TriggerService) -> bool:
    return service.life is None


async def queued(plane: Plane, call: str) -> bool:
    return await plane.js.get_last(STREAM_INVOCATIONS, f"inv.{PARTITION}.{TENANT}.shop.one.{call}") is not None


async def handled(plane: Plane) -> None:
    """Until the router has seen all events."""
    end = (await plane.js.stream_info(STREAM_EVENTS))["state"]["last_seq"]
    service = service_of(plane.dispatcher)

    async def seen() -> bool:
        return service.life is not None and service.life.router.popped >= end

    await until(seen)


async def calls_of(plane: Plane) -> AsyncIterator[str]:
    """The ids of all events in the queue, those in chunks too."""
    for message in await plane.js.get_range(STREAM_INVOCATIONS, "inv.>", seq=1):
        state, parts = frames.unpack(message.data, InvocationState)
        items = [bytes(parts[0])] if state.items is None else frames.unpack_items(parts[0], 4096)
        for item in items:
            yield pickle.loads(item)[0][0].id


async def all_stored(plane: Plane, count: int) -> bool:
    return len([call async for call in calls_of(plane)]) == count


def test_more_subjects_than_the_broker_reads_at_once(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        names = [f"many.a{number}" for number in range(1_100)]
        stored = anyio.Event()
        for name in names:
            plane.js.publish_then(f"$KV.{BUCKET_FUNCTIONS}.{name}", name.encode(), lambda _: None)
        plane.js.publish_then(f"$KV.{BUCKET_FUNCTIONS}.few.a", b"", lambda _: stored.set())
        await stored.wait()
        found = await plane.js.kv_entries(BUCKET_FUNCTIONS, "many.")
        assert found == {name: name.encode() for name in names}
        assert list(await plane.js.kv_entries(BUCKET_FUNCTIONS, "few.")) == ["few.a"]
        wildcard = f"$KV.{BUCKET_FUNCTIONS}.many.>"
        page = await plane.js.get_range(f"KV_{BUCKET_FUNCTIONS}", wildcard, limit=1000, bytes_max=2000)
        assert 0 < len(page) < 100

    with_plane(tmp_path, test, dispatcher=False)
