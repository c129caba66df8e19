"""What a LocalFleet consists of, as tests handle it: broker, control plane, gateway, and cars."""

from __future__ import annotations

import os
import select
import signal
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from fleet._procfs import children_of, state_of
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.messages import CarInfo, CarsReply, CarsRequest, Simulate, SimulateReply
from fleet.protocol.subjects import ApiVerb

if TYPE_CHECKING:
    from fleet.testing import LocalFleet

EFFECT_S = 30.0


class LocalProcess:
    """The broker, the control plane or the gateway of a LocalFleet."""

    def __init__(self, fleet: LocalFleet, name: str) -> None:
        self._fleet = fleet
        self._killed_pid: int | None = None
        self._killed_unix_s = 0.0
        self.name = name

    @property
    def pid(self) -> int:
        """Its process id; waits while it is between two lives."""
        return self._fleet.wait_for(self._pid_now, f"{self.name} to run")

    def _pid_now(self) -> int | None:
        pid: int | None = self._fleet.state()["pids"].get(self.name)
        return pid

    def kill(self) -> None:
        """SIGKILL it; returns when it is gone. The supervisor starts it again: see ``wait_restarted``."""
        pid = self.pid
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            if not select.select([handle], [], [], EFFECT_S)[0]:
                raise FleetUnavailable(f"{self.name} did not end within {EFFECT_S:.0f} s of its SIGKILL", hint="")
        finally:
            os.close(handle)
        self._killed_pid, self._killed_unix_s = pid, time.time()

    def wait_restarted(self, timeout_s: float = EFFECT_S) -> None:
        """Return once it runs again after ``kill`` and the platform works again."""
        self._fleet.wait_for(self._is_back, f"{self.name} to be back", timeout_s)

    def _is_back(self) -> bool:
        pid = self._pid_now()
        return pid is not None and pid != self._killed_pid and self._fleet.platform().leader


class LocalGateway(LocalProcess):
    """The HTTP gateway of a LocalFleet."""

    def _is_back(self) -> bool:
        if not super()._is_back():
            return False
        try:
            with urllib.request.urlopen(f"{self._fleet.http_url}/readyz", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except OSError:  # not yet
            return False


class LocalCar(LocalProcess):
    """One car of a LocalFleet."""

    def info(self) -> CarInfo:
        """What ``fleet cars`` knows of it."""
        found = next(
            (car for car in self._fleet.ask(ApiVerb.CARS, CarsRequest(), CarsReply).cars if car.car == self.name), None
        )
        if found is None:
            raise FleetUnavailable(f"{self.name} has not said hello")
        return found

    def slots(self) -> list[int]:
        """Process ids of its slots, spares included."""
        return children_of(self.pid)

    def drive_away(self) -> None:
        """The owner drives away; returns when no slot process exists and the platform knows."""
        self._simulate("drive")
        self._fleet.wait_for(self._is_away, f"{self.name} to be away")

    def park(self) -> None:
        """The owner parks; returns when the car offers slots again, or is kept by another reason (unplugged, paused)."""
        self._simulate("park")
        self._fleet.wait_for(lambda: self._has("not_parked"), f"{self.name} to be parked")

    def plug(self) -> None:
        """The cable is plugged in; returns as ``park`` does."""
        self._simulate("plug")
        self._fleet.wait_for(lambda: self._has("not_plugged_in"), f"{self.name} to be plugged in")

    def unplug(self) -> None:
        """The cable is pulled out; returns as ``drive_away`` does."""
        self._simulate("unplug")
        self._fleet.wait_for(self._is_away, f"{self.name} to be away")

    def freeze(self) -> None:
        """SIGSTOP the agent, then its slots; returns when all stand still."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT the slots, then the agent: what a slot finished meanwhile is there when the agent wakes."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        agent = self.pid
        if number == signal.SIGSTOP:
            os.kill(agent, number)
            self._fleet.wait_for(lambda: state_of(agent) in "TZ", f"{self.name} to stand still")
        slots = children_of(agent)
        for pid in slots:
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # a slot that ended meanwhile
                pass
        if number == signal.SIGCONT:
            os.kill(agent, number)
        frozen = number == signal.SIGSTOP
        self._fleet.wait_for(
            lambda: all((state_of(pid) in "TZ") == frozen or not state_of(pid) for pid in [agent, *slots]),
            f"{self.name} to {'stand still' if frozen else 'go on'}",
        )

    def _simulate(self, action: Any) -> None:
        if state_of(self.pid) == "T":
            raise FleetUnavailable(f"{self.name} is frozen: it can't hear {action!r}", hint="thaw it first")

        def told() -> bool:
            return (
                self.name
                in self._fleet.ask(ApiVerb.SIMULATE, Simulate(action=action, car=self.name), SimulateReply).cars
            )

        self._fleet.wait_for(told, f"{self.name} to take {action!r}")

    def _is_away(self) -> bool:
        info = self.info()
        return not info.standing.eligible and not info.leases and not self.slots()

    def _has(self, cured: str) -> bool:
        standing, offer = self.info().standing, self.info().offer
        if standing.eligible:
            return offer.slots > 0
        return bool(standing.reasons) and cured not in standing.reasons and standing.reasons != ["coming_back"]

    def _is_back(self) -> bool:
        if not super()._is_back():
            return False
        info = self.info()
        return info.heard_unix_s > self._killed_unix_s and info.standing.eligible and info.offer.slots > 0
