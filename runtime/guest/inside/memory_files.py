"""A file tree in memory: folders, files and descriptors. It is all that a sandbox has of a file system.

No folder of the owner's computer is opened for a function: nothing of it touches the disk, nothing is left behind, and
there is no path to escape along. The tree lives in the guest's memory, so the function's ``memory=`` bounds it as well.
``/tmp`` can be written; ``/dev/null`` is there. No links, no permissions: ``..`` is resolved in the text of a path.

Errors: the OSError that a real file system gives.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import time
from typing import Any

from fleet.protocol.limits import SCRATCH_BYTES_MAX

from .memory_nodes import FILES_MAX, FIRST_DESCRIPTOR, OPEN_MAX, Node, Opened, PathLike, failure


class MemoryFiles:
    """See the module. The methods are those of ``os``, with its arguments and errors."""

    def __init__(self) -> None:
        self._count = 0
        self._made = 0
        """Numbers are never given twice: databases are told apart by them."""
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
        self._made += 1
        return Node(self._made, {} if folder else None, mode=mode)

    def mount(self, name: str, folder: Node) -> None:
        """Show ``folder`` as ``/name``. Only below ``/tmp`` names can be made or removed: it stays as it is."""
        assert self._root.children is not None
        self._root.children[name] = folder

    # --- paths ---

    def absolute(self, path: PathLike) -> str:
        """The path that is meant, without ``.`` and ``..``."""
        text = os.fsdecode(path)
        if not text:
            raise failure(errno.ENOENT, path)
        if "\0" in text:
            raise ValueError("embedded null byte")
        return "/" + posixpath.normpath(posixpath.join(self.cwd, text)).lstrip("/")

    def _find(self, whole: str) -> Node | None:
        """What is at an absolute path."""
        node = self._root
        for part in whole.split("/"):
            if part:
                if node.children is None or part not in node.children:
                    return None
                node = node.children[part]
        return node

    def find(self, path: PathLike) -> Node:
        """What is there: FileNotFoundError, NotADirectoryError."""
        node = self._find(self.absolute(path))
        if node is None:
            raise failure(errno.ENOENT, path)
        if node.children is None and os.fsdecode(path).endswith("/"):
            raise failure(errno.ENOTDIR, path)
        return node

    def _place(self, path: PathLike) -> tuple[dict[str, Node], str]:
        """Folder and name of something in ``/tmp``, whether it is there or not."""
        whole = self.absolute(path)
        folder, name = posixpath.split(whole)
        if not whole.startswith("/tmp/"):
            raise failure(errno.EACCES, path)
        parent = self._find(folder)
        if parent is None:
            raise failure(errno.ENOENT, path)
        if parent.children is None:
            raise failure(errno.ENOTDIR, path)
        return parent.children, name

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
        writable = access in (os.O_WRONLY, os.O_RDWR)
        node = self._find(self.absolute(path))
        if node is None:
            if not flags & os.O_CREAT:
                raise failure(errno.ENOENT, path)
            children, name = self._place(path)
            node = children[name] = self._new(mode=mode & 0o777)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise failure(errno.EEXIST, path)
        elif node.children is not None and (writable or not flags & getattr(os, "O_DIRECTORY", 0)):
            raise failure(errno.EISDIR, path)
        if len(self._open) >= OPEN_MAX:
            raise failure(errno.EMFILE, path)
        if writable and not node.null:
            node.settle()
            if flags & os.O_TRUNC:
                self._resize(node, 0)
        return self._give(Opened(node, access != os.O_WRONLY, writable, bool(flags & os.O_APPEND)))

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

    def link(self, source: PathLike, _target: PathLike, _is_folder: bool = False, **_options: Any) -> None:
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
