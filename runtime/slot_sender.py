"""Frames to a slot, in their order, some with a descriptor: what its pipe doesn't take at once waits here. Never blocks."""

from __future__ import annotations

import array
import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from runtime.slot_wire import Bytes

_BUFFERS_AT_ONCE = 16


class Descriptor(Protocol):
    """An open file. It is kept until the slot has a descriptor of its own."""

    def fileno(self) -> int: ...


class FrameSender:
    """The agent's sending end. ``connection`` doesn't block; errors of it are left to whoever reads from it."""

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = connection
        self._loop = loop
        self._unsent: deque[tuple[memoryview, Descriptor | None]] = deque()
        """Buffers, each with the descriptor that travels with its first byte."""

    def send(self, buffers: Sequence[Bytes], file: Descriptor | None = None) -> None:
        """Send a frame behind those sent before, and a descriptor of ``file`` with it."""
        if self._unsent:
            self._queue(buffers, file)
            return
        try:
            count = self._socket.sendmsg(buffers, _rights(file)) if file is not None else self._socket.sendmsg(buffers)
        except BlockingIOError:
            count = 0
        except OSError:
            return  # The slot is gone: the pidfd tells in a moment.
        if count < sum(map(len, buffers)):
            self._queue(buffers, file)
            self._sent(count)
            self._loop.add_writer(self._socket.fileno(), self._on_writable)

    def clear(self) -> None:
        """Forget what wasn't sent."""
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._socket.fileno())

    def _queue(self, buffers: Sequence[Bytes], file: Descriptor | None) -> None:
        for part in buffers:
            if len(part):
                self._unsent.append((memoryview(part).cast("B"), file))
                file = None

    def _sent(self, count: int) -> None:
        unsent = self._unsent
        while unsent and count >= len(unsent[0][0]):
            count -= len(unsent.popleft()[0])
        if count:
            unsent[0] = (unsent[0][0][count:], None)

    def _on_writable(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                file = unsent[0][1]
                buffers = [unsent[0][0]]
                for number in range(1, min(len(unsent), _BUFFERS_AT_ONCE)):
                    view, next_file = unsent[number]
                    if next_file is not None:
                        break  # A descriptor travels with the first byte of what is sent.
                    buffers.append(view)
                self._sent(self._socket.sendmsg(buffers, _rights(file)))
        except BlockingIOError:
            return
        except OSError:
            unsent.clear()
        self._loop.remove_writer(self._socket.fileno())


def _rights(file: Descriptor | None) -> list[tuple[int, int, array.array[int]]]:
    return [] if file is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))]
