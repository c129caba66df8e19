"""Items of a map that are rows of arrays, packed fast: what is true of the first one is true of all. numpy alone, no jax.

A row travels without its leading dimension, and its result comes back without: ``np.stack(list(f.map(x)))`` is ``f(x)``. The
car joins rows into batches. Errors: WrongArguments for a function whose arguments aren't just arrays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet._inputs import Row
from fleet._jax import dtypes
from fleet._jax.encoding import encoded
from fleet._packed import packed
from fleet.protocol.errors import WrongArguments

if TYPE_CHECKING:
    from fleet._register import Bound
    from fleet.protocol.messages import JaxProgram


def rows_of(iterables: tuple[Any, ...]) -> Iterator[Row] | None:
    """One item for each row, if all of these are arrays; else None."""
    if not all(hasattr(one, "__array__") and getattr(one, "ndim", 0) for one in iterables):
        return None
    arrays = [np.asarray(one) for one in iterables]
    return (Row([array[at : at + 1] for array in arrays]) for at in range(min(map(len, arrays))))


class Rows:
    """Packs rows of the shapes and dtypes that ``key`` tells, for the version ``bound`` that was found for one of them."""

    def __init__(self, key: object, bound: Bound, program: JaxProgram, name: str) -> None:
        self.key = key
        self.bound = bound
        self._name = name
        trees = [row[1] for row in json.loads(program.arguments)]
        if trees != list(range(len(program.inputs))):
            raise WrongArguments(
                f"{name}: map over arrays gives their rows to a function of arrays alone",
                hint="map over tuples or dicts of arrays, each a batch of its own",
            )
        self._dtypes = [dtypes.dtype_of(one.dtype) for one in program.inputs]

    def pack(self, args: Row) -> bytes:
        """One row as the car takes it."""
        rows: list[Any] = [np.asarray(one[0], dtype) for one, dtype in zip(args, self._dtypes, strict=True)]
        return packed(encoded(rows, self._name), {})
