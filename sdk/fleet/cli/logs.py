"""``logs``: what functions printed, live and later."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import show
from fleet.protocol.errors import FleetUnavailable, InvalidOption

if TYPE_CHECKING:
    import anyio

    from fleet._api import Api
    from fleet.protocol.messages import LogEntry, LogsRequest

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SINCE_S_MAX = 30 * 24 * 3600.0
LINES_MAX = 10_000
ASK_S = 5.0
"""Following is asked for anew this often: a control plane that was restarted has forgotten who follows."""
RETRY_S = 0.5
OVERLAP_S = 60.0
"""Asked anew, lines are wanted again from so long before the last time; those that came are known."""
KNOWN_MAX = 20_000


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog="Example: fleet logs nightly.clean -f --since 10m")(logs)


def logs(
    target: Annotated[str | None, typer.Argument(metavar="APP[.FN]", help="Whose lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    call_id: Annotated[
        str | None, typer.Option("--call", metavar="CALL[/ITEM]", help="Only this call's, or those of one item of it.")
    ] = None,
    since: Annotated[str | None, typer.Option(help='Only lines of so long ago at most: "10m".')] = None,
    as_json: JSON = False,
) -> None:
    """What functions printed: time, function, call (and item of it), attempt, a pseudonym of the car, and the line."""
    import anyio

    from fleet.cli.calls import checked_id, split_target
    from fleet.protocol.messages import LogsRequest
    from fleet.protocol.units import parse_seconds

    if target is None and call_id is None:
        raise typer.BadParameter("name an APP[.FN], or a call with --call")
    app, function = split_target(target) if target else (None, None)
    call, slash, number = (call_id or "").partition("/")
    if slash and not number.isdecimal():
        raise InvalidOption(
            f"--call {call_id!r}: an item is a number", hint="write CALL/ITEM, as in: --call 0198f0c2/3"
        )
    since_s = parse_seconds(since, "--since", 0.0, SINCE_S_MAX) if since else None
    wanted = LogsRequest(
        app=app, function=function, call=checked_id(call) if call else None, limit=LINES_MAX,
        since_unix_s=time.time() - since_s if since_s is not None else 0.0,
    )  # fmt: skip
    printer = Printer(int(number) if slash else None, as_json)
    try:
        anyio.run(_logs, wanted, printer, follow)
    except KeyboardInterrupt:
        if not follow:
            raise
    if not printer.printed and not follow:
        show.say("nothing to show")


class Printer:
    """Prints batches of lines, each once, however often it comes."""

    def __init__(self, item: int | None, as_json: bool) -> None:
        self._item = item
        self._as_json = as_json
        self._known: OrderedDict[str, None] = OrderedDict()
        self.printed = 0

    def entry(self, entry: LogEntry) -> None:
        """One batch."""
        name = entry.model_dump_json()
        if name in self._known:
            return
        self._known[name] = None
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        for line in lines_of(entry, self._item, self._as_json):
            print(line, flush=True)
            self.printed += 1


def lines_of(entry: LogEntry, wanted_item: int | None, as_json: bool) -> list[str]:
    """A batch as lines: JSON Lines, or ``time function call[/item] #attempt car | text``."""
    import json
    from datetime import datetime

    found = []
    for item, attempt, (unix_s, stream, text) in entry.by_item():
        if wanted_item not in (None, item):
            continue
        if as_json:
            row = {"unix_s": unix_s, "app": entry.app, "function": entry.function, "call": entry.call, "item": item,
                   "attempt": attempt, "car": entry.car, "stream": stream, "text": text}  # fmt: skip
            found.append(json.dumps(row, ensure_ascii=False))
        else:
            clock = datetime.fromtimestamp(unix_s).strftime("%H:%M:%S.%f")[:-3]
            call = entry.call if item is None else f"{entry.call}/{item}"
            found.append(f"{clock} {entry.app}.{entry.function} {call} #{attempt} {entry.car} | {text}")
    return found


async def _logs(wanted: LogsRequest, printer: Printer, follow: bool) -> None:
    import anyio

    from fleet.cli.ask import connected
    from fleet.protocol.messages import LogsReply
    from fleet.protocol.subjects import ApiVerb

    broken = anyio.Event()

    def reconnected() -> None:
        nonlocal broken
        broken.set()
        broken = anyio.Event()

    async with connected(on_reconnect=reconnected) as api:
        if follow:
            await _follow(api, wanted, printer, lambda: broken)
        else:
            stored, _ = await api.ask(ApiVerb.LOGS, wanted, LogsReply)
            for entry in stored.entries:
                printer.entry(entry)


async def _follow(api: Api, wanted: LogsRequest, printer: Printer, broken: Callable[[], anyio.Event]) -> None:
    """Print stored lines, then live ones, for ever. Whatever breaks meanwhile, the lines since then are asked for again."""

    from fleet.protocol import frames
    from fleet.protocol.messages import LogEntry, LogsReply
    from fleet.protocol.subjects import ApiVerb

    number = 0
    request = wanted
    while True:
        # A new inbox each time: who followed for the old one doesn't know what didn't arrive here.
        number += 1
        inbox = f"{api.bus.inbox}.log{number}"
        listening = await api.bus.listen(inbox, lambda message: printer.entry(frames.unpack(message.data, LogEntry)[0]))
        again = broken()
        while not again.is_set():
            asked_unix_s = time.time()
            try:
                stored, _ = await api.ask(ApiVerb.LOGS, request.model_copy(update={"follow": inbox}), LogsReply)
            except FleetUnavailable as error:
                show.say(f"{error.message}; still trying")
                await _either(again.wait, RETRY_S)
                continue
            for entry in stored.entries:
                printer.entry(entry)
            request = wanted.model_copy(update={"since_unix_s": max(wanted.since_unix_s, asked_unix_s - OVERLAP_S)})
            await _either(again.wait, ASK_S)
        await listening.close()


async def _either(wait: Callable[[], Awaitable[object]], limit_s: float) -> None:
    import anyio

    with anyio.move_on_after(limit_s):
        await wait()
