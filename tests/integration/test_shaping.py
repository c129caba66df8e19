"""Filters, keys, batches, debounce and rate limits on a real broker; cars are fakes, so that every argument is seen."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet.protocol import frames
from fleet.protocol.errors import InvalidOption
from fleet.protocol.ids import digest, event_key
from fleet.protocol.messages import (
    BlobPut,
    BlobPutReply,
    DeleteReply,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    EventBatch,
    EventHead,
    ExplainReply,
    ExplainRequest,
    LeaseGrant,
    Manifest,
    Program,
    RateLimit,
    Retries,
    StoredEvent,
)
from fleet.protocol.messages.triggers import SubjectTrigger
from fleet.protocol.subjects import STORED_EVENT, ApiVerb
from tests.integration.dispatcher_rig import FakeCar, Plane, with_plane

RETRY_S = 0.3


async def deploy(plane: Plane, **triggers: SubjectTrigger) -> None:
    """The app ``shop``: a function, tried three times, for each trigger."""
    await plane.ask(ApiVerb.BLOB_PUT, BlobPut(digest=digest(b"code"), size_bytes=4), BlobPutReply, (b"code",))
    program = Program(bundle=digest(b"code"), bundle_bytes=4, module="shop", qualname="f")
    manifests = [
        Manifest(
            app="shop", function=name, display_name=name, program=program, triggers=[trigger],
            retries=Retries(max_attempts=3, delay_s=RETRY_S),
        )
        for name, trigger in triggers.items()
    ]  # fmt: skip
    await plane.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=manifests), DeployReply)


async def publish(plane: Plane, *names: str, subject: str = "s.1") -> None:
    """Events as the intake stores them; ``a7`` is of user a, with count 7."""
    for name in names:
        head = EventHead(id=name, source="/test", subject=subject, datacontenttype="application/json")
        data = f'{{"user": "{name[0]}", "count": {name[1:]}}}'.encode()
        stored = StoredEvent(tenant="default", head=head, accepted_unix_s=time.time())
        subject_of = STORED_EVENT.build(tenant="default", event=event_key("/test", name))
        await plane.js.publish(subject_of, frames.pack(stored, [data]), expect_last_subject_seq=0)


async def next_run(car: FakeCar) -> tuple[LeaseGrant, list[Any]]:
    """What is granted next: its lease, and the ids of its events (a list for a batch)."""
    grant, payload, _ = await car.granted.receive()
    items = [payload] if grant.item_numbers is None else frames.unpack_items(payload, 4096)
    found: list[Any] = []
    for item in items:
        (argument,), _ = pickle.loads(item)
        found.append([event.id for event in argument] if isinstance(argument, list) else argument.id)
    return grant, found


async def end(car: FakeCar, grant: LeaseGrant, *, byte: int = 0) -> None:
    """It returned, or raised (1)."""
    result = bytes([byte]) + b"x"
    done: dict[str, Any] = {}
    if grant.item_numbers is not None:
        done["done"] = grant.item_numbers
        result = frames.pack_items([result] * sum(last - first + 1 for first, last in grant.item_numbers))
    assert await car.report(grant.lease, result, **done) == "committed"


def test_one_key_runs_in_order_beside_others_and_a_retry_holds_up_its_own(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        car = await plane.car("car-1", slots=8)
        await deploy(plane, f=SubjectTrigger(subject="s.*", key="data.user", filter="data.count > 0"))
        await publish(plane, "a1")
        first, ids = await next_run(car)
        assert ids == ["a1"]
        await publish(plane, "a0", "a2", "a3", "b1", "a4", "b2")
        seen = {"a": ["a1"], "b": []}
        open_b, ids = await next_run(car)
        assert ids[0] == "b1" and "a0" not in ids, "a2 waits for a1, b1 doesn't"
        seen["b"] += ids
        await end(car, first, byte=1)
        await end(car, open_b)
        while len(seen["a"]) + len(seen["b"]) < 7:
            grant, ids = await next_run(car)
            seen[ids[0][0]] += ids
            if seen["a"].count("a1") == 2 and ids == ["a1"]:
                call = (await plane.ask(ApiVerb.EXPLAIN, ExplainRequest(call=grant.lease.call), ExplainReply)).sentence
                assert call.startswith("runs on car-1, attempt 2")
            await end(car, grant)
        assert seen == {"a": ["a1", "a1", "a2", "a3", "a4"], "b": ["b1", "b2"]}

    with_plane(tmp_path, test)


def test_batches_quiet_times_and_rates(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        car = await plane.car("car-1", slots=16)
        await deploy(
            plane,
            batched=SubjectTrigger(subject="s.1", batch=EventBatch(max_size=3, max_wait_s=0.4)),
            quiet=SubjectTrigger(subject="s.1", debounce_s=0.4, key="data.user"),
            seldom=SubjectTrigger(subject="s.2", rate_limit=RateLimit(count=2, per_s=0.8)),
        )
        began_s = time.monotonic()
        await publish(plane, "a1", "a2", "b1", "a3")
        await publish(plane, "c1", "c2", "c3", subject="s.2")
        seen: dict[str, list[Any]] = {"batched": [], "quiet": [], "seldom": []}
        at_s: dict[str, list[float]] = {"batched": [], "quiet": [], "seldom": []}
        total = 0
        while total < 7:
            grant, ids = await next_run(car)
            seen[grant.function] += ids
            at_s[grant.function] += [time.monotonic() - began_s] * len(ids)
            total += len(ids)
            await end(car, grant)
        assert seen["batched"] == [["a1", "a2", "b1"], ["a3"]]
        assert sorted(seen["quiet"]) == ["a3", "b1"]
        assert seen["seldom"] == ["c1", "c2", "c3"]
        assert min(at_s["quiet"]) > 0.39 and at_s["batched"][1] > 0.39 and at_s["seldom"][2] > 0.79

    with_plane(tmp_path, test)


def test_what_is_held_back_outlives_its_leader(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        dispatcher = plane.new_dispatcher("first")
        with anyio.CancelScope() as leading:
            async with anyio.create_task_group() as group:
                await group.start(dispatcher.run)
                while not dispatcher.leading:
                    await anyio.sleep(0.01)
                await deploy(plane, quiet=SubjectTrigger(subject="s.*", debounce_s=1.0, key="data.user"))
                await publish(plane, "a1", "b1", "a2")
                leading.cancel()
        await publish(plane, "b2", "c1")
        await plane.group.start(plane.new_dispatcher("second").run)
        car = await plane.car("car-1", slots=8)
        found = []
        while len(found) < 3:
            grant, ids = await next_run(car)
            found += ids
            await end(car, grant)
        assert sorted(found) == ["a2", "b2", "c1"]

    with_plane(tmp_path, test, dispatcher=False)


def test_an_app_whose_trigger_holds_events_back_is_deleted_only_on_request(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        car = await plane.car("car-1", slots=8)
        await deploy(plane, seldom=SubjectTrigger(subject="s.*", rate_limit=RateLimit(count=1, per_s=3600)))
        await publish(plane, "a1", "a2", "a3")
        grant, ids = await next_run(car)
        assert ids == ["a1"]
        await end(car, grant)
        with pytest.raises(AssertionError, match="triggers of shop hold back up to 2 events"):
            await plane.ask(ApiVerb.DELETE, DeleteRequest(app="shop"), DeleteReply)
        await plane.ask(ApiVerb.DELETE, DeleteRequest(app="shop", cancel=True), DeleteReply)
        await deploy(plane, seldom=SubjectTrigger(subject="s.*"))
        await publish(plane, "b1")
        _, ids = await next_run(car)
        assert ids == ["b1"], "what the deleted one held back starts nothing any more"

    with_plane(tmp_path, test)


def test_what_cannot_work_is_refused_and_nothing_is_deployed(tmp_path: Path) -> None:
    async def test(plane: Plane) -> None:
        with pytest.raises(
            (InvalidOption, AssertionError), match=r'shop.f: fleet.subject\("s.\*"\): filter="data.count >"'
        ):
            await deploy(plane, f=SubjectTrigger(subject="s.*", filter="data.count >"))
        assert await plane.registry.record("default", "shop") is None

    with_plane(tmp_path, test)
