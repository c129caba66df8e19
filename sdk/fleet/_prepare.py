"""From a function and its arguments to what is sent: the registered version, and packed arguments.

In the wasm lane a function has one version, in the jax lane one for each signature of a call: it is traced here, in the
thread that calls (with asyncio in a thread of its own: tracing takes 0.1 s and more).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fleet._inputs import Row
from fleet._params import need_jax

if TYPE_CHECKING:
    from fleet._client import Client
    from fleet._function import Function
    from fleet._jax.program import Programs, Traced
    from fleet._jax.rows import Rows
    from fleet._register import Bound
    from fleet.protocol.messages import JaxProgram

_BOUND_MAX = 256


def programs_of(function: Function[Any, Any]) -> Programs:
    """The programs of a jax function; DeployError where jax isn't installed."""
    if not function.traced:
        need_jax(f'{function.display_name} has runtime="jax"')
    from fleet._jax import program

    return program.programs_of(function)


def jax_program(bound: Bound) -> JaxProgram | None:
    """What is known of a version's program, if it is one of the jax lane."""
    if bound.manifest is not None:
        return bound.manifest.program.jax
    return getattr(bound.pickler, "program", None)


class Packer:
    """Packs calls of one function for one client, and finds the version that each needs. For one thread at a time."""

    def __init__(self, client: Client, function: Function[Any, Any]) -> None:
        self._client = client
        self._function = function
        self._fixed: Bound | None = None
        self._programs: Programs | None = None
        self._x64 = False
        self._rows: Rows | None = None
        if function.options.runtime == "jax":
            self._programs = programs_of(function)
            self._x64 = self._programs.x64()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bound, bytes]:
        """The version that is registered for these arguments, and the arguments packed."""
        return self._row(args) if type(args) is Row else self._whole(args, kwargs)

    def _whole(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bound, bytes]:
        programs = self._programs
        if programs is None:
            bound = self.bound()
            return bound, bound.pickler.dumps(args, kwargs)
        call = programs.analyse(args, kwargs, self._x64)
        traced = programs.known(call) or programs.trace(call)
        return self._bound_of(traced), traced.pack(call)

    def _row(self, args: Row) -> tuple[Bound, bytes]:
        """An item that is a row: on the wire without its leading dimension, and so is its result."""
        key = tuple((array.shape, array.dtype) for array in args)
        if self._rows is None or self._rows.key != key:
            bound, _ = self._whole(args, {})  # Checks it as it checks any call.
            from fleet._jax.rows import Rows

            program = jax_program(bound)
            assert program is not None, bound
            self._rows = Rows(key, bound, program, self._function.display_name)
        return self._rows.bound, self._rows.pack(args)

    def rows(self, iterables: tuple[Any, ...]) -> Iterator[Row] | None:
        """The rows of arrays as items of their own, where cars join them; None: items are what the iterables give."""
        if not self.batch_size:
            return None
        from fleet._jax.rows import rows_of

        return rows_of(iterables)

    @property
    def batch_size(self) -> int:
        """Rows that a car runs as one; 0: calls run by themselves."""
        program = jax_program(self._fixed) if self._fixed is not None else None
        batch = program.batch if program is not None else None
        if batch is not None:
            return batch.max_size
        return self._function.options.batch.max_size if self._function.options.batch is not None else 0

    def bound(self) -> Bound:
        """The version of a function of the other lane, or of one found by name."""
        assert self._programs is None, self._function
        if self._fixed is None:
            self._fixed = self._client.bound(self._function)
        return self._fixed

    async def aio(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bound, bytes]:
        """The same without blocking the caller's loop."""
        programs = self._programs
        if programs is None:
            bound = await self.bound_aio()
            return bound, bound.pickler.dumps(args, kwargs)
        call = programs.analyse(args, kwargs, self._x64)
        traced = programs.known(call)
        if traced is None:
            traced = await asyncio.to_thread(programs.trace, call)
        at_hand = self._at_hand(traced)
        if at_hand is None:
            at_hand = await asyncio.to_thread(self._bound_of, traced)
        return at_hand, traced.pack(call)

    async def bound_aio(self) -> Bound:
        """As ``bound``."""
        if self._fixed is None:
            self._fixed = await self._client.bound_aio(self._function)
        return self._fixed

    def begin(self) -> None:
        """Before the first of many calls: have what can be wrong without arguments be raised right here."""
        if self._programs is None:
            self.bound()

    async def begin_aio(self) -> None:
        """The same for asyncio."""
        if self._programs is None:
            await self.bound_aio()

    def _at_hand(self, traced: Traced) -> Bound | None:
        found: Bound | None = self._function.__dict__.get("_bounds", {}).get(traced.key)
        return found if found is not None and found.client is self._client else None

    def _bound_of(self, traced: Traced) -> Bound:
        """The version of one program, registered when this client sees it for the first time."""
        found = self._at_hand(traced)
        if found is not None:
            return found
        from fleet._register import bind_traced

        with traced.registering:
            found = self._at_hand(traced)
            if found is None:
                found = bind_traced(self._client, self._function, traced)
                self._client.register(found)
                bounds = self._function.__dict__.setdefault("_bounds", {})
                if len(bounds) >= _BOUND_MAX:
                    bounds.clear()
                bounds[traced.key] = found
        return found


def prepare(
    client: Client, function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Bound, bytes]:
    """One call: the version that is registered for it, and its arguments packed."""
    return Packer(client, function)(args, kwargs)


async def prepare_aio(
    client: Client, function: Function[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Bound, bytes]:
    """The same without blocking the caller's loop."""
    return await Packer(client, function).aio(args, kwargs)
