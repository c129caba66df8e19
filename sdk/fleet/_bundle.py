"""The source bundle of a function: its module and the developer's own modules that it imports, as one zip.

Deterministic: the same files make the same bytes, so the same digest. What lies in site-packages or the standard library
never travels. Errors: DeployError for what can't travel as source yet, PayloadTooLarge.
"""

from __future__ import annotations

import fnmatch
import io
import os
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from fleet._function import Function
from fleet._imports import Finder, imports_of, module_root
from fleet.protocol.errors import DeployError, PayloadTooLarge
from fleet.protocol.ids import digest
from fleet.protocol.limits import BUNDLE_BYTES_MAX
from fleet.protocol.units import format_bytes

_DATE = (1980, 1, 1, 0, 0, 0)
_SAVE_IT = "save it to a file as a function of its own, at the top level"


@dataclass(frozen=True, slots=True)
class Bundle:
    """``data`` is the zip, ``modules`` the names a pickle may refer to inside the sandbox."""

    data: bytes
    digest: str
    modules: frozenset[str]
    module: str
    """Name of the function's module inside the sandbox."""


@dataclass(slots=True)
class _Gathered:
    """Files by their path in the zip, and the modules they are."""

    files: dict[str, str] = field(default_factory=dict)
    made: dict[str, bytes] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)

    def stamp(self) -> tuple[Any, ...]:
        found = []
        for name, file in sorted(self.files.items()):
            stat = os.stat(file)
            found.append((name, file, stat.st_mtime_ns, stat.st_size))
        return tuple(found)


def locate(function: Function[Any, Any]) -> tuple[str, str]:
    """(module, qualified name) under which a sandbox finds the function; DeployError says why it can't."""
    raw: Any = function._raw
    assert raw is not None, "a function found by name has no source here"
    name = function.display_name
    module = sys.modules.get(getattr(raw, "__module__", None) or "")
    if module is None:
        raise DeployError(f"{name} belongs to no module, so its source can't be sent yet", hint=_SAVE_IT)
    if "<lambda>" in name:
        raise DeployError("a lambda can't be sent to a car yet", hint=_SAVE_IT)
    if "<locals>" in name:
        raise DeployError(f"{name} is defined inside another function and can't be sent to a car yet", hint=_SAVE_IT)
    file = getattr(module, "__file__", None)
    if file is None or not os.path.isfile(file):
        raise DeployError(
            f"Python keeps no source of {name}, so it can't be sent to a car yet", hint="save it to a file"
        )
    if not file.endswith(".py") and module.__name__ != "__main__":
        raise DeployError(f"{name} has no Python source: its module is {file}", hint=_SAVE_IT)
    if _names(module, name, function):
        return module.__name__, name
    for other, value in vars(module).items():
        if isinstance(value, Function) and value._raw is raw:
            return module.__name__, other
    raise DeployError(
        f"{module.__name__}.{name} is not the function that was decorated: the name was given to something else",
        hint="give every function its own name at the top level of its file",
    )


def _names(module: ModuleType, qualname: str, function: Function[Any, Any]) -> bool:
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is function._raw or (isinstance(found, Function) and found._raw is function._raw)


_cache: dict[tuple[Any, ...], tuple[tuple[Any, ...], Bundle]] = {}
_cache_lock = threading.Lock()


def forget_lock() -> None:
    """In the child of a fork: a thread of the parent may have held the lock."""
    global _cache_lock
    _cache_lock = threading.Lock()


def bundle_of(module_name: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Bundle:
    """The bundle of a loaded module, kept until one of its files changes on disk."""
    gathered, inside = _gather(module_name, include, exclude)
    key, stamp = (module_name, include, exclude), gathered.stamp()
    with _cache_lock:
        kept = _cache.get(key)
        if kept is not None and kept[0] == stamp:
            return kept[1]
    data = _zip(gathered)
    if len(data) > BUNDLE_BYTES_MAX:
        raise PayloadTooLarge(
            f"the bundle of {module_name} has {format_bytes(len(data))}, the limit is {format_bytes(BUNDLE_BYTES_MAX)}",
            hint="leave files out with exclude=",
        )
    bundle = Bundle(data, digest(data), frozenset(gathered.modules), inside)
    with _cache_lock:
        _cache[key] = (stamp, bundle)
    return bundle


def _gather(module_name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[_Gathered, str]:
    module = sys.modules[module_name]
    file = os.path.abspath(str(module.__file__))
    spec = getattr(module, "__spec__", None)
    gathered = _Gathered()
    inside, package = module_name, ""
    if module_name == "__main__" and spec is not None:  # python -m pkg.mod: it has a real name as well
        inside = spec.name
        shim = f"import sys\nimport {inside}\nsys.modules[__name__] = sys.modules[{inside!r}]\n"
        gathered.made["__main__.py"] = shim.encode()
    if module_name == "__main__":
        gathered.modules.add("__main__")
    root = module_root(inside, file)
    finder = Finder(root)
    if inside == "__main__":
        gathered.files["__main__.py"] = file
    else:
        package = inside if os.path.basename(file) == "__init__.py" else inside.rpartition(".")[0]
        for source in finder.find(inside):
            gathered.files[source.path] = source.file
            gathered.modules.add(source.name)
    keep = set(gathered.files)
    _follow(finder, gathered, file, package)
    _globs(root, gathered, include)
    for path in [path for path in gathered.files if path not in keep and _matches(path, exclude)]:
        del gathered.files[path]
        gathered.modules.discard(path.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."))
    return gathered, inside


def _follow(finder: Finder, gathered: _Gathered, file: str, package: str) -> None:
    waiting = [(file, package)]
    for path, known in list(gathered.files.items()):
        if known != file:  # the packages above the function's module
            waiting.append((known, os.path.dirname(path).replace("/", ".")))
    while waiting:
        source_file, inside = waiting.pop()
        for name in imports_of(source_file, inside):
            for source in finder.find(name):
                gathered.modules.add(source.name)
                if source.path not in gathered.files:
                    gathered.files[source.path] = source.file
                    waiting.append((source.file, source.package))


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


def _zip(gathered: _Gathered) -> bytes:
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
            if path == "__main__.py" and path in gathered.files:
                info.comment = os.path.basename(gathered.files[path]).encode()  # what tracebacks show
            archive.writestr(info, contents[path], compresslevel=6)
    return out.getvalue()
