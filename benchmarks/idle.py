"""What a car costs that does nothing: memory without slots, memory of a warm slot, CPU while eligible and idle."""

from __future__ import annotations

import time

from benchmarks.functions import noop
from benchmarks.harness import MIB, Figure, Settings, Sync, cpu_s, figure, fleet_of, rss_bytes, timed
from fleet.testing import LocalFleet

IDLE_S = 60.0
IDLE_QUICK_S = 10.0


def idle_percent(fleet: LocalFleet, seconds: float) -> float:
    """CPU of a car's agent and all its slots, in percent of one core."""
    car = fleet.cars[0]
    pids = [car.pid, *car.slots()]
    used_s, began_s = sum(map(cpu_s, pids)), time.monotonic()
    time.sleep(seconds)
    spent_s, took_s = sum(map(cpu_s, pids)) - used_s, time.monotonic() - began_s
    assert [car.pid, *car.slots()] == pids, "a slot was replaced while nothing ran"
    return 100 * spent_s / took_s


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """Fresh fleets of one car with one slot and its spare."""
    bare, warm, percent = [], [], []
    for _ in range(settings.starts):
        with fleet_of(cars=1, sync=sync) as fleet:
            car = fleet.cars[0]
            timed(noop.remote, 200)
            warm.append(max(map(rss_bytes, car.slots())) / MIB)
            percent.append(idle_percent(fleet, IDLE_QUICK_S if settings.quick else IDLE_S))
            car.drive_away()
            bare.append(rss_bytes(car.pid) / MIB)
    return [
        figure("agent without slots, resident", bare, "MiB", target=70.0, sync=sync, note="after it had slots"),
        figure("warm slot, resident", warm, "MiB", target=110.0, sync=sync, note="shared pages counted"),
        figure("idle eligible car with its slots", percent, "% of a core", target=0.3, sync=sync),
    ]
