"""Let Python find the file tree in memory where it looks for files: ``open``, ``os``, ``sqlite3``.

Patched when the guest is built, before the standard library is imported, so that ``from os import stat`` gets ours too;
in effect from ``activate`` on. Not patched: ``io.FileIO`` by path, and SQL that opens further files (ATTACH).
"""

# ruff: noqa: SIM905 - lists of names read best as written here
from __future__ import annotations

import builtins
import errno
import functools
import io
import os
import tokenize
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote

from .memory_files import MemoryFiles
from .memory_nodes import FIRST_DESCRIPTOR, Node, PathLike, failure

_files: MemoryFiles | None = None
_open_really = io.open

_BY_DESCRIPTOR = "close fstat read write lseek pread pwrite ftruncate fsync fdatasync isatty dup".split()
_BY_PATH = (
    "open stat lstat access listdir mkdir rmdir unlink remove rename replace utime chmod readlink link symlink truncate "
    "getcwd getcwdb chdir"
).split()


def activate() -> None:
    """Give this instance its own empty tree."""
    global _files
    _files = MemoryFiles()


def tree() -> MemoryFiles:
    """This instance's files."""
    assert _files is not None
    return _files


def mount(name: str, folder: Node) -> None:
    """Show ``folder`` as ``/name`` in this instance, read-only; nothing before ``activate``."""
    if _files is not None:
        _files.mount(name, folder)


def install() -> None:
    """Patch ``os`` and ``open``; nothing changes before ``activate``."""
    for name in (*_BY_DESCRIPTOR, *_BY_PATH):
        really = getattr(os, name, None) or functools.partial(_unknown, name)
        setattr(os, name, _patched(name, really, by_descriptor=name in _BY_DESCRIPTOR))
    scan_really = os.scandir
    setattr(os, "scandir", lambda path=".": scan_really(path) if _files is None else Scan(path))  # noqa: B010
    for module in (builtins, io):
        setattr(module, "open", open_file)  # noqa: B010
    # It was imported before, and took the real one: tracebacks and ``inspect`` read source through it.
    setattr(tokenize, "_builtin_open", open_file)  # noqa: B010


def _unknown(name: str, *_args: Any) -> Any:
    raise failure(errno.ENOSYS, name)


def _patched(name: str, really: Callable[..., Any], by_descriptor: bool) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if _files is None or (by_descriptor and args and args[0] < FIRST_DESCRIPTOR):
            return really(*args, **kwargs)
        return getattr(_files, name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


class Raw(io.RawIOBase):
    """A descriptor as a raw stream."""

    def __init__(self, files: MemoryFiles, descriptor: int, name: Any, mode: str, closefd: bool) -> None:
        self._files = files
        self._descriptor = descriptor
        self._opened = files.opened(descriptor)
        self._closefd = closefd
        self.name = name
        self.mode = mode

    def readable(self) -> bool:
        return self._opened.readable

    def writable(self) -> bool:
        return self._opened.writable

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        self._check()
        return self._descriptor

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._files.read(self.fileno(), len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        rest = self._opened.node.size() - self._opened.position
        return self._files.read(self.fileno(), max(0, rest))

    def write(self, data: Any) -> int:
        return self._files.write(self.fileno(), data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._files.lseek(self.fileno(), offset, whence)

    def tell(self) -> int:
        return self._files.lseek(self.fileno(), 0, 1)

    def truncate(self, size: int | None = None) -> int:
        length = self.tell() if size is None else size
        self._files.ftruncate(self.fileno(), length)
        return length

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._closefd:
                self._files.close(self._descriptor)


def _flags_of(mode: str) -> int:
    """Flags of ``os.open`` for a mode of ``open``; ValueError as Python words it."""
    kinds = set(mode)
    if kinds - set("axrwb+t") or len(mode) > len(kinds):
        raise ValueError(f"invalid mode: {mode!r}")
    if len(kinds & set("axrw")) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    if {"b", "t"} <= kinds:
        raise ValueError("can't have text and binary mode at once")
    access = os.O_RDWR if "+" in kinds else os.O_RDONLY if "r" in kinds else os.O_WRONLY
    more = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT | os.O_APPEND, "x": os.O_CREAT | os.O_EXCL}
    return access | more[(kinds & set("axrw")).pop()]


def open_file(
    file: PathLike | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[Any, int], int] | None = None,
) -> Any:
    """As the built-in ``open``."""
    files = _files
    if files is None or (isinstance(file, int) and file < FIRST_DESCRIPTOR):
        return _open_really(file, mode, buffering, encoding, errors, newline, closefd, opener)
    flags = _flags_of(mode)
    binary = "b" in mode
    if binary and (encoding, errors, newline) != (None, None, None):
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    if isinstance(file, int):
        descriptor = file
    elif opener is not None:
        descriptor = opener(file, flags)
    else:
        descriptor = files.open(file, flags, 0o666)
    if files.opened(descriptor).node.children is not None:
        raise failure(errno.EISDIR, file)
    raw = Raw(files, descriptor, file, mode, closefd)
    if "a" in mode:
        raw.seek(0, 2)
    if buffering == 0:
        if not binary:
            raise ValueError("can't have unbuffered text I/O")
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    kind: Any = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
    buffer = kind(raw, size)
    if binary:
        return buffer
    text: Any = io.TextIOWrapper(
        buffer, "utf-8" if encoding in (None, "locale") else encoding, errors, newline, buffering == 1
    )
    text.mode = mode
    return text


class Entry:
    """As ``os.DirEntry``."""

    def __init__(self, folder: Any, name: str) -> None:
        self.name: Any = os.fsencode(name) if isinstance(folder, bytes) else name
        self.path: Any = os.path.join(folder, self.name)

    def __fspath__(self) -> Any:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As ``os.stat``."""
        return os.stat(self.path)

    def inode(self) -> int:
        """A number that no other file has."""
        return self.stat().st_ino

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder."""
        return os.path.isdir(self.path)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a file."""
        return os.path.isfile(self.path)

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def is_junction(self) -> bool:
        """Never."""
        return False


class Scan:
    """As the iterator of ``os.scandir``."""

    def __init__(self, path: PathLike | int | None = ".") -> None:
        folder = "." if path is None or isinstance(path, int) else os.fspath(path)
        names = os.listdir("." if path is None else path)
        self._entries = iter([Entry(folder, os.fsdecode(name)) for name in names])

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held."""


def install_sqlite() -> None:
    """Let ``sqlite3`` keep databases in the tree: as SQLite's own in-memory files, held open by the tree's node."""
    import sqlite3
    import sqlite3.dbapi2

    really = sqlite3.connect

    def connect(database: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        name, is_uri = database, bool(kwargs.get("uri"))
        options: dict[str, str] = {}
        if not isinstance(name, str | bytes | os.PathLike):
            raise TypeError(f"expected str, bytes or os.PathLike object, not {type(name).__name__}")
        name = os.fsdecode(name)
        if is_uri and name.startswith("file:"):
            path, _, query = name.removeprefix("file:").partition("?")
            name, options = unquote(path.partition("#")[0]), dict(parse_qsl(query.partition("#")[0]))
        if _files is None or name in ("", ":memory:") or options.get("mode") == "memory" or "vfs" in options:
            connection: sqlite3.Connection = really(database, *args, **kwargs)
        else:
            mode = options.get("mode", "rwc")
            node = _database(sqlite3, really, _files, name, mode)
            kwargs["uri"] = True
            more = "&mode=ro" if mode == "ro" else ""
            connection = really(f"file:/{node.number}?vfs=memdb{more}", *args, **kwargs)
        connection.execute("PRAGMA temp_store=MEMORY").close()  # SQLite would look for a folder of its own.
        return connection

    for module in (sqlite3, sqlite3.dbapi2):
        setattr(module, "connect", connect)  # noqa: B010


def _database(sqlite3: Any, really: Callable[..., Any], files: MemoryFiles, path: str, mode: str) -> Any:
    """The node of the database file at ``path``; sqlite3's error if there is none or it is something else."""
    create = os.O_CREAT if mode == "rwc" else 0
    try:
        descriptor = files.open(path, os.O_RDONLY | create, 0o644)  # Not for writing: that would make it plain bytes.
    except OSError as error:
        raise sqlite3.OperationalError(f"unable to open database file: {error}") from None
    node = files.opened(descriptor).node
    try:
        if node.database is None:
            anchor = really(f"file:/{node.number}?vfs=memdb", uri=True, isolation_level=None)
            if node.data:
                copy = really(":memory:")
                copy.deserialize(bytes(node.data))
                copy.backup(anchor)
                copy.close()
            node.database = anchor
    finally:
        files.close(descriptor)
    return node
