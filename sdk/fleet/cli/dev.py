"""``fleet dev``, ``fleet serve`` and the hidden helper of both."""

from __future__ import annotations

import enum
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli import show
from fleet.cli.gateway import Open, Origins
from fleet.protocol.errors import InvalidOption
from fleet.protocol.limits import QUEUE_CALLS_MAX


class Sync(enum.StrEnum):
    """When the started broker writes to disk."""

    ALWAYS = "always"
    DEFAULT = "default"


HOST = "127.0.0.1"
PORT = 4242
HELP_DATA = (
    "Where state is kept; default: one per port under $XDG_STATE_HOME (~/.local/state); with --port 0 a temporary one."
)


HttpPort = Annotated[
    int | None, typer.Option(help="Port for HTTP; 0: a free one. Default: 4280, or a free one where that is taken.")
]
Http = Annotated[bool, typer.Option("--http/--no-http", help="Whether to speak HTTP.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog="Example: fleet dev --cars 4 --port 4300")(dev)
    app.command(epilog="Example: fleet serve --nats nats://nats.internal:4222")(serve)
    app.command(hidden=True)(guest)


def state_dir(name: str) -> Path:
    """The default data directory of the platform called ``name``."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "fnplatform" / name


def dev(
    cars: Annotated[int, typer.Option(help="How many cars.")] = 2,
    port: Annotated[int, typer.Option(help="Port of the broker; 0: a free one.")] = PORT,
    data: Annotated[Path | None, typer.Option(help=HELP_DATA)] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Recorded charging sessions (CSV, .gz too): one station per car is replayed.")
    ] = None,
    speed: Annotated[float, typer.Option(help="How much faster than recorded --trace is replayed.")] = 1.0,
    slots: Annotated[int, typer.Option(help="Slots of each car.")] = 1,
    lanes: Annotated[
        str | None,
        typer.Option(help="What each car runs, of wasm,jax-cpu,jax-gpu; default: all that is possible here."),
    ] = None,
    sync: Annotated[Sync, typer.Option(help="Of the broker: default, or always as in fleet serve.")] = Sync.DEFAULT,
    http: Http = True,
    http_port: HttpPort = None,
    cors_origin: Origins = None,
) -> None:
    """The whole platform on this machine: broker, control plane, HTTP and cars. Ctrl-C ends all of it."""
    import anyio

    from fleet.protocol.lanes import parse_lanes
    from fnplatform.dev import DevSettings, supervise
    from fnplatform.gateway.child import HttpSettings

    log_to_stderr()
    if speed != 1.0 and trace is None:
        raise InvalidOption("--speed says how fast --trace is replayed: give that, too")
    with ExitStack() as stack:
        if data is None and port == 0:
            # A free port is another one each time: a folder named after it would never be found again.
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-dev-")))
        settings = DevSettings(
            data_dir=(data or state_dir(f"dev-{port}")).absolute(), cars=cars, port=port, slots=slots, speed=speed,
            lanes=parse_lanes(lanes, "--lanes") if lanes is not None else None,
            trace=trace.absolute() if trace else None, sync="always" if sync is Sync.ALWAYS else "default",
            http=HttpSettings(port=http_port, open_to_all=True, origins=tuple(cors_origin or ())) if http else None,
        )  # fmt: skip
        anyio.run(supervise, settings)


def serve(
    nats: Annotated[str | None, typer.Option(help="A NATS you run; without it a broker is started here.")] = None,
    data: Annotated[Path | None, typer.Option(help=HELP_DATA)] = None,
    host: Annotated[str, typer.Option(help="Where the started broker listens.")] = HOST,
    port: Annotated[int, typer.Option(help="Port of the started broker; 0: a free one.")] = PORT,
    sync: Annotated[
        Sync, typer.Option(help="always: what is accepted survives a power cut; default: five times faster.")
    ] = Sync.ALWAYS,
    queue: Annotated[
        int, typer.Option(help="How many calls may wait, of all tenants together.", envvar="FLEET_QUEUE_CALLS_MAX")
    ] = QUEUE_CALLS_MAX,
    http: Http = True,
    http_port: HttpPort = None,
    http_host: Annotated[str, typer.Option(help="Where HTTP listens.")] = HOST,
    open_to_all: Open = False,
    cors_origin: Origins = None,
    http_url: Annotated[str, typer.Option(hidden=True, help="Where a gateway listens that somebody else keeps.")] = "",
) -> None:
    """The control plane alone, with HTTP: with a broker it starts, or against a NATS you run."""
    import anyio

    from fnplatform.gateway.child import HttpSettings
    from fnplatform.serve import serve as run
    from fnplatform.settings import ServeSettings

    log_to_stderr()
    folder = data or (None if nats else state_dir(f"serve-{port}"))
    settings = ServeSettings(
        nats_url=nats,
        data_dir=folder.absolute() if folder else None,
        host=host,
        port=port,
        sync=sync.value,
        queue_calls_max=queue,
        http=HttpSettings(host=http_host, port=http_port, open_to_all=open_to_all, origins=tuple(cors_origin or ()))
        if http
        else None,
        http_url=http_url,
    )
    anyio.run(run, settings, backend_options={"use_uvloop": True})


def log_to_stderr() -> None:
    """One line per event on stderr; FLEET_LOG sets the level (default WARNING)."""
    import logging

    level = os.environ.get("FLEET_LOG", "WARNING").upper()
    if level not in logging.getLevelNamesMapping():
        raise InvalidOption(f"FLEET_LOG={level} is no level: DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def guest() -> None:
    """Build the guest image, or check the one in the cache."""
    from runtime.guest.build import ensure_guest

    ensure_guest(progress=lambda text: show.say(f"guest: {text}"))
