"""Import the packages of a function from memory, and show their files under ``/packages``.

A package is a zip of one distribution, made by ``runtime/guest/packing.py``: sources, bytecode of this guest's Python,
data files, metadata. Reading a central directory of thousands of entries takes longer than most imports, so each zip
ends with an index of its own: a marshalled dictionary that loads in a millisecond. A zip without one is refused.

Packages come last: behind the bundle, and behind the standard library, as in any Python. Their files can be opened, listed
and asked for as anywhere else (``open(os.path.dirname(__file__) + ...)``, ``importlib.resources``); they can't be written.
Bytecode is the developer's code as much as source is, and runs nowhere but here. Of another Python it is left aside.
"""

from __future__ import annotations

import errno
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.resources.abc
import importlib.util
import itertools
import marshal
import pathlib
import sys
import types
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from . import files, placeholders, reasons
from .memory_nodes import Node, failure
from .packages_format import INDEX_MARK, INDEX_TAIL, normalized

ROOT = placeholders.PACKAGES.rstrip("/")
PYC_HEAD_BYTES = 16

_KEPT = frozenset({"fleet", "cloudpickle", "wit_world"})
"""Preloaded modules that no package replaces: what runs calls depends on them."""


class Archive:
    """The zip of one distribution. ValueError when it isn't one of ours."""

    def __init__(self, data: bytes) -> None:
        mark, at, size = INDEX_TAIL.unpack_from(data, len(data) - INDEX_TAIL.size)
        if mark != INDEX_MARK:
            raise ValueError("a package has no index")
        index: dict[str, Any] = marshal.loads(zlib.decompress(memoryview(data)[at : at + size]))
        self._data = memoryview(data)
        self.entries: dict[str, tuple[int, int, int]] = index["entries"]
        """Path -> where its bytes are, how many they are, how many when inflated."""
        self.natives: frozenset[str] = frozenset(index["natives"])
        """Modules that were native code and were left out."""
        self.tops: tuple[str, ...] = tuple(index["tops"])
        self.info: str = index["info"]
        """Its ``.dist-info`` folder."""
        self.name: str = index["name"]
        """Of the distribution, normalized."""

    def read(self, path: str) -> bytes:
        """The content of an entry."""
        at, packed_bytes, size_bytes = self.entries[path]
        data = self._data[at : at + packed_bytes]
        return bytes(data) if packed_bytes == size_bytes else zlib.decompress(data, -zlib.MAX_WBITS, size_bytes)


class PackageLoader(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finder and loader of all packages of a function."""

    def __init__(self, archives: Sequence[Archive]) -> None:
        self._archives = archives
        self._by_top: dict[str, list[Archive]] = {}
        for archive in archives:
            for top in archive.tops:
                self._by_top.setdefault(top, []).append(archive)
        self._natives = frozenset().union(*(archive.natives for archive in archives))
        self._tree: dict[str, dict[str, Archive | None]] = {}
        self.tried: list[str] = []
        """Native modules that were looked for, one by one."""
        self.tolerated: set[str] = set()
        """Those of them that a module of the same distribution got along without."""

    def owns(self, top: str) -> bool:
        """Whether a package has a top-level module of that name."""
        return top in self._by_top

    def is_native(self, name: str) -> bool:
        """Whether a package had that module as native code."""
        return name in self._natives

    def tops(self) -> Iterable[str]:
        """All top-level names."""
        return self._by_top.keys()

    # --- entries ---

    def _code_of(self, fullname: str) -> tuple[Archive, str, bool] | None:
        """(archive, path without its ending, whether it is a package) of a module."""
        base = fullname.replace(".", "/")
        init = base + "/__init__"
        for archive in self._by_top.get(fullname.partition(".")[0], ()):
            entries = archive.entries
            if init + ".pyc" in entries or init + ".py" in entries:
                return archive, init, True
            if base + ".pyc" in entries or base + ".py" in entries:
                return archive, base, False
        return None

    def _entry(self, path: str) -> tuple[Archive, str] | None:
        name = path.removeprefix(ROOT + "/")
        for archive in self._archives:
            if name in archive.entries:
                return archive, name
        return None

    def tree(self) -> dict[str, dict[str, Archive | None]]:
        """Folder (``""`` is all of it) -> name -> who has that file, None: a folder."""
        if not self._tree:
            tree: dict[str, dict[str, Archive | None]] = {"": {}}
            for archive in self._archives:
                for path in archive.entries:
                    folder, _, name = path.rpartition("/")
                    if folder not in tree:
                        _add_folder(tree, folder)
                    if not (name.endswith(".pyc") and path[:-1] in archive.entries):
                        tree[folder][name] = archive
            self._tree = tree
        return self._tree

    # --- finder ---

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module, a package or a namespace package."""
        if fullname.partition(".")[0] not in self._by_top:
            return None
        found = self._code_of(fullname)
        base = fullname.replace(".", "/")
        if found is None:
            if fullname in self._natives:
                self.tried.append(fullname)
            elif base in self.tree():
                spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
                spec.submodule_search_locations = [f"{ROOT}/{base}"]
                return spec
            return None
        _archive, stem, is_package = found
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=f"{ROOT}/{stem}.py", is_package=is_package)
        if is_package:
            spec.submodule_search_locations = [f"{ROOT}/{base}"]
        spec.has_location = True
        return spec

    def find_distributions(self, context: Any = None) -> Iterator[importlib.metadata.Distribution]:
        """For ``importlib.metadata``."""
        wanted = None if context is None or context.name is None else normalized(context.name)
        for archive in self._archives:
            if wanted is None or archive.name == wanted:
                yield _Distribution(archive)

    # --- loader ---

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """As usual."""
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        """Run a module, from bytecode where that is this Python's."""
        tried = len(self.tried)
        code = self.get_code(module.__name__)
        with placeholders.executing_package():
            exec(code, module.__dict__)
        if len(self.tried) > tried:
            found = self._code_of(module.__name__)
            assert found is not None, module
            self.tolerated.update(found[0].natives.intersection(self.tried[tried:]))

    def get_code(self, fullname: str) -> types.CodeType:
        """The code of a module; ImportError if no package has it."""
        found = self._code_of(fullname)
        if found is None:
            raise ImportError(f"{fullname} is in no package", name=fullname)
        archive, stem, _is_package = found
        if stem + ".pyc" in archive.entries:
            data = archive.read(stem + ".pyc")
            if data.startswith(importlib.util.MAGIC_NUMBER):
                code: types.CodeType = marshal.loads(memoryview(data)[PYC_HEAD_BYTES:])
                return code
        if stem + ".py" not in archive.entries:
            raise ImportError(f"{fullname} has no source and its bytecode is of another Python", name=fullname)
        return compile(archive.read(stem + ".py"), f"{ROOT}/{stem}.py", "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        """Whether it is a package."""
        found = self._code_of(fullname)
        return found is not None and found[2]

    def get_source(self, fullname: str) -> str | None:
        """Source of a module, None where there is bytecode alone; ImportError if no package has it."""
        found = self._code_of(fullname)
        if found is None:
            raise ImportError(f"{fullname} is in no package", name=fullname)
        archive, stem, _is_package = found
        return importlib.util.decode_source(archive.read(stem + ".py")) if stem + ".py" in archive.entries else None

    def get_filename(self, fullname: str) -> str:
        """Path of a module under ``/packages``."""
        found = self._code_of(fullname)
        if found is None:
            raise ImportError(f"{fullname} is in no package", name=fullname)
        return f"{ROOT}/{found[1]}.py"

    def get_data(self, path: str) -> bytes:
        """Content of a file (``pkgutil.get_data``); FileNotFoundError if there is none."""
        found = self._entry(path)
        if found is None:
            raise failure(errno.ENOENT, path)
        return found[0].read(found[1])

    def get_resource_reader(self, fullname: str) -> Any:
        """For ``importlib.resources``."""
        return _Resources(f"{ROOT}/{fullname.replace('.', '/')}") if self.is_package(fullname) else None


def _add_folder(tree: dict[str, dict[str, Archive | None]], folder: str) -> None:
    tree[folder] = {}
    above, _, name = folder.rpartition("/")
    if above not in tree:
        _add_folder(tree, above)
    tree[above][name] = None


_numbers = itertools.count(1 << 40)
"""Of files under ``/packages``, apart from those of scratch files."""


class _Folder(Node):
    """A folder under ``/packages``; its content is looked up when it is first asked for."""

    def __init__(self, loader: PackageLoader, path: str) -> None:
        self._loader, self._path = loader, path
        self._children: dict[str, Node] = {}
        super().__init__(next(_numbers), mode=0o555)

    @property
    def children(self) -> dict[str, Node]:
        """What is in it."""
        if not self._children:
            prefix = self._path + "/" if self._path else ""
            for name, archive in self._loader.tree()[self._path].items():
                path = prefix + name
                self._children[name] = _Folder(self._loader, path) if archive is None else _File(archive, path)
        return self._children

    @children.setter
    def children(self, _given: object) -> None:
        """What a plain node starts with has no meaning here."""


class _File(Node):
    """A file under ``/packages``."""

    def __init__(self, archive: Archive, path: str) -> None:
        super().__init__(next(_numbers), mode=0o444)
        self._archive, self._path = archive, path
        self._content: bytearray | None = None

    def size(self) -> int:
        """Bytes in it."""
        return self._archive.entries[self._path][2]

    def content(self) -> bytearray:
        """Its bytes, inflated when they are first asked for."""
        if self._content is None:
            self._content = bytearray(self._archive.read(self._path))
        return self._content

    def settle(self) -> None:
        """It is about to be written: PermissionError."""
        raise failure(errno.EACCES, f"{ROOT}/{self._path}")


class _Resources(importlib.resources.abc.TraversableResources):
    def __init__(self, path: str) -> None:
        self._path = path

    def files(self) -> Any:
        """Where the package's files lie."""
        return pathlib.Path(self._path)


class _Distribution(importlib.metadata.Distribution):
    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def read_text(self, filename: str) -> str | None:
        """A file of the metadata, None if there is none of that name."""
        path = f"{self._archive.info}/{filename}"
        return self._archive.read(path).decode("utf-8") if path in self._archive.entries else None

    def locate_file(self, path: Any) -> Any:
        """Where a file of the distribution lies."""
        return pathlib.Path(ROOT) / path


class _Importer:
    """What ``pkgutil`` asks for the modules in a folder under ``/packages``."""

    def __init__(self, loader: PackageLoader, path: str) -> None:
        self._loader = loader
        self._folder = path.removeprefix(ROOT).strip("/")

    def find_spec(self, fullname: str, target: types.ModuleType | None = None) -> Any:
        """As the loader."""
        return self._loader.find_spec(fullname, None, target)

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """(name, whether it is a package) of each."""
        tree = self._loader.tree()
        for name, archive in sorted(tree.get(self._folder, {}).items()):
            if archive is None:
                if self._loader.is_package(f"{self._folder}/{name}".strip("/").replace("/", ".")):
                    yield prefix + name, True
            elif name.endswith((".py", ".pyc")) and not name.startswith("__init__."):
                yield prefix + name.rpartition(".")[0], False


def install(packages: Sequence[bytes]) -> PackageLoader:
    """Let imports find ``packages`` behind everything else. Raises what a damaged zip raises (ValueError, zlib.error)."""
    loader = PackageLoader([Archive(data) for data in packages])
    for top in loader.tops():
        if top in sys.modules and top not in sys.stdlib_module_names and top not in _KEPT:
            for name in [key for key in sys.modules if key == top or key.startswith(top + ".")]:
                del sys.modules[name]

    def hook(path: str) -> _Importer:
        if path != ROOT and not path.startswith(ROOT + "/"):
            raise ImportError(path)
        return _Importer(loader, path)

    sys.path_hooks.insert(0, hook)
    sys.meta_path.append(loader)
    reasons.know_packages(loader.owns, loader.is_native)
    files.mount("packages", _Folder(loader, ""))
    return loader
