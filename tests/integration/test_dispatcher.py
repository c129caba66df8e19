"""The dispatcher on a real broker: grants, outcomes, departures, change of leader, cancel, chunks."""

from __future__ import annotations

from pathlib import Path

import anyio

from fleet.protocol import frames, limits
from fleet.protocol.messages import (
    CallRequest,
    CallState,
    CancelReply,
    CarReply,
    CheckpointPut,
    ExplainReply,
    ExplainRequest,
    LogEntry,
    LogLines,
    Retries,
    RunStatus,
)
from fleet.protocol.pseudonyms import pseudonym
from fleet.protocol.subjects import INVOCATION, STREAM_DEAD, STREAM_INVOCATIONS, STREAM_LOGS, ApiVerb, CarVerb
from fnplatform.dispatcher.leftovers import remove_leftovers
from fnplatform.dispatcher.state import Board
from tests.integration.dispatcher_rig import Plane, with_plane


async def queue_is_empty(made: Plane) -> None:
    while await made.js.subjects(STREAM_INVOCATIONS, INVOCATION.wildcard()):  # beside them lies the cursor of events
        await anyio.sleep(0.01)


def test_call_goes_to_a_car_and_its_outcome_to_the_caller(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        grant, payload, _ = await car.granted.receive()
        assert (grant.lease.call, payload, grant.program.module) == (call, b"args", "shop")
        assert await car.report(grant.lease, b"\x00result") == "committed"
        await made.until(lambda: bool(made.outcomes))
        record, part = made.outcomes[0]
        assert (record.call, record.state, part) == (call, CallState.SUCCEEDED, b"\x00result")
        assert record.metering is not None
        assert record.metering.car == "car-1"
        await queue_is_empty(made)
        assert await car.report(grant.lease, b"\x00other") == "committed", "sent again: it was"
        assert len(made.outcomes) == 1

    with_plane(tmp_path, test)


def test_departing_car_hands_over_at_once(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        one = await made.car("car-1")
        await made.submit(b"args")
        grant, _, _ = await one.granted.receive()
        two = await made.car("car-2")
        await one.leave()
        again, payload, _ = await two.granted.receive()
        assert (again.lease.call, payload, again.attempt, again.departures) == (grant.lease.call, b"args", 1, 1)
        assert await one.report(grant.lease) == "refused"
        assert await two.report(again.lease) == "committed"

    with_plane(tmp_path, test)


def test_silent_car_loses_its_lease_and_the_loss_is_durable(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        one = await made.car("car-1")
        await made.submit(b"args")
        grant, _, _ = await one.granted.receive()
        two = await made.car("car-2")
        one.beating = False
        again, payload, _ = await two.granted.receive()
        assert payload == b"args"
        assert again.lease.seq > grant.lease.seq
        assert await one.report(grant.lease) == "refused"
        assert await two.report(again.lease) == "committed"

    with_plane(tmp_path, test)


def test_refusing_and_absent_cars_are_not_waited_for(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        gone = await made.car("car-1")
        gone.beating = False
        await gone.bus.close()
        no = await made.car("car-2")
        no.accepts = False
        no.beating = False
        yes = await made.car("car-3")
        calls = await made.submit(b"1", b"2", b"3")
        for _ in calls:
            grant, _, _ = await yes.granted.receive()
            assert await yes.report(grant.lease) == "committed"

    with_plane(tmp_path, test)


def test_exception_is_retried_then_dead(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register(retries=Retries(max_attempts=2, delay_s=0.05))
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        for attempt in (1, 2):
            grant, payload, _ = await car.granted.receive()
            assert (grant.attempt, payload) == (attempt, b"args")
            assert await car.report(grant.lease, b"\x01boom", summary="ValueError: boom") == "committed"
        await made.until(lambda: bool(made.outcomes))
        record, part = made.outcomes[0]
        assert (record.state, part, record.summary) == (CallState.FAILED, b"\x01boom", "ValueError: boom")
        assert list(await made.js.subjects(STREAM_DEAD, "dead.>")) == [f"dead.default.shop.f.{call}"]

    with_plane(tmp_path, test)


def test_chunk_parts_failures_and_departure(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register(retries=Retries(max_attempts=2, delay_s=0.05))
        one = await made.car("car-1")
        items = [b"item-%d" % number for number in range(6)]
        (call,) = await made.submit(frames.pack_items(items), items=6)
        grant, payload, _ = await one.granted.receive()
        assert grant.item_numbers == [(0, 5)]
        part = frames.pack_items([b"\x000", b"\x01one", b"\x002"])
        assert await one.report(grant.lease, part, RunStatus.PARTIAL, done=[(0, 2)]) == "committed"
        two = await made.car("car-2")
        await one.leave()
        again, payload, _ = await two.granted.receive()
        assert [bytes(item) for item in frames.unpack_items(payload, 10)][-3:] == items[3:]
        assert (3, 5) in (again.item_numbers or []) or (again.item_numbers or [])[-1][1] == 5
        seen: set[int] = set()
        while not any(record.final for record, _ in made.outcomes):
            numbers = [n for first, last in again.item_numbers or [] for n in range(first, last + 1)]
            results = frames.pack_items([b"\x00%d" % number for number in numbers])
            seen.update(numbers)
            assert again.item_attempts == {1: 2}, "its second"
            assert await two.report(again.lease, results, done=again.item_numbers) == "committed"
            await made.until(
                lambda: (
                    any(record.final for record, _ in made.outcomes)
                    or bool(two.granted.statistics().current_buffer_used)
                )
            )
            if two.granted.statistics().current_buffer_used:
                again, _, _ = await two.granted.receive()
        assert seen == {1, 3, 4, 5}
        results_of: dict[int, bytes] = {}
        for record, part in made.outcomes:
            assert record.call == call
            numbers = [n for first, last in record.indices or [] for n in range(first, last + 1)]
            for number, item in zip(numbers, frames.unpack_items(part, 10), strict=True):
                assert number not in results_of
                results_of[number] = bytes(item)
        assert results_of == {number: b"\x00%d" % number for number in range(6)}
        await queue_is_empty(made)

    with_plane(tmp_path, test)


def test_cancel_kills_what_runs_and_the_late_result_is_refused(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        (call,) = await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        reply = await made.ask(ApiVerb.CANCEL, CallRequest(calls=[call]), CancelReply)
        assert isinstance(reply, CancelReply)
        assert reply.cancelled == [call]
        while grant.lease.counter not in car.cancelled:
            await anyio.sleep(0.01)
        assert await car.report(grant.lease) == "refused"
        await queue_is_empty(made)

    with_plane(tmp_path, test)


def test_next_leader_adopts_what_runs_and_runs_what_waits(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        async with anyio.create_task_group() as group:
            await group.start(made.dispatcher.run)
            car = await made.car("car-1")
            calls = await made.submit(b"1", b"2", b"3")
            grant, _, _ = await car.granted.receive()
            assert grant.lease.call == calls[0]
            # As kill -9 would: it neither gives the key back nor says anything.
            made.dispatcher._leadership.lose()
            group.cancel_scope.cancel()
        second = made.new_dispatcher("second")
        await made.group.start(second.run)
        assert await car.report(grant.lease, b"\x00first") == "committed"
        assert second.leading
        assert second.epoch > grant.lease.epoch
        for number, call in enumerate(calls[1:], 2):
            grant, payload, _ = await car.granted.receive()
            assert (grant.lease.call, payload) == (call, b"%d" % number)
            assert await car.report(grant.lease) == "committed"
        await made.until(lambda: len(made.outcomes) == 3)
        assert car.granted.statistics().current_buffer_used == 0, "nothing started twice"
        await queue_is_empty(made)

    with_plane(tmp_path, test, dispatcher=False)


def test_checkpoint_comes_with_the_next_grant(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        one = await made.car("car-1")
        await made.submit(b"args")
        grant, _, _ = await one.granted.receive()
        await one.ask(CarVerb.CHECKPOINT, CheckpointPut(lease=grant.lease), CarReply, (b"saved",))
        two = await made.car("car-2")
        await one.leave()
        again, payload, checkpoint = await two.granted.receive()
        assert (payload, checkpoint, again.checkpoint) == (b"args", b"saved", True)

    with_plane(tmp_path, test)


def test_printed_lines_are_stored_and_pushed(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        await car.ask(CarVerb.LOG, LogLines(lease=grant.lease, lines=[(1.0, "stdout", "hello")]), CarReply)
        while not made.logs:
            await anyio.sleep(0.01)
        entry, _ = frames.unpack(made.logs[0], LogEntry)
        assert (entry.car, entry.lines[0][2]) == (pseudonym("car-1", car.boot, "default"), "hello")
        assert await made.js.subjects(STREAM_LOGS, "log.>")

    with_plane(tmp_path, test)


def test_explain_names_the_blocking_condition(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        (call,) = await made.submit(b"args")
        reply = await made.ask(ApiVerb.EXPLAIN, ExplainRequest(call=call), ExplainReply)
        assert isinstance(reply, ExplainReply)
        assert reply.sentence == "waits because no car is known to the platform"
        car = await made.car("car-1")
        grant, _, _ = await car.granted.receive()
        await car.leave()
        reply = await made.ask(ApiVerb.EXPLAIN, ExplainRequest(call=call), ExplainReply)
        assert isinstance(reply, ExplainReply)
        assert reply.sentence == "waits because no car is parked: 1 car known, 1 online, 0 parked"
        assert reply.state is CallState.QUEUED
        assert grant.lease.call == call

    with_plane(tmp_path, test)


def test_standby_asks_the_leader(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        standby = made.new_dispatcher("standby")
        await made.group.start(standby.run)
        car = await made.car("car-1")
        calls = await made.submit(b"1", b"2")
        grant, _, _ = await car.granted.receive()
        assert not standby.leading
        rows = await standby.status("default", calls)
        assert [(row.state, row.car) for row in rows] == [(CallState.RUNNING, "car-1"), (CallState.QUEUED, None)]
        assert [row.state for row in await standby.status("other", calls)] == [None, None]
        assert await standby.depth("default") == {"shop.f": 1}
        assert [info.car for info in await standby.cars()] == ["car-1"]
        assert "free slot" in (await standby.explain("default", calls[1])).sentence
        assert standby.lease_tenant("car-1", grant.lease, None) is None, "only the leader knows what holds"
        assert made.dispatcher.lease_tenant("car-1", grant.lease, grant.program.bundle) == "default"
        assert made.dispatcher.lease_tenant("car-1", grant.lease, "f" * 64) is None
        assert made.dispatcher.lease_tenant("car-2", grant.lease, None) is None

    with_plane(tmp_path, test)


def test_large_chunk_is_cut_to_what_is_left(tmp_path: Path) -> None:
    """Arguments in a blob hold all items; a car is sent the ones it is to run."""

    async def test(made: Plane) -> None:
        await made.register()
        one = await made.car("car-1")
        items = [bytes([number]) * 50_000 for number in range(4)]
        await made.submit(frames.pack_items(items), items=4)
        grant, payload, _ = await one.granted.receive()
        assert len(payload) > limits.INLINE_ARGS_BYTES_MAX, "it was at hand, so it came along"
        part = frames.pack_items([b"\x000", b"\x001"])
        assert await one.report(grant.lease, part, RunStatus.PARTIAL, done=[(0, 1)]) == "committed"
        two = await made.car("car-2")
        made.dispatcher._payloads.forget(grant.lease.seq)
        await one.leave()
        again, payload, _ = await two.granted.receive()
        assert again.item_numbers == [(2, 3)]
        assert [bytes(item) for item in frames.unpack_items(payload, 10)] == items[2:]

    with_plane(tmp_path, test)


def test_what_is_no_message_of_ours_is_recorded_and_terminated(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        await made.js.publish("inv.0.default.shop.f.nonsense", b"nonsense")
        await queue_is_empty(made)
        assert list(await made.js.subjects(STREAM_DEAD, "dead.>")) == ["dead.default.shop.f.nonsense"]
        await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        assert await car.report(grant.lease) == "committed"

    with_plane(tmp_path, test)


def test_car_that_says_nonsense_harms_nobody(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.register()
        car = await made.car("car-1")
        await made.submit(b"args")
        grant, _, _ = await car.granted.receive()
        for verb in CarVerb:
            car.bus.publish(f"fleet.car.car-1.0.{verb.value}", b"nonsense", reply=f"{car.bus.inbox}.none")
        bad = [(0, 10**12)], [(5, 2)], [(-4, 4)]
        for done in bad:
            await car.report(grant.lease, b"", done=done, run_s=float("inf"))
        again, _, _ = await car.granted.receive()
        assert again.lease.call == grant.lease.call
        assert await car.report(again.lease) == "committed"

    with_plane(tmp_path, test)


def test_what_a_broken_broker_left_of_settled_calls_is_removed(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        for call in ("over", "new", "known"):
            await made.js.publish(f"inv.0.default.shop.f.{call}", b"state")
        for call in ("over", "known"):
            await made.js.publish(f"out.default.shop.f.{call}", b"record")
        board = Board(1, b"key", 0.0, 0.0)
        board.entries["default", "known"] = None  # type: ignore[assignment]
        assert await remove_leftovers(made.js, "0", board) == 1
        left = await made.js.subjects(STREAM_INVOCATIONS, INVOCATION.wildcard())
        assert {subject.rpartition(".")[2] for subject in left} == {"new", "known"}

    with_plane(tmp_path, test, dispatcher=False)
