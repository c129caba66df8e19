"""What a jax program's bundle says about itself, checked; and whether arrays are those that it takes. Imports no jax.

Errors: BundleDamaged for a bundle whose description can't be; TypeError and ValueError, in the caller's words, for
arguments that aren't what the program takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401 - bfloat16 and its kin become dtypes that numpy knows by name
import numpy as np

from fleet.protocol import jax_bundle
from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import ARRAY_DIMENSIONS_MAX, JAX_LEAVES_MAX

Array = np.ndarray[Any, Any]
Bytes = bytes | bytearray | memoryview
_TREE_DEPTH_MAX = 64
_TEXT_CHARS_MAX = 200


class BundleDamaged(ProtocolError):
    """The bundle of a program can't be read: fetch it again."""

    code = "bundle_damaged"


@dataclass(frozen=True, slots=True)
class Spec:
    """An array that goes in or comes out. A dimension is a number, or the text that names or computes a size."""

    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Description:
    """A bundle's head (see ``fleet.protocol.jax_bundle``) and its modules."""

    head: dict[str, Any]
    x64: bool
    weights: tuple[Spec, ...]
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    result: Any
    modules: list[Bytes]

    def module_for(self, platform: str) -> int | None:
        """Number of the module that runs on ``platform``, None where there is none."""
        for number, row in enumerate(self.head["modules"]):
            if platform in row["platforms"]:
                return number
        return None


def describe(bundle: Bytes) -> Description:
    """The description in ``bundle``; BundleDamaged unless all of it makes sense."""
    try:
        head, modules = jax_bundle.unpack(bundle)
        described = Description(
            head=head,
            x64=_one_of(head["x64"], bool),
            weights=_specs(head["weights"]),
            inputs=_specs(head["inputs"]),
            outputs=_specs(head["outputs"]),
            result=head["result"],
            modules=modules,
        )
        for row in head["modules"]:
            for platform in _one_of(row["platforms"], list):
                _one_of(platform, str)
        _check_tree(described.result, len(described.outputs), 0)
        if any(isinstance(size, str) for spec in described.weights for size in spec.shape):
            raise ValueError("weights without a size")
    except ProtocolError as error:
        raise BundleDamaged(error.message) from None
    except (KeyError, TypeError, ValueError) as error:
        raise BundleDamaged(f"the description of a jax program makes no sense: {error}") from None
    return described


def _one_of(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{str(value)[:_TEXT_CHARS_MAX]} is no {kind.__name__}")
    return value


def _specs(rows: Any) -> tuple[Spec, ...]:
    if len(_one_of(rows, list)) > JAX_LEAVES_MAX:
        raise ValueError(f"{len(rows)} arrays are more than {JAX_LEAVES_MAX}")
    specs = []
    for dtype, shape in rows:
        if len(_one_of(shape, list)) > ARRAY_DIMENSIONS_MAX:
            raise ValueError(f"an array of {len(shape)} dimensions")
        for size in shape:
            if type(size) is not str and not (type(size) is int and size >= 0):
                raise ValueError(f"a dimension of {str(size)[:_TEXT_CHARS_MAX]}")
        found = np.dtype(_one_of(dtype, str))
        if found.hasobject or found.fields is not None or found.name != dtype:
            raise TypeError(f"an array of {dtype[:_TEXT_CHARS_MAX]}")
        specs.append(Spec(found, tuple(shape)))
    return tuple(specs)


# --- results ---------------------------------------------------------------------------------------------------------


def _check_tree(tree: Any, count: int, depth: int) -> None:
    if depth > _TREE_DEPTH_MAX:
        raise ValueError("a result nested too deep")
    if tree is None:
        return
    if type(tree) is int:
        if not 0 <= tree < count:
            raise ValueError(f"a result of array {tree} of {count}")
        return
    ((kind, inside),) = _one_of(tree, dict).items()
    if kind == "keep":
        _check_tree(inside, count, depth + 1)
    elif kind == "dict":
        for key, value in _one_of(inside, list):
            if not isinstance(key, str | int | float | None):
                raise TypeError("a key that is no text and no number")
            _check_tree(value, count, depth + 1)
    elif kind in ("list", "tuple", "node"):
        for value in _one_of(inside, list):
            _check_tree(value, count, depth + 1)
    else:
        raise ValueError(f"a result of kind {kind[:_TEXT_CHARS_MAX]}")


def build(tree: Any, arrays: Sequence[Any], keep: Callable[[Any, Sequence[Any]], Any]) -> Any:
    """The value that ``tree`` describes, of ``arrays``; ``keep(tree, arrays)`` makes what stands for a kept part."""
    if type(tree) is int:
        return arrays[tree]
    if tree is None:
        return None
    ((kind, inside),) = tree.items()
    if kind == "dict":
        return {key: build(value, arrays, keep) for key, value in inside}
    if kind == "keep":
        return keep(inside, arrays)
    values = [build(value, arrays, keep) for value in inside]
    return tuple(values) if kind == "tuple" else values


# --- arguments -------------------------------------------------------------------------------------------------------


def check_arguments(specs: Sequence[Spec], arrays: Sequence[Any]) -> None:
    """TypeError or ValueError unless ``arrays`` (numpy's or jax') are what ``specs`` say, named sizes equal everywhere.

    Dimensions that are computed of several names are left to the program's own checks.
    """
    if len(arrays) != len(specs):
        raise TypeError(f"the function takes {len(specs)} arrays, it got {len(arrays)}")
    sizes: dict[str, int] = {}
    for number, (spec, array) in enumerate(zip(specs, arrays, strict=True)):
        if getattr(array, "dtype", None) != spec.dtype or array.ndim != len(spec.shape):
            raise TypeError(f"array {number} has to be {spec}, it is {_of(array)}")
        for wanted, size in zip(spec.shape, array.shape, strict=True):
            if type(wanted) is int:
                if size != wanted:
                    raise ValueError(f"array {number} has to be {spec}, it is {_of(array)}")
            elif isinstance(wanted, str) and wanted.isidentifier() and sizes.setdefault(wanted, size) != size:
                raise ValueError(
                    f"array {number} has to be {spec}, it is {_of(array)}, where {wanted} is {sizes[wanted]} elsewhere"
                )


def _of(array: Any) -> str:
    if not hasattr(array, "dtype"):
        return f"a {type(array).__name__}"
    return f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
