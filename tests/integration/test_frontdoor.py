"""The frontdoor against a real broker: what is accepted, what is refused, what is stored."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import anyio
import pytest

from fleet.protocol import frames, limits
from fleet.protocol.errors import FleetUnavailable, InvalidOption, QueueFull, Refused
from fleet.protocol.ids import new_call_id
from fleet.protocol.messages import (
    BlobGet,
    BlobGetReply,
    BlobPut,
    BlobPutReply,
    CallRequest,
    CallsRequest,
    CallState,
    CancelReply,
    DeadLetter,
    DeadReply,
    DeadRequest,
    DeleteReply,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    ExplainReply,
    ExplainRequest,
    FunctionsReply,
    FunctionsRequest,
    HistoryReply,
    HistoryRequest,
    InvocationState,
    LogEntry,
    LogsReply,
    LogsRequest,
    OutcomeRecord,
    PlatformReply,
    PlatformRequest,
    RegisterReply,
    RegisterRequest,
    Reply,
    Requires,
    ResultReply,
    ResultRequest,
    RollbackReply,
    RollbackRequest,
    StatusReply,
    SubmitRequest,
)
from fleet.protocol.subjects import (
    DEAD_LETTER,
    LOG,
    OUTCOME,
    OUTCOME_PART,
    STREAM_BLOBS,
    STREAM_INVOCATIONS,
    ApiVerb,
)
from fnplatform.blobs import BlobStore
from fnplatform.jetstream import OnStored
from fnplatform.kept_copies import KeptCopies
from tests.integration.frontdoor_rig import Rig, with_rig


async def queued(rig: Rig) -> dict[str, int]:
    return await rig.js.subjects(STREAM_INVOCATIONS, "inv.>")


def record_of(call: InvocationState, **more: object) -> OutcomeRecord:
    fields = {"call": call.call, "app": call.app, "function": call.function, "version": call.version}
    return OutcomeRecord(
        **{**fields, "state": CallState.SUCCEEDED, "submit_digest": call.digest, "group": call.group, **more}
    )


async def finish(rig: Rig, index: int = -1) -> InvocationState:
    """Do what the dispatcher does when a call succeeded: outcome first, then the queue."""
    state, seq, _ = rig.dispatcher.submitted[index]
    subject = OUTCOME.build(tenant="default", app=state.app, function=state.function, call=state.call)
    await rig.js.publish(subject, frames.pack(record_of(state), [b"\x00r"]), expect_last_subject_seq=0)
    await rig.js.delete_seq(STREAM_INVOCATIONS, seq)
    return state


def test_accepted_means_stored_and_told_to_the_dispatcher(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest(queue_timeout_s=30.0))
        for fresh in (True, False):
            call = rig.call(version)
            (result,) = await rig.submit(call, fresh=fresh)
            assert result.error is None and not result.done
            state, seq, payload = rig.dispatcher.submitted[-1]
            assert (state.call, payload, state.version) == (call.call, b"args", version)
            assert state.expires_unix_s is not None and 29 < state.expires_unix_s - state.submitted_unix_s < 31
            stored = await rig.js.get_seq(STREAM_INVOCATIONS, seq)
            assert stored is not None
            on_disk, parts = frames.unpack(stored.data, InvocationState)
            assert bytes(parts[0]) == b"args" and on_disk == InvocationState.model_validate(state.model_dump())

    with_rig(tmp_path, test)


def test_the_same_call_again_is_accepted_once_and_other_arguments_are_refused(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        call = rig.call(version)
        for fresh in (True, True, False):
            (result,) = await rig.submit(call, fresh=fresh)
            assert result.error is None and not result.done
        assert len(await queued(rig)) == 1
        assert {seq for _, seq, _ in rig.dispatcher.submitted} == {rig.dispatcher.submitted[0][1]}
        other = rig.call(version, b"else", call=call.call)
        (result,) = await rig.submit(other, payload=b"else")
        assert result.error is not None and result.error.code == Refused.code
        await finish(rig)
        (result,) = await rig.submit(call)
        assert result.done and result.error is None
        (result,) = await rig.submit(other, payload=b"else")
        assert result.error is not None and result.error.code == Refused.code
        assert await queued(rig) == {}

    with_rig(tmp_path, test)


def test_a_race_of_the_same_call_stores_it_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        call = rig.call(version)
        found: list[bool] = []

        async def one(fresh: bool) -> None:
            (result,) = await rig.submit(call, fresh=fresh)
            found.append(result.error is None)

        async with anyio.create_task_group() as group:
            for index in range(40):
                group.start_soon(one, index % 2 == 0)
        assert found == [True] * 40
        assert list((await queued(rig)).values()) == [1]
        assert len({seq for _, seq, _ in rig.dispatcher.submitted}) == 1

    with_rig(tmp_path, test)


@pytest.mark.parametrize("batching", [False, True])
def test_many_calls_in_one_request_each_have_their_own_result(tmp_path: Path, batching: bool) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        good = [rig.call(version) for _ in range(200)]
        bad = [rig.call("0" * 16), rig.call(version, digest="0" * 64), rig.call(None, function="nothing")]
        results = await rig.submit(*good[:100], *bad, *good[100:], fresh=True)
        codes = [result.error.code if result.error else "" for result in results]
        assert codes[100:103] == ["not_deployed", "refused", "not_deployed"]
        assert set(codes[:100] + codes[103:]) == {""}
        assert len(await queued(rig)) == 200
        assert rig.queue.batches == int(batching)
        for state, seq, _ in rig.dispatcher.submitted:
            stored = await rig.js.get_seq(STREAM_INVOCATIONS, seq)
            assert stored is not None and stored.subject.endswith(state.call)
        # One that exists already among them: nothing of the batch is stored by it, then each by itself.
        more = [rig.call(version) for _ in range(50)]
        results = await rig.submit(*more[:25], good[0], *more[25:], fresh=True)
        assert all(result.error is None for result in results)
        assert len(await queued(rig)) == 250
        assert rig.queue.batches == int(batching)

    with_rig(tmp_path, test, batching=batching)


def test_no_answer_of_the_broker_is_no_answer_and_asking_again_settles_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        call = rig.call(version)
        publish_then = rig.queue.publish_then

        def lost_answer(subject: str, data: bytes, on_stored: OnStored, **more: int) -> None:
            publish_then(subject, data, lambda stored: on_stored(FleetUnavailable("no answer in time")), **more)

        with monkeypatch.context() as patch:
            patch.setattr(rig.queue, "publish_then", lost_answer)
            request = frames.pack(SubmitRequest(calls=[call], inbox=rig.dev.inbox, fresh=True), [b"args"])
            with pytest.raises(FleetUnavailable):
                await rig.dev.request("fleet.api.default.submit", request, timeout_s=0.3)
            assert rig.dispatcher.submitted == []
        (result,) = await rig.submit(call)
        assert result.error is None and not result.done
        assert list((await queued(rig)).values()) == [1] and len(rig.dispatcher.submitted) == 1

    with_rig(tmp_path, test)


def test_chunks_are_checked_where_they_enter(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        payload = frames.pack_items([b"a", b"b", b"c"])
        (result,) = await rig.submit(rig.call(version, payload, items=3), payload=payload)
        assert result.error is None
        assert rig.dispatcher.submitted[-1][0].pending == [(0, 2)]
        for items in (2, 4):
            (result,) = await rig.submit(rig.call(version, payload, items=items), payload=payload)
            assert result.error is not None and result.error.code == "protocol_error"

    with_rig(tmp_path, test)


def test_large_arguments_go_to_blobs(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        payload = bytes(range(256)) * 12000  # 3 MB: two parts
        (result,) = await rig.submit(rig.call(version, payload), payload=payload, fresh=True)
        assert result.error is None
        state, seq, kept = rig.dispatcher.submitted[-1]
        assert state.blob and kept == payload
        stored = await rig.js.get_seq(STREAM_INVOCATIONS, seq)
        assert stored is not None and len(stored.data) < 2000
        assert await rig.blobs.get_whole("default", state.digest) == payload
        by_blob = rig.call(version, payload, blob=True)
        (result,) = await rig.submit(by_blob)
        assert result.error is None
        (result,) = await rig.submit(rig.call(version, b"never put", blob=True))
        assert result.blob_missing and result.error is not None
        large = rig.call(version, b"x" * (limits.SUBMIT_INLINE_BYTES_MAX + 1))
        (result,) = await rig.submit(large, payload=b"x" * (limits.SUBMIT_INLINE_BYTES_MAX + 1))
        assert result.error is not None and result.error.code == "payload_too_large"
        assert str(limits.SUBMIT_INLINE_BYTES_MAX) in result.error.message

    with_rig(tmp_path, test)


@pytest.mark.parametrize("batching", [False, True])
def test_a_full_queue_says_queue_full(tmp_path: Path, batching: bool) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        info = await rig.js.stream_info(STREAM_INVOCATIONS)
        await rig.js.api(f"STREAM.UPDATE.{STREAM_INVOCATIONS}", {**info["config"], "max_msgs": 3})
        results = await rig.submit(*(rig.call(version) for _ in range(40)), fresh=True)
        codes = sorted(result.error.code if result.error else "" for result in results)
        assert codes == ["", "", "", *[QueueFull.code] * 37]
        assert len(rig.dispatcher.submitted) == 3

    with_rig(tmp_path, test, batching=batching)


def test_results_status_and_listing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        waiting, ended = rig.call(version), rig.call(version, group="g1")
        await rig.submit(waiting, fresh=True)
        await rig.submit(ended, fresh=True)
        reply, parts = await rig.ask(ApiVerb.RESULT, ResultRequest(call=ended.call), ResultReply)
        assert reply.known and parts == []
        await finish(rig)
        reply, parts = await rig.ask(ApiVerb.RESULT, ResultRequest(call=ended.call), ResultReply)
        assert len(parts) == 1 and not reply.more
        record, payload = frames.unpack(parts[0], OutcomeRecord)
        assert record.call == ended.call and bytes(payload[0]) == b"\x00r"
        unknown = new_call_id()
        reply, parts = await rig.ask(ApiVerb.RESULT, ResultRequest(call=unknown), ResultReply)
        assert not reply.known
        for alive in (True, False):
            rig.dispatcher.alive = alive
            calls = [waiting.call, ended.call, unknown]
            status, _ = await rig.ask(ApiVerb.STATUS, CallRequest(calls=calls), StatusReply)
            assert [row.state for row in status.calls] == [CallState.QUEUED, CallState.SUCCEEDED, None]
            listed, _ = await rig.ask(ApiVerb.CALLS, CallsRequest(app="shop"), StatusReply)
            assert [row.call for row in listed.calls] == [ended.call]
            listed, _ = await rig.ask(ApiVerb.CALLS, CallsRequest(group="g1"), StatusReply)
            assert [row.call for row in listed.calls] == [ended.call]
            explained, _ = await rig.ask(ApiVerb.EXPLAIN, ExplainRequest(call=ended.call), ExplainReply)
            assert "succeeded" in explained.sentence
        explained, _ = await rig.ask(ApiVerb.EXPLAIN, ExplainRequest(call=waiting.call), ExplainReply)
        assert "dispatcher" in explained.sentence
        explained, _ = await rig.ask(ApiVerb.EXPLAIN, ExplainRequest(call=unknown), ExplainReply)
        assert explained.error is not None and explained.error.code == "result_expired"

    with_rig(tmp_path, test)


def test_parts_of_a_chunk_come_in_order_and_in_pages(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        payload = frames.pack_items([b"i"] * 8)
        await rig.submit(rig.call(version, payload, items=8), payload=payload, fresh=True)
        state, _, _ = rig.dispatcher.submitted[-1]
        names = {"tenant": "default", "app": "shop", "function": "add", "call": state.call}
        for part in range(3):
            record = record_of(state, state=CallState.RUNNING, part=part, final=False, indices=[(part, part)])
            subject = OUTCOME_PART.build(**names, part=str(part))
            await rig.js.publish(subject, frames.pack(record, [b"x" * (3 * limits.MIB)]))
        last = frames.pack(record_of(state, part=3, indices=[(3, 7)]), [b"end"])
        await rig.js.publish(OUTCOME.build(**names), last)
        seen: list[int] = []
        for _ in range(10):
            request = ResultRequest(call=state.call, part_from=len(seen))
            reply, parts = await rig.ask(ApiVerb.RESULT, request, ResultReply)
            seen += [frames.unpack(part, OutcomeRecord)[0].part for part in parts]
            if not reply.more:
                break
        assert seen == [0, 1, 2, 3]

    with_rig(tmp_path, test)


@pytest.mark.parametrize("alive", [True, False])
def test_cancel_works_with_and_without_a_dispatcher(tmp_path: Path, alive: bool) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        first, second, ended = rig.call(version, group="g"), rig.call(version, group="g"), rig.call(version)
        await rig.submit(first, second, fresh=True)
        await rig.submit(ended, fresh=True)
        await finish(rig)
        pushed = anyio.Event()
        got: list[bytes] = []
        listening = await rig.dev.listen(
            f"{rig.dev.inbox}.out", lambda message: (got.append(message.data), pushed.set())
        )
        rig.dispatcher.alive = alive
        reply, _ = await rig.ask(
            ApiVerb.CANCEL, CallRequest(calls=[first.call, ended.call, new_call_id()]), CancelReply
        )
        assert reply.cancelled == [first.call]
        await pushed.wait()
        assert frames.unpack(got[0], OutcomeRecord)[0].state == CallState.CANCELLED
        assert rig.dispatcher.cancelled == ([first.call] if alive else [])
        await listening.close()
        if not alive:
            reply, _ = await rig.ask(ApiVerb.CANCEL, CallRequest(group="g"), CancelReply)
            assert reply.cancelled == [second.call]
            assert await queued(rig) == {}
        (result,) = await rig.submit(first)
        assert result.done

    with_rig(tmp_path, test)


def test_deploy_rollback_history_and_delete(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        one, two = await rig.manifest(code=b"one"), await rig.manifest(code=b"two")
        missing = one.model_copy(update={"program": one.program.model_copy(update={"bundle": "0" * 64})})
        reply, _ = await rig.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=[one, missing]), DeployReply)
        assert reply.error is not None and "two functions" in reply.error.message
        reply, _ = await rig.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=[missing]), DeployReply)
        assert reply.missing == ["0" * 64] and reply.app_version is None
        history, _ = await rig.ask(ApiVerb.HISTORY, HistoryRequest(app="shop"), HistoryReply)
        assert history.error is not None and history.error.code == "not_deployed"
        for number, manifest, unchanged in ((1, one, False), (1, one, True), (2, two, False)):
            reply, _ = await rig.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=[manifest]), DeployReply)
            assert reply.app_version is not None and (reply.app_version.number, reply.unchanged) == (number, unchanged)
        await rig.submit(rig.call(None), fresh=True)
        live_two = rig.dispatcher.submitted[-1][0].version
        back, _ = await rig.ask(ApiVerb.ROLLBACK, RollbackRequest(app="shop"), RollbackReply)
        assert back.app_version is not None and back.app_version.number == 1
        await rig.submit(rig.call(None), fresh=True)
        live_one = rig.dispatcher.submitted[-1][0].version
        assert live_one == back.app_version.functions["add"] != live_two
        back, _ = await rig.ask(ApiVerb.ROLLBACK, RollbackRequest(app="shop"), RollbackReply)
        assert back.error is not None and back.error.code == Refused.code
        listed, _ = await rig.ask(ApiVerb.FUNCTIONS, FunctionsRequest(), FunctionsReply)
        assert [(info.manifest.function, info.version, info.app_number) for info in listed.functions] == [
            ("add", live_one, 1)
        ]
        gone, _ = await rig.ask(ApiVerb.DELETE, DeleteRequest(app="shop"), DeleteReply)
        assert gone.error is not None and "2 calls" in gone.error.message
        gone, _ = await rig.ask(ApiVerb.DELETE, DeleteRequest(app="shop", cancel=True), DeleteReply)
        assert gone.error is None and gone.cancelled == 2
        (result,) = await rig.submit(rig.call(None))
        assert result.error is not None and result.error.code == "not_deployed"
        listed, _ = await rig.ask(ApiVerb.FUNCTIONS, FunctionsRequest(), FunctionsReply)
        assert listed.functions == []

    with_rig(tmp_path, test)


def test_code_of_what_is_deployed_has_no_time_to_live(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async def ttl_of(digest: str) -> str | None:
            subject = f"$JS.API.DIRECT.GET.{STREAM_BLOBS}.blob.default.{digest}.meta"
            return (await rig.js.bus.request(subject)).header("Nats-TTL")

        manifest = await rig.manifest()
        bundle = manifest.program.bundle
        assert await ttl_of(bundle) is not None
        await rig.register(manifest)
        assert await ttl_of(bundle) is not None
        await rig.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=[manifest]), DeployReply)
        assert await ttl_of(bundle) is None
        await rig.register(manifest)
        assert await ttl_of(bundle) is None
        await rig.ask(ApiVerb.DELETE, DeleteRequest(app="shop"), DeleteReply)
        assert await ttl_of(bundle) is not None
        version = await rig.register(manifest)
        (result,) = await rig.submit(rig.call(version))
        assert result.error is None

    with_rig(tmp_path, test)


def test_blobs_by_parts_in_any_order(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        data = bytes(range(251)) * 20000  # 5 MB: three parts
        size = limits.BLOB_PART_BYTES
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        for order in ((0, 1, 2), (2, 0, 1), (1, 1, 0, 2)):
            own = data + bytes(order)
            digest = hashlib.sha256(own).hexdigest()
            cut = [*pieces[:2], own[2 * size :]]
            answers = []
            for part in order:
                put = BlobPut(digest=digest, size_bytes=len(own), part=part)
                reply, _ = await rig.ask(ApiVerb.BLOB_PUT, put, BlobPutReply, [cut[part]])
                assert reply.error is None
                answers.append(reply.have)
            assert answers == [False] * (len(order) - 1) + [True]
            got, parts = await rig.ask(ApiVerb.BLOB_GET, BlobGet(digest=digest, part=2), BlobGetReply)
            assert (got.parts, got.size_bytes, bytes(parts[0])) == (3, len(own), cut[2])
        digest = hashlib.sha256(data).hexdigest()
        wrong = [pieces[0], pieces[1], bytes(len(pieces[2]))]
        for part in range(3):
            put = BlobPut(digest=digest, size_bytes=len(data), part=part)
            reply, _ = await rig.ask(ApiVerb.BLOB_PUT, put, BlobPutReply, [wrong[part]])
        assert reply.error is not None and "digest" in reply.error.message
        got, _ = await rig.ask(ApiVerb.BLOB_GET, BlobGet(digest=digest), BlobGetReply)
        assert got.error is not None and got.error.code == "result_expired"
        for part in range(3):
            put = BlobPut(digest=digest, size_bytes=len(data), part=part)
            reply, _ = await rig.ask(ApiVerb.BLOB_PUT, put, BlobPutReply, [pieces[part]])
        assert reply.have
        short = BlobPut(digest=hashlib.sha256(b"abc").hexdigest(), size_bytes=4)
        reply, _ = await rig.ask(ApiVerb.BLOB_PUT, short, BlobPutReply, [b"abc"])
        assert reply.error is not None and reply.error.code == Refused.code

    with_rig(tmp_path, test)


def test_copies_of_kept_values_live_shorter_and_have_a_bound(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async def ttl_of(digest: str, part: str) -> str | None:
            subject = f"$JS.API.DIRECT.GET.{STREAM_BLOBS}.blob.default.{digest}.{part}"
            return (await rig.js.bus.request(subject)).header("Nats-TTL")

        async def put(data: bytes, *, kept: bool, parts: tuple[int, ...] = (0, 1)) -> str:
            digest, size = hashlib.sha256(data).hexdigest(), limits.BLOB_PART_BYTES
            for part in parts:
                asked = BlobPut(digest=digest, size_bytes=len(data), part=part, kept=kept)
                reply, _ = await rig.ask(ApiVerb.BLOB_PUT, asked, BlobPutReply, [data[part * size : (part + 1) * size]])
                assert reply.error is None
            return digest

        short, long = f"{limits.KEPT_TTL_S:.0f}s", f"{limits.BLOB_TTL_S:.0f}s"
        copies = [bytes([number]) * (limits.BLOB_PART_BYTES + 1) for number in range(4)]
        digest = await put(copies[0], kept=True)
        assert [await ttl_of(digest, one) for one in ("0", "1", "meta")] == [short] * 3

        # A use renews it, not each one; a put that wants more prolongs it; none shortens it.
        later = BlobStore(rig.js, unix_s=lambda: time.time() + limits.KEPT_TTL_S / 3)
        before = (await rig.blobs.get("default", digest, 0))[0]
        assert await rig.blobs.renew("default", digest) and await later.renew("default", digest)
        renewed = (await BlobStore(rig.js).get("default", digest, 0))[0]
        assert renewed.since_unix_s > before.since_unix_s + 1000 and await ttl_of(digest, "1") == short
        await put(copies[0], kept=False)
        assert [await ttl_of(digest, one) for one in ("0", "1", "meta")] == [long] * 3
        await put(copies[0], kept=True)
        assert await ttl_of(digest, "0") == long

        # Whoever completes an upload that began with a short life gets the long one that it asked for.
        mixed = await put(copies[1], kept=True, parts=(0,))
        await put(copies[1], kept=False, parts=(1,))
        assert [await ttl_of(mixed, one) for one in ("0", "1", "meta")] == [long] * 3

        rig.blobs._copies = KeptCopies(len(copies[0]) * 5 // 2)
        kept = [await put(copy + b"k", kept=True) for copy in copies[:2]]
        assert rig.blobs.known_bytes("default", kept[0]) == len(copies[0]) + 1  # used
        kept.append(await put(copies[2], kept=True))
        assert [await rig.blobs.have("default", one) for one in kept] == [True, False, True]
        assert await ttl_of(kept[1], "0") is None and await rig.blobs.have("default", digest)

    with_rig(tmp_path, test)


def test_dead_letters_are_listed_replayed_and_dropped(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        version = await rig.register(await rig.manifest())
        for _ in range(2):
            await rig.submit(rig.call(version), fresh=True)
            state = await finish(rig)
            letter = DeadLetter(state=state, reason="out of attempts", at_unix_s=1.0)
            subject = DEAD_LETTER.build(tenant="default", app="shop", function="add", call=state.call)
            await rig.js.publish(subject, frames.pack(letter, [b"args"]))
        listed, _ = await rig.ask(ApiVerb.DEAD, DeadRequest(), DeadReply)
        newest, oldest = (letter.state.call for letter in listed.letters)
        assert newest == state.call
        request = DeadRequest(action="replay", calls=[newest])
        done, _ = await rig.ask(ApiVerb.DEAD, request, DeadReply)
        assert done.error is None and len(done.replayed) == 1 and done.replayed[0] != newest
        fresh, _, payload = rig.dispatcher.submitted[-1]
        assert fresh.call == done.replayed[0] and payload == b"args" and len(await queued(rig)) == 1
        done, _ = await rig.ask(ApiVerb.DEAD, request, DeadReply)
        assert done.error is not None and done.error.code == "result_expired"
        await rig.ask(ApiVerb.DEAD, DeadRequest(action="drop", calls=[oldest]), DeadReply)
        listed, _ = await rig.ask(ApiVerb.DEAD, DeadRequest(), DeadReply)
        assert listed.letters == []

    with_rig(tmp_path, test)


def test_logs_stored_and_live(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        subject = LOG.build(tenant="default", app="shop", function="add", call="c1")

        def entry(text: str) -> bytes:
            return frames.pack(LogEntry(app="shop", function="add", call="c1", lines=[(1.0, "stdout", text)]))

        for index in range(300):
            await rig.js.publish(subject, entry(f"line {index}"))
        stored, _ = await rig.ask(ApiVerb.LOGS, LogsRequest(app="shop", limit=200), LogsReply)
        assert [one.lines[0][2] for one in stored.entries] == [f"line {index}" for index in range(100, 300)]
        stored, _ = await rig.ask(ApiVerb.LOGS, LogsRequest(app="other"), LogsReply)
        assert stored.entries == []
        lines: list[str] = []
        came = anyio.Event()

        def on_line(message: object) -> None:
            lines.append(frames.unpack(message.data, LogEntry)[0].lines[0][2])  # type: ignore[attr-defined]
            came.set()

        inbox = f"{rig.dev.inbox}.log"
        await rig.dev.listen(inbox, on_line)
        stored, _ = await rig.ask(ApiVerb.LOGS, LogsRequest(call="c1", limit=1, follow=inbox), LogsReply)
        assert stored.error is None and len(stored.entries) == 1
        await rig.js.publish(subject, entry("live"))
        await came.wait()
        assert lines == ["live"]
        again, _ = await rig.ask(ApiVerb.LOGS, LogsRequest(call="c1", follow=inbox), LogsReply)
        assert again.error is None and again.entries == []
        foreign, _ = await rig.ask(ApiVerb.LOGS, LogsRequest(follow="_INBOX_dev_other.x"), LogsReply)
        assert foreign.error is not None and foreign.error.code == Refused.code

    with_rig(tmp_path, test)


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        manifest = await rig.manifest(requires=Requires(min_stay_s=600.0))
        reply, _ = await rig.ask(ApiVerb.REGISTER, RegisterRequest(manifests=[manifest]), RegisterReply)
        assert reply.error is not None and reply.error.code == InvalidOption.code and "min_stay" in reply.error.message
        old = RegisterRequest(manifests=[], protocol=limits.PROTOCOL + 1)
        reply, _ = await rig.ask(ApiVerb.REGISTER, old, RegisterReply)
        assert reply.error is not None and "upgrade the control plane" in reply.error.message
        garbage = await rig.dev.request("fleet.api.default.status", b"garbage")
        assert frames.unpack(garbage.data, StatusReply)[0].error is not None
        unknown = await rig.dev.request("fleet.api.default.nonsense", b"")
        assert frames.unpack(unknown.data, Reply)[0].error is not None
        platform, _ = await rig.ask(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply)
        assert platform.error is None and platform.leader and platform.stream_bytes[STREAM_BLOBS] > 0

    with_rig(tmp_path, test)
