"""Find the source of a code object, and prove that it is the source: compiled again it must give the same code.

Bytecode of one Python minor version doesn't run in another; source does. What travels is the smallest run of whole lines
at module level that holds the function, and the function's place among those that it holds.

Errors: NoSource, whose text completes "Python keeps no source of f: ..." or says that the file changed.
"""

from __future__ import annotations

import ast
import bisect
import dis
import functools
import linecache
import os
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fleet._rebuild import segments as _segments

_NESTED = 0x10
"""CO_NESTED: set for every function that is compiled alone."""
_STATEMENTS_KEPT_MAX = 512
_GLOBAL_NAMES = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


class NoSource(Exception):
    """One sentence on why a function has no source here; ``hint``: what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Place:
    """Lines of a file, by what makes ``_segments.segment`` of them, and a function's number among theirs."""

    text: str
    first_line: int
    indented: bool
    file: str
    index: int

    def segment(self) -> tuple[str, int, bool, str]:
        """Arguments of ``_segments.segment``."""
        return self.text, self.first_line, self.indented, self.file


_places: dict[types.CodeType, list[tuple[types.CodeType, Place]]] = {}
_parsed_segments: dict[tuple[str, int, bool, str], _segments.Segment] = {}
_files: dict[str, Parsed] = {}
_lock = threading.Lock()


def forget_lock() -> None:
    """In the child of a fork: a thread of the parent may have held the lock."""
    global _lock
    _lock = threading.Lock()


def locate(function: types.FunctionType, shown: str | None = None) -> Place:
    """Where the source of a function's code is; ``shown``: its file's name on the car. NoSource says why there is none."""
    code = function.__code__
    shown = shown or shown_name(code.co_filename)
    with _lock:
        for known, place in _places.get(code, ()):
            # Equal code objects may differ in their lines' columns: two lambdas on one line.
            if known is code and place.file == shown:
                return place
        place = _find(function, shown)
        _places.setdefault(code, []).append((code, place))
        return place


def shown_name(file: str) -> str:
    """What tracebacks on the car call a file: its last part, or what Python calls text that is no file."""
    return file if file.startswith("<") else os.path.basename(file)


def tree_of(place: Place) -> ast.AST:
    """The function's node."""
    return _segment(place.segment()).functions[place.index][0]


def _find(function: types.FunctionType, shown: str) -> Place:
    code, name = function.__code__, function.__qualname__
    file = code.co_filename
    lines = _lines(file, function.__globals__)
    place = _search(code, file, lines, shown)
    if place is None and lines and not file.startswith("<"):
        linecache.checkcache(file)
        place = _search(code, file, _lines(file, function.__globals__), shown)
    if place is not None:
        return place
    if not lines or file.startswith("<"):
        raise _no_source(file, name)
    raise NoSource(
        f"the source of {name} in {file} is not what runs here: it changed since it was imported",
        "start again, so that what runs is what the file says",
    )


def _no_source(file: str, name: str) -> NoSource:
    came = "it came from standard input" if file in ("<stdin>", "-") else "it was made by exec or eval"
    return NoSource(f"Python keeps no source of {name}: {came}", "save it to a file")


def _lines(file: str, module_globals: dict[str, Any]) -> list[str]:
    if file == "<string>" and (command := _command()):
        return command.splitlines(keepends=True)
    return linecache.getlines(file, module_globals)


def _command() -> str:
    """The text of ``python -c``, or nothing."""
    waiting = iter(sys.orig_argv[1:])
    for word in waiting:
        if not word.startswith("-") or word == "-":
            return ""
        if word.startswith("--"):
            if "=" not in word and word != "--":
                next(waiting, "")
            continue
        for at, letter in enumerate(word[1:], 1):
            if letter == "c":
                return word[at + 1 :] or next(waiting, "")
            if letter == "m":
                return ""
            if letter in "WX":  # takes a value: the rest of the word, or the next one
                if not word[at + 1 :]:
                    next(waiting, "")
                break
    return ""


def _search(code: types.CodeType, file: str, lines: list[str], shown: str) -> Place | None:
    parsed = _parsed(file, lines)
    if parsed is None:
        return None
    first, last, indented = _extent(parsed, lines, code.co_firstlineno)
    if not first:
        return None
    text = "".join(lines[first - 1 : last])
    key = (text, first, indented, shown)
    try:
        segment = _segment(key)
    except SyntaxError:
        return None
    for index in _candidates(segment, code):
        try:
            made = segment.code(index, code.co_freevars, code.co_flags, code.co_qualname, parsed.imported)
        except (SyntaxError, StopIteration):
            continue
        if _same(code, made):
            return Place(*key, index)
    return None


def _parsed(file: str, lines: list[str]) -> Parsed | None:
    known = _files.get(file)
    if known is not None and known.lines == lines:
        return known
    try:
        tree = ast.parse("".join(lines), file)
    except (SyntaxError, ValueError):
        return None
    if len(_files) > 64:
        _files.clear()
    _files[file] = Parsed(lines, tree)
    return _files[file]


def _imported(tree: ast.Module) -> tuple[str, ...]:
    found: dict[str, None] = {}
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if alias.name != "*":
                    found[alias.asname or alias.name.partition(".")[0]] = None
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            waiting.extend(_blocks(node))
    return tuple(found)


def _segment(key: tuple[str, int, bool, str]) -> _segments.Segment:
    if key not in _parsed_segments:
        if len(_parsed_segments) >= _STATEMENTS_KEPT_MAX:
            _parsed_segments.clear()
        _parsed_segments[key] = _segments.Segment(*key)
    return _parsed_segments[key]


def _extent(parsed: Parsed, lines: list[str], line: int) -> tuple[int, int, bool]:
    """First and last line of the statement that holds ``line``, whole lines alone; (0, 0, False) if there is none.

    Blocks of if, for, try and their kin are entered, so that a main block's other statements stay here.
    """
    spans = parsed.spans
    found = (0, 0, False)
    while True:
        at = bisect.bisect_right(spans, line, key=lambda span: span.first) - 1
        if at < 0 or spans[at].last < line:
            return found
        low = high = at
        # Statements that share a line with this one come along.
        while low > 0 and spans[low - 1].last >= spans[low].first:
            low -= 1
        while high + 1 < len(spans) and spans[high + 1].first <= spans[high].last:
            high += 1
        first, last = spans[low].first, spans[high].last
        start = lines[first - 1][: spans[low].column]
        if start.strip():
            return found  # behind a colon, on the line of its block
        found = (first, last, bool(start))
        node = spans[at].node
        if low < high or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return found
        spans = [Span(one) for one in _blocks(node)]


class Span:
    """A statement and the lines that it covers, its decorators' too."""

    __slots__ = ("column", "first", "last", "node")

    def __init__(self, node: ast.stmt) -> None:
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        self.node = node
        self.first = min([node.lineno, *(one.lineno for one in decorators)])
        self.last = node.end_lineno or node.lineno
        self.column = node.col_offset


class Parsed:
    """A file's top-level statements, and the names that it imports at its top level."""

    __slots__ = ("imported", "lines", "spans")

    def __init__(self, lines: list[str], tree: ast.Module) -> None:
        self.lines = lines
        self.spans = [Span(node) for node in tree.body]
        self.imported = _imported(tree)


def _blocks(node: ast.stmt) -> Iterator[ast.stmt]:
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for inner in getattr(node, field, ()):
            if isinstance(inner, ast.ExceptHandler | ast.match_case):
                yield from inner.body
            else:
                yield inner


def _candidates(segment: _segments.Segment, code: types.CodeType) -> list[int]:
    """Functions of that name, those that start on the right line first."""
    near: list[int] = []
    far: list[int] = []
    for index, (node, _) in enumerate(segment.functions):
        if getattr(node, "name", "<lambda>") != code.co_name:
            continue
        decorators = getattr(node, "decorator_list", ())
        line = segment.lines_before + (decorators[0].lineno if decorators else node.lineno)
        (near if line == code.co_firstlineno else far).append(index)
    return near or far


def _same(code: types.CodeType, made: types.CodeType) -> bool:
    """Whether both are the same function, whatever pytest wrote between its lines."""
    if _shape(code) != _shape(made):
        return False
    if any(name.startswith("@py") for name in (*code.co_varnames, *code.co_names)):
        return True  # pytest has rewritten its assertions
    return (
        code.co_code == made.co_code
        and code.co_names == made.co_names
        and code.co_varnames == made.co_varnames
        and list(code.co_positions()) == list(made.co_positions())
        and len(code.co_consts) == len(made.co_consts)
        and all(map(_same_constant, code.co_consts, made.co_consts))
    )


def _shape(code: types.CodeType) -> tuple[Any, ...]:
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    return code.co_name, counts, names, code.co_freevars, code.co_flags & ~_NESTED, code.co_firstlineno


def _same_constant(one: Any, other: Any) -> bool:
    if isinstance(one, types.CodeType):
        return isinstance(other, types.CodeType) and _same(one, other)
    if isinstance(one, frozenset):
        return isinstance(other, frozenset) and one == other  # written in whatever order
    return type(one) is type(other) and repr(one) == repr(other)


class Names:
    """Names in a code object and those nested in it: ``globals`` sorted, ``all`` with attributes."""

    __slots__ = ("all", "globals")

    globals: tuple[str, ...]
    all: frozenset[str]

    def __init__(self, code: types.CodeType) -> None:
        found, every = set(), set(code.co_names)
        for one in dis.get_instructions(code):
            if one.opname in _GLOBAL_NAMES:
                found.add(one.argval)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                inner = names_used(constant)
                found.update(inner.globals)
                every |= inner.all
        self.globals = tuple(sorted(found))
        self.all = frozenset(every)


@functools.lru_cache(maxsize=4096)
def names_used(code: types.CodeType) -> Names:
    """The names that a function refers to."""
    return Names(code)
