"""Events that become calls, on a real broker: cars are fakes, so that every argument and outcome is seen."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import anyio

from fleet._event import Event
from fleet.protocol import frames
from fleet.protocol.ids import digest, event_key
from fleet.protocol.messages import (
    BlobPut,
    BlobPutReply,
    DeployReply,
    DeployRequest,
    EventHead,
    LeaseGrant,
    Manifest,
    Program,
    Retries,
    StoredEvent,
)
from fleet.protocol.messages.triggers import SubjectTrigger
from fleet.protocol.subjects import STORED_EVENT, STREAM_INVOCATIONS, ApiVerb
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


async def left(plane: Plane) -> list[str]:
    return list(await plane.js.subjects(STREAM_INVOCATIONS, "inv.>"))
