"""Code objects from the source that they were found in (``_portable.source``), compiled as they were compiled there.

Standard library only: baked into the guest; here it proves that a source makes the code object that it was found for.
"""

from __future__ import annotations

import ast
import linecache
import types
from collections.abc import Iterator
from typing import Any

FUTURE_ANNOTATIONS = 0x1000000
"""CO_FUTURE_ANNOTATIONS of every Python so far."""
ITERABLE_COROUTINE = 0x100
"""What ``types.coroutine`` adds to a code object."""
_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


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
