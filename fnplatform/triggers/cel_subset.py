"""The part of CEL that expressions may use: what takes time and memory in proportion to the event. Pure.

CEL always ends, but on the data of a stranger it may take hours and all memory first: loops in loops over the data,
``map(s, s + s)`` thirty times in a row, ``filter`` (which copies its list for each element), patterns with a hundred thousand
states.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from fleet.protocol.errors import InvalidOption

DATA = "data"
TIME = "time"
ATTRIBUTES = frozenset({"id", "source", "type", "subject", TIME, "datacontenttype", "dataschema", "extensions"})
NAMES = ATTRIBUTES | {DATA}
TYPES = frozenset(
    {"int", "uint", "double", "string", "bytes", "bool", "list", "map", "null_type", "timestamp", "duration"}
)
KEYWORDS = frozenset({"true", "false", "null", "in"})
LOOPS = frozenset({"all", "exists", "exists_one"})
FUNCTIONS = LOOPS | {
    "bytes", "contains", "double", "duration", "endsWith", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
    "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds", "has", "int", "matches", "size",
    "startsWith", "string", "timestamp", "type", "uint",
}  # fmt: skip
LOOPS_MAX = 4
SUMS_MAX = 16
PATTERNS_MAX = 4
PATTERN_CHARS_MAX = 200
PATTERN_REPEATS_MAX = 64
"""All counted repetitions of a pattern together: each is that many copies of what it repeats."""
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>[rR](?:"[^"\r\n]*"|'[^'\r\n]*') | [bB]?(?:"(?:\\.|[^"\\\r\n])*"|'(?:\\.|[^'\\\r\n])*'))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9][0-9A-Za-z_.]*)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_COUNTED = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_VERBOSE = re.compile(r"\(\?[a-zA-Z-]*x")
"""Spaces may stand anywhere in such a pattern."""


class Token(NamedTuple):
    """A piece of an expression. ``at``: its first character, from 1."""

    kind: str
    text: str
    at: int

    @property
    def is_integer(self) -> bool:
        """Whether it is a number without a point, in digits."""
        return self.kind == "number" and self.text.isdecimal()


class Needs(NamedTuple):
    """What of an event an expression looks at. ``fields``: the first level of its data, None: all."""

    attributes: frozenset[str]
    data: bool
    fields: frozenset[str] | None
    patterns: bool


def tokens_of(text: str) -> list[Token]:
    """Every piece, spaces included."""
    return [Token(str(match.lastgroup), match.group(), match.start() + 1) for match in _TOKEN.finditer(text)]


def _refuse(token: Token, why: str, hint: str = "") -> InvalidOption:
    return InvalidOption(f"at character {token.at}: {why}", hint=hint)


class Check:
    """InvalidOption for what no event has, and for what may take more than time in proportion to the data.

    That is: to look inside a loop at anything large but its own element (all of it is gone through for each element), results
    that grow (``map``, ``filter``, many sums), patterns that aren't written down here or repeat by large numbers.
    """

    def __init__(self, tokens: list[Token]) -> None:
        tokens = [token for token in tokens if token.kind != "space"]
        self._tokens = [*tokens, *[Token("end", "", tokens[-1].at)] * 4]
        self._depth = 0
        self._open: list[tuple[int, str]] = []
        """Loops that we are in: how deep in brackets, and the name of the element."""
        self._attributes: set[str] = set()
        self._fields: set[str] | None = set()
        self._has_data = False
        self._counts = {"loops": 0, "sums": 0, "patterns": 0}
        for index in range(len(tokens)):
            self._take(index)

    @property
    def needs(self) -> Needs:
        """What the expression looks at."""
        fields = None if self._fields is None else frozenset(self._fields)
        return Needs(frozenset(self._attributes), self._has_data, fields, self._counts["patterns"] > 0)

    def _take(self, index: int) -> None:
        token, after = self._tokens[index : index + 2]
        before = self._tokens[index - 1] if index else Token("begin", "", 0)
        if token.kind == "other" and token.text in "([{":
            self._depth += 1
        elif token.kind == "other" and token.text in ")]}":
            self._depth -= 1
            if self._open and self._depth < self._open[-1][0]:
                self._open.pop()
        elif token.text == "+":
            self._count(token, "sums", SUMS_MAX)
        elif (token.kind == "text" == before.kind) or token.text in ("'", '"', "`") or token.text == before.text == "/":
            raise _refuse(token, "texts in three quotes, names in quotes and comments are not allowed")
        elif token.kind == "name" and after.text == "(":
            self._call(index)
        elif token.kind == "name" and before.text != "." and token.text not in KEYWORDS:
            self._name(index)

    def _count(self, token: Token, what: str, most: int) -> None:
        self._counts[what] += 1
        if self._counts[what] > most:
            raise _refuse(token, f"more than {most} {what}")

    def _call(self, index: int) -> None:
        token, _, first, second = self._tokens[index : index + 4]
        if token.text in ("map", "filter"):
            raise _refuse(token, f"{token.text}() is not allowed", "use exists(), all() or exists_one()")
        if token.text not in FUNCTIONS:
            raise _refuse(token, f"there is no function {token.text}()", f"known are {', '.join(sorted(FUNCTIONS))}")
        if token.text == "matches":
            self._count(token, "patterns", PATTERNS_MAX)
            if self._open:
                raise _refuse(token, "matches() is not allowed inside a loop", "use contains() or startsWith()")
            if first.kind != "text" or second.text != ")":
                raise _refuse(token, "the pattern of matches() must be a text that is written here")
            _check_pattern(first)
        if token.text in LOOPS:
            self._count(token, "loops", LOOPS_MAX)
            if first.kind != "name" or second.text != "," or first.text in NAMES | TYPES | KEYWORDS:
                raise _refuse(token, f"{token.text}() needs a name of its own first", f"such as {token.text}(x, x > 1)")
            if self._open and not self._is_of_element(index):
                raise _refuse(token, f"a loop inside a loop can only go through a field of {self._open[-1][1]}")
            self._open.append((self._depth + 1, first.text))

    def _is_of_element(self, index: int) -> bool:
        """Whether what the loop at ``index`` goes through is ``element.field.field``."""
        while index >= 2 and self._tokens[index - 1].text == "." and self._tokens[index - 2].kind == "name":
            index -= 2
        return self._tokens[index].text == self._open[-1][1] and self._tokens[index - 1].text in ",(!|&=<>?:"

    def _name(self, index: int) -> None:
        token = self._tokens[index]
        element = self._open[-1][1] if self._open else ""
        if token.text == DATA:
            self._has_data = True
            field = _field(self._tokens[index + 1 : index + 4])
            self._fields = None if self._fields is None or field is None else self._fields | {field}
        if token.text in ATTRIBUTES:
            self._attributes.add(token.text)
        if token.text == element or token.text in ATTRIBUTES | TYPES or (token.text == DATA and not element):
            return
        if token.text == DATA or any(token.text == name for _, name in self._open):
            raise _refuse(
                token, f"{token.text} is not allowed inside a loop", f"compare {element} with something fixed"
            )
        close = difflib.get_close_matches(token.text, NAMES, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(NAMES))}; data.{token.text}?"
        raise _refuse(token, f"no event has {token.text}", hint)


def _field(after: list[Token]) -> str | None:
    """The first level of the data that is named: ``.name`` or ``['name']``."""
    first, second, third = after
    if first.text == "." and second.kind == "name" and third.text != "(":
        return second.text
    if first.text == "[" and second.kind == "text" and third.text == "]" and second.text[0] in "'\"":
        return None if "\\" in second.text else second.text[1:-1]
    return None


def _check_pattern(token: Token) -> None:
    import cel

    pattern = cel.compile(token.text).execute()
    if not isinstance(pattern, str) or len(pattern) > PATTERN_CHARS_MAX:
        raise _refuse(token, f"a pattern is a text of at most {PATTERN_CHARS_MAX} characters")
    repeats = sum(max(int(least), int(most or 0)) for least, most in _COUNTED.findall(pattern))
    if repeats > PATTERN_REPEATS_MAX or "){" in pattern or _VERBOSE.search(pattern):
        raise _refuse(
            token,
            f"a pattern may repeat {PATTERN_REPEATS_MAX} times by numbers in all, and no group",
            "use + or * instead of {n}",
        )
    try:
        cel.compile(f"''.matches({token.text})").execute()
    except RuntimeError as error:
        why = str(error).splitlines()[-1].removeprefix("error: ")
        raise _refuse(token, f"the pattern is not a regular expression: {why}") from None
