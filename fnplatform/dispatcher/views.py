"""What people ask of the dispatcher: which calls there are, why one waits, what cars do. Pure; only reads the Board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from fleet.protocol.messages import CallsRequest, CallState, CallStatus, CarInfo, ExplainReply
from fnplatform.dispatcher import chunks, keys
from fnplatform.dispatcher.matching import conditions, sentence
from fnplatform.dispatcher.state import Board, Car, Entry, Phase


def state_of(entry: Entry) -> CallState:
    """Where a call is, as its caller sees it."""
    return CallState.RUNNING if entry.lease is not None or entry.phase is Phase.ENDING else CallState.QUEUED


def row_of(entry: Entry) -> CallStatus:
    """One row of a call that isn't over."""
    state = entry.state
    done = entry.delivered if state.items is None else state.items - chunks.count(entry.remaining)
    return CallStatus(
        call=state.call, state=state_of(entry), app=state.app, function=state.function, version=state.version,
        group=state.group, items=state.items, items_done=done, attempt=entry.attempt, losses=entry.losses,
        submitted_unix_s=state.submitted_unix_s, car=entry.lease.car.name if entry.lease else None, trigger=state.trigger,
    )  # fmt: skip


def status(board: Board, tenant: str, calls: Sequence[str]) -> list[CallStatus]:
    """One row for each, in order; ``state`` None where it neither waits nor runs."""
    rows = []
    for call in calls:
        entry = board.entries.get((tenant, call))
        rows.append(CallStatus(call=call) if entry is None else row_of(entry))
    return rows


def calls(board: Board, tenant: str, request: CallsRequest) -> list[CallStatus]:
    """Calls that wait or run, newest first."""
    found: Iterable[Entry]
    if request.group is not None:
        found = board.groups.get((tenant, request.group), {}).values()
    else:
        found = (entry for (owner, _), entry in board.entries.items() if owner == tenant)
    wanted = [
        entry
        for entry in found
        if (request.app is None or entry.state.app == request.app)
        and (request.function is None or entry.state.function == request.function)
    ]
    wanted.sort(key=lambda entry: entry.state.submitted_unix_s, reverse=True)
    return [row_of(entry) for entry in islice(wanted, request.limit)]


def depth(board: Board, tenant: str) -> dict[str, int]:
    """Waiting calls by ``app.function``."""
    found: dict[str, int] = {}
    for queue in board.queues.values():
        if queue.tenant == tenant and queue.waiting:
            found[queue.function] = found.get(queue.function, 0) + queue.waiting
    for (owner, app, name, _), line in board.lines.items():
        behind = line.calls - (line.active is not None)
        if owner == tenant and behind:
            function = f"{app}.{name}"
            found[function] = found.get(function, 0) + behind
    for entry in board.held:
        if entry.phase is Phase.HELD and entry.state.tenant == tenant and not entry.state.key:
            found[entry.queue.function] = found.get(entry.queue.function, 0) + 1
    return found


def explain(board: Board, tenant: str, call: str) -> ExplainReply:
    """Why a call waits: the matcher's own conditions, with how many cars pass each one."""
    entry = board.entries.get((tenant, call))
    if entry is None:
        return ExplainReply()
    queue = entry.queue
    state = state_of(entry)
    found = conditions(queue.need, queue.key[3], list(board.cars.values()))
    return ExplainReply(sentence=_why(board, entry) or sentence(found), state=state, conditions=found)


def _why(board: Board, entry: Entry) -> str:
    """What keeps a call besides the cars; empty if it waits for one."""
    if entry.lease is not None:
        return f"runs on {entry.lease.car.name}, attempt {entry.attempt}"
    if entry.phase is Phase.ENDING:
        return "it doesn't wait: its outcome or its next attempt is being stored"
    if entry.phase is Phase.HELD:
        return "waits because the dispatcher has just taken over and hears first what the cars are running"
    if entry.phase is Phase.CHECKING:
        return "it is about to be granted"
    if entry.phase is Phase.BLOCKED:
        ahead = keys.ahead_of(board, entry)
        call = f": {ahead.state.call}" if ahead is not None else ""
        return f"waits for an earlier event of its key{call}"
    if entry.phase is Phase.DELAYED:
        seconds = max(0.0, entry.not_before - board.unix_s)
        return f"waits {seconds:.1f} s more before attempt {entry.attempt}, as the function's retries say"
    most = entry.queue.manifest.max_concurrency
    if entry.queue.at_limit:
        return f"waits because max_concurrency={most} calls of {entry.queue.function} are running"
    return ""


def car_info(car: Car) -> CarInfo:
    """One row of ``fleet cars``."""
    hello = car.hello
    return CarInfo(
        car=car.name, online=car.online, standing=car.standing, slots=car.slots, offer=car.offer,
        leases=len(car.leases), running=[entry.state.call for entry in islice(car.leases.values(), 64)],
        isolation=hello.isolation if hello else [], isolation_missing=hello.isolation_missing if hello else [],
        simulated=hello.simulated if hello else False, version=hello.version if hello else "",
        heard_unix_s=car.heard_unix_s, last_departure=car.last_departure,
    )  # fmt: skip


def cars(board: Board) -> list[CarInfo]:
    """Every car that is known, by name."""
    return [car_info(board.cars[name]) for name in sorted(board.cars)]
