"""What a function can be asked to do on a car: ``remote``, ``spawn``, ``map`` and their kin, typed.

Standard library only, and light: the wasm guest imports this too.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from fleet.protocol.errors import FleetUnavailable

if TYPE_CHECKING:
    from fleet._call import Call
    from fleet._function import Function
    from fleet._group import CallGroup

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


def _calls() -> Any:
    """The part that talks to the platform; FleetUnavailable inside a sandbox, which has no network."""
    if sys.platform == "wasi":
        raise FleetUnavailable(
            "a function that runs on a car can't call others remotely yet",
            hint="call it directly: it then runs in this sandbox",
        )
    from fleet import _call

    return _call


class _Verb:
    """Base of ``f.remote`` and its siblings: each is called, and has its asyncio twin as ``.aio``."""

    __slots__ = ("_function",)

    def __init__(self, function: Function[..., Any]) -> None:
        self._function = function


class Remote(_Verb, Generic[P, R_co]):
    """``f.remote``."""

    __slots__ = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run on a car and wait: the function's value, or what it raised. Ctrl-C cancels the call."""
        return cast(R_co, _calls().remote(self._function, args, kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The same for asyncio; cancelling the awaiting task cancels the call."""
        return cast(R_co, await _calls().remote_aio(self._function, args, kwargs))


class Spawn(_Verb, Generic[P, R_co]):
    """``f.spawn``."""

    __slots__ = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """Hand the call over and return at once."""
        return cast("Call[R_co]", _calls().spawn(self._function, args, kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """The same for asyncio."""
        return cast("Call[R_co]", await _calls().spawn_aio(self._function, args, kwargs))


class Map(_Verb, Generic[R_co]):
    """``f.map`` (``star`` unset) and ``f.starmap``."""

    __slots__ = ("_star",)

    def __init__(self, function: Function[..., Any], star: bool) -> None:
        super().__init__(function)
        self._star = star

    @overload
    def __call__(
        self,
        *iterables: Iterable[Any],
        order_outputs: bool = True,
        return_exceptions: Literal[False] = False,
        chunksize: int | None = None,
    ) -> Iterator[R_co]: ...
    @overload
    def __call__(
        self,
        *iterables: Iterable[Any],
        order_outputs: bool = True,
        return_exceptions: bool,
        chunksize: int | None = None,
    ) -> Iterator[R_co | Exception]: ...
    def __call__(
        self,
        *iterables: Iterable[Any],
        order_outputs: bool = True,
        return_exceptions: bool = False,
        chunksize: int | None = None,
    ) -> Iterator[Any]:
        """Iterate results over inputs that are read as they are needed; leaving early cancels the rest.

        ``order_outputs=False`` yields what is ready first; ``return_exceptions`` yields errors instead of raising;
        ``chunksize`` items share one call (None: tunes itself).
        """
        calls = _calls().map_calls
        return cast(
            "Iterator[Any]",
            calls(self._function, iterables, self._star, order_outputs, return_exceptions, chunksize),
        )

    @overload
    def aio(
        self,
        *iterables: Any,
        order_outputs: bool = True,
        return_exceptions: Literal[False] = False,
        chunksize: int | None = None,
    ) -> AsyncIterator[R_co]: ...
    @overload
    def aio(
        self,
        *iterables: Any,
        order_outputs: bool = True,
        return_exceptions: bool,
        chunksize: int | None = None,
    ) -> AsyncIterator[R_co | Exception]: ...
    def aio(
        self,
        *iterables: Any,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        chunksize: int | None = None,
    ) -> AsyncIterator[Any]:
        """The same as an async iterator; takes async iterables as well."""
        calls = _calls().map_calls_aio
        return cast(
            "AsyncIterator[Any]",
            calls(self._function, iterables, self._star, order_outputs, return_exceptions, chunksize),
        )


class ForEach(_Verb):
    """``f.for_each``."""

    __slots__ = ()

    def __call__(
        self, *iterables: Iterable[Any], ignore_exceptions: bool = False, chunksize: int | None = None
    ) -> None:
        """Run for every input, wait for all, drop the results; the first error is raised unless ignored."""
        _calls().for_each(self._function, iterables, ignore_exceptions, chunksize)

    async def aio(self, *iterables: Any, ignore_exceptions: bool = False, chunksize: int | None = None) -> None:
        """The same for asyncio."""
        await _calls().for_each_aio(self._function, iterables, ignore_exceptions, chunksize)


class SpawnMap(_Verb, Generic[R_co]):
    """``f.spawn_map``."""

    __slots__ = ()

    def __call__(self, *iterables: Iterable[Any], chunksize: int | None = None) -> CallGroup[R_co]:
        """Hand over every input; returns once all are accepted. ``CallGroup.from_id`` finds it again from anywhere."""
        return cast("CallGroup[R_co]", _calls().spawn_map(self._function, iterables, chunksize))

    async def aio(self, *iterables: Iterable[Any], chunksize: int | None = None) -> CallGroup[R_co]:
        """The same for asyncio."""
        return cast("CallGroup[R_co]", await _calls().spawn_map_aio(self._function, iterables, chunksize))
