"""Child processes under one parent: started, started again when they die, ended in order. What they are is not its business.

Restart:  after a bounded back-off, for ever. A child that explains itself and ends with exit code 1 or 2 before
          ``ready`` ends all: a port in use or damaged data is not cured by trying again.
Shutdown: tier by tier, each with SIGTERM and STOP_S, then SIGKILL; ``stop`` returns when none is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.abc

from fleet import _lifeline
from fleet.protocol.errors import FleetError, Refused

STOP_S = 3.0
BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 2.0
HEALTHY_S = 5.0
"""A child that lived this long starts its back-off anew."""
EXPLAINED = (1, 2)
"""Exit codes of a child that said why it ends."""


class Running(Protocol):
    """A started process."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Until it ended and is reaped: exit code, or minus the signal."""
        ...

    def send_signal(self, number: signal.Signals) -> None: ...


@dataclass(slots=True)
class Child:
    """One supervised process: what starts it, and what it is right now. ``tier``: order of the shutdown, 0 first."""

    name: str
    start: Callable[[], Awaitable[Running]]
    tier: int
    running: Running | None = None
    starts: int = 0


def backoff_s(previous_s: float, lived_s: float) -> float:
    """The pause before a child is started again: pure."""
    if lived_s >= HEALTHY_S or previous_s <= 0:
        return BACKOFF_S_MIN
    return min(BACKOFF_S_MAX, previous_s * 2)


async def spawn(command: Sequence[str]) -> Running:
    """Start a process tied to this one (main thread only). Its stdout is our stderr; a terminal's Ctrl-C is not its own."""
    return await anyio.open_process(
        list(command), stdin=subprocess.PIPE, stdout=sys.stderr, stderr=None, start_new_session=True,
        env=_lifeline.environment(dict(os.environ), death_signal=True),
    )  # fmt: skip


@dataclass(slots=True)
class Supervisor:
    """What runs, and the file that says so, written anew at every change."""

    state_file: Path
    facts: dict[str, Any]
    """Said in ``state_file`` as they are."""
    children: list[Child] = field(default_factory=list)
    ready: bool = False
    stopping: bool = False
    failure: FleetError | None = None
    over: anyio.Event = field(default_factory=anyio.Event)
    """Set when all is to stop: by a signal or by ``failure``."""

    def say(self, text: str) -> None:
        """One line for people."""
        print(text, file=sys.stderr, flush=True)

    def write_state(self) -> None:
        """Replace the state file in one step."""
        pids = {child.name: child.running.pid if child.running else None for child in self.children}
        starts = {child.name: child.starts for child in self.children}
        state = {**self.facts, "ready": self.ready, "supervisor": os.getpid(), "pids": pids, "starts": starts}
        fresh = self.state_file.with_suffix(".tmp")
        try:
            fresh.write_text(json.dumps(state, indent=1))
            fresh.replace(self.state_file)
        except OSError as error:  # a full disk must not end what still runs
            self.say(f"fleet dev: {self.state_file} can't be written: {error.strerror}")

    def give_up(self, failure: FleetError) -> None:
        """Stop because of ``failure``; the first one counts."""
        if not self.over.is_set():
            self.failure = failure
            self.over.set()

    async def keep(self, child: Child, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Run ``child`` and start it again until the shutdown. Started once it runs for the first time."""
        self.children.append(child)
        pause_s = 0.0
        while not self.stopping:
            began_s = time.monotonic()
            ended = await self._run_once(child, task_status)
            if self.stopping or not ended:
                return
            pause_s = backoff_s(pause_s, time.monotonic() - began_s)
            self.say(f"fleet dev: {child.name} {ended}; starting it again in {pause_s:.1f} s")
            await anyio.sleep(pause_s)

    async def _run_once(self, child: Child, task_status: anyio.abc.TaskStatus[None]) -> str:
        """How the child ended; "" when there is no use in starting it again."""
        try:
            child.running = await child.start()
        except FleetError as error:
            if not self.ready:
                self.give_up(error)
                return ""
            return f"did not start: {error.message}"
        if self.stopping:
            send(child.running, signal.SIGKILL)
        child.starts += 1
        self.write_state()
        if child.starts == 1:
            task_status.started()
        code = await child.running.wait()
        child.running = None
        if self.stopping:
            return ""
        self.write_state()
        if code in EXPLAINED and not self.ready:
            self.give_up(Refused(f"{child.name} could not start", hint="its own words stand above"))
            return ""
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    async def stop(self) -> None:
        """End all children, tier by tier; returns when none is left."""
        self.stopping = True
        for tier in sorted({child.tier for child in self.children}):
            running = [child.running for child in self.children if child.tier == tier and child.running is not None]
            for process in running:
                send(process, signal.SIGTERM)
                send(process, signal.SIGCONT)  # a frozen process hears nothing else
            with anyio.move_on_after(STOP_S):
                for process in running:
                    await process.wait()
            self.kill(tier)
            for process in running:
                await process.wait()

    def kill(self, tier: int | None = None) -> None:
        """SIGKILL what still runs, of one tier or of all."""
        self.stopping = True
        for child in self.children:
            if child.running is not None and tier in (None, child.tier):
                send(child.running, signal.SIGKILL)


def send(process: Running, number: signal.Signals) -> None:
    """Signal a process that may have ended a moment ago."""
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass
