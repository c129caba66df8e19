"""The confused deputy: a request whose reply subject is not the asker's own inbox has no effect, and is counted.

Tried with nats-server 2.15.1: a careless responder that answers a request with the reply subject
``$JS.API.STREAM.PURGE.INVOCATIONS`` purges the queue. Each attack here is first shown to work against such a responder.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from fleet.protocol import frames
from fleet.protocol.ids import new_call_id
from fleet.protocol.messages import (
    BlobGet,
    BlobGetReply,
    BlobPut,
    BlobPutReply,
    CallRequest,
    CarsRequest,
    InvocationState,
    Lease,
    StatusReply,
    SubmitReply,
    SubmitRequest,
)
from fleet.protocol.subjects import API, CAR, OUTCOME, PARTITION, STREAM_INVOCATIONS, ApiVerb, CarVerb
from fleet.transport import Bus, Request
from tests.integration.frontdoor_rig import Rig, with_rig

PURGE = f"$JS.API.STREAM.PURGE.{STREAM_INVOCATIONS}"
FOREIGN = [
    PURGE,
    f"$JS.API.STREAM.DELETE.{STREAM_INVOCATIONS}",
    "inv.0.default.shop.add.forged",
    "out.default.shop.add.forged",
    "fleet.api.default.cancel",
    "fleet.car.car-1.0.outcome",
    "fleet.to.car-1.cancel",
    "_INBOX_dev_other.abc",
    "_INBOX_car_default.abc",
    "_INBOX_dev_default",
    "_INBOX_dev_default.a..b",
    "_INBOX_control_rig.abc",
]


async def one_waiting_call(rig: Rig) -> str:
    version = await rig.register(await rig.manifest())
    call = rig.call(version)
    await rig.submit(call)
    assert len(await queue(rig)) == 1
    return call.call


async def queue(rig: Rig) -> dict[str, int]:
    return await rig.js.subjects(STREAM_INVOCATIONS, "inv.>")


async def settled(rig: Rig) -> None:
    """Everything the developer sent before has been handled: requests of one connection arrive in their order."""
    await rig.ask(ApiVerb.STATUS, CallRequest(), StatusReply)


def test_a_careless_responder_would_purge_the_queue(tmp_path: Path) -> None:
    """The attack itself works: without it the tests below could not fail."""

    async def test(rig: Rig) -> None:
        await one_waiting_call(rig)
        listening = await rig.js.bus.listen("careless", lambda request: rig.js.bus.publish(request.reply, b""))
        rig.js.bus.publish("careless", b"", reply=PURGE)
        with anyio.fail_after(10):
            while await queue(rig):
                await anyio.lowlevel.checkpoint()
        await listening.close()

    with_rig(tmp_path, test)


def test_replies_go_to_the_askers_inbox_only(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        call = await one_waiting_call(rig)
        heard: list[str] = []
        # The broker refuses to listen to a..b, and fleet.api is where the requests themselves go.
        watched = [reply for reply in FOREIGN if ".." not in reply and not reply.startswith("fleet.api.")]
        watches = [await rig.js.bus.listen(one, lambda request: heard.append(request.subject)) for one in watched]
        for verb in ApiVerb:
            for reply in FOREIGN:
                message = CallRequest(calls=[call]) if verb != ApiVerb.CARS else CarsRequest()
                rig.dev.publish(API.build(tenant="default", verb=verb.value), frames.pack(message), reply=reply)
        await settled(rig)
        await rig.js.api("INFO")
        assert rig.responder.dropped == len(ApiVerb) * len(FOREIGN)
        assert heard == []
        assert len(await queue(rig)) == 1, "nothing was purged, and the cancel among them was not done"
        for watch in watches:
            await watch.close()

    with_rig(tmp_path, test)


@pytest.mark.parametrize("verb", [CarVerb.BLOB_GET, CarVerb.BLOB_PUT])
def test_cars_are_answered_in_their_own_inbox_only(tmp_path: Path, verb: CarVerb) -> None:
    async def test(rig: Rig) -> None:
        await one_waiting_call(rig)
        subject = CAR.build(car="car-1", partition=PARTITION, verb=verb.value)
        for reply in FOREIGN:
            rig.dev.publish(subject, frames.pack(BlobGet(digest="0" * 64)), reply=reply)
        await settled(rig)
        assert rig.responder.dropped == len(FOREIGN)
        assert len(await queue(rig)) == 1

    with_rig(tmp_path, test)


def test_a_stored_inbox_is_the_callers_own(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        for inbox in FOREIGN:
            request = SubmitRequest(calls=[rig.call(version)], inbox=inbox)
            reply, _ = await rig.ask(ApiVerb.SUBMIT, request, SubmitReply, [b"args"])
            assert reply.error is not None and reply.error.code == "refused"
        assert await queue(rig) == {}
        assert rig.responder.dropped == len(FOREIGN)

    with_rig(tmp_path, test)


def test_the_reply_connection_can_not_write_to_any_stream(tmp_path: Path) -> None:
    """Second layer: even a responder that forgot the rule can't purge, because its user may not."""

    async def test(rig: Rig) -> None:
        await one_waiting_call(rig)
        user = rig.broker.reply
        bus = await Bus.connect(rig.broker.url, kind="control", name="careless", user=user.user, password=user.password)
        for subject in FOREIGN[:6]:
            bus.publish(subject, b"")
        assert not (await rig.js.get_last("OUTCOMES", "out.default.shop.add.forged"))
        await bus.close()
        assert len(await queue(rig)) == 1

    with_rig(tmp_path, test)


def test_headers_of_principals_reach_no_stream(tmp_path: Path) -> None:
    """``Nats-Rollup`` would purge the subject's stream, ``Nats-Msg-Id`` would drop another's message."""

    async def test(rig: Rig) -> None:
        await one_waiting_call(rig)
        version = await rig.register(await rig.manifest())
        call = rig.call(version)
        request = SubmitRequest(calls=[call], inbox=rig.dev.inbox)
        headers = {"Nats-Rollup": "all", "Nats-Msg-Id": "x", "Nats-Expected-Stream": "OTHER", "Nats-TTL": "1s"}
        answer = await rig.dev.request(
            API.build(tenant="default", verb="submit"), frames.pack(request, [b"args"]), headers=headers
        )
        reply, _ = frames.unpack(answer.data, SubmitReply)
        assert reply.error is None and reply.results[0].error is None
        assert len(await queue(rig)) == 2
        state, seq, _ = rig.dispatcher.submitted[-1]
        stored = await rig.js.bus.request(f"$JS.API.DIRECT.GET.{STREAM_INVOCATIONS}", b'{"seq":%d}' % seq)
        assert b"Rollup" not in stored.headers and b"Msg-Id" not in stored.headers and b"TTL" not in stored.headers
        assert state.call == call.call

    with_rig(tmp_path, test)


def test_a_tenant_sees_and_ends_only_its_own(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        call = await one_waiting_call(rig)
        state: InvocationState = rig.dispatcher.submitted[-1][0]
        other = await Bus.connect(rig.broker.url, kind="dev", name="other")
        for verb, message in (
            (ApiVerb.STATUS, CallRequest(calls=[call])),
            (ApiVerb.CANCEL, CallRequest(calls=[call])),
        ):
            answer = await other.request(API.build(tenant="other", verb=verb.value), frames.pack(message))
            reply, _ = frames.unpack(answer.data, StatusReply)
            assert [row.state for row in reply.calls] in ([None], [])
        blob = BlobGet(digest=(await rig.manifest()).program.bundle)
        answer = await other.request(API.build(tenant="other", verb="blob.get"), frames.pack(blob))
        got, _ = frames.unpack(answer.data, BlobGetReply)
        assert got.error is not None
        assert len(await queue(rig)) == 1
        outcome = OUTCOME.build(tenant="default", app=state.app, function=state.function, call=call)
        assert await rig.js.get_last("OUTCOMES", outcome) is None
        await other.close()

    with_rig(tmp_path, test)


def test_a_car_reads_only_what_its_lease_names(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        named, secret = await rig.put_blob(b"named"), await rig.put_blob(b"secret")
        rig.dispatcher.leases["car-1", 7] = ("default", named)
        answers: list[Request] = []
        bus = await Bus.connect(rig.broker.url, kind="car", name="car-1")

        async def ask(verb: CarVerb, message: BlobGet | BlobPut, *parts: bytes) -> Request:
            subject = CAR.build(car="car-1", partition=PARTITION, verb=verb.value)
            return await bus.request(subject, frames.pack(message, parts))

        def lease(counter: int) -> Lease:
            return Lease(call=new_call_id(), seq=1, epoch=1, counter=counter, car="car-1", mac="")

        reply, parts = frames.unpack(
            (await ask(CarVerb.BLOB_GET, BlobGet(digest=named, lease=lease(7)))).data, BlobGetReply
        )
        assert reply.error is None and bytes(parts[0]) == b"named"
        answers.append(await ask(CarVerb.BLOB_GET, BlobGet(digest=secret, lease=lease(7))))
        answers.append(await ask(CarVerb.BLOB_GET, BlobGet(digest=named, lease=lease(8))))
        answers.append(await ask(CarVerb.BLOB_GET, BlobGet(digest=named)))
        for answer in answers:
            refused, parts = frames.unpack(answer.data, BlobGetReply)
            assert refused.error is not None and refused.error.code == "refused" and parts == []
        digest = (await rig.put_blob(b"x")).replace("0", "1")
        put = await ask(CarVerb.BLOB_PUT, BlobPut(digest=digest, size_bytes=1), b"x")
        refused_put, _ = frames.unpack(put.data, BlobPutReply)
        assert refused_put.error is not None
        await bus.close()

    with_rig(tmp_path, test)
