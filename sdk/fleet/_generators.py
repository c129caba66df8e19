"""Generator functions: ``f.remote_gen``, and what they are when they run right here.

Standard library only: the wasm guest imports this too.
"""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from fleet import _context
from fleet.protocol.errors import InvalidOption

if TYPE_CHECKING:
    from fleet._function import Function
    from fleet._stream import AsyncStream, Stream

P = ParamSpec("P")
Y = TypeVar("Y")
Y_co = TypeVar("Y_co", covariant=True)
S = TypeVar("S")
R = TypeVar("R")


def is_generator(raw: object) -> bool:
    """Whether calling ``raw`` makes a generator, with or without ``async``."""
    return inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)


def may_yield(raw: Any) -> bool:
    """The same, also when decorated with something that says what it wraps. The car has the last word."""
    return is_generator(raw) or is_generator(inspect.unwrap(raw))


def check_single(function: Function[Any, Any]) -> None:
    """InvalidOption for a generator function where one value is wanted."""
    if function.yields:
        raise InvalidOption(
            f"{function.display_name} is a generator function, it has no single result",
            hint="iterate what it yields with .remote_gen()",
        )


def check_yields(function: Function[Any, Any]) -> None:
    """InvalidOption for a function that is known not to yield. One found by name shows it when it runs."""
    if function._raw is not None and not function.yields and not may_yield(function._raw):
        raise InvalidOption(
            f"{function.display_name} is not a generator function, it yields nothing",
            hint="call it with .remote(), or let it yield",
        )


class RemoteGen(Generic[P, Y_co]):
    """``f.remote_gen``."""

    __slots__ = ("_function",)

    def __init__(self, function: Function[P, Any]) -> None:
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Stream[Y_co]:
        """Start it on a car and iterate what it yields, as it yields. Leaving early cancels it.

        It runs at most 1,024 items or 4 MiB ahead. When its car leaves it goes on elsewhere: it is run again, and what
        was delivered is dropped, or it continues from ``fleet.current().checkpoint``.
        """
        return cast("Stream[Y_co]", _streams().remote_gen(self._function, args, kwargs))

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[Y_co]:
        """The same as an async iterator; it starts with the first item that is asked for."""
        return cast("AsyncStream[Y_co]", _streams().remote_gen_aio(self._function, args, kwargs))


def _streams() -> Any:
    from fleet._verbs import _calls

    _calls()
    from fleet import _stream

    return _stream


class RemoteGenOf:
    """The attribute ``remote_gen`` of a Function, typed by what its function yields."""

    @overload
    def __get__(self, instance: Function[P, Generator[Y, S, R]], owner: Any) -> RemoteGen[P, Y]: ...
    @overload
    def __get__(self, instance: Function[P, Iterator[Y]], owner: Any) -> RemoteGen[P, Y]: ...
    @overload
    def __get__(self, instance: Function[P, Iterable[Y]], owner: Any) -> RemoteGen[P, Y]: ...
    @overload
    def __get__(self, instance: Function[P, AsyncGenerator[Y, S]], owner: Any) -> RemoteGen[P, Y]: ...
    @overload
    def __get__(self, instance: Function[P, AsyncIterator[Y]], owner: Any) -> RemoteGen[P, Y]: ...
    @overload
    def __get__(self, instance: Function[P, AsyncIterable[Y]], owner: Any) -> RemoteGen[P, Y]: ...
    @overload
    def __get__(self, instance: None, owner: Any) -> RemoteGenOf: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else RemoteGen(instance)


# --- right here -------------------------------------------------------------------------------------------------------


def in_local_call(value: Any) -> Any:
    """A generator made by a local call, with a call of its own for ``fleet.current()``."""
    return _Local(value) if isinstance(value, Generator) else _LocalAsync(value)


class _Local(Generator[Any, Any, Any]):
    """Each step of the generator sees the same local call, whatever the caller does in between."""

    def __init__(self, generator: Generator[Any, Any, Any]) -> None:
        self._generator = generator
        self._backend = _context.LocalBackend()

    def _step(self, work: Callable[..., Any], *args: Any) -> Any:
        token = _context.enter_local(self._backend)
        try:
            return work(*args)
        finally:
            _context.leave_local(token)

    def send(self, value: Any) -> Any:
        return self._step(self._generator.send, value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        error = kind if value is None else value
        return self._step(self._generator.throw, error)

    def close(self) -> None:
        self._step(self._generator.close)


class _LocalAsync(AsyncGenerator[Any, Any]):
    """The same for an async generator."""

    def __init__(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generator = generator
        self._backend = _context.LocalBackend()

    async def _step(self, work: Callable[..., Any], *args: Any) -> Any:
        token = _context.enter_local(self._backend)
        try:
            return await work(*args)
        finally:
            _context.leave_local(token)

    async def asend(self, value: Any) -> Any:
        return await self._step(self._generator.asend, value)

    async def athrow(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        error = kind if value is None else value
        return await self._step(self._generator.athrow, error)

    async def aclose(self) -> None:
        await self._step(self._generator.aclose)
