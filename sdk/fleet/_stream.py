"""``remote_gen``: iterate what a generator function yields on a car, as it yields.

Items arrive in parts, pushed as they are stored; parts that got lost on the way are asked for again. What was handed to the
caller is forgotten here, and the car is told how far the caller is: it stays at most a window ahead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from fleet._classes import ANY_OWN
from fleet._function import Function
from fleet._generators import check_yields
from fleet._loop import Waiter, wait_aio
from fleet._positions import StreamTicket
from fleet._results import Failure, decode_item
from fleet.protocol.limits import STREAM_WINDOW_BYTES, STREAM_WINDOW_ITEMS

if TYPE_CHECKING:
    from fleet._client import Client
    from fleet._register import Bound

Y_co = TypeVar("Y_co", covariant=True)

TELL_ITEMS = STREAM_WINDOW_ITEMS // 4
TELL_BYTES = STREAM_WINDOW_BYTES // 4
"""A caller that took so much says so at once: the car goes on before it would have to wait."""
_END = object()


class _Items:
    """Takes items off a ticket one by one, and tells how far it is."""

    def __init__(self, client: Client, ticket: StreamTicket, name: str) -> None:
        self.client = client
        self.ticket = ticket
        self.name = name
        self._classes = ticket.classes or ANY_OWN
        self._batch: Iterator[memoryview] = iter(())
        self._count = 0
        self._untold_bytes = 0
        self._told = 0
        self.over = False

    def take(self) -> Any:
        """The next item, _END where it isn't here yet, or StopIteration after the last; raises what the call ended with."""
        for data in self._batch:
            self._count += 1
            self._untold_bytes += len(data)
            if self._count - self._told >= TELL_ITEMS or self._untold_bytes >= TELL_BYTES:
                self._tell()
            value = decode_item(data, self._classes)
            if type(value) is Failure:
                raise value.error
            return value
        return _END

    def refill(self) -> bool:
        """Go on with the next part; False if there is none yet. StopIteration, or the call's error, after the last one."""
        batch = self.ticket.next_batch()
        if batch is not None:
            self._batch = iter(batch)
            return True
        if not self.ticket.done:
            return False
        self.over = True
        self.ticket.outcome()
        raise StopIteration

    def _tell(self) -> None:
        self._told = self.ticket.consumed = self._count
        self._untold_bytes = 0
        self.client.tell_position(self.ticket)

    def close(self) -> None:
        """Nobody wants more of it: end the call, unless it is over."""
        self.over = True
        self._batch = iter(())
        if not self.ticket.done:
            self.client.cancel_soon([self.ticket])


class Stream(Iterator[Y_co], Generic[Y_co]):
    """What ``f.remote_gen(...)`` returns. Leaving it early (``close``, garbage, an exception, Ctrl-C) cancels the call."""

    def __init__(self, items: _Items) -> None:
        self._items = items

    @property
    def id(self) -> str:
        """The call's id, for ``fleet.Call.from_id``, ``fleet explain`` and ``fleet logs``."""
        return self._items.ticket.call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Y_co:
        items = self._items
        if items.over:
            raise StopIteration
        try:
            while (value := items.take()) is _END:
                if not items.refill():
                    waiter = Waiter()
                    items.ticket.arm_next(waiter.set)
                    waiter.wait()
        except KeyboardInterrupt:
            items.over = True
            items.client.abandon([items.ticket], items.name)
            raise
        except StopIteration:
            raise
        except BaseException:
            items.close()
            raise
        return cast(Y_co, value)

    def close(self) -> None:
        """End it: the call is cancelled unless it is over, and nothing more comes."""
        self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._items.over:
            self._items.close()


class AsyncStream(AsyncIterator[Y_co], Generic[Y_co]):
    """What ``f.remote_gen.aio(...)`` returns; it starts with the first item asked for. Leaving it early cancels the call."""

    def __init__(self, function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = (function, args, kwargs)
        self._items: _Items | None = None
        self._closed = False

    @property
    def id(self) -> str | None:
        """The call's id; None before the first item was asked for."""
        return None if self._items is None else self._items.ticket.call

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Y_co:
        if self._closed or (self._items is not None and self._items.over):
            raise StopAsyncIteration
        try:
            items = self._items or await self._start()
            while (value := items.take()) is _END:
                if not items.refill():
                    await wait_aio(items.ticket.arm_next)
        except StopIteration:
            raise StopAsyncIteration from None
        except BaseException:
            self._close()
            raise
        return cast(Y_co, value)

    async def _start(self) -> _Items:
        from fleet._call import _client_aio

        function, args, kwargs = self._call
        client = await _client_aio()
        bound = await client.bound_aio(function)
        self._items = _start(client, bound, args, kwargs)
        return self._items

    def _close(self) -> None:
        self._closed = True
        if self._items is not None and not self._items.over:
            self._items.close()

    async def aclose(self) -> None:
        """End it: the call is cancelled unless it is over, and nothing more comes."""
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def __del__(self) -> None:
        self._close()


def _start(client: Client, bound: Bound, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Items:
    ticket = client.ticket_of(bound, bound.pickler.dumps(args, kwargs), stream=True)
    assert isinstance(ticket, StreamTicket)
    client.submit(ticket)
    client.tell_position(ticket)
    return _Items(client, ticket, f"call {ticket.call} of {bound.app}.{bound.function}")


def remote_gen(function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Stream[Any]:
    """Start it on a car; what can be wrong before is raised right here."""
    from fleet._client import current

    check_yields(function)
    function.check_arguments(args, kwargs)
    client = current()
    return Stream(_start(client, client.bound(function), args, kwargs))


def remote_gen_aio(function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncStream[Any]:
    """The same for asyncio."""
    check_yields(function)
    function.check_arguments(args, kwargs)
    return AsyncStream(function, args, kwargs)
