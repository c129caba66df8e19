"""The chaos run: calls flow while owners come and go, cars die and freeze, and the platform itself is killed.

Every step is a line of a JSONL history: what was submitted and what came back (written here), what the dispatcher decided
(written by it, ``fnplatform/history.py``), what lies in the durable store at the end. ``checker.py`` judges it.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

import fleet
from fleet.protocol import frames
from fleet.protocol.messages import OutcomeRecord
from fleet.testing import LocalFleet
from fleet.transport import Bus
from fnplatform.history import ENV
from fnplatform.jetstream import JetStream
from tests.chaos.checker import Report, check, read
from tests.chaos.job import work

INTO_BURST_S = 0.03
"""How long after a burst of calls a car leaves."""


@dataclass(frozen=True)
class Plan:
    """How hard and how long. Times in seconds from the start of the run."""

    calls: int = 2000
    seconds: float = 60.0
    leave_every_s: float = 1.0
    kill_car_s: float = 8.0
    freeze_s: tuple[float, float] = (12.0, 32.0)
    kill_control_s: tuple[float, ...] = (18.0, 40.0)
    kill_broker_s: tuple[float, ...] = (25.0, 48.0)
    settle_s: float = 90.0
    seed: int = 1


SHORT = Plan(
    calls=500, seconds=18.0, kill_car_s=3.0, freeze_s=(4.0, 12.0), kill_control_s=(6.0,), kill_broker_s=(10.0,)
)


class Recorder:
    """Appends the client's lines to the history."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def write(self, who: str, event: str, **fields: Any) -> None:
        """One line."""
        row = {"unix_s": round(time.time(), 6), "who": who, "event": event, **fields}
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")


async def _one_call(number: int, recorder: Recorder) -> None:
    call = await work.spawn.aio(number)
    recorder.write("client", "submit", call=call.id, expect=number * number + 1)
    try:
        value = await call
    except fleet.FleetError as error:
        recorder.write("client", "outcome", call=call.id, error=f"{type(error).__name__}: {error}")
    else:
        recorder.write("client", "outcome", call=call.id, value=value)


async def _submit_all(plan: Plan, recorder: Recorder, finished: anyio.Event) -> None:
    """A burst every ``leave_every_s``, so that every departure meets cars at work."""
    started = time.monotonic()
    bursts = round(plan.seconds / plan.leave_every_s)
    async with anyio.create_task_group() as group:
        for number in range(plan.calls):
            due = started + plan.leave_every_s * (number * bursts // plan.calls)
            await anyio.sleep(max(0.0, due - time.monotonic()))
            group.start_soon(_one_call, number, recorder)
    finished.set()


async def _step(recorder: Recorder, what: str, act: Callable[[], Any], **fields: Any) -> None:
    """Do one step in a thread; what fails because the platform is down just then is a fact of the run, not an error."""
    try:
        await anyio.to_thread.run_sync(act)
    except fleet.FleetError as error:
        recorder.write("chaos", "failed", step=what, why=str(error), **fields)
    else:
        recorder.write("chaos", what, **fields)


async def _come_and_go(plan: Plan, local: LocalFleet, recorder: Recorder, finished: anyio.Event) -> None:
    """Every second one car leaves and the one that left before returns; at most one is away by its owner's will."""
    rng = random.Random(plan.seed)
    away = None
    due = time.monotonic() + INTO_BURST_S
    while not finished.is_set():
        await anyio.sleep(max(0.0, due - time.monotonic()))
        due += plan.leave_every_s
        car = rng.choice([car for car in local.cars if car is not away])
        await _step(recorder, "leave", car.drive_away, car=car.name)
        if away is not None:
            await _step(recorder, "return", away.park, car=away.name)
        away = car
    for car in local.cars:
        await _step(recorder, "return", car.park, car=car.name)


async def _at(started: float, at_s: float, step: Callable[[], Awaitable[None]]) -> None:
    await anyio.sleep(max(0.0, started + at_s - time.monotonic()))
    await step()


async def _strike(plan: Plan, local: LocalFleet, recorder: Recorder) -> None:
    started = time.monotonic()
    frozen = local.cars[2]
    async with anyio.create_task_group() as group:

        def at(at_s: float, what: str, act: Callable[[], Any], **fields: Any) -> None:
            group.start_soon(_at, started, at_s, lambda: _step(recorder, what, act, **fields))

        at(plan.kill_car_s, "kill_car", local.cars[1].kill, car=local.cars[1].name)
        at(plan.freeze_s[0], "freeze", frozen.freeze, car=frozen.name)
        at(plan.freeze_s[1], "thaw", frozen.thaw, car=frozen.name)
        for at_s in plan.kill_control_s:
            at(at_s, "kill_control", local.control.kill)
        for at_s in plan.kill_broker_s:
            at(at_s, "kill_broker", local.broker.kill)


async def _record_store(local: LocalFleet, recorder: Recorder) -> None:
    """One line for each final record in the durable stream, read past everything of ours but the format."""
    secret = json.loads((Path(local.data) / "secrets.json").read_text())["control"]
    bus = await Bus.connect(local.url, kind="control", name="checker", user="control", password=secret)
    try:
        seq = 1
        while page := await JetStream(bus).get_range("OUTCOMES", "out.>", seq=seq, limit=500):
            for message in page:
                record, _ = frames.unpack(message.data, OutcomeRecord)
                if record.final and record.function == "work":
                    lease = record.metering.lease if record.metering else 0
                    epoch = record.metering.epoch if record.metering else 0
                    recorder.write("store", "stored", call=record.call, counter=lease, epoch=epoch)
            seq = page[-1].seq + 1
    finally:
        await bus.close()


async def _run(plan: Plan, local: LocalFleet, path: Path) -> None:
    recorder = Recorder(path)
    await _one_call(-1, recorder)  # the fleet works before the chaos starts
    finished = anyio.Event()
    with anyio.move_on_after(plan.seconds + plan.settle_s) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(_submit_all, plan, recorder, finished)
            group.start_soon(_come_and_go, plan, local, recorder, finished)
            group.start_soon(_strike, plan, local, recorder)
    if scope.cancelled_caught:
        recorder.write("chaos", "gave_up")
    await _record_store(local, recorder)


def chaos(plan: Plan, path: Path) -> Report:
    """Run ``plan`` on a fleet of four cars, write the history to ``path``, judge it."""
    os.environ[ENV] = str(path)
    try:
        with LocalFleet(cars=4) as local:
            anyio.run(_run, plan, local, path)
    finally:
        del os.environ[ENV]
    return check(read(path))
