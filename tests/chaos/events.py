"""The chaos run of events: they are published at full speed while cars leave and the platform is killed.

Three functions take them: one all of them, one fails for good at some and once at others, one takes some, in order by key.
Publishers repeat what isn't accepted under the same ids; some of it they publish twice anyway. At the end what lies in the
streams is read past everything of ours but the format, and ``event_checker.py`` judges it.

    python -m tests.chaos.events --events 50000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

import fleet
from fleet import _client, _deploy
from fleet._api import Api
from fleet._letters import events_of
from fleet.cli.ask import connected
from fleet.protocol import frames, limits
from fleet.protocol.codec import decode, decode_exception
from fleet.protocol.messages import (
    DeadLetter,
    EventHead,
    OutcomeRecord,
    PublishReply,
    PublishRequest,
    StoredEvent,
)
from fleet.protocol.subjects import ApiVerb
from fleet.testing import LocalFleet
from fleet.transport import Bus
from fnplatform.jetstream import JetStream, StoredMessage
from fnplatform.triggers.state import Cursor
from tests.chaos import event_job as job
from tests.chaos.event_checker import Handled, Letter, Rules, Stored, judge

SOURCE = "/chaos"
AT_ONCE = 128
"""Events in one request."""
PUBLISHERS = 6
TWICE_EVERY = 20
"""One request in so many is sent twice."""
RETRY_S = 0.1
LOOK_S = 0.25
QUIET_S = 1.5
"""Nothing waits for so long: the cursor has followed, nothing is under way."""
PAGE = 500

RULES = Rules(
    takes={"every": lambda n: True, "picky": lambda n: True, "keyed": lambda n: n % job.FILTER_EVERY == 0},
    fails={"picky": lambda n: n % job.BAD_EVERY == job.BAD},
    attempts=job.ATTEMPTS,
    keys={"keyed": lambda n: n % (job.FILTER_EVERY * job.KEYS)},
)


@dataclass(frozen=True)
class Plan:
    """How much and how hard. Times in seconds from the first event on; what kills is done again every ``again_s``."""

    events: int = 50_000
    cars: int = 4
    leave_every_s: float = 1.0
    kill_car_s: float = 5.0
    kill_control_s: float = 4.0
    kill_broker_s: float = 10.0
    again_s: float = 15.0
    kills_max: int = 3
    settle_s: float = 300.0
    """No longer without progress."""
    seed: int = 1


SHORT = Plan(
    events=1500, cars=3, leave_every_s=0.7, kill_car_s=0.5, kill_control_s=0.6, kill_broker_s=0.9, kills_max=1,
    settle_s=60.0,
)  # fmt: skip


@dataclass
class Result:
    """What happened."""

    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    published_s: float = 0.0
    handled_s: float = 0.0


class _Run:
    def __init__(self, plan: Plan, local: LocalFleet) -> None:
        self.plan = plan
        self.local = local
        self.result = Result()
        self.published = anyio.Event()
        self.over = anyio.Event()
        self.started_s = time.monotonic()

    def count(self, what: str, by: int = 1) -> None:
        self.result.counts[what] = self.result.counts.get(what, 0) + by

    # --- publishing -------------------------------------------------------------------------------------------------

    async def publish_all(self) -> None:
        send, receive = anyio.create_memory_object_stream[range](0)
        async with connected(self.local.url) as api, anyio.create_task_group() as group:
            for _ in range(PUBLISHERS):
                group.start_soon(self._publisher, api, receive.clone())
            receive.close()
            async with send:
                for first in range(0, self.plan.events, AT_ONCE):
                    await send.send(range(first, min(first + AT_ONCE, self.plan.events)))
        self.result.published_s = time.monotonic() - self.started_s
        self.published.set()

    async def _publisher(self, api: Api, numbers: Any) -> None:
        async with numbers:
            async for some in numbers:
                await self._publish(api, some)
                if some.start // AT_ONCE % TWICE_EVERY == 0:
                    await self._publish(api, some)

    async def _publish(self, api: Api, numbers: range) -> None:
        heads = [
            EventHead(id=f"e{n}", source=SOURCE, subject=f"load.s{n % 7}", datacontenttype="application/json")
            for n in numbers
        ]
        request = PublishRequest(events=heads)
        parts = [b'{"n":%d}' % n for n in numbers]
        while True:
            try:
                reply, _ = await api.ask(ApiVerb.PUBLISH, request, PublishReply, parts)
            except fleet.FleetError:
                self.count("publish requests repeated")
                await anyio.sleep(RETRY_S)
                continue
            assert reply.ids == [head.id for head in heads], "answered for others"
            self.count("events found to be copies", len(reply.duplicates))
            return

    # --- chaos ------------------------------------------------------------------------------------------------------

    async def _step(self, what: str, act: Callable[[], Any]) -> None:
        """What fails because the platform is down just then is a fact of the run, not an error."""
        try:
            await anyio.to_thread.run_sync(act)
        except fleet.FleetError:
            self.count(f"{what} failed")
        else:
            self.count(what)

    async def come_and_go(self) -> None:
        """At most one car is away by its owner's will."""
        rng = random.Random(self.plan.seed)
        away = None
        while not self.over.is_set():
            with anyio.move_on_after(self.plan.leave_every_s):
                await self.over.wait()
            car = rng.choice([car for car in self.local.cars if car is not away])
            await self._step("departures", car.drive_away)
            if away is not None:
                await self._step("returns", away.park)
            away = car
        if away is not None:
            await self._step("returns", away.park)

    async def strike(self, what: str, first_s: float, act: Callable[[], Any]) -> None:
        for number in range(self.plan.kills_max):
            with anyio.move_on_after(first_s if number == 0 else self.plan.again_s):
                await self.over.wait()
            if self.over.is_set() and number:
                return
            await self._step(what, act)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def until_handled(self, js: JetStream) -> None:
        """Everything is published, and nothing waits or runs any more; or nothing changes for too long."""
        await self.published.wait()
        quiet_since = changed = time.monotonic()
        before: Any = None
        while time.monotonic() - quiet_since < QUIET_S:
            await anyio.sleep(LOOK_S)
            try:
                now = await self._progress(js)
            except fleet.FleetError:
                quiet_since = changed = time.monotonic()
                continue
            if now != before:
                before, changed = now, time.monotonic()
            if time.monotonic() - changed > self.plan.settle_s:
                break
            if now[0] or now[2]:
                quiet_since = time.monotonic()
        self.result.handled_s = time.monotonic() - self.started_s - QUIET_S
        self.over.set()

    async def _progress(self, js: JetStream) -> tuple[int, int, int]:
        """Invocations that wait, outcomes, events that are still to be handled (at most)."""
        waiting = len(await js.subjects("INVOCATIONS", "inv.>"))
        outcomes = (await js.stream_info("OUTCOMES"))["state"]["last_seq"]
        events = (await js.stream_info("EVENTS"))["state"]["last_seq"]
        cursor = await js.get_last("INVOCATIONS", "cur.0")
        return waiting, outcomes, _cursor(cursor).behind(events)


def _cursor(message: StoredMessage | None) -> Cursor:
    return Cursor() if message is None else Cursor.model_validate_json(bytes(message.data))


async def _pages(js: JetStream, stream: str, subject: str) -> AsyncIterator[StoredMessage]:
    seq = 1
    while page := await js.get_range(stream, subject, seq=seq, limit=PAGE):
        for message in page:
            yield message
        seq = page[-1].seq + 1


async def _stored(js: JetStream) -> Stored:
    """What the streams hold of this run."""
    stored = Stored(waiting=len(await js.subjects("INVOCATIONS", "inv.>")))
    async for message in _pages(js, "EVENTS", "evt.>"):
        event, _ = frames.unpack(message.data, StoredEvent)
        if event.head.source == SOURCE:
            stored.accepted.append(int(event.head.id[1:]))
    async for message in _pages(js, "OUTCOMES", f"out.*.{job.APP}.>"):
        record, parts = frames.unpack(message.data, OutcomeRecord)
        stored.handled += _handled(record, parts[0] if parts else memoryview(b""), stored.unreadable)
    async for message in _pages(js, "DEAD", "dead.>"):
        letter, parts = frames.unpack(message.data, DeadLetter)
        for number, event in enumerate(events_of(letter, parts[0])):
            attempts = letter.state.attempts
            if letter.state.pending is not None:
                items = [item for first, last in letter.state.pending for item in range(first, last + 1)]
                attempts = letter.state.item_attempts.get(items[number], 0)
            stored.letters.append(Letter(letter.state.function, int(event.id[1:]), attempts))
    return stored


def _handled(record: OutcomeRecord, part: memoryview, unreadable: list[str]) -> list[Handled]:
    results = [part]
    if record.items is not None:
        results = frames.unpack_items(part, limits.CHUNK_ITEMS_MAX) if len(part) else []
    elif not len(part):
        unreadable.append(f"{record.function} {record.call}: {record.summary}")
        return []
    found = []
    for result in results:
        if result[0] == 0:
            found.append(Handled(record.function, decode(result[1:]), True))
        elif result[0] == 1:
            found.append(Handled(record.function, decode_exception(result[1:]).args[0], False))
        else:
            unreadable.append(f"{record.function} {record.call}: {bytes(result[1:])!r:.300}")
    return found


@asynccontextmanager
async def _control(local: LocalFleet) -> AsyncIterator[JetStream]:
    secret = json.loads((Path(local.data) / "secrets.json").read_text())["control"]
    bus = await Bus.connect(local.url, kind="control", name="checker", user="control", password=secret)
    try:
        yield JetStream(bus)
    finally:
        await bus.close()


async def _run(plan: Plan, local: LocalFleet) -> Result:
    run = _Run(plan, local)
    async with _control(local) as js:
        async with anyio.create_task_group() as group:
            group.start_soon(run.publish_all)
            group.start_soon(run.come_and_go)
            group.start_soon(run.strike, "kills of a car", plan.kill_car_s, local.cars[1].kill)
            group.start_soon(run.strike, "kills of the control plane", plan.kill_control_s, local.control.kill)
            group.start_soon(run.strike, "kills of the broker", plan.kill_broker_s, local.broker.kill)
            group.start_soon(run.until_handled, js)
        stored = await _stored(js)
    result = run.result
    result.violations = judge(stored, plan.events, RULES)
    result.counts |= {"events stored": len(stored.accepted), "outcomes of events": len(stored.handled)}
    result.counts["dead letters of events"] = len(stored.letters)
    return result


def chaos(plan: Plan) -> Result:
    """Run ``plan`` on a fleet of its own and judge what is left of it."""
    with LocalFleet(cars=plan.cars) as local:
        _deploy.deploy(_client.current(), _deploy.load_app("tests.chaos.event_job"))
        return anyio.run(_run, plan, local)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=Plan.events)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--short", action="store_true", help="the run that make test does")
    options = parser.parse_args()
    result = chaos(SHORT if options.short else Plan(events=options.events, seed=options.seed))
    for name, count in sorted(result.counts.items()):
        print(f"{name:32} {count:8}")
    print(f"{'published after':32} {result.published_s:8.1f} s\n{'handled after':32} {result.handled_s:8.1f} s")
    for line in result.violations[:50]:
        print(f"VIOLATION {line}")
    print(f"{len(result.violations)} violations", file=sys.stderr)
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
