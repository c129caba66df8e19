"""``filter`` and ``key`` of a subject trigger: CEL (the Common Expression Language, cel.dev) over an event.

``cel`` (common-expression-language, the Rust crate of the same name) reads and runs it. An expression knows the event's
attributes ``id source type subject time datacontenttype dataschema extensions`` and its ``data``, decoded by its content type
(JSON, text, else bytes; null if there is none). ``time`` is a timestamp.

An expression runs in the control plane, on whatever anybody publishes, beside everybody else's work. So of CEL is allowed what
takes time in proportion to the event (``cel_subset``), and what names something that no event has is refused as well: it never
could be true. Measured on one core: 10 us for a small event, 0.2 s for a loop over 1 MiB of small objects, 0.1 s for the worst
pattern over PATTERN_DATA_BYTES_MAX.

What can't be evaluated (a field that isn't there, a text compared with a number) is false, or no key, and counted.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fleet._event import is_json
from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption
from fleet.protocol.ids import digest
from fleet.protocol.messages import EventHead
from fnplatform.triggers.cel_subset import DATA, TIME, Check, Needs, Token, tokens_of

if TYPE_CHECKING:
    import cel

log = logging.getLogger("fleet.triggers")

PATTERN_DATA_BYTES_MAX = 64 * limits.KIB
"""Expressions with ``matches`` are evaluated over data up to this size."""
KEY_CHARS_MAX = 64
"""A longer key stands as its digest."""
FAILURE_CHARS_MAX = 200
LOGGED = frozenset(10**power for power in range(12))
"""Failures of an expression that are logged."""

_POSITION = re.compile(r"<input>:(\d+):(\d+): (?:Syntax error: )?(.*)")


class _View:
    """An event as CEL's values: what was asked for so far. ValueError where the data isn't what its content type says."""

    __slots__ = ("_attributes", "_data", "_doubles", "_fields", "_head", "_parsed", "_whole", "context")

    def __init__(self, head: EventHead, data: bytes | memoryview, *, doubles: bool) -> None:
        import cel

        self.context = cel.Context()
        self._head = head
        self._data = data
        self._doubles = doubles
        self._attributes: set[str] = set()
        self._parsed: Any = _UNREAD
        self._fields: set[str] = set()
        """Of the data's first level."""
        self._whole = False

    def add(self, needs: Needs) -> None:
        """Have these variables ready."""
        if not needs.attributes <= self._attributes:
            for name in needs.attributes - self._attributes:
                value = getattr(self._head, name)
                self.context.add_variable(name, _time(value) if name == TIME else value)
            self._attributes |= needs.attributes
        if needs.data and not self._whole:
            self._add_data(needs.fields)

    def _add_data(self, fields: frozenset[str] | None) -> None:
        if self._parsed is _UNREAD:
            self._parsed = _decoded(self._head.datacontenttype, bytes(self._data), doubles=self._doubles)
        elif fields is not None and fields <= self._fields:
            return
        parsed = self._parsed
        if isinstance(parsed, ValueError):
            raise parsed
        if fields is None or not isinstance(parsed, dict):
            self._whole = True
            self.context.add_variable(DATA, parsed)
            return
        # Making CEL's values of it is what costs most: only of those that are named.
        self._fields |= fields
        self.context.add_variable(DATA, {name: parsed[name] for name in self._fields if name in parsed})


_UNREAD = object()


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _decoded(kind: str | None, data: bytes, *, doubles: bool) -> Any:
    """As ``fleet.Event.data``, or the ValueError that says why not."""
    if not data:
        return None
    try:
        if kind is None or is_json(kind):
            return json.loads(data, parse_int=float) if doubles else json.loads(data)
        return data.decode() if kind.startswith("text/") else data
    except (ValueError, RecursionError) as error:
        return ValueError(f"the data isn't {kind or 'JSON'}: {error}"[:FAILURE_CHARS_MAX])


class EventVars:
    """One event, for all expressions that ask about it: what they name is decoded once, and only then."""

    __slots__ = ("_data", "_head", "_views")

    def __init__(self, head: EventHead, data: bytes | memoryview) -> None:
        self._head = head
        self._data = data
        self._views: list[_View | None] = [None, None]

    @property
    def data_bytes(self) -> int:
        """Size of the data."""
        return len(self._data)

    def context(self, needs: Needs, *, doubles: bool) -> cel.Context:
        """The variables; ``doubles``: with all numbers of JSON as doubles. ValueError where the data can't be read."""
        view = self._views[doubles]
        if view is None:
            view = self._views[doubles] = _View(self._head, self._data, doubles=doubles)
        view.add(needs)
        return view.context


def event_vars(head: EventHead, data: bytes | memoryview) -> EventVars:
    """What expressions may ask of an event. Make one for each event, and give it to all expressions."""
    return EventVars(head, data)


class Expression:
    """A compiled expression. ``failures``: how often it couldn't be evaluated; ``failure``: why, the last time.

    JSON has one kind of number, CEL's ``31 * 1.8`` is an error: where kinds don't fit, all numbers are taken as doubles, those
    of the data as well as those of the expression.
    """

    def __init__(self, text: str, tokens: list[Token], needs: Needs) -> None:
        import cel

        self.text = text
        self._needs = needs
        in_doubles = "".join(f"{token.text}.0" if token.is_integer else token.text for token in tokens)
        # A program gives back whatever it comes to, converted to Python: these can only come to a bool, and to a text.
        self._holds = [cel.compile(f"({one}) ? true : false") for one in (text, in_doubles)]
        self._key = [cel.compile(one) for one in (f"string({text})", f"({text}) ? 'true' : 'false'")]
        self.failures = 0
        self.failure = ""

    def holds(self, event: EventVars) -> bool:
        """Whether it is true; false where it can't be evaluated."""
        try:
            return self._run(self._holds[False], event, doubles=False) is True
        except TypeError:
            pass  # No such overload: two kinds of numbers, perhaps.
        except Failure as error:
            return self._failed(error)
        try:
            return self._run(self._holds[True], event, doubles=True) is True
        except (TypeError, Failure) as error:
            return self._failed(error)

    def key(self, event: EventVars) -> str:
        """The value as a text of up to KEY_CHARS_MAX characters; "" where it has none, or one that is no single value."""
        value = None
        problem: Exception | None = None
        for program in self._key:
            try:
                value = self._run(program, event, doubles=False)
                break
            except (TypeError, Failure) as error:
                problem = problem or error
        else:
            assert problem is not None
            self._failed(problem)
            return ""
        assert isinstance(value, str), value
        return value if len(value) <= KEY_CHARS_MAX else digest(value.encode())

    def _run(self, program: cel.Program, event: EventVars, *, doubles: bool) -> Any:
        """TypeError where kinds of values don't fit, Failure for all other reasons."""
        if self._needs.patterns and event.data_bytes > PATTERN_DATA_BYTES_MAX:
            raise Failure(f"matches() is not tried on more than {PATTERN_DATA_BYTES_MAX >> 10} KiB of data")
        try:
            return program.execute(event.context(self._needs, doubles=doubles))
        except (TypeError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # What panics in Rust is no Exception.
            raise Failure(f"{type(error).__name__}: {error}") from None

    def _failed(self, error: Exception) -> bool:
        self.failures += 1
        self.failure = str(error)[:FAILURE_CHARS_MAX]
        if self.failures in LOGGED:
            log.info("expression %r couldn't be evaluated %d times: %s", self.text, self.failures, self.failure)
        return False


class Failure(Exception):
    """An expression can't be evaluated over this event."""


def compile_expression(text: str) -> Expression:
    """The expression, ready to run; InvalidOption says what is wrong with it and where."""
    import cel  # Its package imports a whole command line, 0.2 s: who has no expression doesn't wait for that.

    if not text.strip():
        raise InvalidOption("is empty", hint='write an expression such as "data.temperature > 30"')
    if len(text) > limits.EXPRESSION_CHARS_MAX:
        raise InvalidOption(f"has {len(text)} characters, {limits.EXPRESSION_CHARS_MAX} are allowed")
    try:
        cel.compile(text)
        tokens = tokens_of(text)
        return Expression(text, tokens, Check(tokens).needs)
    except InvalidOption:
        raise
    except ValueError as error:
        raise InvalidOption(f"is no CEL expression: {_why(str(error))}", hint="see cel.dev for the language") from None


def _why(message: str) -> str:
    found = _POSITION.search(message)
    if "Recursion limit" in message:
        return "it is nested too deeply"
    if found is None:
        return message.splitlines()[-1][:FAILURE_CHARS_MAX]
    line, column, why = found.groups()
    where = f"at character {column}" if line == "1" else f"in line {line} at character {column}"
    return f"{where}: {why.partition(' expecting {')[0]}".replace("'<EOF>'", "end of the text")
