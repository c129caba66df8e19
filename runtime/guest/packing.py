"""Which files of an installed distribution go to cars, and the zip that they go in. Pure: bytes in, bytes out.

Left out: native code, scripts, caches, type stubs of no use at run time, and test folders that nothing else of the
distribution imports. Same files, same bytes: entries are sorted, their date is fixed, each is deflated by itself.

The zip ends with an index of its own (see ``inside/packages.py``): names, places, native modules that were left out.
"""

from __future__ import annotations

import io
import marshal
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runtime.guest.inside.packages_format import INDEX_MARK, INDEX_TAIL, normalized

_DATE = (1980, 1, 1, 0, 0, 0)
_LOCAL_HEAD_BYTES = 30
_STORED_BYTES_MAX = 64
_NATIVE = re.compile(r".*\.(?:so(?:\.[0-9.]+)?|pyd|dylib|dll)\Z")
_NOT_MODULES = ("bin", "share", "etc", "include", "Scripts", "man")
"""Where installers put what is no module."""
_INFO_KEPT = re.compile(r"METADATA|.*\.txt|licenses/.*|(?:LICEN[CS]E|NOTICE|COPYING|AUTHORS)[^/]*")
"""What of the metadata goes along: not what an installer notes of its own doings."""
_DROPPED_ENDINGS = (".pyc", ".pyi", ".c", ".cpp", ".h", ".pyx", ".pxd", ".pth")
_IMPORTS_TESTS = re.compile(rb"^[ \t]*(?:from|import)[ \t][^#\n]*\btests\b", re.MULTILINE)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Distribution:
    """What of a distribution goes to cars."""

    name: str
    version: str
    info: str
    """Its ``.dist-info`` folder."""
    files: Mapping[str, bytes]
    natives: tuple[str, ...]
    """Modules that were native code, by dotted name."""

    @property
    def sources(self) -> dict[str, bytes]:
        """The Python files among ``files``."""
        return {path: data for path, data in self.files.items() if path.endswith(".py")}

    @property
    def modules(self) -> list[str]:
        """All modules, by dotted name, packages before what is in them."""
        return sorted(name for path in self.sources if (name := module_of(path)) is not None)

    @property
    def roots(self) -> list[str]:
        """The outermost modules: ``yaml``; ``google.protobuf`` where ``google`` is a namespace."""
        modules = set(self.modules)
        return sorted(name for name in modules if not any(above in modules for above in _above(name)))

    @property
    def tops(self) -> list[str]:
        """Top-level names that imports may ask for."""
        return sorted({name.partition(".")[0] for name in (*self.modules, *self.natives)})


def module_of(path: str) -> str | None:
    """The dotted name of a source file; None if no import can name it."""
    parts = path.removesuffix(".py").split("/")
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) if parts and all(map(_IDENTIFIER.match, parts)) else None


def _above(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts)))


def select(name: str, version: str, info: str, files: Mapping[str, bytes]) -> Distribution:
    """Sort out the installed ``files`` (path -> content) of a distribution."""
    natives = sorted({module for path in files if _NATIVE.match(path) and (module := _native_module(path))})
    tops_of_code = {path.partition("/")[0] for path in files if path.endswith("/__init__.py")}
    chosen = {path: data for path, data in files.items() if _is_wanted(path, info, tops_of_code)}
    tests = {path for path in chosen if "tests" in path.split("/")[:-1]}
    if not any(
        _IMPORTS_TESTS.search(data) for path, data in chosen.items() if path.endswith(".py") and path not in tests
    ):
        chosen = {path: data for path, data in chosen.items() if path not in tests}
    return Distribution(normalized(name), version, info, dict(sorted(chosen.items())), tuple(natives))


def _is_wanted(path: str, info: str, tops_of_code: set[str]) -> bool:
    parts = path.split("/")
    if parts[0] == info:
        return _INFO_KEPT.fullmatch("/".join(parts[1:])) is not None
    if ".." in parts or "__pycache__" in parts or (parts[0] in _NOT_MODULES and parts[0] not in tops_of_code):
        return False
    return not path.endswith(_DROPPED_ENDINGS) and not _NATIVE.match(path)


def _native_module(path: str) -> str | None:
    """``yaml/_yaml.cpython-314-x86_64-linux-gnu.so`` is ``yaml._yaml``; None for libraries that come with modules."""
    folder, _, file = path.rpartition("/")
    return module_of("/".join(filter(None, (folder, file.partition(".")[0]))))


def pack(distribution: Distribution, code: Mapping[str, bytes]) -> bytes:
    """The zip of a distribution with ``code``, the content of the ``.pyc`` file of each source path."""
    contents = dict(distribution.files)
    for path, data in code.items():
        assert path in contents and path.endswith(".py"), path
        contents[path + "c"] = data
    out = io.BytesIO()
    entries: dict[str, tuple[int, int, int]] = {}
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(contents):
            info = zipfile.ZipInfo(path, _DATE)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            small = len(contents[path]) <= _STORED_BYTES_MAX
            info.compress_type = zipfile.ZIP_STORED if small else zipfile.ZIP_DEFLATED
            archive.writestr(info, contents[path], compresslevel=6)
            at = info.header_offset + _LOCAL_HEAD_BYTES + len(path.encode()) + len(info.extra)
            entries[path] = (at, info.compress_size, info.file_size)
        index = {
            "name": distribution.name,
            "info": distribution.info,
            "tops": distribution.tops,
            "natives": list(distribution.natives),
            "entries": entries,
        }
        # Version 2 of marshal: the same bytes whatever else refers to the strings.
        packed = zlib.compress(marshal.dumps(index, 2), 6)
        info = zipfile.ZipInfo("__fleet__/index", _DATE)
        info.create_system = 3
        archive.writestr(info, packed)
        at = info.header_offset + _LOCAL_HEAD_BYTES + len(info.filename)
        archive.comment = INDEX_TAIL.pack(INDEX_MARK, at, len(packed))
    return out.getvalue()
