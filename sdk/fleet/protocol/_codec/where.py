"""Where in a value some place of its data lies: ``result.items[3]['x']``. Runs only once something is wrong there."""

from __future__ import annotations

import re
from typing import Any

from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.decode import Decoder

_ROW = re.compile("\0([0-9]*)\0")
"""Stands in the path of a column for the number of the row, or for the key that the number means."""
_SKIPPED = {k.COUNTER: 0, k.ORDEREDDICT: 0, k.NAMESPACE: 0, k.DEFAULTDICT: 1}
"""Kinds that are pairs, and the fields before the pairs."""


class _Found(Exception):
    def __init__(self, path: str) -> None:
        self.path = path


def path_to(data: bytes | memoryview, at: int, name: str) -> str:
    """The path of the instance whose class is named at offset ``at``; just ``name`` where it can't be told."""
    try:
        _Walker(data, at).walk(name)
    except _Found as found:
        return _ROW.sub("...", found.path)
    except Exception:  # Damaged data besides: the path is only a help.
        pass
    return name


class _Walker:
    def __init__(self, data: bytes | memoryview, at: int) -> None:
        self._read = Decoder(data, None, None, records=True)
        self._read.left = 1 << 62
        self._wanted = at
        self._classes: list[list[str]] = []
        self._keys: list[list[Any]] = []

    def _any(self) -> Any:
        return self._read.value(0)

    def walk(self, path: str) -> None:
        """Over one value; _Found when the wanted place is met."""
        read = self._read
        head = read.data[read.at]
        if 0x90 <= head < 0xA0 or head in (0xDC, 0xDD):
            read.at += 1
            count = head & 0x0F if head < 0xA0 else read.number(2 if head == 0xDC else 4)
            tag = bytes(read.data[read.at : read.at + 3])
            if count and tag[:2] == bytes((0xD4, k.EXT_KIND)):
                read.at += 3
                self._kind(tag[2], count - 1, path)
            else:
                for number in range(count):
                    self.walk(self._element(path, number))
        elif 0x80 <= head < 0x90 or head in (0xDE, 0xDF):
            read.at += 1
            self._pairs(head & 0x0F if head < 0x90 else read.number(2 if head == 0xDE else 4), path, "[{!r:.60}]")
        else:
            self._any()

    def _pairs(self, count: int, path: str, form: str) -> None:
        for _ in range(count):
            start = self._read.at
            self.walk(f"a key of {path}")
            end, self._read.at = self._read.at, start
            key = self._any() if self._simple() else ...
            self._read.at = end
            self.walk(path + form.format(key))

    def _simple(self) -> bool:
        head = self._read.data[self._read.at]
        return not (0x80 <= head < 0xA0 or (head >= 0xDC and head < 0xE0))

    def _kind(self, kind: int, count: int, path: str) -> None:
        read = self._read
        if kind in (k.ENUM, k.INSTANCE):
            if read.at == self._wanted:
                raise _Found(path)
            names = self._class()
            for number in range(count - 1):
                self.walk(f"{path}.{names[number]}" if number < len(names) else path)
        elif kind == k.INSTANCE_ROWS:
            base = path if _ROW.search(path) else f"{path}[\0\0]"
            if read.at == self._wanted:
                raise _Found(self._element(base, 0))
            for name in self._class()[: count - 1]:
                self.walk(f"{base}.{name}")
        elif kind == k.ROWS:
            shape = self._any()
            base = path if _ROW.search(path) else f"{path}[\0\0]"
            for number in range(count - 1):
                self.walk(f"{base}[{shape[number] if type(shape) is list else number!r}]")
        elif kind == k.COLUMNS:
            self._columns(path)
        elif kind in _SKIPPED:
            for _ in range(_SKIPPED[kind]):
                self._any()
            self._pairs((count - _SKIPPED[kind]) // 2, path, ".{}" if kind == k.NAMESPACE else "[{!r:.60}]")
        else:
            for number in range(count):
                if kind in (k.SET, k.FROZENSET):
                    self.walk(f"an element of {path}")
                elif kind == k.DEQUE:
                    self.walk(self._element(path, number - 1))
                else:
                    self.walk(self._element(path, number) if kind == k.TUPLE else path)

    def _columns(self, path: str) -> None:
        self._keys.append(self._any())
        self.walk(f"{path}[\0{len(self._keys) - 1}\0]")

    def _class(self) -> list[str]:
        read = self._read
        head = read.data[read.at]
        if head < 0x80 or head == 0xD2:
            return self._classes[self._any()]
        read.at += 1
        count = head & 0x0F if head < 0xA0 else read.number(2)
        read.at += 3
        names = [self._any() for _ in range(count - 1)][4:]
        self._classes.append(names)
        return names

    def _element(self, path: str, number: int) -> str:
        found = _ROW.search(path)
        if found is None:
            return f"{path}[{number}]"
        shown = f"{self._keys[int(found[1])][number]!r:.60}" if found[1] else str(number)
        return path[: found.start()] + shown + path[found.end() :]
