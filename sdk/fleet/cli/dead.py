"""What failed for good: ``dead``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import show
from fleet.protocol.errors import Refused

if TYPE_CHECKING:
    from fleet.protocol.messages import DeadReply, DeadRequest

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CALLS = Annotated[list[str], typer.Argument(metavar="CALL...", help="Ids of calls.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    dead = typer.Typer(no_args_is_help=True, help="What failed for good, replayable.")
    dead.command("list", epilog="Example: fleet dead list --json")(dead_list)
    dead.command("show", epilog="Example: fleet dead show 0198f0c2b1d27c3e9f1a2b3c4d5e6f70")(dead_show)
    dead.command("replay", epilog="Example: fleet dead replay 0198f0c2b1d27c3e9f1a2b3c4d5e6f70")(dead_replay)
    dead.command("drop", epilog="Example: fleet dead drop 0198f0c2b1d27c3e9f1a2b3c4d5e6f70")(dead_drop)
    app.add_typer(dead, name="dead")


def _dead(request: DeadRequest) -> DeadReply:
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import DeadReply
    from fleet.protocol.subjects import ApiVerb

    return ask_once(ApiVerb.DEAD, request, DeadReply)


def dead_list(limit: Annotated[int, typer.Option(help="At most so many.")] = 50, as_json: JSON = False) -> None:
    """Calls that failed for good, and why."""
    from fleet.protocol.messages import DeadRequest

    letters = _dead(DeadRequest(action="list", limit=limit)).letters
    if as_json:
        show.data(letters)
        return
    show.table(
        ("CALL", "FUNCTION", "AGE", "ATTEMPTS", "LOST CARS", "REASON"),
        [(one.state.call, f"{one.state.app}.{one.state.function}", show.ago(one.at_unix_s), one.state.attempts,
          one.state.losses, one.reason) for one in letters],
    )  # fmt: skip


def dead_show(calls: CALLS) -> None:
    """All that is kept of these calls, as JSON."""
    from fleet.protocol.messages import DeadRequest

    letters = _dead(DeadRequest(action="show", calls=calls)).letters
    if not letters:
        raise Refused("none of these calls failed for good", hint="see: fleet dead list")
    show.data(letters)


def dead_replay(calls: CALLS, as_json: JSON = False) -> None:
    """Put these calls back into the queue, as new calls; their ids are printed."""
    from fleet.protocol.messages import DeadRequest

    replayed = _dead(DeadRequest(action="replay", calls=calls)).replayed
    if as_json:
        show.data(replayed)
    else:
        print("\n".join(replayed))


def dead_drop(calls: CALLS) -> None:
    """Forget these calls."""
    from fleet.protocol.messages import DeadRequest

    _dead(DeadRequest(action="drop", calls=calls))
    show.say(f"dropped: {' '.join(calls)}")
