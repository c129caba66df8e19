"""Run a generator: tell every item as it is yielded, stop while the caller is too far behind.

A call that goes on elsewhere runs its generator again from the beginning; the items that are stored already are dropped
here, unencoded. Where the function saves checkpoints and asks for them with ``resume``, what it yields from then on are the
items behind the checkpoint: how many were yielded before it travels in front of the saved state.
"""

from __future__ import annotations

import asyncio
import struct
import time
import types
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from fleet._event import Emit, emits_of
from fleet.protocol import codec
from fleet.protocol.errors import InvalidOption
from fleet.protocol.window import StreamWindow

from . import wire
from .output import Output

if TYPE_CHECKING:
    from .jobs import Call

GENERATORS = (types.GeneratorType, types.AsyncGeneratorType)
MAY_EMIT = frozenset((Emit, list, tuple))
_VALUE = b"\0"
_MARK = struct.Struct("<Q")


class Yields:
    """What one run of a generator has yielded. ``skip`` items are stored, ``consumed`` of them taken by the caller."""

    def __init__(self, call: Call, output: Output, skip: int, consumed: int) -> None:
        self._call = call
        self._output = output
        self._skip = skip
        self._window = StreamWindow(skip, consumed)
        self._count = 0
        """Items yielded so far, those of earlier runs included."""

    def mark(self, state: bytes) -> bytes:
        """``state`` with the number of items before it."""
        return _MARK.pack(self._count) + state

    def resume(self, saved: bytes | None) -> bytes | None:
        """The function asks for its checkpoint: what it yields next is the item behind it."""
        if saved is None or len(saved) < _MARK.size:
            return None
        (marked,) = _MARK.unpack_from(saved)
        if marked > max(self._skip, self._count):
            return None  # Items before it were lost with their car: rather begin from the beginning than leave a gap.
        self._count = max(self._count, marked)
        return saved[_MARK.size :]

    def emit(self, value: Any) -> None:
        """Tell one item, unless it is stored already; wait while the caller is too far behind."""
        number = self._count
        self._count = number + 1
        if number < self._skip:
            return
        if type(value) in MAY_EMIT and emits_of(value):
            raise InvalidOption(
                "a generator yields fleet.emit(...), but only what a function returns is published",
                hint="return the events from a function of their own, or yield plain values",
            )
        data = codec.encode(value, f"yield {number}", _VALUE)
        window = self._window
        if window.full:  # As an earlier run left it.
            self._wait()
        wire.tell(wire.ITEM, 0, data)
        window.add((len(data),))
        if window.full:
            self._wait()

    def _wait(self) -> None:
        window = self._window
        self._output.flush()
        began_s = time.monotonic()
        while window.full:
            window.consume(window.consumed + wire.tell(wire.CREDIT, 0))
        self._call.started_monotonic_s += time.monotonic() - began_s  # Waiting isn't running: the deadline moves along.


def drain(value: Any, yields: Yields) -> None:
    """Tell everything that ``value`` yields; raises what it raises."""
    if isinstance(value, Iterator):
        try:
            for item in value:
                yields.emit(item)
        finally:
            _close(value)
    elif isinstance(value, AsyncIterator):
        asyncio.run(_drain_async(value, yields))
    else:
        raise TypeError(f"remote_gen() is for generator functions, this one returned {type(value).__name__}")


async def _drain_async(value: AsyncIterator[Any], yields: Yields) -> None:
    try:
        async for item in value:
            yields.emit(item)
    finally:
        close = getattr(value, "aclose", None)
        if close is not None:
            await close()


def _close(value: Any) -> None:
    """Let its ``finally`` run now, where one of our own errors ended it."""
    close = getattr(value, "close", None)
    if close is not None:
        close()


def refuse_single(value: Any) -> NoReturn:
    """A generator function was called for one value."""
    _close(value)
    raise TypeError("this is a generator function: iterate what it yields with .remote_gen()")
