"""What ``map`` is given: checked before anything is sent, and turned into one tuple of arguments after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from fleet.protocol.limits import CHUNK_ITEMS_MAX


def argument_tuples(iterables: tuple[Any, ...], star: bool) -> Iterator[tuple[Any, ...]]:
    """The positional arguments of each item."""
    if star:
        (tuples,) = iterables
        return (tuple(one) for one in tuples)
    return zip(*iterables)


class Row(tuple[Any, ...]):
    """The arguments of an item that is one row of arrays: each with a leading dimension of 1."""

    __slots__ = ()


class FromAsync:
    """An async iterable read from another thread, through the loop that it belongs to."""

    def __init__(self, source: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._next = source.__aiter__().__anext__
        self._loop = loop

    def __iter__(self) -> FromAsync:
        return self

    def __next__(self) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(self._pull(), self._loop).result()
        except StopAsyncIteration:
            raise StopIteration from None

    async def _pull(self) -> Any:
        return await self._next()


def checked_chunksize(chunksize: int | None) -> int | None:
    """``chunksize`` if it is allowed; ValueError otherwise."""
    if chunksize is not None and not 1 <= chunksize <= CHUNK_ITEMS_MAX:
        raise ValueError(f"chunksize={chunksize!r} is out of range: allowed is 1 to {CHUNK_ITEMS_MAX}, or None")
    return chunksize


def checked_iterables(iterables: tuple[Any, ...], star: bool) -> tuple[Any, ...]:
    """The inputs; TypeError when there are none, or when one can't be iterated."""
    if not iterables:
        raise TypeError("map needs at least one iterable")
    if star and len(iterables) != 1:
        raise TypeError("starmap takes one iterable of argument tuples")
    return tuple(iter(one) for one in iterables)
