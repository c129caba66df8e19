"""The tour: a real job on four cars that replay recorded sessions; one owner drives away in the middle.

Everything it prints is computed from this run: outcome records, their metering, and what the cars reported.
Exit code 0 when the fleet's result equals the local one and no process is left behind, else 1.
"""

from __future__ import annotations

import csv
import gzip
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.demo import report
from examples.demo.records import records_of_function
from examples.sessions import score
from fleet._procfs import state_of
from fleet.protocol.errors import FleetError
from fleet.protocol.messages import CarInfo, OutcomeRecord
from fleet.testing import LocalCar, LocalFleet

DAY = "2019-05-08"
STATIONS = ("CA-322", "CA-313", "CA-318", "CA-500")
"""Whose sessions of that day are replayed, by number of sessions, which is how ``fleet dev`` deals them out: at the first
cars come and go, the others stand until the evening."""
SPEED = 1200.0
"""An hour of the record in 3 s."""
AWAY_AFTER, BACK_AFTER = 0.25, 0.7
"""Shares of the job that are done when an owner is sent to drive away by hand, and to come back."""
EXIT_S = 10.0

out = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
err = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line about what happens now, on stderr: stdout is for the report."""
    err.print(text, soft_wrap=True)


def write_trace(source: Path, target: Path) -> None:
    """Only the sessions of STATIONS on DAY."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    header, rows = rows[0], rows[1:]
    station, arrival = header.index("station_id"), header.index("arrival_utc")
    chosen = [row for row in rows if row[station] in STATIONS and row[arrival].startswith(DAY)]
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *chosen])


class Owner(threading.Thread):
    """Drives one car away by hand while it runs something, and parks it again; the others do as their records say."""

    def __init__(self, cars: list[LocalCar]) -> None:
        super().__init__(name="owner", daemon=True)
        self._cars = cars
        self.car: LocalCar | None = None
        self.leave = threading.Event()
        self.come_back = threading.Event()
        self.problem = ""

    def run(self) -> None:
        """Wait for ``leave``, then for a car at work, then drive it; wait for ``come_back``, then park it."""
        self.leave.wait()
        try:
            limit_s = time.monotonic() + EXIT_S
            while self.car is None and time.monotonic() < limit_s:
                self.car = next((car for car in self._cars if car.info().leases), None)
            if self.car is None:
                self.problem = "no car had work"
                return
            self.car.drive_away()
            self.come_back.wait()
            self.car.park()
            self.car.plug()
        except (FleetError, TimeoutError) as error:
            self.problem = f"{type(error).__name__}: {error}"


def run_job(batches: list[list[str]], owner: Owner) -> list[dict[str, Any]]:
    """Score all batches on the fleet, with a progress bar, while an owner leaves and comes back."""
    owner.start()
    cues = [
        (AWAY_AFTER, owner.leave, "an owner gets in and drives away ..."),
        (BACK_AFTER, owner.come_back, "... and is back, parks and plugs in"),
    ]
    results: list[dict[str, Any]] = []
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("batches scored", total=len(batches))
        for result in score.score_batch.map(batches):
            results.append(result)
            progress.advance(task)
            if cues and len(results) >= cues[0][0] * len(batches):
                _, event, text = cues.pop(0)
                event.set()
                progress.console.print(f"  {text}")
    for _, event, _ in cues:
        event.set()
    return results


def table(title: str, columns: list[str], rows: list[tuple[object, ...]]) -> None:
    """One table on stdout; numbers to the right."""
    grid = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0),
        show_header=any(columns),
    )  # fmt: skip
    for number, column in enumerate(columns):
        right = bool(rows) and isinstance(rows[0][number], int | float)
        grid.add_column(column, justify="right" if right else "left", header_style="dim")
    for row in rows:
        grid.add_row(*(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row))
    out.print(grid)
    out.print()


@dataclass(frozen=True)
class Run:
    """Everything that is kept of the run on the fleet."""

    results: list[dict[str, Any]]
    seconds: float
    began_unix_s: float
    records: list[OutcomeRecord]
    cars: list[CarInfo]
    driven: str
    pids: set[int]


def run_on_fleet(batches: list[list[str]]) -> Run:
    """Start the fleet, run the job, ask what happened, end the fleet."""
    with tempfile.TemporaryDirectory(prefix="fleet-demo-") as folder:
        trace = Path(folder) / "sessions.csv"
        write_trace(score.data_file(), trace)
        say(f"starting broker, control plane and {len(STATIONS)} cars (the first time, the sandbox image is built) ...")
        with LocalFleet(cars=len(STATIONS), trace=trace, speed=SPEED) as fleet:
            say(f"{len(STATIONS)} cars replay the sessions of {DAY}, {SPEED:.0f} times faster than recorded")
            began_unix_s, began_s = time.time(), time.monotonic()
            owner = Owner(fleet.cars[1:3])
            results = run_job(batches, owner)
            seconds = time.monotonic() - began_s
            owner.join(2 * EXIT_S)
            if owner.problem:
                say(f"  the owner had trouble: {owner.problem}")
            name = score.score_batch.name
            records = anyio.run(records_of_function, fleet.url, score.score_batch.app_name, name)
            cars = [car.info() for car in fleet.cars]
            driven = owner.car.name if owner.car else ""
            return Run(results, seconds, began_unix_s, records, cars, driven, set(fleet.pids()))


def show_fleet(run: Run) -> None:
    """What ran where, who left, what was handed over."""
    cars = {car.car: car for car in run.cars}
    recorded_at = dict(zip(sorted(cars), STATIONS, strict=True))
    rows: list[tuple[object, ...]] = []
    for share in report.shares(run.records, sorted(cars)):
        standing = cars[share.car].standing
        now = "eligible" if standing.eligible else ", ".join(standing.reasons)
        rows.append((share.car, recorded_at[share.car], share.items, share.runs, share.run_s, now))
    table("What ran where", ["car", "recorded at", "batches", "runs", "s in the sandbox", "at the end"], rows)

    left = report.departures(run.cars, run.began_unix_s)
    rows = [
        (one.car, "by hand" if one.car == run.driven else "by its record", one.killed_ms, one.reaped_ms) for one in left
    ]
    table("Who left meanwhile", ["car", "how", "ms to SIGKILL sent", "ms to no slot process left"], rows)

    rows = [(one.call, one.from_car, one.to_car, one.items, one.away_ms) for one in report.handovers(run.records, left)]
    table("What was handed over", ["call", "from", "to", "batches", "ms from signal to running there"], rows)


def show_totals(run: Run, local_s: float, unequal: list[int], survivors: list[int]) -> None:
    """The sums, and the comparison with the local run."""
    run_s = sum(record.metering.run_s for record in run.records if record.metering)
    table("What the job found", ["", ""], [(name, str(value)) for name, value in score.summary(run.results).items()])
    equal = "yes, all of them" if not unequal else f"NO: batches {unequal[:10]}"
    rows: list[tuple[object, ...]] = [
        (
            "batches, and calls that carried them",
            f"{len(run.results)} in {len({record.call for record in run.records})}",
        ),
        ("time on the fleet", f"{run.seconds:.1f} s for {run_s:.1f} s of work in sandboxes"),
        ("time here, in one process", f"{local_s:.1f} s"),
        ("results equal to the local run", equal),
        ("processes left behind", str(len(survivors))),
    ]
    table("Totals", ["", ""], rows)


def survivors_of(pids: set[int]) -> list[int]:
    """Those of the fleet's processes that still run EXIT_S after it was ended."""
    limit_s = time.monotonic() + EXIT_S
    while True:
        alive = [pid for pid in pids if state_of(pid) not in ("", "Z")]
        if not alive or time.monotonic() > limit_s:
            return alive
        time.sleep(0.02)


@contextmanager
def compiled_modules_kept() -> Iterator[None]:
    """Let child processes keep their compiled modules, so that cars and slots start faster."""
    before = os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["PYTHONDONTWRITEBYTECODE"] = before


def main() -> None:
    """Run the tour and exit: 0 if the results are equal and nothing is left behind."""
    batches = list(score.batches(score.data_file()))
    with compiled_modules_kept():
        run = run_on_fleet(batches)
    survivors = survivors_of(run.pids)
    say("the same job here, in one process, to compare ...")
    began_s = time.monotonic()
    local = [score.score_batch.local(batch) for batch in batches]
    local_s = time.monotonic() - began_s
    unequal = report.differences(run.results, local)
    show_fleet(run)
    show_totals(run, local_s, unequal, survivors)
    sys.exit(1 if unequal or survivors else 0)
