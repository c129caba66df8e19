"""Calls that a car runs as one (``batch=``): they go to the car where a batch gathers, and take no place of their own. Pure.

A batch is open from the grant of its first call for the function's ``max_wait``, until it is full or its car is no longer
able. Its first call takes a place like any call; those that join are *riders*: the run that they are part of is paid for.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleet.protocol import limits
from fnplatform.dispatcher.matching import fits
from fnplatform.dispatcher.queues import FunctionQueue
from fnplatform.dispatcher.state import Board, Car, Entry


@dataclass(slots=True, eq=False)
class Gathering:
    """The batch of one version that more calls may join."""

    car: str
    calls: int
    end_s: float


def may_join(entry: Entry) -> bool:
    """Whether the call is of the kind that runs together with others: no chunk, nothing that has to run by itself."""
    state = entry.state
    return entry.queue.batch is not None and state.items is None and not state.stream and not entry.exact


def open_car(board: Board, queue: FunctionQueue) -> Car | None:
    """The car where a batch of this version gathers, None where there is none that can take one more."""
    gathering, batch = queue.gathering, queue.batch
    if gathering is None or batch is None:
        return None
    car = board.cars.get(gathering.car)
    if (
        car is None
        or gathering.calls >= batch.max_size
        or board.now_s > gathering.end_s
        or not car.able
        or not car.leases
        or len(car.leases) >= limits.LEASES_PER_CAR_MAX
        or car.avoids(queue.key[3])
        or not fits(queue.need, car.offer_class)
    ):
        queue.gathering = None
        return None
    return car


def join(board: Board, entry: Entry, car: Car) -> bool:
    """The call goes to ``car``: whether it joins the batch that gathers there. If not, it opens one."""
    queue = entry.queue
    if queue.batch is None or not may_join(entry):
        return False
    if queue.gathering is not None and open_car(board, queue) is car:
        queue.gathering.calls += 1
        return True
    queue.gathering = Gathering(car.name, 1, board.now_s + queue.batch.max_wait_s)
    return False
