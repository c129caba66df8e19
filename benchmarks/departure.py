"""Departure while every slot burns CPU and half of them hold their memory limit.

Two cars with two slots take turns. Each time: the one is away, so both calls run on the other; the first parks and offers
two free slots; the other drives away. When SIGKILL was sent and when all was reaped is measured by the agent itself,
from its source's signal on; when the work ran elsewhere stands in the metering of its outcome.
"""

from __future__ import annotations

import anyio

from benchmarks.functions import MEMORY_MIB, burn
from benchmarks.harness import MIB, Figure, Settings, Sync, cpu_s, figure, fleet_of, rss_bytes
from examples.demo.records import records_of_calls
from fleet.protocol.messages import OutcomeRecord
from fleet.testing import LocalCar, LocalFleet

SLOTS = 2
BUSY_S = 0.05
REAP_MS_PER_MIB = 0.1


class Trial:
    """One departure: what was resident, what it took (ms), and the calls that had to move."""

    def __init__(self, resident_mib: float, calls: list[str]) -> None:
        self.resident_mib = resident_mib
        self.calls = calls
        self.signal_unix_s = 0.0
        self.killed_ms = 0.0
        self.reaped_ms = 0.0


def one_departure(fleet: LocalFleet, leaves: LocalCar, takes: LocalCar) -> Trial:
    """Put both calls on ``leaves``, free ``takes``, drive ``leaves`` away, wait for both results."""
    used_s = {pid: cpu_s(pid) for pid in leaves.slots()}
    calls = [burn.spawn(hold=True), burn.spawn(hold=False)]

    def all_burn() -> list[int] | None:
        slots = leaves.slots()
        busy = [pid for pid in slots if cpu_s(pid) - used_s.get(pid, 0.0) > BUSY_S]
        full = [pid for pid in slots if rss_bytes(pid) > 0.95 * MEMORY_MIB * MIB]
        return slots if len(busy) >= SLOTS and full else None

    fleet.wait_for(all_burn, f"both slots of {leaves.name} to burn")
    takes.park()
    fleet.wait_for(lambda: takes.info().offer.slots == SLOTS, f"{takes.name} to offer {SLOTS} slots")
    slots = leaves.slots()
    trial = Trial(sum(map(rss_bytes, slots)) / MIB, [call.id for call in calls])
    before = leaves.info().last_departure.get("signal_unix_s", 0.0)
    leaves.drive_away()
    for call in calls:
        answer = call.result(timeout=30)
        assert answer == "moved", answer
    fleet.wait_for(lambda: leaves.info().last_departure.get("signal_unix_s", 0.0) > before, "the release")
    last = leaves.info().last_departure
    trial.signal_unix_s = last["signal_unix_s"]
    trial.killed_ms, trial.reaped_ms = 1000 * last["killed_s"], 1000 * last["reaped_s"]
    return trial


def elsewhere_ms(trial: Trial, records: dict[str, OutcomeRecord]) -> float:
    """From the source's signal until the last of the trial's calls ran on the other car."""
    started = []
    for call in trial.calls:
        metering = records[call].metering
        assert metering is not None and metering.departures == 1 and metering.attempt == 1, metering
        started.append(metering.started_unix_s)
    return 1000 * (max(started) - trial.signal_unix_s)


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """The cars take turns in leaving."""
    trials = []
    with fleet_of(cars=2, slots=SLOTS, sync=sync) as fleet:
        leaves, takes = fleet.cars
        takes.drive_away()
        for _ in range(20 if settings.quick else 200):
            trials.append(one_departure(fleet, leaves, takes))
            leaves, takes = takes, leaves
        calls = [call for trial in trials for call in trial.calls]
        records = {record.call: record for record in anyio.run(records_of_calls, fleet.url, calls)}
    killed = [trial.killed_ms for trial in trials]
    reaped = [trial.reaped_ms for trial in trials]
    over = [trial.reaped_ms - REAP_MS_PER_MIB * trial.resident_mib for trial in trials]
    away = [elsewhere_ms(trial, records) for trial in trials]
    later = [ms - trial.reaped_ms for ms, trial in zip(away, trials, strict=True)]
    resident = [trial.resident_mib for trial in trials]
    return [
        figure("departure: SIGKILL sent after the signal, p50", killed, "ms", sync=sync),
        figure("departure: SIGKILL sent after the signal, p99", killed, "ms", share=0.99, target=3.0, sync=sync),
        figure("departure: all reaped, p50", reaped, "ms", sync=sync),
        figure("departure: all reaped, p99", reaped, "ms", share=0.99, sync=sync),
        figure(
            "departure: all reaped less 0.1 ms per resident MiB, p99", over, "ms", share=0.99, target=10.0, sync=sync,
        ),
        figure("departure: resident in the slots that were killed", resident, "MiB", sync=sync),
        figure("departure: signal to running elsewhere, p50", away, "ms", sync=sync),
        figure(
            "departure: running elsewhere after all was reaped, p99", later, "ms", share=0.99, target=20.0, sync=sync,
            note="negative: it ran elsewhere before the last slot was reaped",
        ),
    ]  # fmt: skip
