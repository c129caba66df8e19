"""What a car tells about itself, in the field's own terms, and where it comes from.

One model for every source: by hand and replayed records today, vehicle telemetry (Tesla Fleet Telemetry, VSS, MQTT,
OCPP) later. A value that a source doesn't know is None: whatever a rule needs and doesn't know counts as not met.

Units:    ``*_pct`` percent of full, ``*_c`` degrees Celsius, ``*_unix_s`` seconds since 1970 on the car's own clock.
Silence:  a source repeats its last signals at least every HEARTBEAT_S; whoever hears nothing for SIGNAL_STALE_S takes
          the car as not eligible.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio

from fleet.protocol.limits import SIGNAL_STALE_S

HEARTBEAT_S = 10.0
assert 2 * HEARTBEAT_S < SIGNAL_STALE_S, "one lost heartbeat must not make a car ineligible"


class Gear(enum.StrEnum):
    """The gear selector."""

    PARK = "P"
    REVERSE = "R"
    NEUTRAL = "N"
    DRIVE = "D"
    UNKNOWN = ""


class Charging(enum.StrEnum):
    """State of charging, as in Tesla's ``DetailedChargeState``."""

    UNKNOWN = "Unknown"
    DISCONNECTED = "Disconnected"
    NO_POWER = "NoPower"
    STARTING = "Starting"
    CHARGING = "Charging"
    COMPLETE = "Complete"
    STOPPED = "Stopped"


@dataclass(frozen=True, slots=True)
class Signals:
    """The newest known state of one car."""

    at_unix_s: float
    """When the car was so, by its own clock: also what the hours of its owner's week are read from."""
    gear: Gear = Gear.UNKNOWN
    plugged_in: bool | None = None
    charging: Charging = Charging.UNKNOWN
    fast_charging: bool | None = None
    soc_pct: float | None = None
    """State of charge of the traction battery."""
    battery_c: float | None = None
    cabin_c: float | None = None
    wifi: bool | None = None
    paused: bool = False
    """The owner paused the platform by hand."""
    departing: bool = False
    """The source says that the owner is about to leave (climate started, phone near, calendar): not left yet."""
    simulated: frozenset[str] = frozenset()
    """Names of the fields above that nobody measured."""


Hear = Callable[[Signals], None]
"""Called in the event loop for every new state and heartbeat; must not block."""


class SignalSource(Protocol):
    """Where signals come from.

    Signals are handed over by a call, not through a queue: between a source's word and the kill of the slots lies no
    task switch.
    """

    @property
    def simulated(self) -> bool:
        """Whether ``simulate`` is allowed: only for sources that no real car is behind."""
        ...

    async def run(self, hear: Hear) -> None:
        """Report the present state at once, then every change and every heartbeat, until cancelled.

        Only news: what a telemetry service sends again, late, the source compares by its timestamp and drops.
        """
        ...

    def simulate(self, action: str) -> None:
        """Change signals by hand (``messages.Simulate``); ``hear`` is called before this returns."""
        ...


class Clock(Protocol):
    """Time, injected so that records replay and tests run in their own."""

    def monotonic_s(self) -> float:
        """Seconds that never jump back; they count on while the computer sleeps."""
        ...

    def unix_s(self) -> float:
        """Seconds since 1970."""
        ...

    async def wait(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...


class SystemClock:
    """The machine's own clocks."""

    # A computer that was suspended must find its leases lapsed: CLOCK_MONOTONIC stands still in the meantime on Linux.
    _ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic_s(self) -> float:
        return time.clock_gettime(self._ID)

    def unix_s(self) -> float:
        return time.time()

    async def wait(self, seconds: float) -> None:
        await anyio.sleep(seconds)
