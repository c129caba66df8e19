"""Which waiting call goes to which car now. Pure; changes the Board.

The rule that keeps this cheap: no call waits that would fit a car with a place, once ``match`` has run. So a new call
looks only at the kinds of cars that have a place, and only a car that gains a place looks at what waits.
"""

from __future__ import annotations

from collections import deque

from fleet.protocol import limits
from fleet.protocol.messages import Lease
from fnplatform.dispatcher import batching, chunks, keys, leases
from fnplatform.dispatcher.events import Check, Drop, Grant, GrantAnswered
from fnplatform.dispatcher.matching import fits, ranked
from fnplatform.dispatcher.queues import UNKNOWN_RUN_S, FunctionQueue
from fnplatform.dispatcher.state import Board, Car, Entry, Held, Phase

CHECKS_MAX = 64
"""Redelivered calls that are looked up at the same time, before they may be granted."""


def ready(board: Board, entry: Entry) -> None:
    """Nobody runs this call: put it where it waits, or grant it."""
    assert entry.lease is None and entry.phase is not Phase.GONE, (entry.phase, entry.state.call)
    keyed = bool(entry.state.key)
    if (board.adopting and not entry.checked) or (keyed and not board.caught_up):
        entry.phase = Phase.HELD
        board.held.append(entry)
        return
    if keyed and not keys.take_turn(board, entry):
        keys.block(entry)
        turn(board, entry)
        return
    not_before = _not_before(board, entry)
    if not_before > board.unix_s:
        entry.phase = Phase.DELAYED
        entry.not_before = not_before
        board.delayed.push(not_before, entry)
        return
    _enqueue(board, entry)


def turn(board: Board, entry: Entry) -> None:
    """A call with a key doesn't stand in the way of its key any more: the one whose turn it is now may go."""
    following = keys.next_of(board, entry)
    if following is not None:
        ready(board, following)


def _not_before(board: Board, entry: Entry) -> float:
    """When something of this call may run: for a chunk as soon as one of its items may."""
    if not entry.holds:
        return entry.not_before
    entry.holds = {item: at for item, at in entry.holds.items() if at > board.unix_s}
    if keys.one_by_one(entry):
        return keys.hold_of(entry)
    if chunks.subtract(entry.remaining, chunks.of(entry.holds)):
        return 0.0
    return min(entry.holds.values())


def _enqueue(board: Board, entry: Entry) -> None:
    queue = entry.queue
    entry.phase = Phase.WAITING
    if not queue.waiting and entry.checked and not board.changed and not queue.at_limit:
        car = _keeper(board, entry) or _car_for(board, entry)
        if car is not None:
            _assign(board, entry, car)
            return
    entry.queued = True
    queue.waiting += 1
    queue.heap.push(entry.order, entry)
    if queue.at_limit:
        _park(queue)
        return
    board.turns.add(queue)
    if board.changed or not entry.checked:
        board.woken.append(queue)  # a car may have a place for it all the same: see when the event is done


def leave_queue(entry: Entry) -> None:
    """The call no longer waits for a car (adopted, cancelled, expired)."""
    if entry.queued:
        entry.queued = False
        entry.queue.waiting -= 1


def _park(queue: FunctionQueue) -> None:
    if not queue.parked:
        queue.parked = True
        queue.limit.parked.append(queue)


def _keeper(board: Board, entry: Entry) -> Car | None:
    """A car with a free slot that keeps on its device something that this call takes."""
    state, queue = entry.state, entry.queue
    for name in board.kept.cars_with(state.tenant, state.refs) if state.refs else ():
        car = board.cars.get(name)
        if car is not None and car.has_place and not car.avoids(queue.key[3]) and fits(queue.need, car.offer_class):
            return car
    return None


def _car_for(board: Board, entry: Entry) -> Car | None:
    """A car for this call: where a batch gathers that it may join, else where its function ran last if that idles, else one
    with a free slot, else behind short work."""
    queue = entry.queue
    gathers = batching.open_car(board, queue) if batching.may_join(entry) else None
    if gathers is not None:
        return gathers
    version = queue.key[3]
    last = board.cars.get(queue.last_car)
    idles = last is not None and not last.leases and last.has_place and not last.avoids(version)
    if last is not None and idles and fits(queue.need, last.offer_class):
        return last
    for index in (board.free, board.ahead) if queue.short else (board.free,):
        for kind in ranked(queue.need, index):
            for car in index[kind].values():
                if not car.avoids(version):
                    return car
    return None


def _assign(board: Board, entry: Entry, car: Car) -> None:
    """Grant the call to the car; the request goes out when the event is done."""
    board.counter += 1
    state = entry.state
    lease = leases.sign(board.key, state.call, entry.seq, board.epoch, board.counter, car.name)
    queue = entry.queue
    items = None
    count = 1
    if state.items is not None:
        items = chunks.subtract(entry.remaining, chunks.of(entry.holds)) if entry.holds else entry.remaining
        if keys.one_by_one(entry):
            items = keys.items_of(entry)
        count = chunks.count(items)
    # Nobody knows how long a generator runs: its caller has a say in it.
    estimate_s = UNKNOWN_RUN_S if queue.run_s is None or state.stream else queue.run_s * count
    rider = batching.join(board, entry, car)
    if rider:
        estimate_s = queue.run_s or 0.0
    entry.phase = Phase.LEASED
    entry.lease = Held(
        lease, (board.epoch, board.counter), car, board.unix_s, board.now_s, estimate_s, items, rider=rider
    )
    take_place(board, entry, car, board.counter, estimate_s)
    queue.last_car = car.name
    board.turns.served(queue)
    board.counters.granted += 1
    if board.notes:
        board.note("grant", **lease_fields(lease))
    grant = board.outbox.get(car.name)
    if grant is None:
        grant = board.outbox[car.name] = Grant(car.name, [], [])
    grant.entries.append(entry)
    grant.counters.append(board.counter)
    if len(grant.entries) >= limits.GRANT_LEASES_MAX:
        board.out.append(board.outbox.pop(car.name))


def take_place(board: Board, entry: Entry, car: Car, counter: int, estimate_s: float) -> None:
    """The call holds one of the car's places from now on."""
    car.leases[counter] = entry
    car.riders += entry.lease is not None and entry.lease.rider
    car.load_s += estimate_s
    entry.queue.limit.running += 1
    free = board.free.get(car.offer_class)
    if free is not None:
        free.pop(car.name, None)
        if car.has_place:
            free[car.name] = car  # at the end: the next call goes to another car
    board.place(car)


def lease_fields(lease: Lease) -> dict[str, object]:
    """What the history says of a lease."""
    return {
        "call": lease.call,
        "seq": lease.seq,
        "epoch": lease.epoch,
        "counter": lease.counter,
        "car": lease.car,
    }


def unlease(board: Board, entry: Entry, why: str) -> Held:
    """End the current lease of a call and free its place. The caller says what becomes of the call.

    ``why``, for the history: ``outcome``, ``release``, ``lapse``, ``void``, ``drop`` or ``cancel``.
    """
    held = entry.lease
    if board.notes and held is not None and why != "outcome":
        board.note("end", call=held.lease.call, counter=held.lease.counter, why=why)
    assert held is not None, entry.state.call
    entry.lease = None
    entry.fence = max(entry.fence, held.order)
    car = held.car
    car.leases.pop(held.lease.counter)
    car.riders -= held.rider
    car.load_s = car.load_s - held.estimate_s if car.leases else 0.0
    limit = entry.queue.limit
    limit.running -= 1
    if limit.parked:
        for queue in limit.parked:
            queue.parked = False
        board.woken += limit.parked
        limit.parked.clear()
    board.place(car)
    return held


def match(board: Board) -> None:
    """Give every place that became free to a call that waits: slots first, one for each car in turn, then room behind
    busy ones."""
    woken, board.woken = board.woken, []
    for queue in woken:
        if queue.waiting and not queue.at_limit:
            board.turns.add(queue)
    gained = list(board.changed.values())
    cars = deque(gained)
    while cars:
        car = cars.popleft()
        if car.has_place and _take_one(board, car, short_only=False):
            cars.append(car)
    for queue in woken:
        _serve(board, queue)
    for car in gained:
        while car.has_place_ahead and _take_one(board, car, short_only=True):
            pass
    board.changed.clear()


def flush(board: Board) -> None:
    """Hand out the grants of this event."""
    if board.outbox:
        board.out += board.outbox.values()
        board.outbox.clear()


def _serve(board: Board, queue: FunctionQueue) -> None:
    """Let as many calls of this queue go as its limit and the cars allow."""
    while queue.waiting:
        if queue.at_limit:
            _park(queue)
            return
        board.turns.add(queue)
        car = _car_for(board, _next(queue))
        if car is None or not _go(board, queue, car):
            return


def _take_one(board: Board, car: Car, *, short_only: bool) -> bool:
    """Give one place of the car away; whether anything was done."""
    kind = car.offer_class
    keys = [key for key in board.turns.asked() if (key[1] or not short_only) and fits(key[0], kind)]
    if not keys:
        return False
    queue = board.turns.take(keys, lambda queue: not car.avoids(queue.key[3]))
    if queue is None:
        return False
    if not queue.waiting:
        return True
    if queue.at_limit:
        _park(queue)
        return True
    went = _go(board, queue, car)
    _fill_batch(board, queue)
    if queue.waiting:
        board.turns.add(queue)
    return went


def _fill_batch(board: Board, queue: FunctionQueue) -> None:
    """What waits joins the batch that was just opened."""
    while queue.waiting and not queue.at_limit and batching.may_join(_next(queue)):
        car = batching.open_car(board, queue)
        if car is None or not _go(board, queue, car):
            return


def _next(queue: FunctionQueue) -> Entry:
    """The oldest call that waits."""
    found = queue.heap.peek()
    assert found is not None, (queue.key, queue.waiting)
    return found[1]


def _go(board: Board, queue: FunctionQueue, car: Car) -> bool:
    """Take the oldest call of the queue: grant it to ``car`` or to the one that has its state, or look first whether it has
    an outcome. False: nothing could be done."""
    entry = _next(queue)
    if not entry.checked and board.checks >= CHECKS_MAX:
        return False
    queue.heap.pop()
    leave_queue(entry)
    if entry.checked:
        _assign(board, entry, _keeper(board, entry) or car)
    else:
        entry.phase = Phase.CHECKING
        check(board, entry)
    return True


def check(board: Board, entry: Entry) -> None:
    """Ask for what is stored of this call."""
    board.checks += 1
    board.out.append(Check(entry, entry.seq))


def grant_answered(board: Board, event: GrantAnswered) -> list[Entry]:
    """What the car takes runs; anything else is void, and so is its offer until it makes another.

    Returns calls whose grant nobody answered: the car may have taken them. They need a durable requeue before they run
    elsewhere, else a later leader that hears only of the older lease would take its outcome.
    """
    grant = event.grant
    unsure: list[Entry] = []
    accepted = set(event.accepted or ())
    late = []
    refused = False
    for entry, counter in zip(grant.entries, grant.counters, strict=True):
        held = entry.lease
        current = held is not None and held.lease.counter == counter
        if current and counter in accepted:
            assert held is not None
            held.accepted = True
            entry.started = True
        elif current:
            refused = True
            unlease(board, entry, "void")
            board.counters.voided += 1
            if event.accepted is None:
                late.append(counter)  # it may have taken it without our hearing so
        elif counter in accepted and entry.fence != (board.epoch, counter):
            late.append(counter)
    car = board.cars.get(grant.car)
    if refused and car is not None:
        car.offer_valid = False
        board.place(car)
    if late:
        board.out.append(Drop(grant.car, late))
    for entry in grant.entries:
        if entry.lease is None and entry.phase is Phase.LEASED:
            if event.accepted is None:
                unsure.append(entry)
            else:
                ready(board, entry)
    return unsure
