"""Signals by hand: the cars of ``fleet dev``, and overrides on top of any other simulated source."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fleet.protocol.errors import InvalidOption
from runtime.signals.model import HEARTBEAT_S, Charging, Clock, Gear, Hear, Signals, SystemClock

ACTIONS = ("drive", "park", "plug", "unplug", "pause", "resume")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What was set by hand; None leaves a field as the source has it."""

    gear: Gear | None = None
    cable: bool | None = None
    paused: bool | None = None

    def after(self, action: str) -> Overrides:
        """The overrides after one more action; InvalidOption for an unknown one."""
        match action:
            case "drive":
                return replace(self, gear=Gear.DRIVE)
            case "park":
                return replace(self, gear=Gear.PARK)
            case "plug" | "unplug":
                return replace(self, cable=action == "plug")
            case "pause" | "resume":
                return replace(self, paused=action == "pause")
        raise InvalidOption(f"{action!r} is no action: use one of {', '.join(ACTIONS)}")

    def apply(self, signals: Signals) -> Signals:
        """``signals`` as the overrides make them. A car that isn't in P has no cable, whatever was said about it."""
        if self == Overrides():
            return signals
        gear = signals.gear if self.gear is None else self.gear
        cable = signals.plugged_in if self.cable is None else self.cable
        plugged_in = cable if gear is Gear.PARK else False
        charging = signals.charging if plugged_in == signals.plugged_in else _charging(plugged_in)
        return replace(
            signals, gear=gear, plugged_in=plugged_in, charging=charging,
            paused=signals.paused if self.paused is None else self.paused,
            simulated=signals.simulated | {"gear", "plugged_in", "charging", "paused"},
        )  # fmt: skip


def _charging(plugged_in: bool | None) -> Charging:
    return Charging.STOPPED if plugged_in else Charging.DISCONNECTED


class Simulated:
    """Base of simulated sources: a state of its own, overrides on it, heartbeats."""

    simulated = True

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._overrides = Overrides()
        self._hear: Hear | None = None

    def base(self) -> tuple[Signals, float]:
        """The state without overrides, and for how many seconds from now it stays so at most."""
        raise NotImplementedError

    def current(self) -> Signals:
        """The state with overrides."""
        return self._overrides.apply(self.base()[0])

    def simulate(self, action: str) -> None:
        """See SignalSource; InvalidOption for an unknown action."""
        self._overrides = self._overrides.after(action)
        if self._hear is not None:
            self._hear(self.current())

    async def run(self, hear: Hear) -> None:
        """See SignalSource."""
        assert self._hear is None, "a source runs once"
        self._hear = hear
        try:
            while True:
                signals, stays_s = self.base()
                hear(self._overrides.apply(signals))
                await self._clock.wait(min(HEARTBEAT_S, max(stays_s, 0.001)))
        finally:
            self._hear = None


class ManualSource(Simulated):
    """A car that stands parked and plugged in until someone says otherwise."""

    def base(self) -> tuple[Signals, float]:
        """See Simulated."""
        parked = Signals(
            at_unix_s=self._clock.unix_s(), gear=Gear.PARK, plugged_in=True, charging=Charging.CHARGING,
            fast_charging=False, soc_pct=80.0, battery_c=20.0, cabin_c=20.0, wifi=True,
            simulated=frozenset(
                ("gear", "plugged_in", "charging", "fast_charging", "soc_pct", "battery_c", "cabin_c", "wifi")
            ),
        )  # fmt: skip
        return parked, HEARTBEAT_S
