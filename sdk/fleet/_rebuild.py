"""Rebuild functions that travelled as source, in any Python from 3.11 on, whatever Python they came from.

What a portable pickle (``_portable``) calls when it is loaded: in the sandbox, and here only to prove that a source
makes the code object that it was found for. Standard library only: the wasm guest has this file baked in.

A *group* is what one pickle holds by value: the function's own program (``PROGRAM``), or classes that came with
arguments, named by the digest of their bytes. Members of a group are numbered in the order in which they were taken
apart, so that later pickles name them by number, and a class is the same class however often it comes.
"""

from __future__ import annotations

import ast
import builtins
import copyreg
import importlib
import io
import linecache
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, cast

from fleet import _annotate

PROGRAM = ""
"""The group of the function itself."""

FUTURE_ANNOTATIONS = 0x1000000
"""CO_FUTURE_ANNOTATIONS of every Python so far."""
ITERABLE_COROUTINE = 0x100
"""What ``types.coroutine`` adds to a code object."""
_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

missing: Callable[[str], Any] | None = None
"""What stands in for a module that isn't here; None: its ImportError is raised."""

_groups: dict[str, dict[int, Any]] = {}
_loading: list[tuple[str, dict[int, Any], dict[str, Any]]] = []
"""Groups that are being loaded: name, members, classes by their mark."""
_program_classes: dict[str, Any] = {}
"""Classes of the program by their mark: a value that was put apart (``fleet.put``) may be of one of them."""


class _Unpickler(pickle.Unpickler):
    """Knows the sets of ``_portable`` (sorted, so that bytes are the same in every run), and what stands in."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._sets: dict[int, Any] = {}

    def persistent_load(self, pid: Any) -> Any:
        """``(kind, number, members)`` of a set or frozenset."""
        kind, number, members = pid
        if number not in self._sets:
            self._sets[number] = (frozenset if kind == "frozenset" else set)(members)
        return self._sets[number]

    def find_class(self, module_name: str, global_name: str) -> Any:
        """As ever; but what the sandbox lacks fails where it is used, not here."""
        try:
            return super().find_class(module_name, global_name)
        except (ImportError, AttributeError):
            if missing is None or module_name.partition(".")[0] not in sys.stdlib_module_names:
                raise
            return missing(f"{module_name}.{global_name}")


def load_program(data: bytes) -> Any:
    """The function of a program, from its portable pickle; raises what loading it raises."""
    forget()
    return _load(PROGRAM, data)


def forget() -> None:
    """Forget every group: a new program comes."""
    _groups.clear()
    _program_classes.clear()


def member(group: str, number: int, data: bytes | None = None) -> Any:
    """Member ``number`` of a group; ``data`` is the group's pickle, loaded where it isn't known yet."""
    if group not in _groups:
        assert data is not None, group
        _load(group, data)
    return _groups[group][number]


def _load(group: str, data: bytes) -> Any:
    members: dict[int, Any] = {}
    marked: dict[str, Any] = {}
    _loading.append((group, members, marked))
    try:
        stream = io.BytesIO(data)
        unpickler = _Unpickler(stream)
        value = unpickler.load()
        while stream.tell() < len(data):  # what one pickle could not hold: it would have been too deep
            set_function(*unpickler.load())
        if group == PROGRAM:
            _program_classes.update(marked)
        # Only a whole group is kept: what failed to load fails again, with the same words.
        _groups[group] = members
        return value
    finally:
        _loading.pop()


def known(number: int | None) -> Any:
    """What was made under ``number`` in the group that is being loaded (a cycle comes twice); None: nothing yet."""
    return _loading[-1][1].get(number) if _loading and number is not None else None


def keep(number: int | None, made: Any) -> Any:
    """Note ``made`` under its number; returns it."""
    if number is not None and _loading:
        _loading[-1][1][number] = made
    return made


def known_class(number: int, mark: str) -> Any:
    """The same for a class, or the class of the program with this mark."""
    found = known(number)
    if found is None and mark in _program_classes:
        found = keep(number, _program_classes[mark])
    return found


def keep_class(number: int, mark: str, made: Any) -> Any:
    """Note a class under its number and its mark; returns it."""
    if _loading:
        _loading[-1][2].setdefault(mark, made)
    return keep(number, made)


def is_of_program(made: Any) -> bool:
    """Whether a class is one of a program that is loaded: it stays as it is."""
    return any(made is one for one in _program_classes.values())


# --- code objects by their source


class Segment:
    """Whole lines of a source file that hold functions; parsed once."""

    def __init__(self, text: str, first_line: int, indented: bool, file: str) -> None:
        self.file = file
        # Lines keep their indentation, and code objects get their line numbers, so that tracebacks are right.
        self.lines_before = first_line - 2 if indented else first_line - 1
        text = f"if 1:\n{text}" if indented else text
        self.functions = list(_functions(ast.parse(text, file)))
        if any(isinstance(one, ast.ClassDef) for node, _ in self.functions for one in _statements(node)):
            # The body of a class in a function has its line as a constant: the parser must know it.
            self.functions = list(_functions(ast.parse("\n" * self.lines_before + text, file)))
            self.lines_before = 0
        self._made: dict[tuple[Any, ...], types.CodeType] = {}

    def code(
        self, index: int, free: tuple[str, ...], flags: int, qualname: str, imported: tuple[str, ...] = ()
    ) -> types.CodeType:
        """The code object of function ``index`` of the segment, compiled once.

        ``imported``: names that the file imports; they change nothing but how calls are compiled.
        """
        key = (index, free, flags & (FUTURE_ANNOTATIONS | ITERABLE_COROUTINE), qualname, imported)
        if key not in self._made:
            node, owner = self.functions[index]
            module = _alone(node, owner, free)
            if imported:
                names = [ast.copy_location(ast.alias(name), node) for name in imported]
                module.body.insert(0, ast.copy_location(ast.Import(names), node))
            made = compile(module, self.file, "exec", flags & FUTURE_ANNOTATIONS, dont_inherit=True)
            made = _inner(made, "_")
            if owner is not None:
                made = _inner(made, owner)
            made = _inner(made, getattr(node, "name", "<lambda>"))
            made = _placed(made, made.co_qualname, qualname, self.lines_before)
            self._made[key] = made.replace(co_flags=made.co_flags | flags & ITERABLE_COROUTINE)
        return self._made[key]


def _functions(tree: ast.AST) -> Iterator[tuple[_FunctionNode, str | None]]:
    """Function nodes in the order of the text's tree, each with the class that mangles its private names."""
    waiting: list[tuple[Any, str | None]] = [(tree, None)]
    while waiting:
        node, owner = waiting.pop()
        if isinstance(node, _FunctionNode):
            yield node, owner
        elif isinstance(node, ast.ClassDef):
            owner = node.name
        below: list[tuple[Any, str | None]] = []
        values = vars(node)
        for name in node._fields:
            value = values.get(name)
            if type(value) is list:
                below.extend([(one, owner) for one in value if isinstance(one, ast.AST)])
            elif isinstance(value, ast.AST) and value._fields:
                below.append((value, owner))
        waiting.extend(reversed(below))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """What is below a node, expressions left out."""
    waiting: list[Any] = [node]
    while waiting:
        node = waiting.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, name, None)
            if type(below) is list:
                waiting += below
                yield from below


def _alone(node: _FunctionNode, owner: str | None, free: tuple[str, ...]) -> ast.Module:
    """A module in which ``node`` compiles as it did where it stood: within its class, its free names bound outside.

    What the surrounding scope evaluates (defaults, decorators, annotations) is left out.
    """

    def at(made: Any) -> Any:
        return ast.copy_location(made, node)

    given = node.args
    args = ast.arguments(
        posonlyargs=[_bare(one) for one in given.posonlyargs],
        args=[_bare(one) for one in given.args],
        vararg=_bare(given.vararg) if given.vararg else None,
        kwonlyargs=[_bare(one) for one in given.kwonlyargs],
        kw_defaults=[None] * len(given.kwonlyargs),
        kwarg=_bare(given.kwarg) if given.kwarg else None,
        defaults=[],
    )
    inner: Any
    if isinstance(node, ast.Lambda):
        inner = at(ast.Assign([at(ast.Name("_", ast.Store()))], at(ast.Lambda(args, node.body))))
    else:
        # The first line of a function is its first decorator's; one that does nothing keeps it.
        decorators: list[ast.expr] = [ast.copy_location(ast.Constant(None), one) for one in node.decorator_list[:1]]
        inner = at(type(node)(node.name, args, node.body, decorators))
        inner.type_params = []
    if owner is not None:
        inner = at(ast.ClassDef(owner, [], [], [inner], []))
        inner.type_params = []
    # What this binds outside the function must not become one of its free names.
    bound = str(owner or getattr(node, "name", "_"))
    body = [inner] if bound in free else [at(ast.Global([bound])), inner]
    outer_names = [at(ast.arg(name)) for name in free if name != "__class__" or owner is None]
    outer = at(ast.FunctionDef("_", ast.arguments([], outer_names, None, [], [], None, []), body, []))
    outer.type_params = []
    return ast.Module([outer], [])


def _bare(argument: ast.arg) -> ast.arg:
    return ast.copy_location(ast.arg(argument.arg), argument)


def _placed(code: types.CodeType, old: str, new: str, lines_before: int) -> types.CodeType:
    """With lines and qualified names as they were where the function stood, those of what is within it too."""
    name = new + code.co_qualname.removeprefix(old)
    is_class = "__qualname__" in code.co_names  # whose body has its own name as a constant
    consts: list[Any] = []
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            one = _placed(one, old, new, lines_before)
        elif is_class and one == code.co_qualname:
            one = name
        consts.append(one)
    # The table of lines counts from the first.
    first_line = code.co_firstlineno + lines_before
    return code.replace(co_qualname=name, co_consts=tuple(consts), co_firstlineno=first_line)


def _inner(code: types.CodeType, name: str) -> types.CodeType:
    return next(one for one in code.co_consts if isinstance(one, types.CodeType) and one.co_name == name)


_segments: dict[tuple[Any, ...], Segment] = {}


def segment(text: str, first_line: int, indented: bool, file: str) -> Segment:
    """The segment of this text, made once, its lines shown in tracebacks."""
    key = (text, first_line, indented, file)
    if key not in _segments:
        _segments[key] = Segment(*key)
        _show(file, first_line, text)
    return _segments[key]


def _show(file: str, first_line: int, text: str) -> None:
    """Let tracebacks find these lines of ``file``, beside those that are there already."""
    entry = linecache.cache.get(file)
    if entry is not None and len(entry) != 4:  # a module of the bundle, which shows its whole file
        return
    lines = [] if entry is None else entry[2]
    new = text.splitlines(keepends=True)
    lines += ["\n"] * (first_line - 1 + len(new) - len(lines))
    for number, line in enumerate(new, first_line - 1):
        if not lines[number].strip():
            lines[number] = line if line.endswith("\n") else line + "\n"
    linecache.cache[file] = (0, None, lines, file)  # never looked for on disk


def code(where: Segment, index: int, free: tuple[str, ...], flags: int, qualname: str) -> types.CodeType:
    """A code object, by its place in a segment."""
    return where.code(index, free, flags, qualname)


# --- functions


def namespace(name: str, package: str | None, importable: bool) -> dict[str, Any]:
    """A module's globals, to be filled by the functions that use them; ``importable``: as that module, if none is here."""
    made = types.ModuleType(name)
    made.__package__ = package
    made.__dict__["__builtins__"] = builtins
    if importable:
        sys.modules.setdefault(name, made)
    return made.__dict__


def module(name: str) -> Any:
    """A module; what the standard library lacks here fails where it is used."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if missing is None or name.partition(".")[0] not in sys.stdlib_module_names:
            raise
        return missing(name)


def module_globals(name: str) -> dict[str, Any]:
    """The globals of a module that is imported by its name."""
    return vars(importlib.import_module(name))


def function(
    number: int | None,
    made: types.CodeType,
    where: dict[str, Any],
    cells: tuple[types.CellType, ...] = (),
    free: tuple[str, ...] = (),
) -> types.FunctionType:
    """A function without what may refer back to it (``set_function``); ``cells`` of its ``free`` names."""
    found = known(number)
    if found is None:
        if made.co_freevars != free:  # annotations that aren't evaluated count in some Pythons, and not in others
            given = dict(zip(free, cells))
            cells = tuple(given[name] for name in made.co_freevars)
        found = keep(number, types.FunctionType(made, where, None, None, cells or None))
    return cast("types.FunctionType", found)


def set_function(made: types.FunctionType, state: dict[str, Any]) -> None:
    """The rest of a function: globals and cells that no function before it has filled, and its attributes."""
    for name in state.pop("submodules", ()):
        module(name)
    where = made.__globals__
    for name, value in state.pop("globals", ()):
        where[name] = value
    for cell, value in state.pop("cells", ()):
        cell.cell_contents = value
    made.__dict__.update(state.pop("attributes", {}))
    for name, value in state.items():
        setattr(made, name, value)
    if "__annotations__" in state:
        _annotate.annotate(made, state["__annotations__"])


def bare(number: int | None, cls: type) -> Any:
    """An instance without attributes, of a class whose own reduction is a name."""
    found = known(number)
    return keep(number, copyreg.__newobj__(cls)) if found is None else found  # type: ignore[attr-defined]


def cell() -> types.CellType:
    """An empty cell; the function that it came with fills it."""
    return types.CellType()


def set_cell(made: types.CellType, contents: Any) -> None:
    """Fill a cell that came by itself."""
    made.cell_contents = contents


def fleet_function(number: int | None, is_async: bool) -> Any:
    """A ``fleet.Function``, empty."""
    from fleet._function import AsyncFunction, Function

    found = known(number)
    kind = AsyncFunction if is_async else Function
    return keep(number, kind.__new__(kind)) if found is None else found


def set_fleet_function(made: Any, state: tuple[Any, str | None]) -> None:
    """The function it wraps and its app; options say how a car is found, they don't travel."""
    from fleet.protocol.options import Options

    raw, app = state
    made.__init__(raw, Options(), app)
