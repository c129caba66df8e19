"""The agent against a real broker: what it says, in which order, and what is left when it ends."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import anyio
import pytest

from fleet.protocol.frames import pack_items, unpack
from fleet.protocol.limits import BLOB_PART_BYTES, DEADLINE_GRACE_S, INLINE_RESULT_BYTES_MAX
from fleet.protocol.messages import (
    Beat,
    CarHello,
    CheckpointPut,
    GrantReply,
    LogLines,
    OutcomeReport,
    Program,
    Release,
    RunStatus,
)
from fleet.protocol.subjects import CarVerb, ToCarVerb
from runtime import slot_events as ev
from runtime.bundles import BundleCache
from runtime.slot_wire import SlotJob
from tests.integration.car_rig import BUNDLE, DIGEST, LIMIT_S, MemorySlot, car_rig, hang

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_grant_runs_and_its_outcome_comes_back(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        hello = await rig.leader.until(CarHello)
        assert hello.simulated and hello.standing.eligible
        lease, reply = await rig.leader.grant(b"hello", attempt=3)
        assert reply.accepted == [lease.counter]
        outcome, part = await rig.leader.outcome(lease)
        assert (outcome.status, part) == (RunStatus.OK, b"\x00hello")
        assert 0 < outcome.started_unix_s <= outcome.finished_unix_s
        slot = next(slot for slot in rig.slots.made if slot.jobs)
        assert slot.loads[0][1] == BUNDLE and slot.jobs[0].attempt == 3
        await rig.leader.grant()
        assert len(slot.loads) == 1 and rig.bundles.fetched == 1, "a warm slot needs no bundle"
        isolation = await rig.leader.until(CarHello, lambda hello: bool(hello.isolation))
        assert (isolation.isolation, isolation.isolation_missing) == (["landlock"], ["gpu"])


@pytest.mark.alone
async def test_driving_away_kills_at_once_and_parking_brings_it_back(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        rig.slots.script = hang
        lease, _ = await rig.leader.grant()
        await rig.leader.simulate("drive")
        assert rig.slots.alive == [], "the acknowledgement of simulate comes after the kill"
        release = await rig.leader.until(Release)
        assert release.leases == [lease] and release.reason == "not_parked"
        assert 0 <= release.killed_s < 0.05
        last = await rig.leader.until(Release, lambda release: release.reaped_s > 0)
        assert last.reaped_s >= release.killed_s
        lease, reply = await rig.leader.grant()
        assert reply.accepted == [] and "not_parked" in reply.reason
        await rig.leader.simulate("park")
        await rig.offered(1)
        rig.slots.script = lambda slot, job: slot.emit(ev.Done(job.job, b"\x00back"))
        lease, _ = await rig.leader.grant()
        assert (await rig.leader.outcome(lease))[1] == b"\x00back"


async def test_outcomes_are_repeated_until_answered_and_survive_a_reconnect(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        rig.leader.answer[CarVerb.OUTCOME] = False
        lease, _ = await rig.leader.grant()
        await rig.leader.outcome(lease)
        heard = len(rig.leader.heard)
        await rig.leader.until(OutcomeReport, after=heard)
        heard = len(rig.leader.heard)
        await rig.broker.stop()
        await rig.broker.start()
        await rig.leader.until(CarHello, after=heard)
        await rig.leader.until(OutcomeReport, after=heard)
        rig.leader.answer[CarVerb.OUTCOME] = True
        await rig.leader.until(OutcomeReport, after=len(rig.leader.heard))
        await rig.leader.until(Beat, lambda beat: not beat.leases, after=len(rig.leader.heard))


async def test_large_arguments_and_results_travel_as_blobs_under_the_lease(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        args = os.urandom(BLOB_PART_BYTES + 1000)
        digest = hashlib.sha256(args).hexdigest()
        rig.leader.blobs[digest] = args
        result = b"\x00" + os.urandom(INLINE_RESULT_BYTES_MAX)
        seen: list[bytes] = []

        def script(slot: MemorySlot, job: SlotJob) -> None:
            seen.append(bytes(job.args))
            slot.emit(ev.Done(job.job, result))

        rig.slots.script = script
        lease, reply = await rig.leader.grant(b"", blob=digest, payload_bytes=len(args))
        assert reply.accepted == [lease.counter]
        outcome, part = await rig.leader.outcome(lease)
        assert seen == [args] and part == b""
        assert rig.leader.blobs[outcome.blob or ""] == result and outcome.blob_bytes == len(result)


async def test_a_damaged_bundle_is_not_run(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        wanted = hashlib.sha256(b"what it should be").hexdigest()
        rig.leader.blobs[wanted] = b"what it is"
        program = Program(bundle=wanted, bundle_bytes=10, module="m", qualname="f")
        lease, _ = await rig.leader.grant(program=program)
        outcome, _ = await rig.leader.outcome(lease)
        assert outcome.status is RunStatus.ABANDONED and "damaged" in outcome.message
        assert not any(slot.jobs for slot in rig.slots.made)


async def test_chunks_logs_and_checkpoints_reach_the_leader_before_the_outcome(tmp_path: Path) -> None:
    def script(slot: MemorySlot, job: SlotJob) -> None:
        assert job.items == 3 and job.item_numbers == [(5, 6), (9, 9)] and bytes(job.checkpoint or b"") == b"saved"
        slot.emit(ev.Items(job.job, 0, pack_items([b"\x00a"])))
        slot.emit(ev.LogLines(job.job, 1, [(1.0, 1, "out"), (2.0, 2, "err")]))
        slot.emit(ev.Checkpoint(job.job, b"state"))
        slot.emit(ev.Done(job.job, pack_items([b"\x00b", b"\x00c"]), 1))

    async with car_rig(tmp_path) as rig:
        rig.slots.script = script
        lease, _ = await rig.leader.grant(saved=b"saved", item_numbers=[(5, 6), (9, 9)])
        outcome, part = await rig.leader.outcome(lease)
        assert outcome.done == [(5, 6), (9, 9)] and part == pack_items([b"\x00a", b"\x00b", b"\x00c"])
        kinds = [type(message) for _, message, _ in rig.leader.heard]
        assert kinds.index(LogLines) < kinds.index(OutcomeReport)
        assert kinds.index(CheckpointPut) < kinds.index(OutcomeReport)
        lines = await rig.leader.until(LogLines)
        assert lines.lines == [(1.0, "stdout", "out"), (2.0, "stderr", "err")] and lines.lease == lease


async def test_cancel_and_timeout_kill_the_slot(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        rig.slots.script = hang
        lease, _ = await rig.leader.grant()
        with anyio.fail_after(LIMIT_S):
            while not (busy := [slot for slot in rig.slots.alive if slot.jobs]):
                await anyio.lowlevel.checkpoint()
            rig.leader.tell(ToCarVerb.CANCEL, [lease.counter])
            await busy[0].reaped()
        program = Program(bundle=DIGEST, bundle_bytes=8, module="m", qualname="f", timeout_s=0.3)
        lease, reply = await rig.leader.grant(program=program)
        assert reply.accepted == [lease.counter], "the spare took over"
        outcome, _ = await rig.leader.outcome(lease)
        assert outcome.status is RunStatus.TIMEOUT
        assert 0.3 <= outcome.finished_unix_s - outcome.started_unix_s <= 0.3 + DEADLINE_GRACE_S


async def test_garbage_is_answered_or_ignored_and_harms_nothing(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        for verb in ToCarVerb:
            rig.leader.bus.publish(f"fleet.to.car-1.{verb}", b"\x00garbage")
        rig.leader.bus.publish("fleet.to.car-1.unknown", b"")
        reply = await rig.leader.bus.request("fleet.to.car-1.grant", b"F garbage")
        assert unpack(reply.data, GrantReply)[0].accepted == []
        lease, _ = await rig.leader.grant()
        assert (await rig.leader.outcome(lease))[0].status is RunStatus.OK


async def test_stopping_releases_reports_and_leaves_nothing(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        rig.slots.script = hang
        lease, _ = await rig.leader.grant()
        rig.agent.stop()
        release = await rig.leader.until(Release)
        assert release.leases == [lease] and release.reason == "stopping"
    assert rig.slots.alive == [] and rig.agent.slots == {}


async def test_a_bug_in_the_shell_ends_the_agent_and_its_slots(tmp_path: Path) -> None:
    def broken(slot: MemorySlot, job: SlotJob) -> None:
        raise ZeroDivisionError("planted")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with car_rig(tmp_path) as rig:
            for slot in rig.slots.made:
                slot.run = broken.__get__(slot)  # type: ignore[method-assign]
            with anyio.move_on_after(0.5):
                await rig.leader.grant()
            with anyio.fail_after(LIMIT_S):
                await anyio.sleep_forever()
    assert caught.group_contains(TypeError) or caught.group_contains(ZeroDivisionError)
    assert rig.slots.alive == []


async def test_packages_and_values_are_fetched_under_the_lease_once(tmp_path: Path) -> None:
    async with car_rig(tmp_path) as rig:
        blobs = {
            hashlib.sha256(data).hexdigest(): data for data in (b"one", b"two" * BLOB_PART_BYTES, b"value", b"more")
        }
        rig.leader.blobs |= blobs
        one, two, value, more = blobs
        packages = [
            {"name": "p", "version": "1", "digest": digest, "size_bytes": len(blobs[digest])} for digest in (one, two)
        ]
        program = Program(bundle=DIGEST, bundle_bytes=len(BUNDLE), module="m", qualname="f", packages=packages)
        for names in ([value], [value, more], []):
            refs = [{"digest": digest, "size_bytes": len(blobs[digest])} for digest in names]
            lease, _ = await rig.leader.grant(program=program, refs=refs)
            assert (await rig.leader.outcome(lease))[0].status == RunStatus.OK
            slot = next(slot for slot in rig.slots.made if slot.jobs)
            assert slot.packages == [blobs[one], blobs[two]]
            assert slot.jobs[-1].refs == {digest: blobs[digest] for digest in names}
        assert len(slot.loads) == 1 and rig.bundles.fetched == 5, "each once"
        gone = {"digest": "0" * 64, "size_bytes": 3}
        rig.leader.blobs["0" * 64] = b"not it"
        lease, _ = await rig.leader.grant(program=program, refs=[gone])
        outcome, _ = await rig.leader.outcome(lease)
        assert outcome.status == RunStatus.ABANDONED and "damaged" in outcome.message


async def test_bundles_are_fetched_once_kept_on_disk_and_never_believed(tmp_path: Path) -> None:
    fetches = 0

    async def fetch() -> bytes:
        nonlocal fetches
        fetches += 1
        await anyio.lowlevel.checkpoint()
        return BUNDLE

    cache = BundleCache(tmp_path)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(cache.load, DIGEST, fetch)
    assert fetches == 1 and cache.get(DIGEST) == BUNDLE
    assert await BundleCache(tmp_path).load(DIGEST, fetch) == BUNDLE and fetches == 1
    (tmp_path / DIGEST).write_bytes(b"a bundlE")
    assert await BundleCache(tmp_path).load(DIGEST, fetch) == BUNDLE and fetches == 2
    assert (tmp_path / DIGEST).read_bytes() == BUNDLE
    small = BundleCache(tmp_path, memory_bytes_max=1, disk_bytes_max=10)
    other = hashlib.sha256(b"another").hexdigest()

    async def fetch_other() -> bytes:
        return b"another"

    await small.load(DIGEST, fetch)
    await small.load(other, fetch_other)
    assert small.get(DIGEST) is None and small.get(other) == b"another"
    assert os.listdir(tmp_path) == [other]
    assert await BundleCache(Path("/proc/none")).load(DIGEST, fetch) == BUNDLE, (
        "a disk that can't be used costs nothing"
    )
