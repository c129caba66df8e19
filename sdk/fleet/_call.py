"""Calls: running one, waiting for it, asking about it. The bridge from ``Function`` to the client."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from fleet._function import Function
from fleet._generators import check_single
from fleet._prepare import Packer, prepare, prepare_aio

if TYPE_CHECKING:
    from fleet._client import Client
    from fleet._group import CallGroup
    from fleet._ticket import Ticket
    from fleet.protocol.messages import CallState

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")

LOGS_LINES_MAX = 10_000
HANDED_OVER_S = 0.005


class BoundBoth(Generic[P, T]):
    """A method that blocks when called, with its asyncio twin as ``.aio``."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[P, Coroutine[Any, Any, T]]) -> None:
        self._work = work

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return _client().run(lambda: self._work(*args, **kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for asyncio."""
        return await (await _client_aio()).run_aio(lambda: self._work(*args, **kwargs))


class Both(Generic[S, P, T]):
    """Turns a coroutine method, which runs in the client's loop, into a ``BoundBoth``."""

    def __init__(self, work: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        functools.update_wrapper(cast(Any, self), work)

    @overload
    def __get__(self, instance: None, owner: type[S]) -> Both[S, P, T]: ...
    @overload
    def __get__(self, instance: S, owner: type[S]) -> BoundBoth[P, T]: ...
    def __get__(self, instance: S | None, owner: type[S]) -> Any:
        return self if instance is None else BoundBoth(functools.partial(self._work, instance))


class _Result(Generic[R_co]):
    """``call.result``."""

    __slots__ = ("_call",)

    def __init__(self, call: Call[R_co]) -> None:
        self._call = call

    def __call__(self, timeout: float | None = None) -> R_co:
        """The value, or what the function raised; TimeoutError if it isn't there within ``timeout`` seconds."""
        from fleet._loop import Waiter

        waiter = Waiter()
        ticket = self._call._followed()
        ticket.arm(waiter.set)
        if not waiter.wait(timeout):
            raise self._late(timeout)
        return cast(R_co, ticket.outcome())

    async def aio(self, timeout: float | None = None) -> R_co:
        """The same for asyncio."""
        from fleet._loop import wait_aio

        await _client_aio()
        ticket = self._call._followed()
        if not await wait_aio(ticket.arm, timeout):
            raise self._late(timeout)
        return cast(R_co, ticket.outcome())

    def _late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"call {self._call.id} has no result after {timeout:g} s; it goes on (see .explain())")


class Call(Generic[R_co]):
    """A call that was handed over. Found again from any process with ``fleet.Call.from_id(id)``."""

    def __init__(self, id: str, ticket: Ticket | None = None, client: Client | None = None) -> None:
        self.id = id
        self._ticket = ticket
        self._owner = client

    @classmethod
    def from_id(cls, id: str) -> Call[Any]:
        """The call with this id; asked about when it is first used (ResultExpired if nobody knows it)."""
        from fleet.protocol.ids import check_token

        return Call(check_token(id, "call id"))

    def _followed(self) -> Ticket:
        """The ticket in this process's client: another process's call, or one from before a fork, is watched."""
        from fleet._ticket import Ticket

        if self._ticket is not None and self._ticket.done:
            return self._ticket
        client = _client()
        if self._ticket is None or self._owner is not client:
            before, self._ticket = self._ticket, Ticket(self.id)
            self._ticket.classes = before.classes if before is not None else None
            self._owner = client
            client.watch(self._ticket)
        return self._ticket

    @property
    def result(self) -> _Result[R_co]:
        """``call.result(timeout=None)``: waits for the value, or raises what the function raised."""
        return _Result(self)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result.aio().__await__()

    async def _status(self) -> CallState:
        from fleet.protocol.errors import ResultExpired
        from fleet.protocol.messages import CallRequest, CallState, StatusReply
        from fleet.protocol.subjects import ApiVerb

        ticket = self._ticket
        if ticket is not None and ticket.done:
            return ticket.final.state if ticket.final is not None else CallState.FAILED
        if ticket is not None and not ticket.accepted:
            return CallState.QUEUED
        reply, _ = await _client().api.ask(ApiVerb.STATUS, CallRequest(calls=[self.id]), StatusReply)
        state = reply.calls[0].state if reply.calls else None
        if state is None:
            raise ResultExpired(f"call {self.id} is not known here")
        return state

    status = Both(_status)
    """``queued``, ``running``, ``succeeded``, ``failed``, ``cancelled`` or ``expired``; ResultExpired if unknown."""

    async def _cancel(self) -> bool:
        return self.id in await _client().cancel([self.id])

    cancel = Both(_cancel)
    """End it; True if this ended it, False if it had an outcome before."""

    async def _explain(self) -> str:
        from fleet.protocol.limits import REQUEST_S
        from fleet.protocol.messages import ExplainReply, ExplainRequest
        from fleet.protocol.subjects import ApiVerb

        ticket = self._ticket
        until_s = time.monotonic() + REQUEST_S
        while ticket is not None and not (ticket.accepted or ticket.done) and time.monotonic() < until_s:
            await asyncio.sleep(HANDED_OVER_S)  # the platform can't know it before
        if ticket is not None and ticket.error is not None and not ticket.accepted:
            raise ticket.error
        reply, _ = await _client().api.ask(ApiVerb.EXPLAIN, ExplainRequest(call=self.id), ExplainReply)
        return reply.sentence

    explain = Both(_explain)
    """Why it waits, in one sentence that names the blocking condition and how many cars pass each one.

    A call that was refused raises why.
    """

    async def _logs(self) -> list[str]:
        from fleet.protocol.messages import LogsReply, LogsRequest
        from fleet.protocol.subjects import ApiVerb

        request = LogsRequest(call=self.id, limit=LOGS_LINES_MAX)
        reply, _ = await _client().api.ask(ApiVerb.LOGS, request, LogsReply)
        return [text for entry in reply.entries for _, _, text in entry.lines]

    logs = Both(_logs)
    """The lines that it printed, oldest first."""

    def __repr__(self) -> str:
        return f"<fleet.Call {self.id}>"


def _client() -> Client:
    from fleet._client import current

    return current()


async def _client_aio() -> Client:
    """The client without blocking the caller's loop while it connects."""
    from fleet import _client as module

    client = module._default
    if client is not None and not client.closed:
        return client
    return await asyncio.to_thread(module.current)


def remote(function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run on a car and wait."""
    from fleet._loop import Waiter

    check_single(function)
    function.check_arguments(args, kwargs)
    client = _client()
    bound, payload = prepare(client, function, args, kwargs)
    ticket = client.ticket_of(bound, payload)
    waiter = Waiter()
    ticket.arm(waiter.set)
    try:
        client.submit(ticket)
        waiter.wait()
    except KeyboardInterrupt:
        client.abandon([ticket], f"call {ticket.call} of {bound.app}.{bound.function}")
        raise
    return ticket.outcome()


async def remote_aio(function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same for asyncio; cancelling the awaiting task cancels the call."""
    from fleet._loop import wait_aio

    check_single(function)
    function.check_arguments(args, kwargs)
    client = await _client_aio()
    bound, payload = await prepare_aio(client, function, args, kwargs)
    ticket = client.ticket_of(bound, payload)
    client.submit(ticket)
    try:
        await wait_aio(ticket.arm)
    except asyncio.CancelledError:
        client.cancel_soon([ticket])
        raise
    return ticket.outcome()


def spawn(function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
    """Hand over and return at once."""
    check_single(function)
    function.check_arguments(args, kwargs)
    client = _client()
    bound, payload = prepare(client, function, args, kwargs)
    ticket = client.ticket_of(bound, payload)
    client.submit_spawned(ticket)
    return Call(ticket.call, ticket, client)


async def spawn_aio(function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
    """The same for asyncio."""
    check_single(function)
    function.check_arguments(args, kwargs)
    client = await _client_aio()
    bound, payload = await prepare_aio(client, function, args, kwargs)
    ticket = client.ticket_of(bound, payload)
    if client.has_room():
        client.submit_spawned(ticket)
    else:
        await asyncio.to_thread(client.submit_spawned, ticket)
    return Call(ticket.call, ticket, client)


def map_calls(
    function: Function[Any, Any],
    iterables: tuple[Any, ...],
    star: bool,
    order_outputs: bool,
    return_exceptions: bool,
    chunksize: int | None,
) -> Iterator[Any]:
    """``f.map`` and ``f.starmap``: what can be wrong before the first input is raised right here."""
    from fleet import _inputs, _map

    check_single(function)
    chunksize = _inputs.checked_chunksize(chunksize)
    inputs = _inputs.argument_tuples(_inputs.checked_iterables(iterables, star), star)
    client = _client()
    packer = Packer(client, function)
    packer.begin()
    rows = None if star else packer.rows(iterables)
    run = _map.MapRun(client, packer, function, rows or inputs, chunksize, packer.batch_size if rows else 1)
    return _map.run_map(run, order_outputs, return_exceptions)


async def map_calls_aio(
    function: Function[Any, Any],
    iterables: tuple[Any, ...],
    star: bool,
    order_outputs: bool,
    return_exceptions: bool,
    chunksize: int | None,
) -> AsyncIterator[Any]:
    """The same for asyncio."""
    from fleet import _inputs, _map

    check_single(function)
    chunksize = _inputs.checked_chunksize(chunksize)
    loop = asyncio.get_running_loop()
    sources = tuple(_inputs.FromAsync(one, loop) if hasattr(one, "__aiter__") else one for one in iterables)
    inputs = _inputs.argument_tuples(_inputs.checked_iterables(sources, star), star)
    client = await _client_aio()
    packer = Packer(client, function)
    await packer.begin_aio()
    rows = None if star else packer.rows(iterables)
    run = _map.MapRun(client, packer, function, rows or inputs, chunksize, packer.batch_size if rows else 1)
    async for value in _map.run_map_aio(run, order_outputs, return_exceptions):
        yield value


def for_each(
    function: Function[Any, Any], iterables: tuple[Any, ...], ignore_exceptions: bool, chunksize: int | None
) -> None:
    """Run for every input, drop the results."""
    for _ in map_calls(function, iterables, False, False, ignore_exceptions, chunksize):
        pass


async def for_each_aio(
    function: Function[Any, Any], iterables: tuple[Any, ...], ignore_exceptions: bool, chunksize: int | None
) -> None:
    """The same for asyncio."""
    async for _ in map_calls_aio(function, iterables, False, False, ignore_exceptions, chunksize):
        pass


def spawn_map(function: Function[Any, Any], iterables: tuple[Any, ...], chunksize: int | None) -> CallGroup[Any]:
    """Hand over every input."""
    from fleet import _group

    check_single(function)
    return _group.spawn_map(_client(), function, iterables, chunksize)


async def spawn_map_aio(
    function: Function[Any, Any], iterables: tuple[Any, ...], chunksize: int | None
) -> CallGroup[Any]:
    """The same for asyncio."""
    from fleet import _group

    check_single(function)
    return await asyncio.to_thread(_group.spawn_map, await _client_aio(), function, iterables, chunksize)
