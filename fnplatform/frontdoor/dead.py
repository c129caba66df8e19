"""What failed for good: list, show, replay, drop.

A call has one outcome for ever, so a replay is a new call with a new id: of the live version of the function (whoever
mended it wants that one), of the old one where none is live. Its id follows from the letters, so that a replay whose answer
got lost, asked again, is the same call. An event that never became a call is published anew, under a new id. A letter goes
once what replaces it is stored.

Arguments are opaque here: an event's letter shows its event because the client reads it (``fleet/_letters.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fleet.protocol import frames, limits
from fleet.protocol.errors import FleetError, NotDeployed, ProtocolError, QueueFull, Refused, ResultExpired
from fleet.protocol.frames import Bytes
from fleet.protocol.ids import derived_call_id, digest, new_call_id
from fleet.protocol.messages import (
    DeadLetter,
    DeadProblem,
    DeadReply,
    DeadRequest,
    InvocationState,
    Manifest,
    WireError,
)
from fleet.protocol.subjects import DEAD_LETTER, INVOCATION, OUTCOME, PARTITION, STREAM_DEAD, STREAM_OUTCOMES
from fnplatform.blobs import BlobStore
from fnplatform.dead_letters import HOPS, NO_VERSION
from fnplatform.events.intake import Intake
from fnplatform.frontdoor.errors import for_user
from fnplatform.frontdoor.ports import DispatcherPort
from fnplatform.frontdoor.records import for_each, newest_first
from fnplatform.jetstream import JetStream, StoredMessage, StreamFull, WrongSequence
from fnplatform.registry import Registry

REPLY_BYTES = 6 * limits.MIB
PAGE = 1000
PAGE_BYTES = 16 * limits.MIB
LETTERS_MAX = limits.CHUNK_ITEMS_MAX
"""Letters of one call: each has an item of its own at least."""

Parts = Sequence[memoryview]


@dataclass(frozen=True, slots=True)
class Stored:
    """One letter as it lies in DEAD."""

    seq: int
    letter: DeadLetter
    payload: Bytes


def read(message: StoredMessage) -> Stored:
    """A stored letter; what is none of ours shows as garbage under the names in its subject."""
    try:
        letter, parts = frames.unpack(message.data, DeadLetter)
        return Stored(message.seq, letter, parts[0] if parts else b"")
    except ProtocolError as error:
        names = DEAD_LETTER.parse(message.subject) or {}
        state = InvocationState(
            tenant=names.get("tenant", "_"), call=names.get("call", "_").partition(".")[0], app=names.get("app", "_"),
            function=names.get("function", "_"), version=NO_VERSION, inbox="", digest=digest(message.data),
            payload_bytes=len(message.data), submitted_unix_s=0.0,
        )  # fmt: skip
        letter = DeadLetter(state=state, reason=f"can't be read: {error.message}", at_unix_s=0.0, garbage=True)
        return Stored(message.seq, letter, message.data)


def replayed(
    state: InvocationState, call: str, version: str, queue_timeout_s: float | None, unix_s: float
) -> InvocationState:
    """The state of a new call with the arguments of one that failed."""
    fresh = {
        "call": call, "version": version, "submitted_unix_s": unix_s, "not_before_unix_s": 0.0, "attempts": 0,
        "item_attempts": {}, "losses": 0, "departures": 0, "next_part": 0, "exact": False, "checkpoint": False,
        "group": None, "expires_unix_s": None if queue_timeout_s is None else unix_s + queue_timeout_s,
    }  # fmt: skip
    return state.model_copy(update=fresh)


def joined(letters: Sequence[Stored]) -> tuple[InvocationState, Bytes]:
    """Letters of one call as one: of a chunk the items of all of them, numbered anew where they lie in the letters."""
    state = letters[0].letter.state
    if state.items is None:
        return state, letters[0].payload
    if state.blob:  # It holds all items, whatever happened to each.
        numbers = {
            number
            for one in letters
            for first, last in one.letter.state.pending or []
            for number in range(first, last + 1)
        }
        return state.model_copy(update={"pending": [(number, number) for number in sorted(numbers)]}), b""
    items = [item for one in letters for item in frames.unpack_items(one.payload, limits.CHUNK_ITEMS_MAX)]
    payload = frames.pack_items(items)
    update = {"items": len(items), "pending": None, "digest": digest(payload), "payload_bytes": len(payload)}
    return state.model_copy(update=update), payload


class DeadLetters:
    """The dead verb."""

    def __init__(
        self,
        *,
        js: JetStream,
        registry: Registry,
        blobs: BlobStore,
        dispatcher: DispatcherPort,
        intake: Intake,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._js = js
        self._registry = registry
        self._blobs = blobs
        self._dispatcher = dispatcher
        self._intake = intake
        self._unix_s = unix_s

    async def handle(self, tenant: str, request: DeadRequest, parts: Parts) -> DeadReply | bytes:
        """Do what ``action`` says; ResultExpired for a call that has no letter: then nothing was done."""
        if request.action == "list":
            return DeadReply(letters=await self._list(tenant, request))
        if request.every and request.action != "show":
            return await self._every(tenant, request)
        calls = list(dict.fromkeys(request.calls))
        if request.action == "show":
            shown: list[Stored] = []
            for call in calls:  # one after the other: what is too much is refused before all of it is read
                shown += await self._find(tenant, call)
                if sum(len(one.payload) for one in shown) > REPLY_BYTES:
                    break
            return _shown(shown)
        found = await for_each(calls, lambda call: self._find(tenant, call))
        if request.action == "replay":
            return await self._replay_all(tenant, found)
        await self._delete(one for letters in found for one in letters)
        return DeadReply(letters=[one.letter for letters in found for one in letters])

    async def _list(self, tenant: str, request: DeadRequest) -> list[DeadLetter]:
        room = REPLY_BYTES

        def accept(message: StoredMessage) -> DeadLetter | None:
            nonlocal room
            letter = read(message).letter
            room -= len(letter.model_dump_json(exclude_defaults=True))
            return letter if room >= 0 else None

        return await newest_first(self._js, STREAM_DEAD, _filter(tenant, request), accept, request.limit)

    async def _find(self, tenant: str, call: str) -> list[Stored]:
        """Every letter of a call, the oldest first."""
        found: list[StoredMessage] = []
        for token in (call, f"{call}.*"):
            pattern = DEAD_LETTER.wildcard(tenant=tenant, call=token)
            seq = 1
            while page := await self._js.get_range(STREAM_DEAD, pattern, seq=seq, limit=PAGE, bytes_max=PAGE_BYTES):
                found += page
                seq = page[-1].seq + 1
        if not found:
            raise ResultExpired(f"call {call} is not among what failed for good", hint="see: fleet dead list")
        return [read(message) for message in found]

    async def _every(self, tenant: str, request: DeadRequest) -> DeadReply:
        """One page of all letters that match, from ``from_seq`` on."""
        found = await self._js.get_range(
            STREAM_DEAD,
            _filter(tenant, request),
            seq=max(1, request.from_seq),
            limit=request.limit,
            bytes_max=PAGE_BYTES,
        )
        letters = [one for one in map(read, found) if one.letter.at_unix_s < (request.before_unix_s or float("inf"))]
        if request.action == "drop":
            await self._delete(letters)
            reply = DeadReply(letters=[one.letter for one in letters])
        else:
            by_call: dict[tuple[str, str, str], list[Stored]] = {}
            for one in letters:
                state = one.letter.state
                by_call.setdefault((state.app, state.function, state.call), []).append(one)
            reply = await self._replay_all(tenant, list(by_call.values()))
        # A page may be short because its letters are large: the end is one without any.
        goes_on = bool(found) and len(letters) == len(found)
        return reply.model_copy(update={"next_seq": found[-1].seq + 1 if goes_on else 0})

    async def _delete(self, letters: Iterable[Stored]) -> None:
        await for_each([one.seq for one in letters], lambda seq: self._js.delete_seq(STREAM_DEAD, seq))

    # --- replay -------------------------------------------------------------------------------------------------------

    async def _replay_all(self, tenant: str, found: Sequence[Sequence[Stored]]) -> DeadReply:
        """Replay the letters of each call; what can't be replayed stays and is told."""
        made: list[str] = []
        done: list[DeadLetter] = []
        problems: list[DeadProblem] = []
        for letters in found:  # in order: calls of one key follow each other as their letters do
            try:
                made.append(await self._replay(tenant, letters))
            except FleetError as error:
                call = letters[0].letter.state.call
                problems.append(DeadProblem(call=call, error=WireError.of(for_user(error))))
                continue
            await self._delete(letters)
            done += [one.letter for one in letters]
        return DeadReply(letters=done, replayed=made, problems=problems)

    async def _replay(self, tenant: str, letters: Sequence[Stored]) -> str:
        """The id of the new call, or of the event."""
        first = letters[0].letter
        if first.garbage:
            raise Refused("it can't be decoded, so it can't be replayed", hint="forget it: fleet dead drop CALL")
        if first.event is not None:
            return await self._publish(tenant, letters[0])
        state, payload = joined(letters)
        version, manifest = await self._version(tenant, state)
        await self._renew(tenant, state)
        call = derived_call_id("replay", tenant, state.call, *(str(one.seq) for one in letters))
        fresh = replayed(state, call, version, manifest.queue_timeout_s, self._unix_s())
        names = {"tenant": tenant, "app": state.app, "function": state.function, "call": call}
        if await self._js.get_last(STREAM_OUTCOMES, OUTCOME.build(**names)) is not None:
            return call  # asked before, and it has run
        try:
            seq = await self._js.publish(
                INVOCATION.build(partition=PARTITION, **names), frames.pack(fresh, [payload]), expect_last_subject_seq=0
            )
        except WrongSequence:
            return call  # asked before, and it waits
        except StreamFull as error:
            raise QueueFull("the queue is full") from error
        self._dispatcher.submit_local(fresh, seq, bytes(payload))
        return call

    async def _version(self, tenant: str, state: InvocationState) -> tuple[str, Manifest]:
        """The version that a replay runs: the live one, else that which failed."""
        try:
            version = await self._registry.resolve(tenant, state.app, state.function)
        except NotDeployed:
            version = state.version
        try:
            manifest = await self._registry.lookup(tenant, state.app, state.function, version)
        except NotDeployed:
            raise NotDeployed(
                f"there is no function {state.app}.{state.function} any more",
                hint="deploy it again, or forget the letter: fleet dead drop CALL",
            ) from None
        if manifest.yields != state.stream:
            raise Refused(
                f"{state.app}.{state.function} {'is' if manifest.yields else 'is no longer'} a generator function",
                hint="call it again instead: fleet call APP.FN",
            )
        return version, manifest

    async def _renew(self, tenant: str, state: InvocationState) -> None:
        drop = f"forget it: fleet dead drop {state.call}"
        if state.blob and not await self._blobs.renew(tenant, state.digest):
            raise ResultExpired(f"the arguments of call {state.call} are no longer kept", hint=drop)
        for ref in state.refs:
            if not await self._blobs.renew(tenant, ref.digest):
                raise ResultExpired(
                    f"a value of fleet.put that call {state.call} refers to is no longer kept", hint=drop
                )

    async def _publish(self, tenant: str, stored: Stored) -> str:
        """An event that was cut off starts anew, with all its hops before it."""
        letter = stored.letter
        assert letter.event is not None
        if letter.state.function != HOPS:
            raise Refused(
                "it never was an event that can be read", hint="publish it again the right way, and forget this one"
            )
        fresh = letter.event.model_copy(update={"id": new_call_id(), "hops": 0})
        (accepted,) = await self._intake.accepted(tenant, [(fresh, bytes(stored.payload))])
        return accepted.id


def _filter(tenant: str, request: DeadRequest) -> str:
    wanted = (("app", request.app), ("function", request.function))
    return DEAD_LETTER.wildcard(tenant=tenant, **{key: value for key, value in wanted if value is not None})


def _shown(letters: Sequence[Stored]) -> bytes:
    size_bytes = sum(len(one.payload) + len(one.letter.model_dump_json(exclude_defaults=True)) for one in letters)
    if size_bytes > REPLY_BYTES or len(letters) > LETTERS_MAX:
        raise Refused(f"these are {len(letters)} letters of {size_bytes} bytes", hint="ask for fewer calls at once")
    return frames.pack(DeadReply(letters=[one.letter for one in letters]), [one.payload for one in letters])
