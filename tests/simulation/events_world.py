"""The trigger service as it runs, on streams in memory that lose answers, hold messages back and fill up; leaders that die."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, QueueFull
from fleet.protocol.ids import new_call_id
from fleet.protocol.messages import (
    AppRecord,
    AppVersion,
    EventHead,
    InvocationState,
    Manifest,
    Program,
    Retries,
    StoredEvent,
    SubjectTrigger,
)
from fleet.protocol.subjects import STREAM_INVOCATIONS
from fnplatform.atomic import Put
from fnplatform.jetstream import OnStored, StoredMessage, StreamFull, WrongSequence
from fnplatform.registry import version_of
from fnplatform.triggers.reader import OnEvent
from fnplatform.triggers.service import TriggerService

TENANTS = ("acme", "zebra")
APP = "shop"
CURSOR = "cur.0"
DELAYS = (0.0001, 0.0003, 0.001, 0.004, 0.03)


@dataclass
class World:
    """What everybody shares, and what happened."""

    seed: int
    random: random.Random = field(init=False)
    events: list[StoredMessage] = field(default_factory=list)
    queue: dict[str, StoredMessage] = field(default_factory=dict)
    outcomes: set[str] = field(default_factory=set)
    last_seq: int = 0
    room: int = 10**9
    """The queue takes so many calls."""
    no_blobs: set[str] = field(default_factory=set)
    """Tenants whose large arguments find no room."""
    stored: list[tuple[str, InvocationState, bytes]] = field(default_factory=list)
    """Every call that was ever stored, in order."""
    manifests: dict[tuple[str, str, str], Manifest] = field(default_factory=dict)
    live: dict[str, dict[str, str]] = field(default_factory=dict)
    published: dict[tuple[str, str], str] = field(default_factory=dict)
    """(tenant, event id) -> its subject."""
    expected: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """(tenant, event id) -> functions that were to be started for sure when it was accepted."""
    wrong: list[str] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def deploy(self, tenant: str, functions: dict[str, list[SubjectTrigger]]) -> None:
        """Make these the functions of the tenant's app."""
        live = {}
        for name, triggers in functions.items():
            manifest = Manifest(
                app=APP, function=name, display_name=name, retries=Retries(max_attempts=1), triggers=list(triggers),
                program=Program(bundle="0" * 64, bundle_bytes=1, module="m", qualname=f"f{self.random.random()}"),
            )  # fmt: skip
            version = version_of(manifest)
            self.manifests[tenant, name, version] = manifest
            live[name] = version
        self.live[tenant] = live

    def publish(self, tenant: str, subject: str, data: bytes = b"") -> str:
        """Accept an event; its id."""
        name = f"e{len(self.events) + 1}"
        head = EventHead(id=name, source="/sim", subject=subject)
        stored = StoredEvent(tenant=tenant, head=head, accepted_unix_s=asyncio.get_running_loop().time())
        data = frames.pack(stored, [data])
        self.events.append(StoredMessage(f"evt.{tenant}.{name}", len(self.events) + 1, data, ""))
        self.published[tenant, name] = subject
        self.changed.set()
        self.changed = anyio.Event()
        return name

    # --- the queue's stream -----------------------------------------------------------------------------------------

    def last_of(self, subject: str) -> int:
        found = self.queue.get(subject)
        return 0 if found is None else found.seq

    def put(self, messages: Sequence[tuple[Put, str, int]]) -> int:
        """All, or none: each with the subject and the sequence that it expects."""
        for _, subject, expect in messages:
            if self.last_of(subject) != expect:
                raise WrongSequence("wrong last sequence")
        if len(self.queue) + len(messages) - 1 > self.room and len(messages) > 1:
            raise StreamFull("full")
        first = self.last_seq + 1
        for message, _, _ in messages:
            self._store(message)
        return first

    def _store(self, message: Put) -> None:
        self.last_seq += 1
        self.queue[message.subject] = StoredMessage(message.subject, self.last_seq, message.data, "")
        if message.subject != CURSOR:
            state, parts = frames.unpack(message.data, InvocationState)
            self.stored.append((message.subject, state, bytes(parts[0])))

    def finish_some(self, count: int) -> None:
        """Calls end: an outcome, then they leave the queue."""
        calls = [subject for subject in self.queue if subject != CURSOR]
        for subject in self.random.sample(calls, min(count, len(calls))):
            self.outcomes.add("out." + subject.split(".", 2)[2])
            del self.queue[subject]

    def starts(self) -> dict[tuple[str, str, str], int]:
        """(tenant, event id, function) -> how often it was started."""
        found: dict[tuple[str, str, str], int] = {}
        for _, state, payload in self.stored:
            items = [payload] if state.items is None else frames.unpack_items(payload, 4096)
            for item in items:
                ((argument,), _) = pickle.loads(item)
                for event in argument if isinstance(argument, list) else [argument]:
                    key = (state.tenant, event.id, state.function)
                    found[key] = found.get(key, 0) + 1
        return found


class Line:
    """One leader's connection: what it sends arrives in order; answers may get lost while what they are about happens."""

    def __init__(self, world: World, faults: float) -> None:
        self.world = world
        self.faults = faults
        self._free_s = 0.0

    def ask(self, act: Callable[[], Any], then: Callable[[Any], None], *, slow: bool = False) -> None:
        """``act`` happens at the broker, then ``then`` gets what it gave, or a FleetError."""
        loop = asyncio.get_running_loop()
        rng = self.world.random
        lost = rng.random() < self.faults
        late_s = rng.choice((0.0, 0.05, 2.0)) if lost else 0.0
        never = lost and rng.random() < 0.4
        arrive_s = max(self._free_s, loop.time() + rng.choice(DELAYS)) + late_s
        if not lost:
            self._free_s = arrive_s

        def happen() -> None:
            try:
                answer = act()
            except FleetError as error:
                answer = error
            if not lost:
                loop.call_later(rng.choice(DELAYS), then, answer)

        if not never:
            loop.call_at(arrive_s, happen)
        if lost:
            loop.call_later(rng.choice(DELAYS), then, FleetUnavailable("the answer was lost"))

    async def request(self, act: Callable[[], Any]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def then(answer: Any) -> None:
            if not future.done():
                if isinstance(answer, FleetError):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

        self.ask(act, then)
        return await future


class MemoryStreams:
    """``commit.Streams`` in memory."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._world = line.world

    async def cursor(self) -> StoredMessage | None:
        found: StoredMessage | None = await self._line.request(lambda: self._world.queue.get(CURSOR))
        return found

    async def put(self, calls: Sequence[Put], cursor: bytes, expect: int) -> int:
        messages = [(call, call.subject, 0) for call in calls] + [(Put(CURSOR, cursor), CURSOR, expect)]
        first: int = await self._line.request(lambda: self._world.put(messages))
        return first

    def lone(self, subject: str, data: bytes, expect_cursor: int, on_stored: OnStored) -> None:
        def act() -> int:
            if len(self._world.queue) >= self._world.room:
                raise StreamFull("full")
            return self._world.put([(Put(subject, data), CURSOR, expect_cursor)])

        self._line.ask(act, on_stored)

    async def present(self, stream: str, subjects: Sequence[str]) -> set[str]:
        world = self._world
        where = world.queue if stream == STREAM_INVOCATIONS else world.outcomes
        found: set[str] = await self._line.request(lambda: {one for one in subjects if one in where})
        return found

    async def events_end(self) -> int:
        end: int = await self._line.request(lambda: len(self._world.events))
        return end

    async def events(self, tenant: str, seq: int, limit: int) -> list[StoredMessage]:
        head = f"evt.{tenant}."

        def act() -> list[StoredMessage]:
            rest = (one for one in self._world.events[seq - 1 :] if one.subject.startswith(head))
            some = self._world.random.randint(1, limit)  # the broker sends no more than so many bytes
            return [one for one, _ in zip(rest, range(some), strict=False)]

        found: list[StoredMessage] = await self._line.request(act)
        return found

    async def event(self, seq: int) -> StoredMessage | None:
        found: StoredMessage | None = await self._line.request(lambda: self._world.events[seq - 1])
        return found

    async def purge_events(self, upto: int, full: float, to: float) -> int:
        return 0


class MemorySource:
    """Events in order, now and then with a pause."""

    def __init__(self, world: World, on_event: OnEvent, room: Callable[[], bool]) -> None:
        self._world = world
        self._on_event = on_event
        self._room = room

    async def run(self, seq: int) -> None:
        world = self._world
        while True:
            while seq <= len(world.events) and self._room():
                message = world.events[seq - 1]
                self._on_event(message.seq, message.data)
                seq += 1
                if world.random.random() < 0.3:
                    await anyio.sleep(world.random.choice(DELAYS))
            with anyio.move_on_after(0.01):
                await world.changed.wait()

    def pull(self) -> None: ...


class MemoryManifests:
    """What is deployed."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def _pause(self) -> None:
        await anyio.sleep(self._world.random.choice(DELAYS))

    async def lookup(self, tenant: str, app: str, function: str, version: str) -> Manifest:
        await self._pause()
        return self._world.manifests[tenant, function, version]

    async def record(self, tenant: str, app: str) -> AppRecord | None:
        await self._pause()
        live = self._world.live.get(tenant)
        if live is None:
            return None
        version = AppVersion(number=1, created_unix_s=0.0, functions=dict(live))
        await self._pause()
        return AppRecord(app=app, live=1, versions=[version])

    async def apps(self) -> list[tuple[str, str]]:
        await self._pause()
        return [(tenant, APP) for tenant in self._world.live]


class MemoryBlobs:
    """Takes what it gets, unless the world says that this tenant has no room."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def put_whole(self, tenant: str, digest: str, data: bytes) -> None:
        if tenant in self._world.no_blobs:
            raise QueueFull("no room for blobs")


class FakeTerm:
    """A term of leadership. ``over`` is set late, or never: a leader that froze."""

    def __init__(self, world: World, epoch: int) -> None:
        self._world = world
        self.epoch = epoch
        self.over = False
        self.submitted: list[str] = []
        self.pressed = False
        self.busy = world.random.random() < 0.5

    def submit(self, state: InvocationState, seq: int, payload: bytes) -> None:
        self.submitted.append(state.call)

    def run_s(self, tenant: str, app: str, function: str, version: str) -> float | None:
        return self._world.random.choice((None, 0.001, 0.02, 0.1))

    def crowded(self, tenant: str, app: str, function: str, version: str) -> bool:
        return self.busy and self._world.random.random() < 0.3

    def knows(self, tenant: str, call: str) -> bool:
        return any(subject.endswith(f".{call}") for subject in self._world.queue)

    def queued(self, tenant: str) -> int:
        return 10 if self.pressed and tenant == TENANTS[0] else 0


class Leader:
    """One process's trigger service."""

    def __init__(self, world: World, epoch: int, faults: float) -> None:
        self.term = FakeTerm(world, epoch)
        self.line = Line(world, faults)
        loop = asyncio.get_running_loop()
        self.service = TriggerService(
            None, MemoryManifests(world), MemoryBlobs(world), "0", 5,  # type: ignore[arg-type]
            streams=MemoryStreams(self.line),
            source=lambda on_event, room: MemorySource(world, on_event, room),
            now_s=loop.time,
            unix_s=loop.time,
        )  # fmt: skip
        self.scope = anyio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            await self.service.lead(self.term)


def new_name() -> str:
    """A call id, for tests."""
    return new_call_id()
