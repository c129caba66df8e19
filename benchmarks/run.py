"""Run the figures, print a table with target and verdict, write all of it as JSON.

    make bench
    fleet bench --quick --only warm --only departure

Exit code 0 when every target is met, 1 when one is missed or a figure could not be measured.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import (
    closures,
    departure,
    event_path,
    first_call,
    gateway,
    idle,
    imports,
    map_items,
    payload,
    spawn_calls,
    values,
    warm,
)
from benchmarks.harness import SYNCS, Figure, Settings, Sync, calibrate

OUT_DEFAULT = Path("out/bench.json")


@dataclass(frozen=True, slots=True)
class Part:
    """One module of figures, and with which of the broker's sync settings it is measured."""

    measure: Callable[[Settings, Sync], list[Figure]]
    syncs: tuple[Sync, ...] = SYNCS


def _jax(module: str, name: str) -> Part:
    """A part that imports jax only when it is measured: the others shall not find its threads in their process."""

    def measure(settings: Settings, sync: Sync) -> list[Figure]:
        work: Callable[[Settings, Sync], list[Figure]] = getattr(importlib.import_module(f"benchmarks.{module}"), name)
        return work(settings, sync)

    return Part(measure, ("default",))


PARTS = {
    "warm": Part(warm.measure),
    "first": Part(first_call.measure),
    "map": Part(map_items.measure),
    "spawn": Part(spawn_calls.measure),
    "payload": Part(payload.measure),
    "closures": Part(closures.measure, ("default",)),
    "imports": Part(imports.measure, ("default",)),
    "values": Part(values.measure, ("default",)),
    "events": Part(event_path.measure),
    "gateway": Part(gateway.measure, ("default",)),
    # The broker's disk has no part in these two.
    "departure": Part(departure.measure, ("default",)),
    "idle": Part(idle.measure, ("default",)),
    "jax-warm": _jax("jax_calls", "warm"),
    "jax-matmul": _jax("jax_calls", "matmul"),
    "jax-arrays": _jax("jax_calls", "arrays"),
    "jax-cold": _jax("jax_calls", "cold"),
    "jax-embeddings": _jax("jax_models", "embeddings"),
    "jax-text": _jax("jax_models", "text"),
}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def number(value: float) -> str:
    """Three digits that matter."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def table_of(figures: list[Figure]) -> Table:
    """For people: what was measured, its spread, its target, the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("figure", overflow="fold")
    for column in ("sync", "measured", "p10 to p90", "n", "target", ""):
        table.add_column(column, justify="left" if column in ("sync", "") else "right", no_wrap=True)
    for one in figures:
        sign = "at most " if one.better == "less" else "at least "
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[one.passed]
        table.add_row(
            one.name, one.sync, f"{number(one.value)} {one.unit}", f"{number(one.low)} to {number(one.high)}",
            f"{one.count:,}", "" if one.target is None else sign + number(one.target), verdict,
        )  # fmt: skip
    return table


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1min": os.getloadavg()[0],
        "calibration_ms": 1000 * calibrate(),
    }


def chosen(only: list[str] | None) -> dict[str, Part]:
    """The parts to run; wrong usage ends the command."""
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: known are {', '.join(PARTS)}", param_hint="--only")
    return {name: part for name, part in PARTS.items() if not only or name in only}


@app.command()
def bench(
    quick: Annotated[bool, typer.Option(help="Everything, but short: for a first look.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}; may be repeated.")] = None,
    sync: Annotated[list[str] | None, typer.Option(help="Only this setting of the broker: default or always.")] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = OUT_DEFAULT,
) -> None:
    """Measure the platform on this machine; Ctrl-C ends it."""
    if sync and set(sync) - set(SYNCS):
        raise typer.BadParameter("default or always", param_hint="--sync")
    # Without compiled modules every slot that starts would compile its imports anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    settings = Settings(quick=quick)
    err = Console(stderr=True, highlight=False)
    before = machine()
    began = datetime.now(UTC)
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    for name, part in chosen(only).items():
        for setting in part.syncs:
            if sync and setting not in sync:
                continue
            err.print(f"{name}, sync {setting} ...")
            started_s = time.monotonic()
            try:
                figures += part.measure(settings, setting)
            except Exception as error:  # told below, in the file and by the exit code: the other figures still count
                failed[f"{name}, sync {setting}"] = f"{type(error).__name__}: {error}"
                err.print(traceback.format_exc(), markup=False)
            err.print(f"{name}, sync {setting}: {time.monotonic() - started_s:.0f} s")
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "began": began.isoformat(timespec="seconds"), "quick": quick, "before": before, "after": machine(),
        "figures": [one.as_json() for one in figures], "failed": failed,
    }  # fmt: skip
    out.write_text(json.dumps(report, indent=2) + "\n")
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table_of(figures))
    for name, why in failed.items():
        err.print(f"not measured: {name}: {why}", markup=False)
    err.print(f"written to {out}")
    raise typer.Exit(1 if failed or any(one.passed is False for one in figures) else 0)


def main() -> None:
    """Entry point of ``fleet bench`` and ``python -m benchmarks``."""
    app()
