"""``python -m tests.chaos.clocks``: clocks that tick every second while the control plane, then the broker, is down.

Which ticks ran is read from the outcomes that lie in the durable stream, and from what the functions said in them; that
none was started again once it was done, from the dispatchers' history. By the ticks that ``missed="all"`` ran late it is
known exactly which were missed, and which of those were noticed together: from that follows what the other policies must
have run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio

import fleet
from fleet import _client, _deploy
from fleet.protocol import frames
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.limits import TICK_GRACE_S
from fleet.protocol.messages import OutcomeRecord
from fleet.testing import LocalFleet, LocalProcess
from fleet.transport import Bus
from fnplatform.history import ENV
from fnplatform.jetstream import JetStream
from tests.chaos.checker import read

APP = Path(__file__).parent / "clock_app.py"
POLICIES = ("all", "one", "skip")
LEAD_S = 1.0
SETTLE_S = 60.0
TOGETHER_S = 0.05
"""Ticks whose lateness says they were noticed within this time were noticed at once."""


@dataclass
class Window:
    """The ticks of one stretch of time: per policy, scheduled time -> how late each of its runs was noticed."""

    first: int
    seconds: int
    ran: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    failed: int = 0

    def missed(self) -> list[list[int]]:
        """Ticks that were noticed too late, grouped by when."""
        groups: list[list[int]] = []
        noticed = 0.0
        for tick, late_s in sorted((tick, late_s[0]) for tick, late_s in self.ran["all"].items()):
            if late_s <= TICK_GRACE_S:
                continue
            if not groups or abs(tick + late_s - noticed) > TOGETHER_S:
                groups.append([])
                noticed = tick + late_s
            groups[-1].append(tick)
        return groups

    def expected(self) -> dict[str, set[int]]:
        """What each policy must have run."""
        every = set(range(self.first, self.first + self.seconds))
        missed = self.missed()
        on_time = every - {tick for group in missed for tick in group}
        return {"all": every, "one": on_time | {group[-1] for group in missed}, "skip": on_time}

    def lacking(self) -> list[str]:
        """Ticks that didn't run (yet), one line each."""
        return [
            f"{policy}: tick {tick} did not run"
            for policy, expected in self.expected().items()
            for tick in sorted(expected - set(self.ran[policy]))
        ]

    def violations(self) -> list[str]:
        """What is wrong, one line each."""
        found = self.lacking()
        expected = self.expected()
        for policy in POLICIES:
            ran = self.ran[policy]
            found += [f"{policy}: tick {tick} ran {len(late)} times" for tick, late in ran.items() if len(late) > 1]
            found += [f"{policy}: tick {tick} ran and must not" for tick in sorted(set(ran) - expected[policy])]
        if self.failed:
            found.append(f"{self.failed} calls failed")
        return found


async def _records(url: str, data: Path) -> list[OutcomeRecord]:
    """Every final record of the app, read past everything of ours but the format."""
    secret = json.loads((data / "secrets.json").read_text())["control"]
    bus = await Bus.connect(url, kind="control", name="checker", user="control", password=secret)
    found = []
    try:
        seq = 1
        while page := await JetStream(bus).get_range("OUTCOMES", "out.default.clocks.>", seq=seq, limit=500):
            found += [frames.unpack(message.data, OutcomeRecord)[0] for message in page]
            seq = page[-1].seq + 1
    finally:
        await bus.close()
    return [record for record in found if record.final]


def read_window(local: LocalFleet, first: int, seconds: int, known: dict[str, Any]) -> Window:
    """What the records tell of the ticks from ``first`` on. ``known``: results that were read already."""
    window = Window(first, seconds, {policy: {} for policy in POLICIES})
    for record in anyio.run(_records, local.url, Path(local.data)):
        if record.state != "succeeded":
            window.failed += 1
            continue
        if record.call not in known:
            known[record.call] = fleet.Call.from_id(record.call).result(timeout=10)
        scheduled, late_s = known[record.call]
        tick = int(datetime.fromisoformat(scheduled).timestamp())
        if first <= tick < first + seconds:
            window.ran[record.function.removeprefix("run_")].setdefault(tick, []).append(late_s)
    return window


def started_again(history: Path) -> list[str]:
    """Calls that were granted, or committed, after they had an outcome."""
    done: set[str] = set()
    found = []
    for row in read(history):
        if row["event"] in ("grant", "commit"):
            if row["call"] in done:
                found.append(f"call {row['call']} has a {row['event']} after its outcome")
            if row["event"] == "commit":
                done.add(row["call"])
    return found


@contextlib.contextmanager
def local_fleet() -> Iterator[tuple[LocalFleet, Path]]:
    """A fleet with the three functions live, and its history."""
    with tempfile.TemporaryDirectory(prefix="fleet-clocks-") as folder:
        history = Path(folder) / "history.jsonl"
        with LocalFleet(cars=1, environment={ENV: str(history)}) as local:
            deploy()
            yield local, history


@contextlib.contextmanager
def down(local: LocalFleet, process: LocalProcess) -> Iterator[None]:
    """``kill -9`` it; nobody starts it again before this ends."""
    os.kill(local.pid, signal.SIGSTOP)
    try:
        process.kill()
        yield
    finally:
        os.kill(local.pid, signal.SIGCONT)


def wait_until(local: LocalFleet, unix_s: float) -> None:
    """Return at that time."""
    local.wait_for(lambda: time.time() >= unix_s, "its time", max(0.0, unix_s - time.time()) + 5.0)


def run_window(local: LocalFleet, victim: LocalProcess, seconds: int, down_s: float, known: dict[str, Any]) -> Window:
    """Watch ``seconds`` ticks, during which ``victim`` is down for ``down_s``."""
    first = math.ceil(time.time() + LEAD_S)
    wait_until(local, first + (seconds - down_s) / 4)
    with down(local, victim):
        wait_until(local, time.time() + down_s)
    victim.wait_restarted(SETTLE_S)
    wait_until(local, first + seconds)

    def settled() -> bool:
        after = read_window(local, first + seconds, 1, known)
        lacking = read_window(local, first, seconds, known).lacking()
        return bool(after.ran["all"] and not lacking and not local.platform().depth)

    with contextlib.suppress(FleetUnavailable):  # the window says what is lacking
        local.wait_for(settled, "the last ticks to be done", SETTLE_S)
    return read_window(local, first, seconds, known)


def deploy() -> None:
    """Make the three functions live."""
    _deploy.deploy(_client.current(), _deploy.load_app(str(APP)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--down", type=float, default=15.0)
    options = parser.parse_args()
    bad = 0
    with local_fleet() as (local, history):
        known: dict[str, Any] = {}
        for victim in (local.control, local.broker):
            window = run_window(local, victim, options.seconds, options.down, known)
            expected, missed = window.expected(), window.missed()
            print(f"{victim.name} down for {options.down:g} of {options.seconds} s")
            print(f"  missed: {sum(map(len, missed))} ticks, noticed at {len(missed)} moments")
            for policy in POLICIES:
                ran = window.ran[policy]
                double = sum(count > 1 for count in Counter({tick: len(late) for tick, late in ran.items()}).values())
                print(f"  {policy:5} {len(ran):4} ticks ran, {len(expected[policy]):4} are right, {double} double")
            for line in window.violations():
                print(f"  VIOLATION {line}")
            bad += len(window.violations())
        for line in started_again(history):
            print(f"VIOLATION {line}")
            bad += 1
    print("clocks: " + ("every tick is right" if not bad else f"{bad} violations"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
