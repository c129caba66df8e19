"""Which data files of the developer's packages a bundle needs: those of packages whose code reads data by its package.

A module that names ``importlib.resources`` or ``pkgutil.get_data`` brings the data files of the package that it lies in, and
of the own packages that it names in texts. Files that code opens by a path aren't found by reading it: ``include=``.
"""

from __future__ import annotations

import ast
import os
import re
import types
from collections.abc import Iterator
from typing import Any

from fleet._imports import Finder, Source
from fleet.protocol.errors import PayloadTooLarge
from fleet.protocol.limits import BUNDLE_DATA_BYTES_MAX, BUNDLE_DATA_FILES_MAX
from fleet.protocol.units import format_bytes

_MENTIONS = re.compile(rb"\bimportlib[._]resources\b|\bimport\s+resources\b|\bget_data\b|\bget_resource_reader\b")
_NAME = re.compile(r"[\w.]{1,200}")
_CODE = (".py", ".pyc", ".pyo", ".pyi", ".so", ".pyd", ".dll", ".dylib")
_FOLDERS_LEFT_OUT = frozenset({"__pycache__", "node_modules"})


def mentions_reader(text: bytes) -> bool:
    """Whether a source names what reads data by its package."""
    return _MENTIONS.search(text) is not None


def is_reader(value: Any) -> bool:
    """Whether a value is what reads data by its package: ``importlib.resources``, ``pkgutil``, a function of theirs."""
    home = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return str(home).startswith(("importlib.resources", "importlib_resources", "pkgutil"))


def names_in(tree: ast.AST) -> set[str]:
    """What may be names of packages among the texts of a source; "" stands for its own."""
    texts = [one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return {"", *(one.strip(".") for one in texts if _NAME.fullmatch(one))}


def packages_read(finder: Finder, file: str, package: str) -> Iterator[list[Source]]:
    """Packages whose data a source file may read, its own first, each with the packages above it."""
    with open(file, "rb") as stream:
        text = stream.read()
    if not mentions_reader(text):
        return
    try:
        names = names_in(ast.parse(text))
    except (SyntaxError, ValueError):  # perhaps meant for another Python, behind a condition
        return
    for name in sorted(one or package for one in names):
        yield from chain_of(finder, name)


def chain_of(finder: Finder, name: str) -> Iterator[list[Source]]:
    """The own package of that name with those above it; nothing if it is none."""
    chain = finder.find(name) if name else []
    if chain and chain[-1].name == name and os.path.basename(chain[-1].file) == "__init__.py":
        yield chain


def data_of(package: Source) -> dict[str, str]:
    """A package's data files, by their path in the bundle."""
    folder, inside = os.path.dirname(package.file), os.path.dirname(package.path)
    return {f"{inside}/{path}": os.path.join(folder, *path.split("/")) for path in _walk(folder)}


def check(files: dict[str, str]) -> None:
    """PayloadTooLarge when what was found by itself is more than code usually brings."""
    size_bytes = sum(os.path.getsize(file) for file in files.values())
    if len(files) > BUNDLE_DATA_FILES_MAX or size_bytes > BUNDLE_DATA_BYTES_MAX:
        packages = ", ".join(sorted({path.partition("/")[0] for path in files}))
        raise PayloadTooLarge(
            f"the packages {packages} have {len(files)} data files of {format_bytes(size_bytes)}, more than a bundle takes by"
            f" itself ({BUNDLE_DATA_FILES_MAX} files, {format_bytes(BUNDLE_DATA_BYTES_MAX)})",
            hint="leave out what functions don't read with exclude=, and pass large data as arguments (fleet.put)",
        )


def _walk(folder: str) -> Iterator[str]:
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _FOLDERS_LEFT_OUT)
        for name in sorted(files):
            if not name.startswith(".") and not name.endswith(_CODE):
                yield os.path.relpath(os.path.join(at, name), folder).replace(os.sep, "/")
