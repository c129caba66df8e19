"""Calls: ``run``, ``call``, ``calls``, ``explain``, ``cancel``."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli import show
from fleet.protocol.errors import FleetError, InvalidOption, NotDeployed

if TYPE_CHECKING:
    from fleet.protocol.messages import CallStatus, Manifest

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WORDS = Annotated[
    list[str] | None, typer.Argument(metavar="ARGS", help="Arguments; name=value by keyword; put -- before -1.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog="Example: fleet run examples/hello.py::greet Ada --json")(run)
    app.command(epilog="Example: fleet call nightly.clean 3 --spawn")(call)
    app.command(epilog="Example: fleet calls nightly.clean --json")(calls)
    app.command(epilog="Example: fleet explain 0198f0c2b1d27c3e9f1a2b3c4d5e6f70")(explain)
    app.command(epilog="Example: fleet cancel 0198f0c2b1d27c3e9f1a2b3c4d5e6f70")(cancel)


def split_target(target: str) -> tuple[str, str | None]:
    """``APP[.FN]`` as its two names; the function's as the token it is deployed under."""
    from fleet.protocol.ids import check_token, token_of

    app, _, function = target.partition(".")
    return check_token(app, "app"), token_of(function) if function else None


def run(
    target: Annotated[str, typer.Argument(metavar="FILE::FN", help="A file (or module) and a function in it.")],
    words: WORDS = None,
    as_json: JSON = False,
) -> None:
    """Run a function once on a car, without deploying it; print what it returns."""
    import fleet
    from fleet import _deploy
    from fleet.cli import args

    source, separator, name = target.rpartition("::")
    if not separator or not source or not name:
        raise InvalidOption(f"{target!r} names no function", hint="write FILE::FN, as in: fleet run jobs.py::clean 3")
    loaded = _deploy.load_app(source)
    found = next((one for one in loaded.functions if name in (one.name, one.display_name)), None)
    if found is None:
        known = ", ".join(sorted(one.display_name for one in loaded.functions))
        raise NotDeployed(f"{source} has no function {name!r}", hint=f"it has: {known}")
    positional, keywords = args.bind_words(words or [], args.parameters_of(found))
    fleet.enable_output()
    work = found.remote_gen if found.yields else found.remote

    def started() -> Any:
        if found.options.runtime == "jax":
            from fleet._prepare import programs_of

            show.say(f"{name} jax: {programs_of(found).traced(positional, keywords).platforms_text}")
        return work(*positional, **keywords)

    _print_outcome(started, name, as_json)


def call(
    target: Annotated[str, typer.Argument(metavar="APP.FN", help="A deployed function.")],
    words: WORDS = None,
    json_args: Annotated[
        str | None, typer.Option(metavar="JSON", help="Arguments as a JSON list, or keywords as an object.")
    ] = None,
    spawn: Annotated[bool, typer.Option("--spawn", help="Print the call's id and don't wait.")] = False,
    as_json: JSON = False,
) -> None:
    """Call a deployed function; print what it returns."""
    import fleet
    from fleet.cli import args

    app, function = split_target(target)
    if function is None:
        raise InvalidOption(f"{target!r} names no function", hint="write APP.FN, as in: fleet call nightly.clean 3")
    if json_args is not None and words:
        raise InvalidOption("arguments come either as words or with --json-args")
    manifest = _manifest(app, function)
    signature = manifest.signature
    if json_args is not None:
        positional, keywords = args.from_json(json_args)
    else:
        positional, keywords = args.bind_words(words or [], args.parameters_of_text(signature))
    args.check_arguments(target, signature, positional, keywords)
    found = fleet.Function.from_name(app, function)
    if spawn and manifest.yields:
        raise InvalidOption(f"{target} is a generator function: what it yields needs somebody who waits for it")
    if spawn:
        started = found.spawn(*positional, **keywords)
        show.result({"call": started.id} if as_json else started.id, as_json)
        return
    fleet.enable_output()
    work = found.remote_gen if manifest.yields else found.remote
    _print_outcome(lambda: work(*positional, **keywords), target, as_json)


def _manifest(app: str, function: str) -> Manifest:
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import FunctionsReply, FunctionsRequest
    from fleet.protocol.subjects import ApiVerb

    found = ask_once(ApiVerb.FUNCTIONS, FunctionsRequest(app=app, function=function), FunctionsReply).functions
    for one in found:
        if one.manifest.function == function:
            return one.manifest
    raise NotDeployed(f"there is no function {app}.{function}")


def _print_outcome(work: Callable[[], Any], name: str, as_json: bool) -> None:
    """Run ``work``; what the function itself raised is shown with its remote traceback, then said in one sentence."""
    from fleet._classes import records

    try:
        with records():  # There may be no class here for what a deployed function returns.
            value = work()
            if isinstance(value, Iterator):
                for item in value:
                    show.item(item, as_json)
                return
    except FleetError:
        raise
    except Exception as error:
        for note in getattr(error, "__notes__", ()):
            show.say(note)
        said = traceback.format_exception_only(error)[0].strip().splitlines()[0]
        raise FleetError(
            f"{name} raised {said}", hint="the function itself failed; try it here with .local()"
        ) from None
    show.result(value, as_json)


def calls(
    target: Annotated[str | None, typer.Argument(metavar="APP[.FN]", help="Only these.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1, max=1000)] = 50,
    as_json: JSON = False,
) -> None:
    """What ran, runs and waits."""
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import CallsRequest, StatusReply
    from fleet.protocol.subjects import ApiVerb

    app, function = split_target(target) if target else (None, None)
    found = ask_once(ApiVerb.CALLS, CallsRequest(app=app, function=function, limit=limit), StatusReply).calls
    if as_json:
        show.data(found)
        return
    show.table(
        ("CALL", "FUNCTION", "STARTED BY", "STATE", "AGE", "TOOK", "ATTEMPT", "CAR", "ITEMS", "ERROR"),
        [_row(one) for one in found],
    )


def _row(one: CallStatus) -> tuple[object, ...]:
    took = show.span(max(0.0, one.finished_unix_s - one.submitted_unix_s)) if one.finished_unix_s else "-"
    items = "-" if one.items is None and not one.items_done else f"{one.items_done}/{one.items or '...'}"
    return (
        one.call, f"{one.app}.{one.function}", one.trigger or "call", one.state or "unknown",
        show.ago(one.submitted_unix_s), took,
        one.attempt or "-", one.car or "-", items, one.error or "-",
    )  # fmt: skip


def explain(
    call_id: Annotated[str, typer.Argument(metavar="CALL", help="Id of a call.")], as_json: JSON = False
) -> None:
    """Why a call waits: the condition that blocks it, and how many cars pass each one."""
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import ExplainReply, ExplainRequest
    from fleet.protocol.subjects import ApiVerb

    reply = ask_once(ApiVerb.EXPLAIN, ExplainRequest(call=checked_id(call_id)), ExplainReply)
    if as_json:
        show.data(reply)
        return
    print(reply.sentence)
    if reply.conditions:
        show.table(
            ("CONDITION", "CARS", ""), [(one.name, f"{one.passing} of {one.of}", one.text) for one in reply.conditions]
        )


def checked_id(call_id: str) -> str:
    """``call_id``, or InvalidOption when it can't be one."""
    from fleet.protocol.ids import check_token

    return check_token(call_id, "call")


def cancel(
    call_ids: Annotated[list[str], typer.Argument(metavar="CALL...", help="Ids of calls.")], as_json: JSON = False
) -> None:
    """End calls that wait or run."""
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import CallRequest, CancelReply
    from fleet.protocol.subjects import ApiVerb

    wanted = [checked_id(one) for one in call_ids]
    ended = ask_once(ApiVerb.CANCEL, CallRequest(calls=wanted), CancelReply).cancelled
    if as_json:
        show.data({"cancelled": ended, "ended_before": [one for one in wanted if one not in ended]})
        return
    for one in wanted:
        show.say(f"{one}: {'cancelled' if one in ended else 'it had ended before'}")
