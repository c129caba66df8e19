"""A file tree in memory: folders, files and descriptors. It is all that a sandbox has of a file system.

No folder of the owner's computer is opened for a function: nothing of it touches the disk, nothing is left behind, and
there is no path to escape along. The tree lives in the guest's memory, so the function's ``memory=`` bounds it as well.
``/tmp`` can be written; ``/dev/null`` is there. No links, no permissions: ``..`` is resolved in the text of a path.

Errors: OSError with the number that Linux gives.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fleet.protocol.limits import SCRATCH_BYTES_MAX

FIRST_DESCRIPTOR = 64
"""Smaller ones are the interpreter's own."""
FILES_MAX = 10_000
OPEN_MAX = 1024

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def failure(number: int, path: object = None) -> OSError:
    """The OSError (of the right subclass) for ``number``."""
    return OSError(number, os.strerror(number)) if path is None else OSError(number, os.strerror(number), path)


@dataclass(eq=False)
class Node:
    """A file or a folder."""

    number: int
    children: dict[str, Node] | None = None
    """None: a file."""
    data: bytearray = field(default_factory=bytearray)
    modified_ns: int = field(default_factory=time.time_ns)
    mode: int = 0o600
    null: bool = False
    links: int = 1
    database: Any = None
    """An open connection to the SQLite database that is this file's content, instead of ``data``."""

    def size(self) -> int:
        """Bytes in a file."""
        return len(self.content())

    def content(self) -> bytearray:
        """The bytes of a file; of a database a copy."""
        return self.data if self.database is None else bytearray(self.database.serialize())

    def settle(self) -> None:
        """Make a database a plain file again: its bytes are about to be changed as such."""
        if self.database is not None:
            self.data, self.database = self.content(), None


@dataclass(eq=False)
class Opened:
    """What a descriptor stands for."""

    node: Node
    readable: bool
    writable: bool
    append: bool
    position: int = 0


class MemoryFiles:
    """See the module. The methods are those of ``os``, with its arguments and errors."""

    def __init__(self) -> None:
        self._count = 0
        self._used_bytes = 0
        self._open: dict[int, Opened] = {}
        self.cwd = "/tmp"
        self._root = self._new(folder=True)
        self._tmp = self._new(folder=True)
        null = self._new()
        null.null = True
        device = self._new(folder=True)
        self._root.children = {"tmp": self._tmp, "dev": device}
        device.children = {"null": null}

    def _new(self, folder: bool = False, mode: int = 0o600) -> Node:
        if self._count >= FILES_MAX:
            raise failure(errno.ENOSPC)
        self._count += 1
        return Node(self._count, {} if folder else None, mode=mode)

    # --- paths ---

    def absolute(self, path: PathLike) -> str:
        """The path that is meant, without ``.`` and ``..``."""
        text = os.fsdecode(path)
        if not text:
            raise failure(errno.ENOENT, path)
        if "\0" in text:
            raise ValueError("embedded null byte")
        return "/" + posixpath.normpath(posixpath.join(self.cwd, text)).lstrip("/")

    def find(self, path: PathLike) -> Node:
        """What is there: FileNotFoundError, NotADirectoryError."""
        node = self._root
        for part in self.absolute(path).split("/"):
            if not part:
                continue
            if node.children is None:
                raise failure(errno.ENOTDIR, path)
            if part not in node.children:
                raise failure(errno.ENOENT, path)
            node = node.children[part]
        if node.children is None and os.fsdecode(path).endswith("/"):
            raise failure(errno.ENOTDIR, path)
        return node

    def _place(self, path: PathLike) -> tuple[dict[str, Node], str]:
        """Folder and name of something in ``/tmp``, whether it is there or not."""
        whole = self.absolute(path)
        folder, name = posixpath.split(whole)
        if not whole.startswith("/tmp/"):
            raise failure(errno.EACCES, path)
        children = self.find(folder).children
        if children is None:
            raise failure(errno.ENOTDIR, path)
        return children, name

    def _existing(self, path: PathLike) -> tuple[dict[str, Node], str]:
        children, name = self._place(path)
        if name not in children:
            raise failure(errno.ENOENT, path)
        return children, name

    def node_of(self, target: PathLike | int) -> Node:
        """What a path or a descriptor stands for."""
        return self.opened(target).node if isinstance(target, int) else self.find(target)

    # --- descriptors ---

    def opened(self, descriptor: int) -> Opened:
        """What ``descriptor`` stands for."""
        try:
            return self._open[descriptor]
        except KeyError:
            raise failure(errno.EBADF) from None

    def open(self, path: PathLike, flags: int, mode: int = 0o777, *, dir_fd: None = None) -> int:
        """A descriptor."""
        access = flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
        writable = bool(access & (os.O_WRONLY | os.O_RDWR) & ~(os.O_RDONLY & (os.O_WRONLY | os.O_RDWR)))
        if access == os.O_RDONLY:
            writable = False
        whole = self.absolute(path)
        try:
            node = self.find(path)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            children, name = self._place(path)
            node = children[name] = self._new(mode=mode & 0o777)
        else:
            if flags & os.O_CREAT and flags & os.O_EXCL:
                raise failure(errno.EEXIST, path)
            if node.children is not None and (writable or not flags & getattr(os, "O_DIRECTORY", 0)):
                raise failure(errno.EISDIR, path)
        if len(self._open) >= OPEN_MAX:
            raise failure(errno.EMFILE, path)
        if writable and not node.null:
            node.settle()
            if flags & os.O_TRUNC:
                self._resize(node, 0)
        assert whole
        readable = not writable or access == os.O_RDWR
        return self._give(Opened(node, readable, writable, bool(flags & os.O_APPEND)))

    def _give(self, opened: Opened) -> int:
        descriptor = FIRST_DESCRIPTOR
        while descriptor in self._open:
            descriptor += 1
        self._open[descriptor] = opened
        return descriptor

    def dup(self, descriptor: int) -> int:
        """Another descriptor of the same open file."""
        return self._give(self.opened(descriptor))

    def close(self, descriptor: int) -> None:
        """Forget a descriptor."""
        opened = self.opened(descriptor)
        del self._open[descriptor]
        self._forget(opened.node)

    def read(self, descriptor: int, count: int) -> bytes:
        """At most ``count`` bytes from where the descriptor is."""
        opened = self.opened(descriptor)
        data = self.pread(descriptor, count, opened.position)
        opened.position += len(data)
        return data

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        """At most ``count`` bytes from ``offset``."""
        opened = self.opened(descriptor)
        if not opened.readable:
            raise failure(errno.EBADF)
        if opened.node.children is not None:
            raise failure(errno.EISDIR)
        if count < 0 or offset < 0:
            raise failure(errno.EINVAL)
        return bytes(memoryview(opened.node.content())[offset : offset + count])

    def write(self, descriptor: int, data: Any) -> int:
        """Write all of ``data`` where the descriptor is."""
        opened = self.opened(descriptor)
        if opened.append:
            opened.position = opened.node.size()
        count = self.pwrite(descriptor, data, opened.position)
        opened.position += count
        return count

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        """Write all of ``data`` at ``offset``."""
        opened = self.opened(descriptor)
        node = opened.node
        view = memoryview(data).cast("B")
        if not opened.writable:
            raise failure(errno.EBADF)
        if node.null or not view:
            return len(view)
        node.settle()
        end = offset + len(view)
        if end > len(node.data):
            if offset == len(node.data):
                self._reserve(len(view))
                node.data += view
            else:
                self._resize(node, end)
                node.data[offset:end] = view
        else:
            node.data[offset:end] = view
        node.modified_ns = time.time_ns()
        return len(view)

    def lseek(self, descriptor: int, offset: int, whence: int) -> int:
        """Move a descriptor; where it is then."""
        opened = self.opened(descriptor)
        start = (0, opened.position, opened.node.size() if whence == 2 else 0)[whence]
        if start + offset < 0:
            raise failure(errno.EINVAL)
        opened.position = start + offset
        return opened.position

    def ftruncate(self, descriptor: int, length: int) -> None:
        """Make a file ``length`` bytes long."""
        opened = self.opened(descriptor)
        if not opened.writable or length < 0:
            raise failure(errno.EINVAL)
        self._resize(opened.node, length)

    def truncate(self, path: PathLike | int, length: int) -> None:
        """Make a file ``length`` bytes long."""
        self._resize(self.node_of(path), length)

    def fsync(self, descriptor: int) -> None:
        """Nothing: memory is all there is."""
        self.opened(descriptor)

    fdatasync = fsync

    def isatty(self, _descriptor: int) -> bool:
        """Never."""
        return False

    # --- sizes ---

    def _reserve(self, count: int) -> None:
        if self._used_bytes + count > SCRATCH_BYTES_MAX:
            raise failure(errno.ENOSPC)
        self._used_bytes += count

    def _resize(self, node: Node, length: int) -> None:
        if node.children is not None:
            raise failure(errno.EISDIR)
        node.settle()
        more = length - len(node.data)
        if more > 0:
            self._reserve(more)
            node.data.extend(bytes(more))
        else:
            self._used_bytes += more
            del node.data[length:]
        node.modified_ns = time.time_ns()

    def _forget(self, node: Node) -> None:
        """Free what no name and no descriptor stands for."""
        if node.links == 0 and all(opened.node is not node for opened in self._open.values()):
            self._used_bytes -= len(node.data)
            self._count -= 1
            node.data, node.database = bytearray(), None

    # --- names ---

    def stat(self, target: PathLike | int, *, dir_fd: None = None, follow_symlinks: bool = True) -> os.stat_result:
        """What a path or a descriptor stands for."""
        node = self.node_of(target)
        kind = stat.S_IFDIR if node.children is not None else stat.S_IFCHR if node.null else stat.S_IFREG
        size = 0 if node.children is not None else node.size()
        modified_s = node.modified_ns / 1e9
        whole_s = int(modified_s)
        values = (kind | node.mode, node.number, 1, max(node.links, 0), 0, 0, size, whole_s, whole_s, whole_s)
        extra = {f"st_{which}time": modified_s for which in "amc"}
        extra_ns = {f"st_{which}time_ns": node.modified_ns for which in "amc"}
        return os.stat_result(values, {**extra, **extra_ns})

    fstat = lstat = stat

    def access(self, path: PathLike | int, mode: int, **_options: Any) -> bool:
        """Whether it is there."""
        try:
            self.node_of(path)
        except OSError:
            return False
        return True

    def listdir(self, path: PathLike | int | None = ".") -> list[Any]:
        """Names in a folder; as bytes where the path is."""
        names = list(self._folder("." if path is None else path))
        return [os.fsencode(name) for name in names] if isinstance(path, bytes) else names

    def _folder(self, path: PathLike | int) -> dict[str, Node]:
        children = self.node_of(path).children
        if children is None:
            raise failure(errno.ENOTDIR, path)
        return children

    def scandir(self, path: PathLike | int | None = ".") -> Scan:
        """Entries of a folder."""
        where = "." if path is None else path
        names = list(self._folder(where))
        return Scan(self, "." if isinstance(where, int) else os.fspath(where), names)

    def mkdir(self, path: PathLike, mode: int = 0o777, *, dir_fd: None = None) -> None:
        """Make a folder."""
        if self.absolute(path) in ("/", "/tmp", "/dev"):
            raise failure(errno.EEXIST, path)
        children, name = self._place(path)
        if name in children:
            raise failure(errno.EEXIST, path)
        children[name] = self._new(folder=True, mode=mode & 0o777)

    def rmdir(self, path: PathLike, *, dir_fd: None = None) -> None:
        """Remove an empty folder."""
        children, name = self._existing(path)
        if children[name].children is None:
            raise failure(errno.ENOTDIR, path)
        if children[name].children:
            raise failure(errno.ENOTEMPTY, path)
        del children[name]
        self._count -= 1

    def unlink(self, path: PathLike, *, dir_fd: None = None) -> None:
        """Remove a file; those who have it open keep it."""
        children, name = self._existing(path)
        node = children[name]
        if node.children is not None:
            raise failure(errno.EISDIR, path)
        del children[name]
        node.links = 0
        self._forget(node)

    remove = unlink

    def rename(self, source: PathLike, target: PathLike, **_options: Any) -> None:
        """Move a file or a folder; a file in the way is replaced."""
        from_children, from_name = self._existing(source)
        to_children, to_name = self._place(target)
        node, old = from_children[from_name], to_children.get(to_name)
        if node is old:
            return
        if node.children is not None and (self.absolute(target) + "/").startswith(self.absolute(source) + "/"):
            raise failure(errno.EINVAL, source)
        if old is not None:
            if old.children is not None:
                if node.children is None:
                    raise failure(errno.EISDIR, target)
                self.rmdir(target)
            elif node.children is not None:
                raise failure(errno.ENOTDIR, target)
            else:
                self.unlink(target)
        del from_children[from_name]
        to_children[to_name] = node

    replace = rename

    def utime(self, path: PathLike | int, times: Any = None, *, ns: Any = None, **_options: Any) -> None:
        """Set when a file was changed."""
        node = self.node_of(path)
        node.modified_ns = ns[1] if ns is not None else time.time_ns() if times is None else int(times[1] * 1e9)

    def chmod(self, path: PathLike | int, mode: int, **_options: Any) -> None:
        """Note the mode, which means nothing here."""
        self.node_of(path).mode = mode & 0o7777

    def readlink(self, path: PathLike, **_options: Any) -> str:
        """There are no links."""
        self.find(path)
        raise failure(errno.EINVAL, path)

    def link(self, source: PathLike, _target: PathLike, **_options: Any) -> None:
        """There are no links."""
        raise failure(errno.EPERM, source)

    symlink = link

    def getcwd(self) -> str:
        """Where relative paths start."""
        return self.cwd

    def getcwdb(self) -> bytes:
        """Where relative paths start."""
        return os.fsencode(self.cwd)

    def chdir(self, path: PathLike) -> None:
        """Let relative paths start elsewhere."""
        self._folder(path)
        self.cwd = self.absolute(path)


class Entry:
    """As ``os.DirEntry``."""

    def __init__(self, files: MemoryFiles, folder: str | bytes, name: str) -> None:
        self._files = files
        self.name: Any = os.fsencode(name) if isinstance(folder, bytes) else name
        self.path: Any = os.path.join(folder, self.name)

    def __fspath__(self) -> Any:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As ``os.stat``."""
        return self._files.stat(self.path)

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

    def __init__(self, files: MemoryFiles, folder: str | bytes, names: list[str]) -> None:
        self._entries = iter([Entry(files, folder, name) for name in names])

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
