"""What every figure is made with: percentiles, interleaved blocks, the calibration loop, the fleet, the result.

Method (two vCPUs whose speed and wake-up cost change from minute to minute): what is compared runs interleaved in one
run, A-B-A-B in blocks; each pair of blocks gives one ratio; a pair is dropped when a calibration loop beside it moved by
more than CALIBRATION_SHARE_MAX. A figure is the median over pairs with its spread (10th and 90th percentile).

Units: ``*_s`` seconds, ``*_ms`` milliseconds, ``*_bytes`` bytes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fleet.testing import LocalFleet

Sync = Literal["default", "always"]
SYNCS: tuple[Sync, ...] = ("default", "always")
CALIBRATION_SHARE_MAX = 0.15
CALIBRATION_TURNS = 60_000
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured. ``quick`` keeps every step and shortens all of them."""

    quick: bool = False

    @property
    def starts(self) -> int:
        """Fresh starts of the fleet where a figure is a ratio."""
        return 1 if self.quick else 3

    @property
    def blocks(self) -> int:
        """Pairs of interleaved blocks per start."""
        return 3 if self.quick else 10

    @property
    def block_calls(self) -> int:
        """Calls of one block."""
        return 50 if self.quick else 200


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. ``target`` None: told, not judged."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    count: int
    target: float | None = None
    better: Literal["less", "more"] = "less"
    sync: Sync = "default"
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether it meets its target; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "less" else self.value >= self.target

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {**asdict(self), "passed": self.passed}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie (nearest rank)."""
    assert values and 0 <= share <= 1, (len(values), share)
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    return statistics.median(values)


def figure(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    share: float = 0.5,
    target: float | None = None,
    better: Literal["less", "more"] = "less",
    sync: Sync = "default",
    note: str = "",
) -> Figure:
    """A figure from its samples: the median, or another percentile, with the 10th and 90th as spread."""
    value = median(values) if share == 0.5 else percentile(values, share)
    low, high = percentile(values, 0.1), percentile(values, 0.9)
    return Figure(name, value, unit, low, high, len(values), target, better, sync, note)


def calibrate() -> float:
    """Seconds that a plain loop takes right now: the best of three."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        total = 0
        for turn in range(CALIBRATION_TURNS):
            total += turn & 7
        best = min(best, time.perf_counter() - began)
    return best


@dataclass(frozen=True, slots=True)
class Pair:
    """Two neighbouring blocks: the seconds of every call of either."""

    first: list[float]
    second: list[float]

    @property
    def ratio(self) -> float:
        """Median of the first over the median of the second."""
        return median(self.first) / median(self.second)

    @property
    def difference(self) -> float:
        """Median of the first less the median of the second, in seconds."""
        return median(self.first) - median(self.second)


Block = Callable[[int], list[float]]
"""Makes that many calls and returns the seconds of each."""


def interleaved(first: Block, second: Block, settings: Settings) -> list[Pair]:
    """Pairs of blocks, A-B-A-B; those beside which the machine changed its speed are measured again, at most once."""
    pairs: list[Pair] = []
    for _ in range(2 * settings.blocks):
        if len(pairs) == settings.blocks:
            break
        before = calibrate()
        pair = Pair(first(settings.block_calls), second(settings.block_calls))
        after = calibrate()
        if abs(after - before) <= CALIBRATION_SHARE_MAX * before:
            pairs.append(pair)
    if not pairs:
        raise RuntimeError(
            "the machine's speed never stood still for one pair of blocks: measure again when it is idle"
        )
    return pairs


def timed(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of ``count`` calls, one after the other."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


@contextmanager
def fleet_of(cars: int, slots: int = 1, sync: Sync = "default", *, http: bool = False) -> Iterator[LocalFleet]:
    """A fresh fleet with an empty data directory, for the length of a ``with``."""
    with LocalFleet(cars=cars, slots=slots, sync=sync, http=http) as fleet:
        # Measured once with the setting lost on its way: the figures looked plausible and were wrong.
        written = "sync_interval: always" in (fleet.data / "broker.conf").read_text()
        assert written == (sync == "always"), f"the broker doesn't run with sync {sync}"
        yield fleet


def rss_bytes(pid: int) -> int:
    """Resident memory of a process, shared pages included; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (FileNotFoundError, ProcessLookupError):
        return 0


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process used so far; 0 if it is gone."""
    try:
        # The scheduler's own count, in nanoseconds: the ticks of /proc/PID/stat are too coarse for an idle process.
        total = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
