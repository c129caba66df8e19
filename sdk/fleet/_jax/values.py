"""The leaves of a call: which dtype a value has inside a program, as jit would have it, and whether its annotation agrees.

Errors: WrongArguments that names the parameter.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from fleet._jax import dtypes, hints
from fleet._jax.dims import Shape
from fleet._jax.hints import ArrayHint, Hint, Inside, Number
from fleet.protocol.errors import WrongArguments

NUMBERS = (bool, int, float, complex)
ARRAYS = (np.ndarray, np.generic, jax.Array)
SHAPED = (*ARRAYS, jax.ShapeDtypeStruct)
"""With what stands for an array that isn't here: a reference to it was given."""


class Spec(NamedTuple):
    """One array of a call: dtype inside the program, dimensions, whether jit would call its dtype weak, and for typed
    random keys the name of their generator (the array is their data)."""

    dtype: str
    shape: Shape
    weak: bool = False
    key: str | None = None


def x64() -> bool:
    """Whether jax has 64-bit numbers here and now; it may be set for this thread alone."""
    return bool(cast(Any, jax.config).jax_enable_x64)


def is_key(dtype: Any) -> bool:
    """Whether an array of this dtype holds typed random keys."""
    return bool(jax.numpy.issubdtype(dtype, jax.dtypes.prng_key))


class Shaped:
    """In place of an array that isn't there yet: its dtype, and dimensions by the number of the array among all."""

    def __init__(self, hint: ArrayHint | Number, dtype: str, weak: bool) -> None:
        self.hint = hint
        self.dtype = dtype
        self.weak = weak


def shaped(hint: ArrayHint | Number, x64: bool) -> Shaped:
    if isinstance(hint, Number):
        return Shaped(hint, dtypes.of_scalar(hint.kind(), x64), True)
    dtype = hint.default_dtype(x64)
    if dtype is None or (dtype not in dtypes.WIRE and dtype not in dtypes.ML) or hint.shape(0) is None:
        raise hints.Missing(hint.text)
    return Shaped(hint, dtype, False)


def is_number(value: Any) -> bool:
    return type(value) in (int, float, complex)


def constant_key(name: str, value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        raise WrongArguments(
            f"{name} is traced as a constant, and a {type(value).__name__} can't be one",
            hint="give a value that can be hashed: a tuple instead of a list; or give arrays",
        ) from None
    return (type(value), value)


def listed(hint: Hint, value: Any) -> Any:
    """Lists of numbers as arrays where the annotation asks for an array."""
    if isinstance(hint, ArrayHint) and isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return _array_of(hint, value)
    is_named = isinstance(value, tuple) and hasattr(value, "_fields")
    if is_named or (isinstance(hint, Inside) and type(value) in (dict, list, tuple)):
        keys = list(value) if type(value) is dict else list(range(len(value)))
        made = [
            listed(hints.child(hint, value, jax.tree_util.DictKey(key), place, len(keys)), value[key])
            for place, key in enumerate(keys)
        ]
        if all(one is value[key] for one, key in zip(made, keys, strict=True)):
            return value
        if type(value) is dict:
            return dict(zip(keys, made, strict=True))
        return type(value)(*made) if is_named else type(value)(made)
    return value


def _array_of(hint: ArrayHint, value: Any) -> Any:
    """A list of numbers as an array of a dtype that the annotation takes; as it is where it is none."""
    try:
        made = np.asarray(value)
    except ValueError:  # of different lengths
        return value
    wanted = hint.default_dtype(True)
    if hint.dtypes is None or dtypes.canonical(made.dtype.name, False) in hint.dtypes or wanted is None:
        return made
    return made.astype(dtypes.dtype_of(wanted)) if dtypes.widens(made.dtype.name, wanted) else made


def spec_of(function: str, name: str, leaf: Any, hint: Hint, x64: bool) -> Spec:
    """What one array or number of a call is."""
    if isinstance(leaf, jax.core.Tracer):
        raise WrongArguments(
            f"{function}: {name} is being traced: a remote call can't be part of a jax program",
            hint="call it outside of jax.jit, or use .local() inside",
        )
    if type(leaf) in NUMBERS:
        return _of_number(function, name, leaf, hint, x64)
    dtype = leaf.dtype
    if isinstance(leaf, jax.Array) and is_key(dtype):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return Spec("uint32", data.shape, False, str(jax.random.key_impl(leaf)))
    given = dtypes.name_of(dtype)
    found = dtypes.canonical(given, x64)
    if found not in dtypes.WIRE and found not in dtypes.ML:
        raise WrongArguments(f"{function}: {name} has dtype {dtype}, which jax doesn't have", hint="give numbers")
    if (
        isinstance(hint, ArrayHint)
        and hint.dtypes is not None
        and found not in hint.dtypes
        and given not in hint.dtypes
    ):
        raise WrongArguments(
            f"{function}: {name} is {given}, annotated {hint.text}", hint=f"give it as {_wanted(hint, x64)}"
        )
    return Spec(found, tuple(leaf.shape), bool(getattr(leaf, "weak_type", False)))


def _wanted(hint: ArrayHint, x64: bool) -> str:
    return f"{name}: .astype({name!r})" if (name := hint.default_dtype(x64)) else "one of its dtypes"


def _of_number(function: str, name: str, leaf: Any, hint: Hint, x64: bool) -> Spec:
    dtype = dtypes.of_scalar(leaf, x64)
    if isinstance(hint, Number) and hint.kind is not int and type(leaf) in (int, float):
        dtype = dtypes.of_scalar(hint.kind(), x64)
    elif isinstance(hint, ArrayHint) and hint.dtypes is not None and dtype not in hint.dtypes:
        wanted = hint.default_dtype(x64)
        if wanted is None or not dtypes.widens(dtype, wanted):
            raise WrongArguments(f"{function}: {name} is {leaf!r}, annotated {hint.text}")
        return Spec(wanted, ())
    if type(leaf) is int and dtype.lstrip("u").startswith("int") and dtypes.is_integer_out_of(leaf, dtype):
        raise WrongArguments(
            f"{function}: {name}={leaf} doesn't fit {dtype}",
            hint='give a float, or turn 64-bit numbers on: jax.config.update("jax_enable_x64", True)',
        )
    return Spec(dtype, (), type(leaf) is not bool)
