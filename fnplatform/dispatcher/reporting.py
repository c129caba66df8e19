"""What a car's report means for a call: its outcome, another try, or a refusal. Pure; changes the Board.

What must be durable goes through ``entry.ops`` one after another: a part of a chunk is stored before the record that ends
it and before the state that no longer names its items. Different calls don't wait for each other.
"""

from __future__ import annotations

from fleet.protocol import limits
from fleet.protocol.errors import CarLost, FleetError
from fleet.protocol.messages import CallState, Metering, OutcomeRecord, Retries, RunOutcome, RunStatus, WireError
from fnplatform.dispatcher import chunks, keys, leases
from fnplatform.dispatcher.chunks import Ranges
from fnplatform.dispatcher.events import Commit, Remove, Report, Requeue, Result
from fnplatform.dispatcher.granting import leave_queue, turn, unlease
from fnplatform.dispatcher.state import Board, Ended, Entry, Held, Phase
from fnplatform.dispatcher.verdicts import decide, undecided

AVOID_S = 10.0
"""A car that couldn't start a version is not asked again for this long."""


def pause_s(retries: Retries, failures: int) -> float:
    """Seconds between failure number ``failures`` (from 1) and the next attempt."""
    return float(min(retries.delay_s * retries.backoff ** (failures - 1), retries.max_delay_s))


# --- what has to become durable --------------------------------------------------------------------------------------


def push_op(board: Board, entry: Entry, op: Commit | Requeue) -> None:
    """Store ``op`` once everything before it of the same call is stored."""
    entry.ops.append(op)
    if len(entry.ops) == 1:
        board.out.append(op)


def next_op(board: Board, entry: Entry) -> None:
    """The first op is done: on with the next."""
    entry.ops.pop(0)
    if entry.ops:
        board.out.append(entry.ops[0])


def drop_ops(board: Board, entry: Entry) -> None:
    """Nothing more of this call is to be stored."""
    for op in entry.ops:
        decide(board, op.report, op.index, "refused")
        op.report = None
    entry.ops.clear()


def record_of(
    board: Board,
    entry: Entry,
    state: CallState,
    *,
    final: bool = True,
    indices: Ranges | None = None,
    error: WireError | None = None,
    summary: str = "",
    run: RunOutcome | None = None,
    held: Held | None = None,
) -> OutcomeRecord:
    """The record of an outcome. Built without validation: every value in it was validated or is ours."""
    call = entry.state
    metering = None
    if run is not None and held is not None:
        metering = Metering.model_construct(
            car=held.car.name, slot=run.slot, lease=held.lease.counter, epoch=held.lease.epoch, attempt=entry.attempt,
            submitted_unix_s=call.submitted_unix_s, granted_unix_s=held.granted_unix_s, started_unix_s=run.started_unix_s,
            finished_unix_s=run.finished_unix_s, run_s=run.run_s, memory_bytes=run.memory_bytes,
            departures=entry.departures,
        )  # fmt: skip
    return OutcomeRecord.model_construct(
        call=call.call, app=call.app, function=call.function, version=call.version, state=state, part=entry.next_part,
        final=final, indices=indices, error=error, summary=summary, blob=run.blob if run else None,
        blob_bytes=run.blob_bytes if run else 0, group=call.group, metering=metering, submit_digest=call.digest,
        items=entry.delivered if call.stream else call.items, kept=run.kept if run else [], trigger=call.trigger,
    )  # fmt: skip


def end_call(
    board: Board,
    entry: Entry,
    state: CallState,
    error: FleetError,
    *,
    dead: str = "",
    report: Report | None = None,
    index: int = 0,
) -> None:
    """The platform ends the call: ``error`` is its outcome, and that of every item of a chunk that has none yet."""
    assert entry.lease is None, entry.state.call
    leave_queue(entry)
    entry.phase = Phase.ENDING
    if entry.state.trigger and state is not CallState.CANCELLED:
        dead = dead or error.message  # nobody waits for it: who wonders finds it among what failed for good
    indices = entry.remaining if entry.state.items is not None else None
    record = record_of(
        board, entry, state, indices=indices, error=WireError.of(error), summary=f"{error.code}: {error.message}"
    )
    push_op(board, entry, Commit(entry, record, dead=dead, dead_items=indices, report=report, index=index))


def requeue(
    board: Board, entry: Entry, *, not_before: float = 0.0, report: Report | None = None, index: int = 0
) -> None:
    """Make what is known of the call durable; then it waits again."""
    chunk = entry.state.items is not None
    update: dict[str, object] = {
        "attempts": entry.attempts,
        "losses": entry.losses,
        "departures": entry.departures,
        "checkpoint": entry.checkpoint,
        "not_before_unix_s": not_before,
    }
    if entry.state.stream:
        update |= {"delivered": entry.delivered, "consumed": entry.consumed, "next_part": entry.next_part}
    if entry.started:
        update["expires_unix_s"] = None
    if chunk:
        update |= {
            "pending": entry.remaining,
            "item_attempts": entry.item_attempts,
            "next_part": entry.next_part,
            "exact": entry.exact,
        }
        if entry.holds:
            unheld = chunks.subtract(entry.remaining, chunks.of(entry.holds))
            not_before = 0.0 if unheld else min(entry.holds.values())
            if keys.one_by_one(entry):
                not_before = keys.hold_of(entry)
            update["not_before_unix_s"] = not_before
    entry.phase = Phase.ENDING
    state = entry.state.model_copy(update=update)
    push_op(board, entry, Requeue(entry, state, entry.remaining if chunk else None, report, index))


def finish(board: Board, entry: Entry, outcome: CallState, order: leases.Order, car: str, error: str) -> None:
    """The call is over and stored: forget it, but for what answers a late question."""
    leave_queue(entry)
    entry.phase = Phase.GONE
    state = entry.state
    board.by_seq.pop(entry.seq, None)
    board.streams.pop(entry, None)
    entry.queue.calls -= 1
    board.out.append(Remove(entry.seq))
    if board.entries.get((state.tenant, state.call)) is not entry:
        return  # it only shared the id of another function's call
    del board.entries[state.tenant, state.call]
    board.calls_of[state.tenant] -= 1
    if not board.calls_of[state.tenant]:
        del board.calls_of[state.tenant]
    if state.key:
        keys.leave(board, entry)
        turn(board, entry)
    if state.group is not None:
        group = board.groups.get((state.tenant, state.group))
        if group is not None:
            group.pop(state.call, None)
            if not group:
                del board.groups[state.tenant, state.group]
    board.remember(Ended(state, entry.seq, outcome, order, car, board.unix_s, error, entry.attempt))


def lose(board: Board, entry: Entry, why: str, *, report: Report | None = None, index: int = 0) -> None:
    """A car vanished under the call, or couldn't run it. Nobody's attempt, but not for ever."""
    assert entry.lease is None, entry.state.call
    entry.losses += 1
    if entry.losses >= limits.CAR_LOSSES_MAX:
        error = CarLost(f"{entry.losses} cars in a row were lost while running it (the last one: {why})")
        end_call(board, entry, CallState.FAILED, error, dead=error.message, report=report, index=index)
    else:
        requeue(board, entry, report=report, index=index)


# --- reports ---------------------------------------------------------------------------------------------------------


def take_result(board: Board, report: Report, index: int, result: Result, entry: Entry) -> None:
    """A report under the current lease of its call."""
    held = entry.lease
    assert held is not None
    if not entry.checked or (board.adopting and held.lease.epoch != board.epoch):
        held.seen_s = board.now_s
        undecided(board, report)  # an older leader's lease: a newer one may still show up, or an outcome
        return
    entry.started = True
    run = result.run
    chunk = entry.state.items is not None
    if result.malformed or run.status is RunStatus.ABANDONED:
        unlease(board, entry, "drop")
        held.car.avoid[entry.state.version] = board.now_s + AVOID_S
        held.car.now_s = board.now_s
        board.avoiding[held.car.name] = held.car
        lose(board, entry, run.message or "it couldn't start it", report=report, index=index)
    elif chunk:
        _chunk_result(board, report, index, result, entry, held)
    elif run.status is RunStatus.PARTIAL:
        if entry.state.stream:
            _stream_part(board, report, index, result, entry, held)
        else:
            decide(board, report, index, "committed")
    elif entry.state.stream and run.items > entry.delivered:
        undecided(board, report)  # its last items are on their way again
    else:
        unlease(board, entry, "outcome")
        _single_result(board, report, index, result, entry, held)


def _single_result(board: Board, report: Report, index: int, result: Result, entry: Entry, held: Held) -> None:
    run = result.run
    entry.losses = 0
    error = None
    if run.status is RunStatus.OK:
        if not entry.state.stream:
            entry.queue.measured(run.run_s)
        if result.status_byte != 1:
            entry.phase = Phase.ENDING
            record = record_of(board, entry, CallState.SUCCEEDED, run=run, held=held, summary=run.summary)
            emits = result.emits and not entry.state.stream
            push_op(board, entry, Commit(entry, record, result.part, report=report, index=index, emits=emits))
            return
    else:
        error = chunks.run_error(run.status, run.message)
    retries = entry.queue.manifest.retries
    failures = entry.attempts + 1
    if failures < retries.max_attempts:
        entry.attempts = failures
        requeue(board, entry, not_before=board.unix_s + pause_s(retries, failures), report=report, index=index)
        return
    summary = run.summary or (f"{error.code}: {error.message}" if error else "")
    wire = WireError.of(error) if error else None
    record = record_of(board, entry, CallState.FAILED, error=wire, summary=summary, run=run, held=held)
    entry.phase = Phase.ENDING
    dead = f"failed {failures} of {retries.max_attempts} times: {summary or 'exception'}"
    part = b"" if error else result.part
    if entry.state.stream:
        dead = ""  # Its caller is there and is told; nobody would take what another run yields.
    push_op(board, entry, Commit(entry, record, part, dead=dead, report=report, index=index))


def _stream_part(board: Board, report: Report, index: int, result: Result, entry: Entry, held: Held) -> None:
    """A generator's next items: a record of their own, in order, and the lease goes on."""
    run = result.run
    done = chunks.normal(run.done or [])
    if not done or done[-1][1] < entry.delivered:
        if entry.ops:
            undecided(board, report)  # its first copy is being stored
        else:
            decide(board, report, index, "committed")
        return
    first, last = done[0]
    if first > entry.delivered:
        undecided(board, report)  # what comes before it is on its way again
        return
    if len(done) > 1 or first < entry.delivered:
        unlease(board, entry, "drop")
        lose(board, entry, "its items don't follow those before", report=report, index=index)
        return
    entry.losses = 0
    record = record_of(board, entry, CallState.RUNNING, final=False, indices=done, run=run, held=held)
    entry.next_part += 1
    entry.delivered = last + 1
    push_op(board, entry, Commit(entry, record, result.part, done, report=report, index=index))


def _chunk_result(board: Board, report: Report, index: int, result: Result, entry: Entry, held: Held) -> None:
    run = result.run
    retries = entry.queue.manifest.retries
    done = chunks.normal(run.done or [])
    settled = chunks.settle(
        entry.remaining, done=done, failed=result.failed, status=run.status, culprit=run.culprit, message=run.message,
        attempts=entry.item_attempts, attempts_max=retries.max_attempts,
    )  # fmt: skip
    if run.blob is not None and settled.commit not in ([], done):
        # It holds more than what is still wanted, and nobody but its reader can take it apart.
        unlease(board, entry, "drop")
        lose(board, entry, "its results don't fit what was asked", report=report, index=index)
        return
    last = run.status is not RunStatus.PARTIAL
    items = chunks.count(held.items or [])
    if run.status is RunStatus.OK and items:
        entry.queue.measured(run.run_s / items)
    entry.remaining = settled.rest
    entry.item_attempts = settled.attempts
    entry.failed_items += len(settled.dead)
    for item in settled.retry:
        entry.holds[item] = board.unix_s + pause_s(retries, settled.attempts[item])
    if settled.commit or run.status is RunStatus.OK:
        entry.losses = 0
    final = not settled.rest
    if last or final:
        unlease(board, entry, "outcome")
    if run.blob is not None and settled.commit and settled.ended:
        # Results in a blob can't be mixed with errors of ours: a part of their own.
        _push_part(board, entry, run, held, settled.commit)
        run = run.model_copy(update={"blob": None, "blob_bytes": 0})
        settled.commit = []
    indices = chunks.union(settled.commit, chunks.of(settled.ended))
    if indices or final:
        state = CallState.RUNNING
        if final:
            entry.phase = Phase.ENDING
            state = CallState.FAILED if entry.failed_items else CallState.SUCCEEDED
        record = record_of(board, entry, state, final=final, indices=indices, summary=run.summary, run=run, held=held)
        dead = f"out of attempts: {run.summary or run.message or 'exception'}" if settled.dead else ""
        as_it_is = settled.commit == done and not settled.ended
        entry.next_part += 1
        ends_here = final or not last
        op = Commit(
            entry, record, result.part, done, None if as_it_is else settled.commit, settled.ended, dead,
            chunks.of(settled.dead) if settled.dead else None, report if ends_here else None, index, result.emits,
        )  # fmt: skip
        push_op(board, entry, op)
        if ends_here:
            return
    elif not last:
        if entry.ops:
            undecided(board, report)
        else:
            decide(board, report, index, "committed")
        return
    _rest_again(board, report, index, entry, run, settled, held)


def _push_part(board: Board, entry: Entry, run: RunOutcome, held: Held, indices: Ranges) -> None:
    record = record_of(board, entry, CallState.RUNNING, final=False, indices=indices, run=run, held=held)
    entry.next_part += 1
    push_op(board, entry, Commit(entry, record))


def _rest_again(
    board: Board, report: Report, index: int, entry: Entry, run: RunOutcome, settled: chunks.Settled, held: Held
) -> None:
    """The lease is over and items are left: durably queue them again."""
    entry.holds = {item: at for item, at in entry.holds.items() if chunks.contains(entry.remaining, item)}
    unheld = chunks.subtract(entry.remaining, chunks.of(entry.holds))
    left = chunks.intersect(unheld, held.items or [])
    if settled.culprit_unknown and entry.exact:
        lose(board, entry, "its sandbox died and nobody knows of what", report=report, index=index)
        return
    if settled.culprit_unknown:
        entry.exact = True
    elif run.status is RunStatus.OK and left:
        # A car that says OK without having done everything: not the function's fault, and not for ever.
        lose(board, entry, "it left items undone", report=report, index=index)
        return
    requeue(board, entry, report=report, index=index)
