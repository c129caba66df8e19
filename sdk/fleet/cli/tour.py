"""``fleet demo`` and ``fleet bench``: they live beside the sources, not in the installed package."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Annotated

import typer

from fleet.protocol.errors import Refused


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(epilog="Example: fleet demo", context_settings=passed_on)(demo)
    app.command(epilog="Example: fleet bench --quick", context_settings=passed_on)(bench)


def _run_from_checkout(package: str, words: list[str]) -> None:
    """Run ``package`` of the source checkout that this is installed from, as ``python -m`` would."""
    root = Path(__file__).resolve().parents[3]
    if not (root.joinpath(*package.split(".")) / "__main__.py").exists():
        raise Refused(
            f"{package} is part of the source checkout, not of the installed package", hint="clone the sources"
        )
    sys.path.insert(0, str(root))
    sys.argv = [package, *words]
    runpy.run_module(package, run_name="__main__", alter_sys=True)


WORDS = Annotated[list[str] | None, typer.Argument(help="Passed on.")]


def demo(words: WORDS = None) -> None:
    """The tour that make demo runs: a real job on cars that come and go."""
    _run_from_checkout("examples.demo", words or [])


def bench(words: WORDS = None) -> None:
    """The project's own benchmark."""
    _run_from_checkout("benchmarks", words or [])
