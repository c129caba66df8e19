"""Which of the developer's own files a source file imports, found by reading it, never by running it."""

from __future__ import annotations

import ast
import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass

_CALLS = (b"import_module", b"__import__")


@dataclass(frozen=True, slots=True)
class Source:
    """A module of the developer: its name, its path in the bundle, its file, and the package it imports relative to."""

    name: str
    path: str
    file: str
    package: str


def module_root(module: str, file: str) -> str:
    """The folder that ``module`` (at ``file``) is imported from: that of its outermost package."""
    folder = os.path.dirname(os.path.abspath(file))
    depth = module.count(".") + (1 if os.path.basename(file) == "__init__.py" else 0)
    for _ in range(0 if module == "__main__" else depth):
        folder = os.path.dirname(folder)
    return folder


class Finder:
    """Finds own modules below ``root`` and below what else of ``sys.path`` is the developer's."""

    def __init__(self, root: str) -> None:
        foreign = _foreign_folders()
        own = [os.path.abspath(entry or os.getcwd()) for entry in sys.path]
        own = [entry for entry in own if os.path.isdir(entry) and not _below(entry, foreign)]
        self._roots = list(dict.fromkeys([root, *own]))
        self._root_is_foreign = _below(root, foreign)
        self._top_of_root: str | None = None

    def find(self, name: str) -> list[Source]:
        """The files of module ``name`` and of the packages above it; empty where it isn't the developer's."""
        top = name.partition(".")[0]
        if self._root_is_foreign and self._top_of_root is None:
            self._top_of_root = top  # a decorated function of an installed package brings that package alone
        for root in self._roots:
            if self._root_is_foreign and root == self._roots[0] and top != self._top_of_root:
                continue
            found = self._below_root(root, name)
            if found and not _is_platform(top, found[0].file):
                return found
        return []

    @staticmethod
    def _below_root(root: str, name: str) -> list[Source]:
        found = []
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            path = "/".join(parts[:depth])
            folder = os.path.join(root, *parts[:depth])
            if os.path.isfile(os.path.join(folder, "__init__.py")):
                found.append(Source(prefix, f"{path}/__init__.py", os.path.join(folder, "__init__.py"), prefix))
            elif os.path.isfile(folder + ".py"):
                found.append(Source(prefix, f"{path}.py", folder + ".py", prefix.rpartition(".")[0]))
                break
            elif not os.path.isdir(folder):  # a folder without __init__ is a namespace package
                break
        return found


def imports_of(file: str, package: str) -> Iterator[str]:
    """Dotted names that the source file may import, relative ones resolved against ``package``."""
    with open(file, "rb") as stream:
        source = stream.read()
    try:
        tree = ast.parse(source, file)
    except (SyntaxError, ValueError):  # perhaps meant for another Python, behind a condition
        return
    yield from imports_in(tree, package, calls=any(word in source for word in _CALLS))


def imports_in(tree: ast.AST, package: str, calls: bool = True) -> Iterator[str]:
    """The same for a part of a file that is parsed already. ``calls``: it may hold calls that import."""
    # Imports are statements: without calls no expression is looked at, which is three quarters of the work.
    inside = ast.iter_child_nodes if calls else _statements_in
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(inside(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _resolve(node, package)
            if base is not None:
                yield from ([base] if base else [])
                yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call):
            yield from _imported_by_call(node, package)


def _statements_in(node: ast.AST) -> Iterator[ast.AST]:
    """The statements right below a node, with the clauses of ``try`` and ``match``."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        part = getattr(node, name, None)
        if isinstance(part, list):
            yield from part


def _imported_by_call(node: ast.Call, package: str) -> Iterator[str]:
    """``import_module("a.b")``, and ``import_module(".b", __package__)`` or with the package as text."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in ("import_module", "__import__") or not node.args or not isinstance(node.args[0], ast.Constant):
        return
    value = node.args[0].value
    if not isinstance(value, str) or not value:
        return
    if not value.startswith("."):
        yield value
        return
    anchors = [*node.args[1:2], *(one.value for one in node.keywords if one.arg == "package")]
    if anchors:
        anchor = anchors[0].value if isinstance(anchors[0], ast.Constant) else package
        above = str(anchor).split(".")
        level = len(value) - len(value.lstrip("."))
        if level <= len(above):
            yield ".".join([*above[: len(above) - level + 1], value.lstrip(".")]).rstrip(".")


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _resolve(node: ast.ImportFrom, package: str) -> str | None:
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    if node.level - 1 > len(parts) or not parts:
        return None
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_platform(top: str, file: str) -> bool:
    """Names of the standard library and of this SDK are in the sandbox already, unless a file really shadows them."""
    if top == "fleet":
        return os.path.samefile(os.path.dirname(file), os.path.dirname(__file__))
    if top not in sys.stdlib_module_names:
        return False
    loaded = getattr(sys.modules.get(top), "__file__", None)
    return loaded is None or not os.path.exists(loaded) or not os.path.samefile(loaded, file)


def is_installed(module: str) -> bool:
    """Whether a loaded module belongs to the environment: installed, built in, or without Python source."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None:  # a namespace package, or made by hand
        return loaded is not None and getattr(loaded.__spec__, "origin", None) in ("built-in", "frozen")
    return not file.endswith(".py") or _below(os.path.abspath(file), _foreign_folders())


@functools.cache
def _foreign_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages")}
    return tuple(sorted(os.path.abspath(folder) for folder in folders if folder))


def _below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)
