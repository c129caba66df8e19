"""Dimensions of arrays: numbers, names, and expressions of names (``2*n``). Pure; no jax, no numpy.

An expression is read as Python's arithmetic (``+ - * // %``, and jax' spelling ``floordiv(n, 2)``, ``mod``, ``max``, ``min``),
over whatever the names stand for: sizes here, symbolic dimensions while a function is traced.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Dim = int | str
Shape = tuple[Dim, ...]

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": max,
    "min": min,
}


class Misfit(Exception):
    """Internal: the shape of array number ``index`` isn't what it should be; ``why`` says more than the shapes do."""

    def __init__(self, index: int, why: str = "") -> None:
        self.index = index
        self.why = why


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> ast.expr | None:
    """The expression, or None where it is none of ours."""
    try:
        found = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return found if _is_known(found) else None


def _is_known(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return True
    if isinstance(node, ast.Constant):
        return type(node.value) is int
    if isinstance(node, ast.BinOp):
        return type(node.op) in _BINARY and _is_known(node.left) and _is_known(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in _CALLS and len(node.args) == 2 and not node.keywords and all(map(_is_known, node.args))
    return False


@functools.lru_cache(maxsize=1024)
def names_in(text: str) -> frozenset[str]:
    """The names that an expression uses."""
    found = parse(text)
    if found is None:
        return frozenset()
    functions = {id(node.func) for node in ast.walk(found) if isinstance(node, ast.Call)}
    return frozenset(node.id for node in ast.walk(found) if isinstance(node, ast.Name) and id(node) not in functions)


def value(dim: Dim, names: Mapping[str, Any]) -> Any:
    """What a dimension is where names stand for ``names``; KeyError for one that isn't among them."""
    if isinstance(dim, int):
        return dim
    if dim in names:
        return names[dim]
    found = parse(dim)
    if found is None:
        raise KeyError(dim)
    return _value(found, names)


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, names), _value(node.right, names))
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name), ast.dump(node)
    left, right = (_value(one, names) for one in node.args)
    if node.func.id in ("max", "min") and not (isinstance(left, int) and isinstance(right, int)):
        from jax import core  # Symbolic ones have no order: jax has a maximum of its own.

        return (core.max_dim if node.func.id == "max" else core.min_dim)(left, right)
    return _CALLS[node.func.id](left, right)


def sizes(specs: Sequence[Shape], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """What each name stands for, given the shapes of the arrays; Misfit for a shape that is none of its spec.

    Plain names first, then expressions: one that has a single unknown name decides it where it grows evenly with it.
    """
    found: dict[str, int] = {}
    computed: list[tuple[int, str, int]] = []
    for index, (spec, shape) in enumerate(zip(specs, shapes, strict=True)):
        if len(spec) != len(shape):
            raise Misfit(index)
        for dim, size in zip(spec, shape, strict=True):
            if isinstance(dim, int):
                if dim != size:
                    raise Misfit(index)
            elif dim.isidentifier():
                if found.setdefault(dim, size) != size:
                    raise Misfit(index, f"{dim} is {found[dim]} in an array before it, and {size} here")
            else:
                computed.append((index, dim, size))
    for index, text, size in computed:
        unknown = names_in(text) - found.keys()
        if len(unknown) == 1 and not _solve(text, next(iter(unknown)), size, found):
            raise Misfit(index, f"no size fits {text} = {size}")
    for index, text, size in computed:
        if names_in(text) <= found.keys() and _safe(text, found) != size:
            raise Misfit(index, f"{text} is {_safe(text, found)} here, not {size}")
    return found


def _safe(text: str, names: Mapping[str, int]) -> int | None:
    try:
        return int(value(text, names))
    except ZeroDivisionError:
        return None


def _solve(text: str, name: str, size: int, found: dict[str, int]) -> bool:
    """Add the ``name`` that makes ``text`` equal ``size`` to ``found``; whether there is one."""
    at = [_safe(text, {**found, name: number}) for number in (1, 2, 3)]
    if None in at:
        return True  # Not for us to decide: the car checks the shapes that its program computes.
    one, two, three = (number or 0 for number in at)
    slope = two - one
    if three - two != slope or slope == 0:
        return True
    number, rest = divmod(size - one, slope)
    if rest or number + 1 < 0:
        return False
    found[name] = number + 1
    return True


def text(shape: Iterable[Dim]) -> str:
    """``(b, 2*n, 3)``, as people write it."""
    parts = [str(dim) for dim in shape]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
