"""Many small calls of a program as one: joined along the leading dimension, padded to few sizes, split again. Numpy alone.

An input takes part if its leading dimension is the batch's; any other one (a scalar, a table) has to be the same in all
calls of a run. A call may bring whole arrays (any number of rows), or one row: arrays of one dimension less, and so are its
results then. Rows are added by repeating the last one, up to a power of two or to ``max_size``: a program is compiled for few
sizes. A call of more rows than ``max_size`` runs alone, as it is.

That rows don't influence each other is the promise of whoever writes ``batch=``. Whatever a joined run raises is tried again
in smaller runs, down to single calls: one caller's error is nobody else's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from runtime.sandbox.jax_program import Array, Description

_COMPARED_BYTES = 4096
"""Inputs that all calls share are compared by digest from this size on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How calls of a program are joined."""

    rows_max: int
    joined: tuple[bool, ...]
    """Of each input, whether its rows are joined."""
    dimensions: tuple[int, ...]
    """How many dimensions each input has."""


def plan_of(description: Description, rows_max: int) -> Plan | None:
    """The plan for a program; None where calls can't be joined: they run one by one then.

    The head says whether (``"batch": true``). The first name that leads an input is the dimension; it has to lead every
    output, and to appear nowhere else.
    """
    led = [spec.shape[0] for spec in description.inputs if spec.shape and isinstance(spec.shape[0], str)]
    name = led[0] if led and description.head.get("batch") is True else None
    if not isinstance(name, str) or not name.isidentifier() or _keeps(description.result):
        return None
    joined = tuple(spec.shape[:1] == (name,) for spec in description.inputs)
    leads = [spec.shape[:1] == (name,) for spec in description.outputs]
    specs = (*description.inputs, *description.outputs)
    inside = [size for spec in specs for size in (spec.shape[1:] if spec.shape[:1] == (name,) else spec.shape)]
    if not any(joined) or not all(leads) or any(isinstance(size, str) and _names(size, name) for size in inside):
        return None
    return Plan(rows_max, joined, tuple(len(spec.shape) for spec in description.inputs))


def _names(size: str, name: str) -> bool:
    """Whether an expression has ``name`` in it; other names may contain it."""
    words = "".join(one if one.isalnum() or one == "_" else " " for one in size).split()
    return name in words


def _keeps(tree: Any) -> bool:
    if not isinstance(tree, dict):
        return False
    ((kind, inside),) = tree.items()
    if kind == "keep":
        return True
    return any(map(_keeps, (value for _, value in inside) if kind == "dict" else inside))


class Part(NamedTuple):
    """The arrays of one call, as the program takes them."""

    inputs: list[Array]
    rows: int
    single: bool
    """It brought one row without the leading dimension."""


def part_of(plan: Plan, arrays: list[Array]) -> Part:
    """A call's arrays; those of a single row get their leading dimension. They aren't checked here."""
    single = len(arrays) == len(plan.joined) and all(
        array.ndim == dimensions - 1
        for array, dimensions, joined in zip(arrays, plan.dimensions, plan.joined, strict=True)
        if joined
    )
    if single:
        arrays = [array[None] if joined else array for array, joined in zip(arrays, plan.joined, strict=True)]
    rows = next(
        (array.shape[0] for array, joined in zip(arrays, plan.joined, strict=False) if joined and array.ndim), 0
    )
    return Part(arrays, rows, single)


Run = Callable[[list[Array]], list[Array]]
Ended = list[Array] | Exception
"""The outputs of one call, or why there are none."""


def run(plan: Plan, parts: Sequence[Part], call: Run, own: tuple[type[Exception], ...]) -> list[Ended]:
    """Run ``parts`` in as few calls as can be. Exceptions of the kinds ``own`` are results of the calls they belong to."""
    ended: dict[int, Ended] = {}
    for numbers in _groups(plan, parts):
        _run(plan, [parts[number] for number in numbers], numbers, call, own, ended)
    return [ended[number] for number in range(len(parts))]


def _groups(plan: Plan, parts: Sequence[Part]) -> list[list[int]]:
    """Numbers of the parts that run together."""
    open_groups: dict[tuple[object, ...], tuple[list[int], int]] = {}
    groups: list[list[int]] = []
    for number, part in enumerate(parts):
        key = tuple(
            array.shape[1:] if joined else _same(array) for array, joined in zip(part.inputs, plan.joined, strict=True)
        )
        group, rows = open_groups.get(key, ([], 0))
        if not group or rows + part.rows > plan.rows_max:
            group, rows = [], 0
            groups.append(group)
        group.append(number)
        open_groups[key] = (group, rows + part.rows)
    return groups


def _same(array: Array) -> object:
    data = array.tobytes()
    return array.shape, data if len(data) <= _COMPARED_BYTES else hashlib.sha256(data).digest()


def _run(
    plan: Plan,
    parts: list[Part],
    numbers: list[int],
    call: Run,
    own: tuple[type[Exception], ...],
    ended: dict[int, Ended],
) -> None:
    try:
        outputs = call(_join(plan, parts))
    except own as error:
        if len(parts) == 1:
            ended[numbers[0]] = error
            return
        # Halves while memory is what lacks; else one by one, for nobody knows whose rows it was.
        size = (len(parts) + 1) // 2 if isinstance(error, MemoryError) else 1
        for at in range(0, len(parts), size):
            _run(plan, parts[at : at + size], numbers[at : at + size], call, own, ended)
        return
    first = 0
    for number, part in zip(numbers, parts, strict=True):
        last = first + part.rows
        ended[number] = [one[first, ...] if part.single else one[first:last] for one in outputs]
        first = last


def _join(plan: Plan, parts: list[Part]) -> list[Array]:
    """The inputs of one run, with rows added."""
    rows = sum(part.rows for part in parts)
    wanted = bucket(rows, plan.rows_max)
    inputs = []
    for number, joined in enumerate(plan.joined):
        first = parts[0].inputs[number]
        if not joined or (len(parts) == 1 and wanted == rows):
            inputs.append(first)
            continue
        whole = np.empty((wanted, *first.shape[1:]), first.dtype)
        if len(parts) == rows:
            np.concatenate([part.inputs[number] for part in parts], out=whole[:rows])
        else:
            at = 0
            for part in parts:
                whole[at : at + part.rows] = part.inputs[number]
                at += part.rows
        whole[rows:] = whole[rows - 1 : rows]
        inputs.append(whole)
    return inputs


def bucket(rows: int, rows_max: int) -> int:
    """The number of rows that a run of ``rows`` is made up to."""
    return rows if rows >= rows_max or not rows else min(rows_max, 1 << (rows - 1).bit_length())
