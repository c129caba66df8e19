"""Lies, forgeries, floods and garbage, from cars and from developers: refused or dropped, and the platform goes on.

The rule about reply subjects has tests of its own for developers and blobs (``test_confused_deputy``).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import anyio
import pytest

from fleet.protocol import frames, limits
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.ids import new_call_id
from fleet.protocol.messages import (
    Beat,
    BeatReply,
    BlobGet,
    CallRequest,
    CallState,
    CarHello,
    CarsReply,
    CarsRequest,
    CheckpointPut,
    Lease,
    LogLines,
    LogsReply,
    LogsRequest,
    Message,
    Offer,
    OutcomeReport,
    PlatformReply,
    PlatformRequest,
    Release,
    Reply,
    RunOutcome,
    RunStatus,
    StatusReply,
)
from fleet.protocol.subjects import (
    API,
    CAR,
    INTERNAL,
    OUTCOME,
    PARTITION,
    STREAM_INVOCATIONS,
    STREAM_OUTCOMES,
    ApiVerb,
    CarVerb,
    InternalVerb,
)
from fleet.transport import Bus
from tests.integration.dispatcher_rig import AWAY, HERE, FakeCar, Plane, with_plane

PURGE = f"$JS.API.STREAM.PURGE.{STREAM_INVOCATIONS}"
FOREIGN = [
    PURGE,
    "inv.0.default.shop.f.forged",
    "out.default.shop.f.forged",
    "fleet.to.car-1.cancel",
    "_INBOX_car_other.abc",
    "_INBOX_dev_default.abc",
    "_INBOX_control_rig.abc",
]
GARBAGE = [b"", b"\x00", b"\xff" * 64, b"{}", b"null", b'{"leases": 3}', b"\x80\x04\x95" + bytes(100), os.urandom(4096)]


async def granted(made: Plane, car: FakeCar) -> Lease:
    """A call that is submitted and granted to ``car``."""
    await made.submit(b"args")
    grant, _, _ = await car.granted.receive()
    return grant.lease


async def still_works(made: Plane, car: FakeCar) -> None:
    """A call submitted now goes to ``car`` and comes back."""
    seen = len(made.outcomes)
    lease = await granted(made, car)
    with anyio.fail_after(10):
        while await car.report(lease) != "committed":
            # On a busy machine ``car`` answers a grant too late: it is void then, and the call is granted again.
            lease = (await car.granted.receive())[0].lease
    await made.until(lambda: len(made.outcomes) > seen)


async def settled(car: FakeCar) -> None:
    """All that ``car`` sent before was handled: messages of one connection arrive in their order."""
    await car.beat()


def forged(lease: Lease) -> list[Lease]:
    """Every way to claim more than ``lease`` says; only its MAC is right in most of them."""
    return [
        lease.model_copy(update={"mac": "0" * len(lease.mac)}),
        lease.model_copy(update={"mac": ""}),
        lease.model_copy(update={"counter": lease.counter + 1}),
        lease.model_copy(update={"epoch": lease.epoch + 1}),
        lease.model_copy(update={"seq": lease.seq + 1}),
        lease.model_copy(update={"call": new_call_id()}),
        lease.model_copy(update={"seq": 2**63, "counter": 2**63}),
        lease.model_copy(update={"seq": -1, "counter": -1}),
    ]


def test_outcomes_under_forged_foreign_and_stale_leases_are_refused(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        lease = await granted(made, car)
        thief = await made.car("thief", slots=0)
        for lie in forged(lease):
            assert await car.report(lie, b"\x00lie") == "refused"
        for lie in (lease, lease.model_copy(update={"car": "thief"})):
            assert await thief.report(lie, b"\x00lie") == "refused"
        assert await made.js.subjects(STREAM_OUTCOMES, "out.>") == {}
        # It leaves, the call goes elsewhere, and then the first car claims to have finished it.
        other = await made.car("car-2")
        car.leases[lease.counter] = lease
        await car.leave()
        newer, _, _ = await other.granted.receive()
        assert await car.report(lease, b"\x00late") == "refused"
        assert await other.report(newer.lease, b"\x00right") == "committed"
        await made.until(lambda: len(made.outcomes) == 1)
        assert made.outcomes[0][1] == b"\x00right"
        assert await other.report(newer.lease, b"\x00again") in ("committed", "refused")
        assert await car.report(lease, b"\x00late") == "refused"
        outcome = OUTCOME.build(tenant="default", app="shop", function="f", call=lease.call)
        stored = await made.js.get_last(STREAM_OUTCOMES, outcome)
        assert stored is not None and stored.data.endswith(b"\x00right")

    with_plane(tmp_path, test)


def test_a_car_gives_back_saves_and_prints_only_for_itself(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        lease = await granted(made, car)
        thief = await made.car("thief", slots=0)
        for lie in (lease, lease.model_copy(update={"car": "thief"}), *forged(lease)):
            await thief.ask(CarVerb.RELEASE, Release(leases=[lie], standing=AWAY), Reply)
            await thief.ask(CarVerb.CHECKPOINT, CheckpointPut(lease=lie), Reply, (b"forged",))
            await thief.ask(CarVerb.LOG, LogLines(lease=lie, lines=[(0.0, "stdout", "forged")]), Reply)
            beat = Beat(boot=thief.boot, leases=[lie], standing=HERE, offer=Offer())
            told = await thief.ask(CarVerb.BEAT, beat, BeatReply)
            assert isinstance(told, BeatReply) and told.drop == [lie.counter]
            got = await thief.ask(CarVerb.BLOB_GET, BlobGet(digest="0" * 64, lease=lie), Reply)
            assert got.error is not None and got.error.code == "refused"
        status = await made.ask(ApiVerb.STATUS, CallRequest(calls=[lease.call]), StatusReply)
        assert isinstance(status, StatusReply)
        assert (status.calls[0].state, status.calls[0].car) == (CallState.RUNNING, "car-1")
        assert made.logs == []
        assert await car.report(lease) == "committed"

    with_plane(tmp_path, test)


def test_cars_are_answered_in_their_own_inbox_only(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        lease = await granted(made, car)
        await made.submit(b"waits", b"waits too", b"and this")
        before = await made.js.subjects(STREAM_INVOCATIONS, "inv.>")
        assert len(before) == 4
        messages: dict[CarVerb, tuple[Message, tuple[bytes, ...]]] = {
            CarVerb.HELLO: (CarHello(boot=new_call_id(), standing=HERE), ()),
            CarVerb.OFFER: (Offer(), ()),
            CarVerb.BEAT: (Beat(boot=new_call_id(), standing=HERE), ()),
            CarVerb.RELEASE: (Release(leases=[lease], standing=AWAY), ()),
            CarVerb.OUTCOME: (OutcomeReport(outcomes=[RunOutcome(lease=lease, status=RunStatus.OK)]), (b"\x00forged",)),
            CarVerb.CHECKPOINT: (CheckpointPut(lease=lease), (b"forged",)),
            CarVerb.LOG: (LogLines(lease=lease, lines=[(0.0, "stdout", "forged")]), ()),
        }
        dropped = made.responder.dropped
        heard: list[str] = []
        watches = [await made.js.bus.listen(one, lambda request: heard.append(request.subject)) for one in FOREIGN]
        for verb, (message, parts) in messages.items():
            for reply in FOREIGN:
                subject = CAR.build(car="car-1", partition=PARTITION, verb=verb.value)
                car.bus.publish(subject, frames.pack(message, parts), reply=reply)
        await settled(car)
        assert made.responder.dropped - dropped == len(messages) * len(FOREIGN)
        assert heard == []
        assert await made.js.subjects(STREAM_INVOCATIONS, "inv.>") == before, "no purge, and no outcome was taken"
        for watch in watches:
            await watch.close()
        assert await car.report(lease) == "committed"

    with_plane(tmp_path, test)


def test_whoever_poses_as_the_control_plane_is_answered_in_its_inbox_only(tmp_path: Path) -> None:
    """On our broker nobody else reaches ``fleet.ctl``; on a NATS of somebody else's anybody may."""

    async def test(made: Plane) -> None:
        await made.register()
        await made.submit(b"waits")
        before = await made.js.subjects(STREAM_INVOCATIONS, "inv.>")
        assert len(before) == 1
        subject = INTERNAL.build(partition=PARTITION, verb=InternalVerb.CARS.value)
        question = frames.pack(CarsRequest())
        dropped = made.responder.dropped
        made.js.bus.publish(subject, question, reply=PURGE)
        made.js.bus.publish(subject, question, reply=f"{made.dev.inbox}.out")
        await made.until(lambda: made.responder.dropped == dropped + 2)
        assert await made.js.subjects(STREAM_INVOCATIONS, "inv.>") == before
        answer = await made.js.bus.request(subject, question)
        assert frames.unpack(answer.data, CarsReply)[0].error is None

    with_plane(tmp_path, test)


def test_logs_are_followed_into_ones_own_inbox_only(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        lease = await granted(made, car)
        await made.submit(b"waits")
        for follow in FOREIGN:
            request = frames.pack(LogsRequest(follow=follow))
            got = await made.dev.request(API.build(tenant="default", verb="logs"), request)
            assert follow == "_INBOX_dev_default.abc" or frames.unpack(got.data, LogsReply)[0].error is not None, follow
        await car.ask(CarVerb.LOG, LogLines(lease=lease, lines=[(0.0, "stdout", "line")]), Reply)
        assert len(await made.js.subjects(STREAM_INVOCATIONS, "inv.>")) == 2

    with_plane(tmp_path, test)


def lying_beat(boot: str, lies: list[Lease]) -> bytes:
    """A beat past the bound that honest writers keep."""
    return frames.pack(Beat.model_construct(boot=boot, leases=lies, standing=HERE, offer=Offer(), slots=[]))


def test_a_flood_of_leases_in_a_beat_is_bounded(tmp_path: Path) -> None:
    """As many as fit into a message, most of 10^5; a beat of somebody else is answered within its time all the same."""

    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        lease = await granted(made, car)
        thief = await made.car("thief", slots=0)
        thief.beating = False
        lies = [lease.model_copy(update={"counter": number, "mac": "0"}) for number in range(1_000_000, 1_100_000)]
        step = len(lies)
        while len(flood := lying_beat(thief.boot, lies[:step])) > limits.MESSAGE_BYTES_MAX - 1024:
            step = step * 4 // 5
        assert step > 20_000
        for _ in range(5):
            thief.bus.publish(
                CAR.build(car="thief", partition=PARTITION, verb="beat"), flood, reply=f"{thief.bus.inbox}.x"
            )
        car.dropped.clear()
        with anyio.fail_after(limits.LEASE_S / 2):
            while True:
                try:
                    await car.ask(
                        CarVerb.BEAT, Beat(boot=car.boot, leases=[lease], standing=HERE, offer=car.offer), BeatReply
                    )
                    break
                except FleetUnavailable:
                    continue
        assert await car.report(lease) == "committed"
        assert made.dispatcher.leading

    with_plane(tmp_path, test)


def test_garbage_and_giants_on_every_verb(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        giant = random.Random(1).randbytes(limits.MESSAGE_BYTES_MAX - 1024)
        subjects = [API.build(tenant="default", verb=verb.value) for verb in ApiVerb]
        subjects += ["fleet.api.default.no_such_verb", "fleet.api.default.blob.no_such_verb"]
        for subject in subjects:
            for data in (*GARBAGE, giant):
                got = await made.dev.request(subject, data)
                reply, _ = frames.unpack(got.data, Reply)
                # Verbs whose question has no fields take an empty one.
                assert reply.error is not None or data == b"" or len(data) < 10, (subject, data[:20])
        for verb in CarVerb:
            for data in (*GARBAGE, giant):
                subject = CAR.build(car="car-1", partition=PARTITION, verb=verb.value)
                car.bus.publish(subject, data, reply=f"{car.bus.inbox}.garbage")
        with anyio.fail_after(20):
            await settled(car)
        await still_works(made, car)

    with_plane(tmp_path, test)


@pytest.mark.parametrize("kind", ["dev", "car"])
def test_principals_reach_nothing_but_their_verbs(tmp_path: Path, kind: str) -> None:
    """What the broker itself refuses to the user that all principals are: JetStream, cars, inboxes, the inside."""

    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        lease = await granted(made, car)
        await made.submit(b"waits")
        before = await made.js.subjects(STREAM_INVOCATIONS, "inv.>")
        bus = await Bus.connect(made.broker.url, kind=kind, name="mallory")  # type: ignore[arg-type]
        heard: list[str] = []
        await bus.listen(">", lambda request: heard.append(request.subject))
        for subject in (
            PURGE, f"$JS.API.STREAM.DELETE.{STREAM_INVOCATIONS}", "$JS.ACK.INVOCATIONS.dispatcher-0.1.1.1.1.1",
            "inv.0.default.shop.f.x", "out.default.shop.f.x", "$KV.partitions.0", "fleet.ctl.0.cancel",
            "fleet.to.car-1.cancel", f"{made.dev.inbox}.out", "_INBOX_control_rig.x", "$SYS.REQ.SERVER.PING",
        ):  # fmt: skip
            bus.publish(subject, b"{}")
        with pytest.raises(FleetUnavailable):
            await bus.request("$JS.API.INFO", b"", timeout_s=0.3)
        await made.ask(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply)
        assert await made.js.subjects(STREAM_INVOCATIONS, "inv.>") == before
        assert made.outcomes == [] and car.cancelled == []
        assert await car.report(lease) == "committed"
        leaked = [one for one in heard if one.startswith(("inv.", "out.", "$", "fleet.api", "fleet.car", "fleet.ctl"))]
        assert leaked == []
        await bus.close()

    with_plane(tmp_path, test)
