"""``fleet gateway``: HTTP in front of a platform."""

from __future__ import annotations

from typing import Annotated

import typer

HOST = "127.0.0.1"
PORT = 4280
Origins = Annotated[
    list[str] | None, typer.Option("--cors-origin", help="Pages of this origin may ask (CORS); may be repeated.")
]
Open = Annotated[bool, typer.Option("--open/--tokens", help="Whether requests without a token are served.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command(epilog="Example: fleet gateway --nats nats://nats.internal:4222 --port 8080")(gateway)


def gateway(
    nats: Annotated[str | None, typer.Option(help="The platform's broker; else FLEET_URL.")] = None,
    host: Annotated[str, typer.Option(help="Where it listens.")] = HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for HTTP; 0: a free one.")] = PORT,
    open_to_all: Open = False,
    cors_origin: Origins = None,
) -> None:
    """Speak HTTP for a platform: calls, events, routes of functions. fleet dev and fleet serve start one by themselves."""
    import anyio

    from fleet._settings import Settings
    from fleet.cli.dev import log_to_stderr
    from fnplatform.gateway.core import GatewaySettings
    from fnplatform.gateway.main import run

    log_to_stderr()
    found = Settings.resolve(nats)
    settings = GatewaySettings(
        nats_url=found.url, creds=found.creds, host=host, port=port, open_to_all=open_to_all,
        origins=tuple(cors_origin or ()),
    )  # fmt: skip
    anyio.run(run, settings, backend_options={"use_uvloop": True})
