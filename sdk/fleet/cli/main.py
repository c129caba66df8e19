"""The command ``fleet``: every group of commands registers here, each imports what it needs when it runs.

Exit codes: 0, 1 for a failure that is explained in one sentence with a hint, 2 for wrong usage.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from fleet import _lifeline
from fleet.cli import apps, calls, cars, dead, dev, events, gateway, logs, show, status, token, tour
from fleet.protocol.errors import FleetError

app = typer.Typer(
    name="fleet",
    help="Run Python functions on the computers of parked electric cars.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(epilog="Start here: fleet dev, and in a second terminal: fleet run examples/hello.py::greet Ada")
def options(
    url: Annotated[str | None, typer.Option(help="The broker; else FLEET_URL, else nats://127.0.0.1:4242.")] = None,
    creds: Annotated[str | None, typer.Option(help="A NATS credentials file; else FLEET_CREDS.")] = None,
) -> None:
    """Run Python functions on the computers of parked electric cars."""
    if url:
        os.environ["FLEET_URL"] = url
    if creds:
        os.environ["FLEET_CREDS"] = creds


for group in (dev, apps, calls, logs, cars, events, gateway, dead, token, status, tour):
    group.register(app)


def main() -> None:
    """Entry point of the console script."""
    _lifeline.tie_from_environment()
    try:
        app()
    except (FleetError, BaseExceptionGroup) as error:
        explained = _explained(error)
        if explained is None:
            raise
        show.fail(explained)


def _explained(error: BaseException) -> FleetError | None:
    """The FleetError in ``error``, if there is nothing else in it; a group of tasks may have failed for one reason."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, FleetError) else None
    found = [_explained(one) for one in error.exceptions]
    return None if None in found else found[0]


if __name__ == "__main__":
    main()
