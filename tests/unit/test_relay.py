"""The relay: every event once, whatever is killed between two steps; bounded; over the hop limit a letter instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest

import fleet
from fleet._event import pack_emits
from fleet.protocol import frames
from fleet.protocol.errors import FleetUnavailable, ProtocolError
from fleet.protocol.limits import EVENT_HOPS_MAX, MIB
from fleet.protocol.messages import EventHead, OutboxEntry
from fnplatform.jetstream import StoredMessage
from fnplatform.triggers.relay import ACTIVE_MAX, Published, Relay, events_of

LIMIT_S = 10.0


class Killed(Exception):
    """The process ends here."""


class FakeOutbox:
    """Entries and events in memory. ``trip`` is called before and after every step."""

    def __init__(self) -> None:
        self.entries: dict[int, bytes] = {}
        self.events: dict[tuple[str, str, str], bytes] = {}
        self.copies = 0
        self.letters: list[tuple[EventHead, str]] = []
        self.trip: Callable[[str], Awaitable[None]] = self._nothing
        self.most = 0

    async def _nothing(self, _step: str) -> None:
        await anyio.lowlevel.checkpoint()

    def add(self, call: str, *emits: fleet.Emit, hops: int = 1, items: Sequence[int] = (), seq: int = 0) -> int:
        seq = seq or len(self.entries) + 1
        entry = OutboxEntry(
            tenant="default", app="shop", function="f", call=call, outcome="out", hops=hops, items=list(items), at_unix_s=1.5
        )  # fmt: skip
        self.entries[seq] = frames.pack(entry, [pack_emits(emits)] * max(1, len(items)))
        return seq

    async def next(self, seq: int) -> StoredMessage | None:
        await self.trip("next")
        found = min((one for one in self.entries if one >= seq), default=None)
        return None if found is None else StoredMessage("emt", found, self.entries[found], "")

    async def publish(self, tenant: str, events: Sequence[Published]) -> None:
        await self.trip("before publish")
        for head, data in events:
            key = (tenant, head.source, head.id)
            self.copies += key in self.events
            self.events.setdefault(key, data)
            await self.trip("while publishing")
        await self.trip("after publish")

    async def bury(self, tenant: str, event: Published, reason: str) -> None:
        await self.trip("bury")
        if event[0] not in [head for head, _ in self.letters]:
            self.letters.append((event[0], reason))

    async def remove(self, seq: int) -> None:
        await self.trip("before remove")
        self.entries.pop(seq, None)
        await self.trip("after remove")

    async def empty(self) -> None:
        while self.entries:
            await anyio.sleep(0.001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with anyio.fail_after(LIMIT_S):
            await test()

    anyio.run(main)


def test_ids_follow_from_the_call() -> None:
    entry = OutboxEntry(tenant="t", app="a", function="f", call="c", outcome="o", hops=3, at_unix_s=1.5)
    part = pack_emits([fleet.emit("x", 1), fleet.emit("y", "z", type="k")])
    first, second = events_of(entry, [part])
    assert first == (
        EventHead(
            id="c.0", source="/fleet/t/a/f", subject="x", time="1970-01-01T00:00:01.500Z",
            datacontenttype="application/json", hops=3,
        ),
        b"1",
    )  # fmt: skip
    assert (second[0].id, second[0].type, second[0].datacontenttype) == ("c.1", "k", "text/plain")
    chunk = entry.model_copy(update={"items": [4, 9]})
    assert [head.id for head, _ in events_of(chunk, [part, part])] == ["c/4.0", "c/4.1", "c/9.0", "c/9.1"]
    with pytest.raises(ProtocolError):
        events_of(chunk, [part])


STEPS = ["next", "before publish", "while publishing", "after publish", "before remove", "after remove"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_at_any_step_every_event_is_there_once(step: str, nth: int) -> None:
    async def test() -> None:
        outbox = FakeOutbox()
        for call in ("c1", "c2", "c3"):
            outbox.add(call, fleet.emit("a", call), fleet.emit("b", call))
        left = nth

        async def kill(now: str) -> None:
            nonlocal left
            left -= now == step
            await anyio.lowlevel.checkpoint()
            if not left:
                left = -1
                raise Killed

        outbox.trip = kill
        with pytest.raises(ExceptionGroup) as met:
            async with anyio.create_task_group() as group:
                await group.start(Relay(outbox).run)
                await outbox.empty()
                await anyio.sleep_forever()
        assert met.group_contains(Killed)
        async with anyio.create_task_group() as group:  # the next leader
            await group.start(Relay(outbox).run)
            await outbox.empty()
            group.cancel_scope.cancel()
        wanted = {("default", "/fleet/default/shop/f", f"{call}.{n}") for call in ("c1", "c2", "c3") for n in (0, 1)}
        assert set(outbox.events) == wanted

    run(test)


def test_two_leaders_at_once_do_no_harm() -> None:
    async def test() -> None:
        outbox = FakeOutbox()
        for number in range(50):
            outbox.add(f"c{number}", fleet.emit("a"))
        async with anyio.create_task_group() as group:
            await group.start(Relay(outbox).run)
            await group.start(Relay(outbox).run)
            await outbox.empty()
            group.cancel_scope.cancel()
        assert len(outbox.events) == 50 and outbox.copies > 0

    run(test)


def test_what_is_told_is_published_without_looking() -> None:
    async def test() -> None:
        outbox = FakeOutbox()
        looks = 0

        async def count(step: str) -> None:
            nonlocal looks
            looks += step == "next"
            await anyio.lowlevel.checkpoint()

        outbox.trip = count
        relay = Relay(outbox, look_s=LIMIT_S)
        seq = outbox.add("c0", fleet.emit("a"))
        relay.stored(seq, outbox.entries[seq])  # before it runs: found by looking
        async with anyio.create_task_group() as group:
            await group.start(relay.run)
            await outbox.empty()
            before = looks
            for number in range(1, 20):
                seq = outbox.add(f"c{number}", fleet.emit("a"), seq=number + 1)
                relay.stored(seq, outbox.entries[seq])
                await outbox.empty()
            assert looks <= before + 1 and len(outbox.events) == 20 and relay.published == 20 and not outbox.copies
            group.cancel_scope.cancel()

    run(test)


def test_it_goes_on_while_the_broker_does_not_answer() -> None:
    async def test() -> None:
        outbox = FakeOutbox()
        outbox.add("c", fleet.emit("a"), fleet.emit("b"))
        failures = dict.fromkeys(STEPS, 1)

        async def fail(step: str) -> None:
            await anyio.lowlevel.checkpoint()
            failures[step] -= 1
            if failures[step] >= 0:
                raise FleetUnavailable(step)

        outbox.trip = fail
        async with anyio.create_task_group() as group:
            await group.start(Relay(outbox, look_s=0.001).run)
            await outbox.empty()
            group.cancel_scope.cancel()
        assert len(outbox.events) == 2

    run(test)


def test_memory_is_bounded() -> None:
    async def test() -> None:
        outbox = FakeOutbox()
        relay = Relay(outbox)
        most = size = 0
        for number in range(3 * ACTIVE_MAX):
            outbox.add(f"c{number}", fleet.emit("a", bytes(MIB // 2 if number % 8 == 0 else 10)))

        async def watch(step: str) -> None:
            nonlocal most, size
            most, size = max(most, len(relay._active)), max(size, relay._active_bytes)
            await anyio.lowlevel.checkpoint()

        outbox.trip = watch
        async with anyio.create_task_group() as group:
            await group.start(relay.run)
            for seq, data in list(outbox.entries.items()):
                relay.stored(seq, data)
            await outbox.empty()
            group.cancel_scope.cancel()
        assert len(outbox.events) == 3 * ACTIVE_MAX
        assert 10 < most <= ACTIVE_MAX and MIB < size <= 16 * MIB

    run(test)


def test_over_the_hop_limit_there_is_a_letter_and_no_event() -> None:
    async def test() -> None:
        outbox = FakeOutbox()
        outbox.add("last", fleet.emit("a"), hops=EVENT_HOPS_MAX)
        outbox.add("over", fleet.emit("loop"), fleet.emit("loop"), hops=EVENT_HOPS_MAX + 1)
        async with anyio.create_task_group() as group:
            await group.start(Relay(outbox).run)
            await outbox.empty()
            group.cancel_scope.cancel()
        assert [key[2] for key in outbox.events] == ["last.0"]
        assert [head.id for head, _ in outbox.letters] == ["over.0", "over.1"]
        assert outbox.letters[0][1] == (
            "shop.f emitted loop as event number 17 of a chain, and a chain ends after 16: do functions here start each other"
            " in a circle? It was not published"
        )

    run(test)


def test_what_is_none_of_ours_stays_and_holds_nobody_up() -> None:
    async def test() -> None:
        outbox = FakeOutbox()
        outbox.entries[1] = b"what?"
        outbox.add("c", fleet.emit("a"), seq=2)
        async with anyio.create_task_group() as group:
            await group.start(Relay(outbox).run)
            while not outbox.events or 2 in outbox.entries:
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        assert list(outbox.entries) == [1]

    run(test)
