"""Alarm, ledger and ticking over a real broker: leaders that follow each other, answers that are lost, schedules."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from fleet.protocol import frames
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.ids import digest
from fleet.protocol.messages import InvocationState, Manifest, Program
from fleet.protocol.messages.triggers import CronTrigger, Trigger
from fleet.protocol.subjects import BUCKET_FUNCTIONS, CLOCKS, SCHEDULE_DUE, STREAM_INVOCATIONS, STREAM_SCHEDULES
from fleet.transport import Bus
from fnplatform.broker import Broker
from fnplatform.jetstream import JetStream
from fnplatform.provision import provision
from fnplatform.triggers.alarm import Alarm
from fnplatform.triggers.clock_service import ClockService
from fnplatform.triggers.clocks import ClockState
from fnplatform.triggers.ledger import ClockLedger, Moved
from fnplatform.triggers.table import Bound, bounds_of

TEST_S = 30.0
VERSION = "1" * 16
Main = Callable[["Rig"], object]


class Rig:
    """A broker, a connection, and a table of triggers; what is submitted is noted."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.js = JetStream(bus)
        self.live: list[Bound] = []
        self.submitted: list[InvocationState] = []
        self.seqs: list[int] = []
        self._news = anyio.Event()
        self.epoch = 1

    def clocks(self) -> list[Bound]:
        return self.live

    def submit(self, state: InvocationState, seq: int, payload: bytes) -> None:
        assert digest(payload) == state.digest
        self.submitted.append(state)
        self.seqs.append(seq)
        self._news.set()
        self._news = anyio.Event()

    async def until(self, count: int) -> None:
        while len(self.submitted) < count:
            await self._news.wait()

    async def queued(self) -> list[InvocationState]:
        found = await self.js.get_range(STREAM_INVOCATIONS, "inv.>")
        return [frames.unpack(message.data, InvocationState)[0] for message in found]


@asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    broker = Broker(folder)
    await broker.start()
    bus = await Bus.connect(
        broker.url, kind="control", name="test", user=broker.control.user, password=broker.control.password
    )
    try:
        await provision(JetStream(bus))
        with anyio.fail_after(TEST_S):
            yield Rig(bus)
    finally:
        await bus.close()
        await broker.stop()


def bounds(*triggers: Trigger) -> list[Bound]:
    program = Program(bundle="0" * 64, bundle_bytes=1, module="m", qualname="f")
    return bounds_of(
        "default",
        VERSION,
        Manifest(app="app", function="f", display_name="f", program=program, triggers=list(triggers)),
    )


def call(number: int) -> tuple[InvocationState, bytes]:
    payload = b"%d" % number
    return InvocationState(
        tenant="default", app="app", function="f", version=VERSION, inbox="", call=f"{number:032x}",
        digest=digest(payload), payload_bytes=len(payload), submitted_unix_s=1.0, trigger="cron",
    ), payload  # fmt: skip


def test_ticks_come_on_time_and_go_on_under_the_next_leader(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as here:
            here.live = bounds(CronTrigger(expression="* * * * * *", missed="all"))
            await here.js.kv_put(BUCKET_FUNCTIONS, "app.default.app", b"{}")
            first = math.ceil(time.time())
            for epoch in (1, 2):
                here.epoch = epoch
                count = len(here.submitted)
                async with anyio.create_task_group() as group:
                    group.start_soon(ClockService(here.js, "0").lead, here, here, lambda tenant: True)
                    await here.until(count + 1)
                    group.cancel_scope.cancel()
            queued = await here.queued()
            assert [state.call for state in queued] == [state.call for state in here.submitted]
            assert len({state.call for state in queued}) == 2
            late_s = [state.submitted_unix_s - math.floor(state.submitted_unix_s) for state in queued]
            assert min(late_s) < 0.05, late_s
            at = [round(state.submitted_unix_s - late) - first for state, late in zip(queued, late_s, strict=True)]
            assert at == [at[0], at[0] + 1] and at[0] in (0, 1)

    anyio.run(main)


def test_a_deploy_starts_clocks_and_a_later_leader_ends_those_of_this_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as here:
            service = ClockService(here.js, "0")
            async with anyio.create_task_group() as group:
                group.start_soon(service.lead, here, here, lambda tenant: True)
                await here.js.kv_put(BUCKET_FUNCTIONS, "app.default.app", b"{}")
                here.live = bounds(CronTrigger(expression="* * * * * *", missed="all"))
                await service.changed()
                await here.until(1)
                later = ClockLedger(here.js, "0", 2, here.submit)
                assert set(await later.clocks()) == {here.live[0].id}
                count = len(here.submitted)
                newest = here.seqs[-1]
                with anyio.move_on_after(1.1):
                    await here.until(count + 1)
                assert len(here.submitted) == count
                found = await here.js.get_last(STREAM_INVOCATIONS, CLOCKS.build(partition="0"))
                assert found is not None and b'"epoch":2' in found.data and found.seq > newest
                group.cancel_scope.cancel()

    anyio.run(main)


def test_the_ledger_stores_all_or_nothing_and_fences(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as here:
            one = ClockLedger(here.js, "0", 1, here.submit)
            assert await one.clocks() == {}
            await one.store_ticks([call(1), call(2)], {"a": ClockState(last_unix_s=1.5)})
            await one.store_ticks([], {"a": ClockState(last_unix_s=2.1 * 3), "b": ClockState()})
            two = ClockLedger(here.js, "0", 2, here.submit)
            assert await two.clocks() == {"a": ClockState(last_unix_s=2.1 * 3), "b": ClockState()}
            with pytest.raises(Moved):
                await one.store_ticks([call(3)], {})
            with pytest.raises(Moved):
                await one.clocks()
            # A call that waits already is left as it is; the others go on.
            await two.store_ticks([call(2), call(3)], {"a": ClockState(last_unix_s=9.0)})
            assert [state.call for state in await here.queued()] == [f"{number:032x}" for number in (1, 2, 3)]
            assert [state.call for state in here.submitted] == [f"{number:032x}" for number in (1, 2, 3)]
            assert await two.clocks() == {"a": ClockState(last_unix_s=9.0)}

    anyio.run(main)


def test_an_answer_that_was_lost_is_found_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as here:
            one = ClockLedger(here.js, "0", 1, here.submit)
            await one.clocks()
            known = one._seq
            await one.store_ticks([call(1)], {"a": ClockState(last_unix_s=1.0)})
            one._seq, one._known = known, {}  # as if it had never heard of it
            with pytest.raises(FleetUnavailable):
                await one.store_ticks([call(1)], {"a": ClockState(last_unix_s=1.0)})
            assert await one.clocks() == {"a": ClockState(last_unix_s=1.0)}
            assert len(await here.queued()) == 1

    anyio.run(main)


def test_the_alarm_rings_by_the_brokers_schedule_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as here:
            # Its own clock stands still: the timer can't be what rings.
            stopped = time.time()
            alarm = Alarm(here.js, "0", lambda: stopped)
            async with anyio.create_task_group() as group:
                group.start_soon(alarm.run)
                late_s = []
                for _ in range(2):
                    at = time.time() + 0.6
                    alarm.arm(at + 3600)
                    alarm.arm(at)  # replaces it
                    await alarm.wait()
                    late_s.append(time.time() - at)
                assert min(late_s) >= 0 and min(late_s) < 0.05, late_s
                assert alarm.schedules == len(late_s)
                alarm.ring()
                await alarm.wait()
                group.cancel_scope.cancel()
            left = await here.js.subjects(STREAM_SCHEDULES, ">")
            assert left == {SCHEDULE_DUE.build(partition="0"): 1}
            due = await here.js.get_last(STREAM_SCHEDULES, SCHEDULE_DUE.build(partition="0"))
            assert due is not None and due.ttl_s == 60
            # Without the broker's schedules the timer rings.
            alone = Alarm(here.js, "0")
            alone.arm(math.inf)
            at = time.time() + 0.2
            alone.arm(at)
            await alone.wait()
            assert 0 <= time.time() - at < 0.15 and alone.schedules == 0

    anyio.run(main)
