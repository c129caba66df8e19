"""What failed for good: ``dead``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fleet.cli import show
from fleet.protocol.errors import Refused, ResultExpired

if TYPE_CHECKING:
    from fleet.protocol.messages import DeadLetter, DeadProblem, DeadReply, DeadRequest

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CALLS = Annotated[list[str], typer.Argument(metavar="CALL...", help="Ids, as list shows them.")]
SOME_CALLS = Annotated[list[str] | None, typer.Argument(metavar="[CALL...]", help="Ids, as list shows them.")]
EVENTS_HELP = "_events: events that never became a call"
OF = Annotated[str | None, typer.Option("--of", metavar="APP[.FN]", help=f"With --all: only these; {EVENTS_HELP}.")]
PAGE = 200


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    dead = typer.Typer(no_args_is_help=True, help="What failed for good, replayable.")
    dead.command("list", epilog="Example: fleet dead list jobs.clean --json")(dead_list)
    dead.command("show", epilog="Example: fleet dead show 0198f0c2b1d27c3e9f1a2b3c4d5e6f70")(dead_show)
    dead.command("replay", epilog="Example: fleet dead replay 0198f0c2b1d27c3e9f1a2b3c4d5e6f70")(dead_replay)
    dead.command("drop", epilog="Example: fleet dead drop --all --of jobs.clean")(dead_drop)
    app.add_typer(dead, name="dead")


def _dead(request: DeadRequest) -> DeadReply:
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import DeadReply
    from fleet.protocol.subjects import ApiVerb

    return ask_once(ApiVerb.DEAD, request, DeadReply)


def _target(target: str | None) -> dict[str, str | None]:
    from fleet.cli.calls import split_target

    app, function = split_target(target) if target else (None, None)
    return {"app": app, "function": function}


def dead_list(
    target: Annotated[str | None, typer.Argument(metavar="[APP[.FN]]", help=f"Only these; {EVENTS_HELP}.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1, max=1000)] = 50,
    as_json: JSON = False,
) -> None:
    """What failed for good, and why. Of a chunk each line stands for the items that failed at one time."""
    from fleet.protocol.messages import DeadRequest

    letters = _dead(DeadRequest(action="list", limit=limit, **_target(target))).letters
    if as_json:
        show.data(letters)
        return
    show.table(
        ("CALL", "FUNCTION", "STARTED BY", "AGE", "ITEMS", "ATTEMPTS", "LOST CARS", "REASON"),
        [(one.state.call, f"{one.state.app}.{one.state.function}", one.state.trigger or "call", show.ago(one.at_unix_s),
          _items(one), attempts_of(one), one.state.losses, one.reason) for one in letters],
    )  # fmt: skip


def _items(letter: DeadLetter) -> str:
    state = letter.state
    if state.items is None:
        return "-"
    left = sum(last - first + 1 for first, last in state.pending) if state.pending is not None else state.items
    return f"{left} of {state.items}"


def attempts_of(letter: DeadLetter) -> int:
    """How often the function failed at it, at most."""
    return max((letter.state.attempts, *letter.state.item_attempts.values()))


def dead_show(calls: CALLS) -> None:
    """All that is kept of these calls, as JSON: with the events that started them. Arguments of other calls stay packed."""
    import anyio

    rows = anyio.run(_show, _checked(calls))
    show.data(rows)


async def _show(calls: list[str]) -> list[dict[str, object]]:
    from fleet import _letters
    from fleet._blobs import Blobs
    from fleet.cli.ask import connected
    from fleet.protocol.errors import ProtocolError
    from fleet.protocol.messages import DeadReply, DeadRequest
    from fleet.protocol.subjects import ApiVerb

    rows = []
    async with connected() as api:
        reply, parts = await api.ask(ApiVerb.DEAD, DeadRequest(action="show", calls=calls), DeadReply)
        for letter, part in zip(reply.letters, parts or [memoryview(b"")] * len(reply.letters), strict=True):
            row = {**letter.model_dump(mode="json", exclude_defaults=True), "attempts": attempts_of(letter)}
            payload: bytes | memoryview = part
            try:
                if letter.state.blob and letter.state.trigger:
                    payload = await Blobs(api).get(letter.state.digest, letter.state.payload_bytes)
                events = _letters.events_of(letter, payload)
            except (ProtocolError, ResultExpired) as error:
                row["unreadable"] = error.message
            else:
                if events:
                    row["events"] = [_letters.plain(event) for event in events]
            rows.append(row)
    return rows


def dead_replay(
    calls: SOME_CALLS = None,
    every: Annotated[bool, typer.Option("--all", help="All there are now, the oldest first.")] = False,
    of: OF = None,
    as_json: JSON = False,
) -> None:
    """Run them again, as new calls of what is deployed now; their ids are printed. Events that were cut off start anew."""
    replayed: list[str] = []
    problems: list[DeadProblem] = []
    for reply in _replies("replay", calls, every, of):
        replayed += reply.replayed
        problems += reply.problems
        if not as_json and reply.replayed:
            print("\n".join(reply.replayed), flush=True)
    if as_json:
        show.data({"replayed": replayed, "problems": [one.model_dump(mode="json") for one in problems]})
    for one in problems:
        show.say(f"{one.call}: {one.error.message}" + (f"\nhint: {one.error.hint}" if one.error.hint else ""))
    if problems:
        raise Refused(
            f"{len(problems)} could not be replayed, {len(replayed)} were", hint="the lines above say what to do"
        )


def dead_drop(
    calls: SOME_CALLS = None,
    every: Annotated[bool, typer.Option("--all", help="All there are now.")] = False,
    of: OF = None,
    as_json: JSON = False,
) -> None:
    """Forget them."""
    dropped: list[str] = []
    for reply in _replies("drop", calls, every, of):
        dropped += [letter.state.call for letter in reply.letters]
    dropped = list(dict.fromkeys(dropped))
    if as_json:
        show.data({"dropped": dropped})
    elif every:
        show.say(f"dropped: {len(dropped)}")
    else:
        show.say(f"dropped: {' '.join(dropped)}")


def _replies(
    action: Literal["replay", "drop"], calls: list[str] | None, every: bool, of: str | None
) -> Iterator[DeadReply]:
    """Ask for these calls, or for page after page of all."""
    from fleet.protocol.messages import DeadRequest

    if bool(calls) == every or (of and not every):
        raise typer.BadParameter("give ids of calls, or --all, which may have --of APP[.FN]")
    if calls:
        yield _dead(DeadRequest(action=action, calls=_checked(calls)))
        return
    before_unix_s = time.time()  # What fails again meanwhile is not replayed again.
    next_seq = 1
    while next_seq:
        request = DeadRequest(
            action=action, every=True, limit=PAGE, before_unix_s=before_unix_s, from_seq=next_seq, **_target(of)
        )
        reply = _dead(request)
        yield reply
        next_seq = reply.next_seq


def _checked(calls: list[str]) -> list[str]:
    from fleet.cli.calls import checked_id

    return [checked_id(call) for call in calls]
