"""What the file tree in memory is made of."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

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
