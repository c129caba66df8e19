"""What cars say of themselves: hello, offers, beats, departures, silence. Pure; changes the Board."""

from __future__ import annotations

from fleet.protocol import limits
from fleet.protocol.messages import CarHello, Lease, Offer, Release, Standing
from fnplatform.dispatcher import keys, leases
from fnplatform.dispatcher.events import BeatAnswer, Beaten, Drop
from fnplatform.dispatcher.granting import check, lease_fields, leave_queue, ready, take_place, unlease
from fnplatform.dispatcher.queues import UNKNOWN_RUN_S
from fnplatform.dispatcher.reporting import lose, requeue
from fnplatform.dispatcher.state import Board, Car, Entry, Held, Phase
from fnplatform.dispatcher.verdicts import adoptable, remember_orphan

LAPSE_S = limits.OFFLINE_S
SLOTS_MAX = limits.LEASES_PER_CAR_MAX // 16
AHEAD_MAX = 15

assert SLOTS_MAX * (1 + AHEAD_MAX) <= limits.LEASES_PER_CAR_MAX


def _heard(board: Board, name: str, boot: str) -> Car:
    """The car is there. Another boot than before: what it held died with its agent."""
    car = board.cars.get(name)
    if car is None:
        car = board.cars[name] = Car(name)
    if boot and car.boot != boot:
        if car.boot:
            _lose_all(board, car, "its agent was started anew")
            car.hello = None
        car.boot = boot
    car.heard_s = board.now_s
    car.heard_unix_s = board.unix_s
    car.now_s = board.now_s
    car.online = True
    board.heard[name] = car
    board.heard.move_to_end(name)
    return car


def _says(board: Board, car: Car, offer: Offer, standing: Standing | None) -> None:
    """Take its offer and standing as they are now."""
    if offer.slots > SLOTS_MAX or offer.ahead > AHEAD_MAX or offer.slots < 0 or offer.ahead < 0:
        slots, ahead = max(0, min(offer.slots, SLOTS_MAX)), max(0, min(offer.ahead, AHEAD_MAX))
        offer = offer.model_copy(update={"slots": slots, "ahead": ahead})
    if offer != car.offer:
        board.displace(car)
    if standing is not None:
        car.standing = standing
    car.offers(offer)
    board.place(car)


def hello(board: Board, name: str, message: CarHello) -> None:
    """First words of an agent, or its words after a reconnect."""
    car = _heard(board, name, message.boot)
    car.hello = message
    _says(board, car, message.offer, message.standing)


def offered(board: Board, name: str, offer: Offer) -> None:
    """An offer alone: it stands for an eligible car, unless it offers nothing."""
    car = _heard(board, name, "")
    standing = None
    if offer.slots and not car.standing.eligible:
        standing = Standing(eligible=True, since_unix_s=board.unix_s)
    _says(board, car, offer, standing)


def beaten(board: Board, event: Beaten) -> None:
    """A beat keeps every lease of the car alive, proves leases to a new leader, and is told which ones don't hold."""
    beat = event.beat
    car = _heard(board, event.car, beat.boot)
    car.slots = beat.slots
    _says(board, car, beat.offer, beat.standing)
    listed = set()
    drop = []
    for lease in beat.leases:
        listed.add(lease.counter)
        if not leases.genuine(board.key, lease, car.name):
            board.counters.forged += 1
            drop.append(lease.counter)
        elif not _holds(board, car, lease):
            drop.append(lease.counter)
    missing = [
        entry
        for counter, entry in car.leases.items()
        if counter not in listed and entry.lease is not None and board.now_s - entry.lease.seen_s > LAPSE_S
    ]
    for entry in missing:
        _lapse(board, entry, "it no longer knew of it")
    board.out.append(BeatAnswer(event.car, event.reply, drop, car.hello is None))


def _holds(board: Board, car: Car, lease: Lease) -> bool:
    """Whether the lease holds, or may still turn out to; one that a new leader didn't know of is adopted."""
    entry = board.by_seq.get(lease.seq)
    order = leases.order(lease)
    if entry is None:
        ended = board.ended_seqs.get(lease.seq)
        if ended is not None:
            return ended.order == order
        if board.adopting or not board.caught_up:
            remember_orphan(board, lease, car.name)
            return True
        return False
    if entry.lease is not None and entry.lease.order == order:
        entry.lease.seen_s = board.now_s
        return True
    if entry.phase is Phase.ENDING:
        return entry.fence == order
    if not adoptable(entry, order):
        return False
    adopt(board, entry, lease, car)
    return True


def adopt(board: Board, entry: Entry, lease: Lease, car: Car) -> None:
    """A lease of an earlier leader goes on: nothing starts again."""
    if entry.lease is not None:
        older = unlease(board, entry, "drop")
        board.out.append(Drop(older.car.name, [older.lease.counter]))
    leave_queue(entry)
    items = keys.items_of(entry) if entry.state.items is not None else None
    entry.lease = Held(
        lease, leases.order(lease), car, board.unix_s, board.now_s, UNKNOWN_RUN_S, items, accepted=True
    )  # fmt: skip
    was = entry.phase
    entry.phase = Phase.LEASED
    entry.started = True
    if entry.state.key:
        keys.adopted(board, entry)
    take_place(board, entry, car, lease.counter, UNKNOWN_RUN_S)
    board.counters.adopted += 1
    if board.notes:
        board.note("adopt", **lease_fields(lease))
    if not entry.checked and was is not Phase.CHECKING and was is not Phase.LEASED:
        check(board, entry)


def released(board: Board, name: str, release: Release) -> None:
    """The owner leaves: everything goes elsewhere at once, and counts against nobody."""
    car = _heard(board, name, "")
    board.displace(car)
    car.standing = release.standing
    if not release.standing.eligible:
        car.offer_valid = False
        car.offer, car.slots = Offer(), []
    if release.signal_unix_s:
        car.last_departure = {
            "signal_unix_s": release.signal_unix_s,
            "killed_s": release.killed_s,
            "reaped_s": release.reaped_s,
            "leases": float(len(release.leases)),
        }
    for lease in release.leases:
        if not leases.genuine(board.key, lease, name):
            board.counters.forged += 1
            continue
        entry = board.by_seq.get(lease.seq)
        order = leases.order(lease)
        if entry is None:
            continue
        if entry.lease is not None and entry.lease.order == order:
            unlease(board, entry, "release")
            entry.started = True
            entry.departures += 1
            board.counters.released += 1
            if entry.phase is Phase.LEASED:
                _again(board, entry)
        elif entry.lease is None and adoptable(entry, order):
            entry.fence = order
            entry.departures += 1
    if car.able:
        board.place(car)


def _again(board: Board, entry: Entry) -> None:
    """The call goes elsewhere, without a word to the stream unless something counts against items of it."""
    if entry.item_attempts is entry.state.item_attempts:
        ready(board, entry)
    else:
        requeue(board, entry)


def _lapse(board: Board, entry: Entry, why: str) -> None:
    held = unlease(board, entry, "lapse")
    board.counters.lapsed += 1
    if held.accepted or entry.started:
        lose(board, entry, why)
    else:
        ready(board, entry)  # the car never said that it took it


def _lose_all(board: Board, car: Car, why: str) -> None:
    car.offer_valid = False
    board.displace(car)
    for entry in list(car.leases.values()):
        _lapse(board, entry, why)


def silence(board: Board) -> None:
    """Cars that weren't heard for too long are gone, and their leases with them."""
    while board.heard:
        name, car = next(iter(board.heard.items()))
        if board.now_s - car.heard_s < LAPSE_S:
            return
        del board.heard[name]
        car.online = False
        car.slots = []
        _lose_all(board, car, f"not heard for {LAPSE_S:g} s")


def avoidance(board: Board) -> None:
    """Cars that failed to start something get another chance."""
    for car in list(board.avoiding.values()):
        car.now_s = board.now_s
        if any(until <= board.now_s for until in car.avoid.values()):
            car.avoid = {version: until for version, until in car.avoid.items() if until > board.now_s}
            if car.has_place:
                board.changed[car.name] = car
        if not car.avoid:
            del board.avoiding[car.name]


def forget(board: Board, unheard_s: float) -> None:
    """Cars that are long gone are no longer listed."""
    gone = [car for car in board.cars.values() if not car.online and board.now_s - car.heard_s > unheard_s]
    for car in gone:
        assert not car.leases, car.name
        del board.cars[car.name]
