"""The bundle of a function: the developer's own modules that it needs as source, and the function itself, as one zip.

A function that a module of the developer's holds under a name is imported there by that name. Any other (of ``__main__``,
lambdas, closures, partials, bound methods) lies in the bundle as a portable pickle, beside the modules it refers to; what it
refers to is captured when the bundle is made, with its first remote call.

Deterministic: the same files and values make the same bytes, so the same digest. What lies in site-packages or the standard
library never travels. Errors: DeployError for what can't travel, PayloadTooLarge.
"""

from __future__ import annotations

import fnmatch
import functools
import io
import os
import pickle
import sys
import threading
import types
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fleet._function import Function
from fleet._imports import Finder, Source, imports_of, is_installed, module_root
from fleet._portable import source as _source
from fleet._portable.blame import REFUSALS, Part, sentence
from fleet._portable.pickler import Session
from fleet._portable.world import MAIN, World, named
from fleet._resources import chain_of, check, data_of, packages_read
from fleet.protocol.errors import DeployError, FleetError, PayloadTooLarge
from fleet.protocol.ids import digest
from fleet.protocol.limits import BUNDLE_BYTES_MAX
from fleet.protocol.units import format_bytes

PICKLE = "__fleet__/function.pickle"
"""Where a function without a module lies in its bundle."""
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """``data`` is the zip, ``modules`` the names a pickle may refer to inside the sandbox."""

    data: bytes
    digest: str
    modules: frozenset[str]
    module: str
    """Name of the function's module inside the sandbox; empty: it lies in the bundle as a pickle."""
    qualname: str
    members: tuple[Any, ...] = ()
    """Functions and classes that travel by value, by their number in the pickle."""

    @property
    def classes(self) -> dict[tuple[str, str], type]:
        """Classes that travel by value, by module and qualified name."""
        return {(one.__module__, one.__qualname__): one for one in self.members if isinstance(one, type)}


@dataclass(slots=True)
class _Gathered:
    """Files by their path in the zip, and the modules they are."""

    files: dict[str, str] = field(default_factory=dict)
    made: dict[str, bytes] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    data: dict[str, str] = field(default_factory=dict)
    """Data files of packages that read them."""

    def add(self, source: Source) -> bool:
        """Add a module; whether it is new."""
        self.modules.add(source.name)
        new = source.path not in self.files
        self.files.setdefault(source.path, source.file)
        return new

    def stamp(self) -> tuple[Any, ...]:
        found = []
        for name, file in sorted(self.files.items()):
            stat = os.stat(file)
            found.append((name, file, stat.st_mtime_ns, stat.st_size))
        return tuple(found)


def locate(function: Function[Any, Any]) -> tuple[str, str]:
    """(module, qualified name) under which a sandbox imports the function; module "": it travels by value."""
    raw: Any = function._raw
    assert raw is not None, "a function found by name has no source here"
    name = function.display_name
    module_name = str(getattr(raw, "__module__", None) or "")
    module = sys.modules.get(module_name)
    file = str(getattr(module, "__file__", None) or "")
    if module is None or module_name in MAIN or not file.endswith(".py") or not os.path.isfile(file):
        return "", name
    top = module_name.partition(".")[0]
    if top == "fleet" or (top in sys.stdlib_module_names and is_installed(module_name)):
        return "", name
    found = named(raw, module_name, name)
    if found is raw or (isinstance(found, Function) and found._raw is raw):
        return module_name, name
    for other, value in vars(module).items():
        if isinstance(value, Function) and value._raw is raw:
            return module_name, other
    return "", name


_cache: dict[tuple[Any, ...], tuple[tuple[Any, ...], Bundle]] = {}
_cache_lock = threading.Lock()


def forget_locks() -> None:
    """In the child of a fork: a thread of the parent may have held a lock."""
    global _cache_lock
    _cache_lock = threading.Lock()
    _source.forget_lock()


def bundle_of(function: Function[Any, Any], tops: Iterable[str] = ()) -> Bundle:
    """The bundle of a function. ``tops``: top-level names that its packages make importable.

    That of a module is kept until one of its files changes on disk.
    """
    module, qualname = locate(function)
    include, exclude = function.options.include, function.options.exclude
    if not module:
        return _of_value(function, qualname, include, exclude, frozenset(tops))
    gathered = _of_module(module, include, exclude)
    key, stamp = (module, qualname, include, exclude), gathered.stamp()
    with _cache_lock:
        kept = _cache.get(key)
        if kept is not None and kept[0] == stamp:
            return kept[1]
    data = _zip(gathered, module)
    bundle = Bundle(data, digest(data), frozenset(gathered.modules), module, qualname)
    with _cache_lock:
        _cache[key] = (stamp, bundle)
    return bundle


def _of_module(module_name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> _Gathered:
    file = os.path.abspath(str(sys.modules[module_name].__file__))
    gathered = _Gathered()
    root = module_root(module_name, file)
    finder = Finder(root)
    package = module_name if os.path.basename(file) == "__init__.py" else module_name.rpartition(".")[0]
    for source in finder.find(module_name):
        gathered.add(source)
    keep = set(gathered.files)
    _follow(finder, gathered, [(file, package)])
    _select(root, gathered, keep, include, exclude)
    return gathered


def _of_value(
    function: Function[Any, Any],
    qualname: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    tops: frozenset[str],
) -> Bundle:
    raw: Any = function._raw
    root = _root_of(raw)
    finder = Finder(root)
    world = World(None, tops, finder)
    session = Session(world, {}, numbered=True, importable_main=True)
    gathered = _Gathered()
    try:
        gathered.made[PICKLE] = session.dumps(raw)
    except (*REFUSALS, pickle.PicklingError) as error:
        if isinstance(error, FleetError):
            raise
        said, hint = sentence([Part(function.display_name, raw)], error, lambda value: _failure(value, root, tops))
        raise DeployError(said, hint=hint) from None
    for name in sorted(world.own):
        for source in finder.find(name):
            gathered.add(source)
    for name in sorted(world.read):
        for chain in chain_of(finder, name):
            for source in chain:
                gathered.add(source)
            gathered.data.update(data_of(chain[-1]))
    _follow(finder, gathered, [])
    _select(root, gathered, set(), include, exclude)
    data = _zip(gathered, qualname)
    return Bundle(data, digest(data), frozenset(gathered.modules), "", qualname, tuple(session.members))


def _failure(value: Any, root: str, tops: frozenset[str]) -> Exception | None:
    try:
        Session(World(None, tops, Finder(root)), {}, numbered=True).dumps(value)
    except Exception as error:  # whatever a __reduce__ of the developer raises
        return error
    return None


def _root_of(raw: Any) -> str:
    """The folder that a function's imports start from: its script's, its package's parent, else where Python runs."""
    while isinstance(raw, functools.partial | types.MethodType):
        raw = raw.func if isinstance(raw, functools.partial) else raw.__func__
    module = sys.modules.get(str(getattr(raw, "__module__", "")))
    file = getattr(module, "__file__", None)
    if module is None or not file or not os.path.isfile(file):
        return os.getcwd()
    spec = getattr(module, "__spec__", None)
    return module_root(spec.name if spec is not None and module.__name__ in MAIN else module.__name__, file)


def _select(root: str, gathered: _Gathered, keep: set[str], include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
    for path in [path for path in gathered.data if _matches(path, exclude)]:
        del gathered.data[path]
    check(gathered.data)
    gathered.files.update(gathered.data)
    _globs(root, gathered, include)
    for path in [path for path in gathered.files if path not in keep and _matches(path, exclude)]:
        del gathered.files[path]
        gathered.modules.discard(path.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."))


def _follow(finder: Finder, gathered: _Gathered, waiting: list[tuple[str, str]]) -> None:
    """Add what the files import: those waiting, with the package that each imports relative to, and those gathered."""
    first = [file for file, _ in waiting]
    for path, known in list(gathered.files.items()):
        if known not in first:
            waiting.append((known, os.path.dirname(path).replace("/", ".")))
    while waiting:
        source_file, inside = waiting.pop()
        for name in imports_of(source_file, inside):
            waiting += [(source.file, source.package) for source in finder.find(name) if gathered.add(source)]
        for chain in packages_read(finder, source_file, inside):
            waiting += [(source.file, source.package) for source in chain if gathered.add(source)]
            gathered.data.update(data_of(chain[-1]))


def _globs(root: str, gathered: _Gathered, include: tuple[str, ...]) -> None:
    for pattern in include:
        found = 0
        for path in _walk(root, lambda path, pattern=pattern: _matches(path, (pattern,))):  # type: ignore[misc]
            found += 1
            gathered.files.setdefault(path, os.path.join(root, path))
        if not found:
            raise DeployError(f"include={pattern!r} matches no file below {root}", hint="patterns start at that folder")


def _walk(root: str, wanted: Callable[[str], bool]) -> list[str]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
            if wanted(path):
                found.append(path)
    return sorted(found)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    """A pattern stands for files, or for a folder with all that is in it."""
    return any(
        fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, pattern.rstrip("/") + "/*")
        for pattern in patterns
    )


def _zip(gathered: _Gathered, name: str) -> bytes:
    contents: dict[str, bytes] = dict(gathered.made)
    for path, file in gathered.files.items():
        with open(file, "rb") as stream:
            contents[path] = stream.read()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in sorted(contents):
            info = zipfile.ZipInfo(path, _DATE)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, contents[path], compresslevel=6)
    data = out.getvalue()
    if len(data) > BUNDLE_BYTES_MAX:
        raise PayloadTooLarge(
            f"the bundle of {name} has {format_bytes(len(data))}, the limit is {format_bytes(BUNDLE_BYTES_MAX)}",
            hint="leave files out with exclude=, and pass large values as arguments",
        )
    return data
