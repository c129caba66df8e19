"""The dispatcher's core: ``handle(event, now) -> actions``. Pure: no clock, no random, no I/O; the simulator runs this file.

Rules it keeps (DESIGN.md 3): one current lease for each call, ordered by (epoch, counter); an outcome under any other is
refused; what counts against a call is durable before the call runs again; a departure counts nothing; nothing that was
queued before this leader led is granted before every live car had the time to show its leases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleet.protocol import limits
from fleet.protocol.errors import QueueTimeout, Refused
from fleet.protocol.messages import CallState
from fnplatform.dispatcher import cars, chunks, events, granting, keys, leases, reporting, streams, verdicts
from fnplatform.dispatcher.events import Action, Commit, Drop, Event, NewCall, Remove, Requeue
from fnplatform.dispatcher.queues import FunctionQueue, Limit
from fnplatform.dispatcher.state import Board, Entry, Phase

QUEUES_IDLE_MAX = 10_000
"""Functions without calls whose measured durations are remembered."""


class DispatcherCore:
    """One term of leadership. ``notes``: also emit Note actions, for the history that the chaos checker reads."""

    def __init__(self, epoch: int, key: bytes, now_s: float, unix_s: float, *, notes: bool = False) -> None:
        assert epoch > 0 and len(key) >= 16, epoch
        self.board = Board(epoch, key, now_s, unix_s, notes=notes)
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.Queued: self._queued,
            events.CaughtUp: self._caught_up,
            events.HelloSaid: lambda event: cars.hello(self.board, event.car, event.hello),
            events.Offered: lambda event: cars.offered(self.board, event.car, event.offer),
            events.Beaten: lambda event: cars.beaten(self.board, event),
            events.Released: lambda event: cars.released(self.board, event.car, event.release),
            events.Reported: self._reported,
            events.GrantAnswered: self._grant_answered,
            events.Stored: self._stored,
            events.NotStored: self._not_stored,
            events.Checked: self._checked,
            events.CancelWritten: self._cancel_written,
            events.Vanished: self._vanished,
            events.Checkpointed: self._checkpointed,
            events.Consumed: lambda event: streams.consumed(self.board, event),
            events.Tick: lambda _event: self._tick(),
        }

    def handle(self, event: Event, now_s: float, unix_s: float) -> list[Action]:
        """Take one event; what is to be done about it, in order. ``now_s`` is monotonic."""
        board = self.board
        board.now_s = now_s
        board.unix_s = unix_s
        self._handlers[type(event)](event)
        granting.match(board)
        granting.flush(board)
        actions = board.out
        board.out = []
        return actions

    # --- calls ------------------------------------------------------------------------------------------------------

    def _queued(self, event: events.Queued) -> None:
        for call in event.calls:
            self._queued_one(call)

    def _queued_one(self, call: NewCall) -> None:
        board = self.board
        state = call.state
        key = (state.tenant, state.call)
        entry = board.entries.get(key)
        if entry is not None:
            self._queued_again(entry, call)
            return
        if key in board.ended:
            board.out.append(Remove(call.seq))
            return
        queue = self._queue_of(call)
        entry = Entry(state, call.seq, queue, state.submitted_unix_s, Phase.HELD, checked=not call.backlog)
        entry.first_seq = call.seq
        entry.load(state, call.seq)
        self._index(entry)
        orphan = board.orphans.pop(call.seq, None)
        if orphan is not None:
            lease, name = orphan
            car = board.cars.get(name)
            if car is not None and car.online:
                cars.adopt(board, entry, lease, car)
                return
        granting.ready(board, entry)

    def _queued_again(self, entry: Entry, call: NewCall) -> None:
        """A message for a call that is known: the same one, or a newer state that is known already or not."""
        if call.seq <= entry.seq:
            return
        state, known = call.state, entry.state
        if (state.app, state.function) != (known.app, known.function):
            # The call id of another function's call: its own subject, but not its own identity.
            self._refuse_twin(call)
            return
        first = entry.ops[0] if entry.ops else None
        if isinstance(first, Requeue):
            self._stored(events.Stored(first, call.seq))  # delivered before its acknowledgement came
            return
        # Somebody else led in between: what the stream holds is the truth.
        board = self.board
        if entry.lease is not None:
            held = granting.unlease(board, entry, "drop")
            board.out.append(Drop(held.car.name, [held.lease.counter]))
        granting.leave_queue(entry)
        reporting.drop_ops(board, entry)
        board.by_seq.pop(entry.seq, None)
        entry.load(state, call.seq)
        board.by_seq[call.seq] = entry
        entry.checked = False
        entry.phase = Phase.CHECKING
        granting.check(board, entry)

    def _refuse_twin(self, call: NewCall) -> None:
        board = self.board
        twin = Entry(call.state, call.seq, self._queue_of(call), 0.0, Phase.HELD, checked=True)
        twin.load(call.state, call.seq)
        board.by_seq[call.seq] = twin
        error = Refused("this call id belongs to a call of another function", hint="make a new id for each call")
        reporting.end_call(board, twin, CallState.FAILED, error)

    def _grant_answered(self, event: events.GrantAnswered) -> None:
        for entry in granting.grant_answered(self.board, event):
            reporting.requeue(self.board, entry)

    def _queue_of(self, call: NewCall) -> FunctionQueue:
        board, state = self.board, call.state
        key = (state.tenant, state.app, state.function, state.version)
        queue = board.queues.get(key)
        if queue is None:
            if len(board.queues) > QUEUES_IDLE_MAX:
                board.queues = {k: q for k, q in board.queues.items() if q.calls}
                board.limits = {k[:3]: q.limit for k, q in board.queues.items()}
            limit = board.limits.get(key[:3])
            if limit is None:
                limit = board.limits[key[:3]] = Limit()
            name = f"{state.app}.{state.function}"
            queue = board.queues[key] = FunctionQueue(state.tenant, name, state.version, call.manifest, limit)
        queue.calls += 1
        return queue

    def _index(self, entry: Entry) -> None:
        board, state = self.board, entry.state
        board.entries[state.tenant, state.call] = entry
        board.calls_of[state.tenant] += 1
        if state.stream:
            streams.opened(board, entry)
        board.by_seq[entry.seq] = entry
        if state.key:
            keys.join(board, entry)
        if state.group is not None:
            board.groups.setdefault((state.tenant, state.group), {})[state.call] = entry
        if state.expires_unix_s is not None:
            board.expiring.push(state.expires_unix_s, entry)

    def _cancel_written(self, event: events.CancelWritten) -> None:
        board = self.board
        entry = board.entries.get((event.tenant, event.call))
        if entry is None:
            return
        self._drop_lease(entry, "cancel")
        reporting.drop_ops(board, entry)
        reporting.finish(board, entry, CallState.CANCELLED, (0, 0), "", "call_cancelled")

    def _vanished(self, event: events.Vanished) -> None:
        """What the call needs to run isn't stored any more: its message (then it is over), or its arguments."""
        board, entry = self.board, event.entry
        if entry.phase in (Phase.GONE, Phase.ENDING) or entry.seq != event.seq:
            return
        self._drop_lease(entry)
        if event.error is None:
            reporting.drop_ops(board, entry)
            reporting.finish(board, entry, CallState.CANCELLED, (0, 0), "", "removed elsewhere")
            board.forget((entry.state.tenant, entry.state.call))  # it may only have been replaced: then it comes again
        else:
            reporting.end_call(board, entry, CallState.FAILED, event.error)

    def _drop_lease(self, entry: Entry, why: str = "drop") -> None:
        if entry.lease is not None:
            held = granting.unlease(self.board, entry, why)
            self.board.out.append(Drop(held.car.name, [held.lease.counter]))

    def _checkpointed(self, event: events.Checkpointed) -> None:
        entry = self.board.by_seq.get(event.seq)
        if entry is not None and entry.state.items is None:
            entry.checkpoint = True

    # --- reports and what became durable ----------------------------------------------------------------------------

    def _reported(self, event: events.Reported) -> None:
        for report, index, result, entry in verdicts.reported(self.board, event):
            held = entry.lease
            if held is None or held.lease.counter != result.run.lease.counter:
                verdicts.undecided(self.board, report)  # an outcome earlier in this very report ended the lease
            else:
                reporting.take_result(self.board, report, index, result, entry)
        # Reports of leases that this leader doesn't know of yet prove them just as beats do.
        if self.board.adopting:
            self._adopt_reported(event)

    def _adopt_reported(self, event: events.Reported) -> None:
        board = self.board
        car = board.cars.get(event.car)
        if car is None or not car.online:
            return
        for result in event.results:
            lease = result.run.lease
            entry = board.by_seq.get(lease.seq)
            order = (lease.epoch, lease.counter)
            if entry is None or (entry.lease is not None and entry.lease.order == order):
                continue
            if (
                entry.phase is not Phase.ENDING
                and verdicts.adoptable(entry, order)
                and leases.genuine(board.key, lease, car.name)
            ):
                cars.adopt(board, entry, lease, car)

    def _stored(self, event: events.Stored) -> None:
        board, op = self.board, event.op
        entry = op.entry
        verdicts.decide(board, op.report, op.index, "committed")
        op.report = None
        if isinstance(op, Commit):
            board.counters.committed += 1
            if entry.state.stream and not op.record.final:
                streams.stored(entry, op.record.part, event.seq, len(op.part))
            self._note_commit(op)
            if op.record.kept and op.record.metering is not None:
                board.kept.note(entry.state.tenant, op.record.kept, op.record.metering.car)
        if op not in entry.ops:  # cancelled meanwhile, or told twice
            if isinstance(op, Requeue) and entry.phase is Phase.GONE:
                board.out.append(Remove(event.seq))
            return
        assert entry.ops[0] is op, "ops become durable in order"
        reporting.next_op(board, entry)
        if isinstance(op, Requeue):
            board.by_seq.pop(entry.seq, None)
            entry.load(op.state, event.seq)
            board.by_seq[event.seq] = entry
            if board.notes:
                board.note(
                    "requeue", call=op.state.call, seq=event.seq, attempts=op.state.attempts, losses=op.state.losses
                )
            granting.ready(board, entry)
        elif op.record.final:
            metering = op.record.metering
            reporting.finish(
                board, entry, op.record.state, entry.fence, metering.car if metering else "", op.record.summary
            )

    def _note_commit(self, op: Commit) -> None:
        if self.board.notes:
            record = op.record
            counter = record.metering.lease if record.metering else 0
            self.board.note(
                "commit",
                call=record.call,
                counter=counter,
                state=record.state.value,
                part=record.part,
                final=record.final,
            )

    def _not_stored(self, event: events.NotStored) -> None:
        board, op = self.board, event.op
        entry = op.entry
        board.counters.refused += 1
        if op not in entry.ops:
            verdicts.decide(board, op.report, op.index, "refused")
            return
        self._drop_lease(entry)
        reporting.drop_ops(board, entry)
        if isinstance(op, Commit) and op.record.final:
            # First writer wins: it was cancelled, or ended by another leader.
            reporting.finish(board, entry, CallState.CANCELLED, (0, 0), "", "ended elsewhere")
        elif isinstance(op, Commit):
            entry.load(entry.state, entry.seq)
            entry.checked = False
            entry.phase = Phase.CHECKING
            granting.check(board, entry)
        else:
            # The stream holds another state of it, which the consumer brings, or none.
            reporting.finish(board, entry, CallState.CANCELLED, (0, 0), "", "replaced elsewhere")
            board.forget((entry.state.tenant, entry.state.call))

    def _checked(self, event: events.Checked) -> None:
        board, entry = self.board, event.entry
        board.checks -= 1
        if entry.phase is Phase.GONE or entry.seq != event.seq:
            return
        entry.checked = True
        if event.final:
            self._drop_lease(entry)
            reporting.drop_ops(board, entry)
            reporting.finish(board, entry, CallState.SUCCEEDED, (0, 0), "", "")
            self._wake_checks()
            return
        if entry.state.stream:
            streams.found(entry, event.parts)
        if event.dead:
            used_up = dict.fromkeys(chunks.numbers(event.dead), entry.queue.manifest.retries.max_attempts)
            entry.item_attempts = {**entry.item_attempts, **used_up}
            entry.failed_items += len(used_up)
        for number, indices in event.parts:
            entry.remaining = chunks.subtract(entry.remaining, indices)
            entry.next_part = max(entry.next_part, number + 1)
        entry.checkpoint = entry.checkpoint or event.checkpoint
        if entry.lease is not None:
            entry.lease.items = keys.items_of(entry) if entry.state.items is not None else None
        elif entry.phase is Phase.CHECKING and entry.state.items is not None and not entry.remaining:
            entry.phase = Phase.ENDING
            outcome = CallState.FAILED if entry.failed_items else CallState.SUCCEEDED
            record = reporting.record_of(board, entry, outcome, indices=[])
            reporting.push_op(board, entry, Commit(entry, record))
        elif entry.phase is Phase.CHECKING:
            # Leases that an earlier leader made and nobody showed here must never hold again, under no later leader
            # either: the new sequence number voids them. (The simulator found the gap: three leaders, two cars.)
            reporting.requeue(board, entry, not_before=entry.not_before)
        self._wake_checks()

    def _wake_checks(self) -> None:
        """Calls that waited for a look at the stream may be looked up now."""
        board = self.board
        if board.checks == granting.CHECKS_MAX // 2 or board.checks == 0:
            for kinds in (board.free, board.ahead):
                for by_name in kinds.values():
                    board.changed.update(by_name)

    # --- time -------------------------------------------------------------------------------------------------------

    def _caught_up(self, _event: events.CaughtUp) -> None:
        self.board.caught_up = True
        self._unhold()
        self._tick()

    def _unhold(self) -> None:
        """Calls that waited to know what was there before them: those that still have to are held again."""
        board = self.board
        held, board.held = board.held, []
        for entry in held:
            if entry.phase is Phase.HELD:
                granting.ready(board, entry)

    def _tick(self) -> None:
        board = self.board
        if board.adopting and board.caught_up and board.now_s - board.led_s >= limits.ADOPTION_S:
            board.adopting = False
            board.orphans.clear()
            self._unhold()
        while (due := board.delayed.pop_until(board.unix_s)) is not None:
            due.not_before = 0.0
            granting.ready(board, due)
        self._expire()
        streams.idle(board)
        cars.silence(board)
        cars.avoidance(board)
        if board.now_s - board.led_s > limits.CAR_RECORD_TTL_S:
            cars.forget(board, limits.CAR_RECORD_TTL_S)

    def _expire(self) -> None:
        board = self.board
        if board.adopting:
            return
        later = []
        while (entry := board.expiring.pop_until(board.unix_s)) is not None:
            if entry.phase in (Phase.WAITING, Phase.DELAYED, Phase.BLOCKED):
                waited_s = board.unix_s - entry.state.submitted_unix_s
                error = QueueTimeout(f"no car took the call within its queue_timeout (it waited {waited_s:.1f} s)")
                reporting.end_call(board, entry, CallState.EXPIRED, error)
            elif entry.phase is not Phase.ENDING:
                later.append(entry)  # a grant or a look-up is under way
        for entry in later:
            board.expiring.push(board.unix_s + limits.GRANT_ACCEPT_S, entry)
