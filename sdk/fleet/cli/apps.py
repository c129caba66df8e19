"""What is deployed: ``deploy``, ``list``, ``history``, ``rollback``, ``delete``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import show

if TYPE_CHECKING:
    from fleet.protocol.messages import AppVersion, FunctionInfo, Trigger

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog="Example: fleet deploy jobs.py --app nightly")(deploy)
    app.command("list", epilog="Example: fleet list --json")(list_functions)
    app.command(epilog="Example: fleet history nightly")(history)
    app.command(epilog="Example: fleet rollback nightly 3")(rollback)
    app.command(epilog="Example: fleet delete nightly --cancel")(delete)


def deploy(
    source: Annotated[str, typer.Argument(metavar="FILE_OR_MODULE", help="Where the functions are.")],
    app: Annotated[str | None, typer.Option(help="Name of the app; default: the name of the file.")] = None,
    as_json: JSON = False,
) -> None:
    """Upload an app; print each function, its version and its triggers."""
    from fleet import _client, _deploy

    loaded = _deploy.load_app(source, app)
    deployed = _deploy.deploy(_client.current(), loaded, show.say)
    reply, packages = deployed.reply, deployed.packages
    version = reply.app_version
    assert version is not None, reply
    if as_json:
        show.data({"app": loaded.app, "unchanged": reply.unchanged, "version": version, "packages": packages,
                   "jax": deployed.platforms, "triggers": deployed.triggers})  # fmt: skip
        return
    show.say(f"{loaded.app} version {version.number} was live already" if reply.unchanged else
             f"{loaded.app} version {version.number} is live")  # fmt: skip
    for name, platforms in sorted(deployed.platforms.items()):
        show.say(f"{loaded.app}.{name} jax: {platforms}")
    for line in _routes(loaded.app, deployed.triggers):
        show.say(line)
    show.table(
        ("FUNCTION", "VERSION", "TRIGGERS", "PACKAGES"),
        [
            (
                f"{loaded.app}.{name}",
                digest,
                _in_words(deployed.triggers[name]),
                ", ".join(packages.get(name, [])) or "-",
            )
            for name, digest in sorted(version.functions.items())
        ],
    )


def _routes(app: str, triggers: dict[str, list[Trigger]]) -> list[str]:
    """Where the HTTP gateway answers with these functions; nothing where there is none."""
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import HttpTrigger, PlatformReply, PlatformRequest
    from fleet.protocol.subjects import ApiVerb

    routes = [(name, one) for name, all_of in triggers.items() for one in all_of if isinstance(one, HttpTrigger)]
    if not routes:
        return []
    platform = ask_once(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply)
    if not platform.http_url:
        return [f"{app}.{name} answers HTTP once a gateway runs: fleet gateway" for name, _ in routes]
    base = f"{platform.http_url.rstrip('/')}/u/{platform.tenant}"
    return [f"{app}.{name} answers {one.method} {base}{one.path}" for name, one in routes]


def list_functions(
    app: Annotated[str | None, typer.Argument(metavar="APP", help="Only this app.")] = None, as_json: JSON = False
) -> None:
    """Every deployed function."""
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import FunctionsReply, FunctionsRequest
    from fleet.protocol.subjects import ApiVerb

    found = ask_once(ApiVerb.FUNCTIONS, FunctionsRequest(app=app), FunctionsReply).functions
    if as_json:
        show.data(found)
        return
    columns = ("FUNCTION", "SIGNATURE", "VERSION", "APP VERSION", "RUNTIME", "TRIGGERS")
    show.table(columns, [_row(one) for one in found])


def _row(one: FunctionInfo) -> tuple[object, ...]:
    manifest = one.manifest
    number = "-" if one.app_number is None else one.app_number
    name = f"{manifest.app}.{manifest.function}"
    return (name, manifest.signature, one.version, number, manifest.program.runtime, _in_words(manifest.triggers))


def _in_words(triggers: list[Trigger]) -> str:
    from fleet._triggers import in_words

    return "\n".join(in_words(one) for one in triggers) or "-"


def history(
    app: Annotated[str, typer.Argument(help="Name of the app.")], as_json: JSON = False
) -> None:  # fmt: skip
    """Every version of an app; the live one is marked."""
    from fleet.cli.ask import ask_once
    from fleet.protocol.errors import NotDeployed
    from fleet.protocol.messages import HistoryReply, HistoryRequest
    from fleet.protocol.subjects import ApiVerb

    record = ask_once(ApiVerb.HISTORY, HistoryRequest(app=app), HistoryReply).record
    if record is None:
        raise NotDeployed(f"there is no app {app!r}")
    if as_json:
        show.data(record)
        return
    rows = [
        ("live" if one.number == record.live else "", one.number, show.ago(one.created_unix_s),
         ", ".join(sorted(one.functions)), one.note)
        for one in sorted(record.versions, key=lambda one: -one.number)
    ]  # fmt: skip
    show.table(("", "VERSION", "AGE", "FUNCTIONS", "NOTE"), rows)


def rollback(
    app: Annotated[str, typer.Argument(help="Name of the app.")],
    version: Annotated[int | None, typer.Argument(help="Number of the version; default: the one before.")] = None,
    as_json: JSON = False,
) -> None:
    """Make an earlier version live again; calls in flight keep theirs."""
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import RollbackReply, RollbackRequest
    from fleet.protocol.subjects import ApiVerb

    live = ask_once(ApiVerb.ROLLBACK, RollbackRequest(app=app, number=version), RollbackReply).app_version
    assert live is not None, app
    _print_live(app, live, as_json)


def _print_live(app: str, live: AppVersion, as_json: bool) -> None:
    if as_json:
        show.data(live)
    else:
        show.say(f"{app} version {live.number} is live")


def delete(
    app: Annotated[str, typer.Argument(help="Name of the app.")],
    cancel: Annotated[
        bool,
        typer.Option(
            "--cancel", help="Cancel the calls that wait or run, drop the events that its triggers hold back."
        ),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Remove an app; refused while calls or events of it wait, unless --cancel."""
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import DeleteReply, DeleteRequest
    from fleet.protocol.subjects import ApiVerb

    reply = ask_once(ApiVerb.DELETE, DeleteRequest(app=app, cancel=cancel), DeleteReply)
    if as_json:
        show.data({"app": app, "cancelled": reply.cancelled})
    else:
        show.say(f"{app} is deleted, {reply.cancelled} calls were cancelled")
