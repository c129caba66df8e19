"""Import a bundle from memory: modules, packages, their data files, and the script as ``__main__``.

A bundle is a zip: sources at import-relative paths (``pkg/mod.py``), the script as ``__main__.py``, data files beside
them. The comment of a zip entry, if any, is the file's name as the developer knows it; tracebacks show that.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.resources.abc
import importlib.util
import io
import linecache
import marshal
import sys
import types
import zipfile
from collections.abc import Sequence
from typing import Any

from . import placeholders, wire

MAIN = "__main__"
MAIN_ALIAS = "__mp_main__"
"""What a script finds as its ``__name__``: not ``__main__``, so that its main block doesn't run here."""

_WORTHWHILE_BYTES = 8192
"""Less than that is compiled within 5 ms."""


class BundleLoader(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finder and loader of everything in one bundle. Raises what a damaged zip raises (``zipfile.BadZipFile``)."""

    def __init__(self, data: bytes) -> None:
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        self._entries = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        self._folders = {
            name[:at] for name in self._entries for at in range(len(name)) if name[at] == "/"
        }  # fmt: skip
        self._known: dict[str, bytes] = {}
        """Path -> compiled code, from an earlier instance of the same program."""
        self.compiled: dict[str, types.CodeType] | None = None
        """What was compiled here, while somebody wants to have it."""

    def know(self, code: bytes | None) -> None:
        """Take what ``hand_over`` of an earlier instance gave; None: collect it for later ones."""
        if code is None:
            self.compiled = {}
        elif code:
            self._known = marshal.loads(code)

    def hand_over(self) -> bytes:
        """All modules imported so far, compiled; empty if that isn't worth keeping. Compiling a line takes 20 us."""
        compiled, self.compiled = self.compiled or {}, None
        if sum(self._entries[path].file_size for path in compiled) < _WORTHWHILE_BYTES:
            return b""
        data = marshal.dumps({path: marshal.dumps(code) for path, code in compiled.items()})
        return data if len(data) <= wire.CODE_BYTES_MAX else b""

    def tops(self) -> set[str]:
        """Top-level names that the bundle can be asked to import."""
        tops = {name.partition("/")[0] for name in self._entries if name.endswith(".py")}
        return {name.removesuffix(".py") for name in tops} - {MAIN}

    def owns(self, top: str) -> bool:
        """Whether a top-level module or package of that name is in the bundle."""
        return self._path_of(top) is not None or top in self._folders

    def _path_of(self, fullname: str) -> str | None:
        if fullname in (MAIN, MAIN_ALIAS):
            return "__main__.py" if "__main__.py" in self._entries else None
        base = fullname.replace(".", "/")
        for path in (f"{base}/__init__.py", f"{base}.py"):
            if path in self._entries:
                return path
        return None

    def _shown(self, path: str) -> str:
        return self._entries[path].comment.decode("utf-8", "replace") or path

    # --- finder ---

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module, a package or a namespace package of this bundle."""
        source = self._path_of(fullname)
        base = fullname.replace(".", "/")
        if source is None:
            if base not in self._folders:
                return None
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [base]
            return spec
        is_package = source.endswith("/__init__.py")
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=source, is_package=is_package)
        if is_package:
            spec.submodule_search_locations = [base]
        spec.has_location = True
        return spec

    # --- loader ---

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """The script's module gets its alias as its name; all others are made as usual."""
        return types.ModuleType(MAIN_ALIAS) if spec.name == MAIN else None

    def exec_module(self, module: types.ModuleType) -> None:
        """Compile and run a module's source under the file name that the developer knows."""
        name = module.__name__
        path = self._path_of(name)
        assert path is not None, name
        shown = self._shown(path)
        for file in {shown, path}:
            self._show_lines(name, file)
        code = self._code(path, shown)
        if name == MAIN_ALIAS:
            sys.modules[MAIN] = sys.modules[MAIN_ALIAS] = module
        with placeholders.executing(shown, self.owns):
            exec(code, module.__dict__)
        if name == MAIN_ALIAS:  # It may have put another module in its place, as `python -m` does.
            sys.modules[MAIN] = sys.modules[MAIN_ALIAS]

    def _code(self, path: str, shown: str) -> types.CodeType:
        """The compiled module at ``path``."""
        if path in self._known:
            known: types.CodeType = marshal.loads(self._known[path])
            return known
        code = compile(self._zip.read(self._entries[path]), shown, "exec", dont_inherit=True)
        if self.compiled is not None:
            self.compiled[path] = code
        return code

    def _show_lines(self, name: str, file: str) -> None:
        """Let tracebacks and ``inspect`` find the source under the name ``file``, read when they first ask."""
        if file.startswith("<"):  # For such a name linecache asks nobody.
            source = self.get_source(name)
            linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        else:
            linecache.cache[file] = (functools.partial(self.get_source, name),)

    def is_package(self, fullname: str) -> bool:
        """Whether the bundle has it as a package."""
        path = self._path_of(fullname)
        return path is not None and path.endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        """Source of a module; ImportError if it isn't in the bundle."""
        path = self._path_of(fullname)
        if path is None:
            raise ImportError(f"{fullname} is not in the bundle", name=fullname)
        return importlib.util.decode_source(self._zip.read(self._entries[path]))

    def get_data(self, path: str) -> bytes:
        """Content of a file of the bundle (``pkgutil.get_data``); FileNotFoundError if there is none."""
        info = self._entries.get(path.lstrip("/"))
        if info is None:
            raise FileNotFoundError(2, "no such file in the bundle (name it with include=)", path)
        return self._zip.read(info)

    def get_resource_reader(self, fullname: str) -> Any:
        """For ``importlib.resources``."""
        return _Resources(self._zip, fullname) if self.is_package(fullname) else None


class _Resources(importlib.resources.abc.TraversableResources):
    def __init__(self, archive: zipfile.ZipFile, package: str) -> None:
        self._files = zipfile.Path(archive, package.replace(".", "/") + "/")

    def files(self) -> Any:
        """Where the package's files lie."""
        return self._files


def install(data: bytes, keep: frozenset[str], packages: Sequence[bytes] = ()) -> BundleLoader:
    """Let imports find the bundle first, as a script's folder comes first, and ``packages`` last.

    Preloaded modules that the bundle has files for are forgotten, except ``keep``: those that Python itself loads before
    any script, which a script's folder can't shadow either.
    """
    loader = BundleLoader(data)
    for name in (loader.tops() - keep) & sys.modules.keys():
        for loaded in [key for key in sys.modules if key == name or key.startswith(name + ".")]:
            del sys.modules[loaded]
    sys.modules.pop(MAIN, None)
    sys.meta_path.insert(0, loader)
    if packages:
        from .packages import install as install_packages  # Here: it builds on this module.

        install_packages(packages)
    return loader
