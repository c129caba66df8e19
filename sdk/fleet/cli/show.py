"""How the CLI speaks: data on stdout, everything else on stderr; an error is one sentence, then ``hint: ...``."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fleet.protocol.errors import FleetError

if TYPE_CHECKING:
    from rich.table import Table

PIPE_COLUMNS = 240
"""Width of tables that no terminal shows: whoever reads them by program should not meet folded cells."""


def say(text: str) -> None:
    """One line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def fail(error: FleetError) -> NoReturn:
    """End with exit code 1 after saying what is wrong and what to do about it."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
    sys.exit(1)


def data(value: Any) -> None:
    """``value`` as indented JSON on stdout; what JSON lacks is shown as text."""
    _print(json.dumps(_plain(value), indent=2, ensure_ascii=False, default=str))


def _print(text: str) -> None:
    """On stdout; what UTF-8 lacks (lone surrogates) shows escaped."""
    print(text.encode("utf-8", "backslashreplace").decode(), flush=True)


def _plain(value: Any) -> Any:
    """``value`` of what JSON has: objects as their fields, sets as lists, odd keys as text."""
    kind: Any = type(value)
    if hasattr(kind, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(kind, "_asdict"):
        return _plain(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name, None)) for field in dataclasses.fields(value)}
    if hasattr(kind, "tolist") and hasattr(kind, "dtype"):  # an array, or a number out of one
        return _plain(value.tolist())
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key if isinstance(key, _JSON_KEYS) else str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | deque | range):
        return [_plain(item) for item in value]
    return value


_JSON_KEYS = (str, int, float, bool, type(None))


def result(value: Any, as_json: bool) -> None:
    """What a function returned: JSON, or text as it is and anything else as Python writes it."""
    if as_json:
        data(value)
    else:
        _print(value if isinstance(value, str) else repr(value))


def item(value: Any, as_json: bool) -> None:
    """One of many that a generator yields, as it comes: a line of its own."""
    if as_json:
        _print(json.dumps(_plain(value), ensure_ascii=False, default=str))
    else:
        _print(value if isinstance(value, str) else repr(value))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table; cells are text, never markup."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    return grid


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print ``rows`` on stdout; a line on stderr when there are none."""
    from rich.console import Console

    found = list(rows)
    if not found:
        say("nothing to show")
        return
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(make_table(columns, found))


def ago(unix_s: float | None) -> str:
    """How long ago that was: ``4 s``, ``12 min``, ``3 h``, ``2 d``; ``-`` for never."""
    if not unix_s:
        return "-"
    return span(max(0.0, time.time() - unix_s))


def span(seconds: float) -> str:
    """A duration for people."""
    for limit_s, unit_s, name in ((1, 0.001, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds / 86400:.0f} d"
