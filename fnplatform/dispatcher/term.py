"""One term of leadership: the core with its hands. Messages become events, actions become messages.

Everything here runs in the event loop, in synchronous callbacks straight from the connection's reader: from a submit to
its grant, and from an outcome to its record, nothing waits for a task to be scheduled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
from anyio.abc import TaskGroup

from fleet.protocol import frames, limits
from fleet.protocol.errors import FleetError, FleetUnavailable, NotDeployed, ProtocolError
from fleet.protocol.messages import InvocationState, Lease, Manifest
from fleet.protocol.subjects import INVOCATION, STREAM_INVOCATIONS
from fleet.transport import Bus, Responder
from fnplatform.consumer import Delivered
from fnplatform.dead_letters import bury_garbage
from fnplatform.dispatcher import events, wire
from fnplatform.dispatcher.core import DispatcherCore
from fnplatform.dispatcher.events import Event, Grant, NewCall
from fnplatform.dispatcher.grants import Granter
from fnplatform.dispatcher.hearing import Hearing
from fnplatform.dispatcher.payloads import Payloads
from fnplatform.dispatcher.stores import Publisher, Store
from fnplatform.history import History
from fnplatform.jetstream import JetStream

log = logging.getLogger("fleet.dispatcher")

MANIFESTS_MAX = 10_000
CROWD_MIN = 8
Lookup = Callable[[str, str, str, str], Awaitable[Manifest]]


class Term:
    """What one leader does from its first to its last moment. ``holds`` is asked before every event."""

    def __init__(
        self, epoch: int, key: bytes, *, reply_bus: Bus, responder: Responder, js: JetStream, payloads: Payloads,
        lookup: Lookup, partition: str, group: TaskGroup, holds: Callable[[float], bool], history: History, outcomes: Publisher,
    ) -> None:  # fmt: skip
        self.epoch = epoch
        self.core = DispatcherCore(epoch, key, time.monotonic(), time.time(), notes=history.on)
        self.over = False
        self._js = js
        self._payloads = payloads
        self._lookup = lookup
        self._partition = partition
        self._group = group
        self._holds = holds
        self._history = history
        self.emitted: Callable[[int, bytes], None] | None = None
        """Hears of every OutboxEntry that was stored with an outcome: its sequence and the message."""
        store = Store(js, outcomes, responder, payloads, self, partition, time.time)
        self._manifests: dict[tuple[str, str, str, str], Manifest] = {}
        self._delivered: dict[int, Delivered] = {}
        self._settled: set[int] = set()
        self._local: list[NewCall] = []
        self._opening = 0
        self._unopened: dict[tuple[str, str, str], deque[tuple[InvocationState, int, bool]]] = {}
        """Calls whose manifest isn't at hand, and what came behind them, by function."""
        self._backlog_until = 0
        self._all_delivered = False
        granter = Granter(epoch, reply_bus, js, payloads, self)
        self._hearing = Hearing(self.core.board, reply_bus, responder, js, partition, self)
        self._do: dict[type, Callable[[Any], None]] = {
            Grant: granter.grant,
            events.Commit: store.commit,
            events.Requeue: store.requeue,
            events.Remove: self._remove,
            events.Verdicts: self._hearing.verdicts,
            events.BeatAnswer: self._hearing.beat_answer,
            events.Drop: granter.drop,
            events.Credit: granter.credit,
            events.Discard: store.discard,
            events.Check: store.check,
            events.Note: lambda note: history.write(note.kind, **note.fields),
        }

    # --- the core ---------------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Give an event to the core and do what it asks for; nothing once leadership is over."""
        now_s = time.monotonic()
        if self.over or not self._holds(now_s):
            self.over = True
            return
        try:
            for action in self.core.handle(event, now_s, time.time()):
                self._do[type(action)](action)
        except Exception as error:
            # A bug of ours: what the core remembers can't be trusted any more. The term ends, and the process with it.
            self.over = True
            self._group.start_soon(_fail, error)
            raise

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Run ``work`` as long as the term lasts."""
        if not self.over:
            self._group.start_soon(work, *args)

    async def listen(self) -> None:
        """Hear the cars of this partition."""
        await self._hearing.listen()

    async def close(self) -> None:
        """The term is over; never raises."""
        self.over = True
        await self._hearing.close()

    def state_held(self, car: str, lease: Lease) -> InvocationState | None:
        """The call of a lease that this car holds, or held a moment ago."""
        return self._hearing.state_held(car, lease)

    # --- what leads together with it asks ---------------------------------------------------------------------------

    def run_s(self, tenant: str, app: str, function: str, version: str) -> float | None:
        """What one item of this version takes, if that was measured."""
        queue = self.core.board.queues.get((tenant, app, function, version))
        return None if queue is None else queue.run_s

    def crowded(self, tenant: str, app: str, function: str, version: str) -> bool:
        """Whether so many calls of this version wait for a car that one more wouldn't run any sooner for being queued."""
        queue = self.core.board.queues.get((tenant, app, function, version))
        return queue is not None and queue.waiting >= max(CROWD_MIN, 2 * queue.limit.running)

    def queued(self, tenant: str) -> int:
        """Calls of the tenant that aren't over."""
        return self.core.board.calls_of[tenant]

    def knows(self, tenant: str, call: str) -> bool:
        """Whether this call isn't over, or hasn't been for long."""
        board = self.core.board
        return (tenant, call) in board.entries or (tenant, call) in board.ended

    # --- calls in ---------------------------------------------------------------------------------------------------

    def submit(self, state: InvocationState, seq: int, payload: bytes) -> None:
        """A call was stored just now by this process. Calls of the same turn of the loop are matched together."""
        self._payloads.keep(seq, payload)
        manifest = self._manifest_of(state)
        if manifest is None:
            self._open_later(state, seq, False)
            return
        if not self._local:
            asyncio.get_running_loop().call_soon(self._submit_local)
        self._local.append(NewCall(state, seq, manifest))

    def _submit_local(self) -> None:
        calls, self._local = self._local, []
        self.tell(events.Queued(calls))

    def backlog(self, last_seq: int, waiting: int) -> None:
        """Messages up to ``last_seq`` were stored before this term; ``waiting`` of them will be delivered."""
        self._backlog_until = last_seq
        if waiting == 0:
            self._all_delivered = True
            self.tell(events.CaughtUp())

    def on_delivered(self, delivered: Delivered) -> None:
        """The consumer brings a message: one of ours that is known by now, or one that isn't."""
        seq = delivered.seq
        if self.over:
            return  # unsettled: the next leader gets it
        if seq in self._settled:
            self._settled.discard(seq)
            self._ack(delivered)
        elif seq in self.core.board.by_seq:
            delivered.data = b""
            self._delivered[seq] = delivered
        else:
            self._delivered[seq] = delivered
            self._intake(delivered)
        if not self._all_delivered and (seq >= self._backlog_until or delivered.pending == 0):
            self._all_delivered = True
            self._caught_up()

    def _intake(self, delivered: Delivered) -> None:
        seq, data = delivered.seq, delivered.data
        delivered.data = b""
        try:
            state, parts = frames.unpack(data, InvocationState)
            payload = bytes(parts[0]) if parts else b""
            if wire.invocation_subject(state, self._partition) != delivered.subject:
                raise ProtocolError("the message lies under the subject of another call")
        except ProtocolError as error:
            log.error("message %d of %s is none of ours: %s", seq, delivered.subject, error.message)
            self._opening += 1
            self.spawn(self._terminate, delivered, data, error)
            return
        if not state.blob:
            self._payloads.keep(seq, payload)
        backlog = seq <= self._backlog_until
        manifest = self._manifest_of(state)
        if manifest is None:
            self._open_later(state, seq, backlog)
        else:
            self._queue(NewCall(state, seq, manifest, backlog))

    def _queue(self, call: NewCall) -> None:
        self.tell(events.Queued([call]))
        if self.over:
            return  # not taken: the next leader gets it
        if call.seq in self._delivered and call.seq not in self.core.board.by_seq:
            self._remove(events.Remove(call.seq))  # an older state of a call

    def _manifest_of(self, state: InvocationState) -> Manifest | None:
        """The manifest, if it is at hand and no call of the function that came before has to wait for one of its own: those
        with a key are told in the order in which they came."""
        if state.key and (state.tenant, state.app, state.function) in self._unopened:
            return None
        return self._manifests.get((state.tenant, state.app, state.function, state.version))

    def _open_later(self, state: InvocationState, seq: int, backlog: bool) -> None:
        self._opening += 1
        function = (state.tenant, state.app, state.function)
        known = self._unopened.get(function)
        if known is not None:
            known.append((state, seq, backlog))
            return
        self._unopened[function] = deque([(state, seq, backlog)])
        self.spawn(self._open_all, function)

    async def _open_all(self, function: tuple[str, str, str]) -> None:
        waiting = self._unopened[function]
        while waiting:
            await self._open(*waiting[0])
            waiting.popleft()
        del self._unopened[function]

    async def _open(self, state: InvocationState, seq: int, backlog: bool) -> None:
        """Find the manifest of a version met for the first time."""
        key = (state.tenant, state.app, state.function, state.version)
        try:
            while key not in self._manifests and not self.over:
                try:
                    if len(self._manifests) > MANIFESTS_MAX:
                        self._manifests.clear()
                    self._manifests[key] = await self._lookup(*key)
                except NotDeployed as error:
                    await self._give_up(state, seq, error)
                    return
                except FleetError as error:
                    log.warning("manifest of %s.%s can't be read yet: %s", state.app, state.function, error.message)
                    await anyio.sleep(limits.GRANT_ACCEPT_S)
            if not self.over:
                self._queue(NewCall(state, seq, self._manifests[key], backlog))
        finally:
            self._opening -= 1
            self._caught_up()

    async def _give_up(self, state: InvocationState, seq: int, error: NotDeployed) -> None:
        """The version of a queued call is gone: its outcome says so."""
        manifest = Manifest(
            display_name=state.function, app=state.app, function=state.function, program=wire.NO_PROGRAM
        )  # fmt: skip
        self._queue(NewCall(state, seq, manifest))
        entry = self.core.board.by_seq.get(seq)
        if entry is not None:
            self.tell(events.Vanished(entry, seq, error))

    async def _terminate(self, delivered: Delivered, data: bytes, error: ProtocolError) -> None:
        """What can't be decoded is recorded and terminated, never dropped."""
        names = INVOCATION.parse(delivered.subject)
        try:
            while not self.over:
                try:
                    if names is not None:
                        names.pop("partition", None)
                        await bury_garbage(self._js, data=data, error=error, **names)
                    delivered.term()
                    self._delivered.pop(delivered.seq, None)
                    await self._js.delete_seq(STREAM_INVOCATIONS, delivered.seq)
                    break
                except FleetError as problem:
                    log.warning("message %d not recorded yet (%s): %s", delivered.seq, error.message, problem.message)
                    await anyio.sleep(limits.GRANT_ACCEPT_S)
        finally:
            self._opening -= 1
            self._caught_up()

    def _caught_up(self) -> None:
        if self._all_delivered and not self._opening and not self.core.board.caught_up:
            self.tell(events.CaughtUp())

    def _remove(self, action: events.Remove) -> None:
        self._payloads.forget(action.seq)
        delivered = self._delivered.pop(action.seq, None)
        if delivered is not None:
            self._ack(delivered)
        else:
            self._settled.add(action.seq)  # the consumer will bring it

    def replaced(self, seq: int) -> None:
        """A requeue put another message in this one's place."""
        delivered = self._delivered.pop(seq, None)
        if delivered is not None:
            self._ack(delivered)

    def _ack(self, delivered: Delivered) -> None:
        try:
            delivered.ack()
        except FleetUnavailable:
            log.debug("acknowledgement of %d lost: the next leader finds its outcome", delivered.seq)


async def _fail(error: Exception) -> None:
    raise error
