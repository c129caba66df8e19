"""Events: ``publish``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import show
from fleet.protocol.errors import FleetUnavailable, Refused

if TYPE_CHECKING:
    from fleet.protocol.messages import EventHead, PublishReply

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog="Example: fleet publish sensors.7.temperature '{\"celsius\": 21.5}'")(publish)


def publish(
    subject: Annotated[str, typer.Argument(help="Dot-separated tokens, as in sensors.7.temperature.")],
    data: Annotated[str, typer.Argument(help="JSON, any text, @FILE, or - for what comes on stdin.")] = "",
    id: Annotated[str | None, typer.Option("--id", help="Its copies, from the same source, start nothing.")] = None,
    type: Annotated[str, typer.Option("--type", help="What kind of event it is.")] = "fleet.event",
    source: Annotated[str | None, typer.Option("--source", help="Who says so.")] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", help="Of the data; else JSON if it is, or text, or bytes.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Send an event, and print its id once it is stored: every deployed function whose trigger matches starts once."""
    from fleet._event import content_type_of
    from fleet._publish import head_of
    from fleet._settings import Settings

    body = _body(data)
    kind = content_type or (content_type_of(body)[0] if body else None)
    head, body = head_of(Settings.resolve().tenant, subject, body or None, id, source, type, None, kind)
    reply = _accepted(head, body)
    duplicate = head.id in reply.duplicates
    if as_json:
        show.data({"id": head.id, "duplicate": duplicate})
        return
    print(head.id)
    if duplicate:
        show.say("it had been published before: nothing starts again")


def _body(data: str) -> bytes:
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data.encode(errors="surrogateescape")
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise Refused(
            f"the file {data[1:]} can't be read: {error.strerror}",
            hint="a text that begins with @ comes on stdin, with -",
        ) from None


def _accepted(head: EventHead, body: bytes) -> PublishReply:
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import PublishReply, PublishRequest
    from fleet.protocol.subjects import ApiVerb

    try:
        return ask_once(ApiVerb.PUBLISH, PublishRequest(events=[head]), PublishReply, parts=[body])
    except FleetUnavailable as error:
        if not error.details.get("timed_out"):
            raise
        raise FleetUnavailable(
            error.message,
            hint=f"it may be stored: the same again, with --id {head.id}, is the same event",
            timed_out=True,
        ) from None
