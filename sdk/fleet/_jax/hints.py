"""Shapes from annotations: jaxtyping's arrays inside whatever containers. Neither jaxtyping nor jax is imported here.

``Float[Array, "b 2*n 3"]``: named dimensions and expressions of them, ``_`` any, ``...`` and ``*dims`` as the first call
has them, likewise ``#b`` (it may be broadcast) and ``{expressions}`` of arguments.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import types
import typing
from dataclasses import dataclass
from typing import Any

from fleet._classes import hints_of
from fleet._jax import dims, dtypes
from fleet._jax.dims import Dim, Misfit

_MODIFIERS = "#*_?"
Token = int | str | None
"""A dimension as it is written; ``_`` any size, ``?name`` a name of this array alone, None: what the call has."""


@dataclass(frozen=True, slots=True)
class ArrayHint:
    """What an annotation says of one array. ``dtypes`` None: any."""

    before: tuple[Token, ...]
    variadic: bool
    after: tuple[Token, ...]
    dtypes: frozenset[str] | None
    text: str
    alone: bool = True
    """Whether nothing but such an array, or None, may be given."""

    def match(self, shape: tuple[int, ...], leaf: int) -> tuple[Dim, ...]:
        """The dimensions of array number ``leaf`` with this shape; Misfit where the rank or a number is another."""
        known = len(self.before) + len(self.after)
        if len(shape) < known or (len(shape) > known and not self.variadic):
            raise Misfit(leaf)
        middle = len(shape) - known
        tokens: tuple[Token, ...] = (*self.before, *(None,) * middle, *self.after)
        return tuple(_dim(token, size, leaf, axis) for axis, (token, size) in enumerate(zip(tokens, shape)))

    def shape(self, leaf: int) -> tuple[Dim, ...] | None:
        """The dimensions without a call; None where only a call tells them."""
        if self.variadic or None in self.before:
            return None
        return tuple(_dim(token, 0, leaf, axis) for axis, token in enumerate(self.before))

    def default_dtype(self, x64: bool) -> str | None:
        """The dtype of an array that no call has given yet: the usual one of its kind."""
        if self.dtypes is None:
            return "float32"
        if len(self.dtypes) == 1:
            return dtypes.canonical(next(iter(self.dtypes)), x64)
        for name in ("float64", "int64", "bool", "complex128", "uint64"):
            if dtypes.canonical(name, x64) in self.dtypes:
                return dtypes.canonical(name, x64)
        return None


def _dim(token: Token, size: int, leaf: int, axis: int) -> Dim:
    if token is None:
        return size
    if token == "_":
        return f"_{leaf}_{axis}"
    if isinstance(token, str) and token.startswith("?"):
        return f"{token[1:]}_{leaf}"
    return token


@dataclass(frozen=True, slots=True)
class Static:
    """A value that is traced as a constant."""


@dataclass(frozen=True, slots=True)
class Number:
    """A Python number: ``float`` takes ints, too."""

    kind: type


@dataclass(frozen=True, slots=True)
class Each:
    """Every array inside, whatever the containers (jaxtyping's PyTree)."""

    leaf: Hint


@dataclass(frozen=True, slots=True)
class Inside:
    """A container of some kind; ``of``: its annotation."""

    of: Any


Hint = ArrayHint | Static | Number | Each | Inside | None


def read(hint: Any) -> Hint:
    """What an annotation says; None where it says nothing of shapes."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return read(typing.get_args(hint)[0])
    if origin is typing.Literal:
        return Static()
    if origin in (typing.Union, types.UnionType):
        return _of_union([read(one) for one in typing.get_args(hint) if one is not type(None)])
    if hint is typing.Callable or origin is collections.abc.Callable or hint is collections.abc.Callable:
        return Static()
    if isinstance(getattr(hint, "dim_str", None), str) and hasattr(hint, "dtypes"):
        return _of_array(hint)
    if type(hint).__module__.startswith("jaxtyping") and hasattr(hint, "leaftype"):
        return Each(read(hint.leaftype))
    if hint in (int, float, complex):
        return Number(hint)
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        if issubclass(hint, (str, bytes, bool, enum.Enum)):
            return Static()
        return Inside(hint) if hints_of(hint) else None
    return Inside(hint) if typing.get_args(hint) else None


def _of_union(options: list[Hint]) -> Hint:
    arrays = [one for one in options if isinstance(one, ArrayHint)]
    if arrays:
        return _of_arrays(arrays, len(arrays) == len(options))
    return options[0] if options and all(one == options[0] for one in options) else None


def _of_arrays(arrays: list[ArrayHint], alone: bool) -> Hint:
    """What all of them say: any of the dtypes, where the dimensions are the same; nothing where they aren't."""
    first, *others = arrays
    if any((one.before, one.variadic, one.after) != (first.before, first.variadic, first.after) for one in others):
        return None
    allowed: frozenset[str] | None = frozenset()
    for one in arrays:
        allowed = None if allowed is None or one.dtypes is None else allowed | one.dtypes
    text = " | ".join(one.text for one in arrays)
    return dataclasses.replace(first, dtypes=allowed, text=text, alone=alone and first.alone)


def _of_array(hint: Any) -> ArrayHint:
    before: list[Token] = []
    after: list[Token] = []
    variadic = False
    for word in hint.dim_str.split():
        bare = word.lstrip(_MODIFIERS)
        marks = word[: len(word) - len(bare)]
        if word == "..." or "*" in marks:
            variadic = True
            continue
        (after if variadic else before).append(_token(bare.rpartition("=")[2], marks))
    names = hint.dtypes
    allowed = frozenset(names) if isinstance(names, list | tuple) else None
    return ArrayHint(tuple(before), variadic, tuple(after), allowed, _written(hint))


def _written(hint: Any) -> str:
    name = getattr(hint, "dtype", None)
    return f'{getattr(name, "__name__", "Array")}[Array, "{hint.dim_str}"]'


def _token(word: str, marks: str) -> Token:
    if word.isdigit():
        return int(word)
    if "_" in marks or not word:
        return "_"
    if "#" in marks:
        return None
    if "?" in marks:
        return f"?{word}" if word.isidentifier() else None
    return word if dims.parse(word) is not None else None


# --- inside containers -----------------------------------------------------------------------------------------------


def child(hint: Hint, value: Any, key: Any, place: int, count: int) -> Hint:
    """What is said of the child of ``value`` under ``key`` (jax' key of it), which is number ``place`` of ``count``."""
    if isinstance(hint, Each):
        return hint
    of = hint.of if isinstance(hint, Inside) else None
    name = getattr(key, "name", getattr(key, "key", None))
    args = typing.get_args(of)
    kind = typing.get_origin(of) or of
    if isinstance(value, dict):
        if len(args) == 2:
            return read(args[1])
        return _fields_of(of).get(name) if isinstance(of, type) and name is not None else None
    if isinstance(value, list) or type(value) is tuple:
        if kind is tuple and len(args) == count and Ellipsis not in args:
            return read(args[place])
        return read(args[0]) if args and (kind is not tuple or Ellipsis in args) else None
    whose: Any = type(value)
    own = _fields_of(whose)
    if hasattr(value, "_fields"):  # jax' registry gives every field of a named tuple the key of the first one.
        name = value._fields[place]
    return own.get(name) if name is not None else None


@functools.lru_cache(maxsize=512)
def _fields_of(kind: Any) -> dict[Any, Hint]:
    """What a class says of its fields: evaluating annotations takes 100 us, and calls come again and again."""
    return {name: read(hint) for name, hint in hints_of(kind).items()}


class Missing(Exception):
    """Internal: an annotation doesn't say all that is needed; ``where`` inside the parameter."""

    def __init__(self, where: str) -> None:
        self.where = where


def skeleton(hint: Hint, make: typing.Callable[[ArrayHint | Number], Any], where: str) -> Any:
    """A value of the structure that an annotation describes, with ``make(hint)`` as its leaves; Missing if it can't be."""
    if isinstance(hint, ArrayHint | Number):
        return make(hint)
    of = hint.of if isinstance(hint, Inside) else None
    args = typing.get_args(of)
    if typing.get_origin(of) is tuple and args and Ellipsis not in args:
        return tuple(skeleton(read(one), make, f"{where}[{place}]") for place, one in enumerate(args))
    own = hints_of(of) if isinstance(of, type) else {}
    if typing.is_typeddict(of):
        return {name: skeleton(read(one), make, f"{where}[{name!r}]") for name, one in own.items()}
    if isinstance(of, type) and issubclass(of, tuple) and hasattr(of, "_fields"):
        fields = of._fields
        return of(*[skeleton(read(own.get(name)), make, f"{where}.{name}") for name in fields])
    if isinstance(of, type) and dataclasses.is_dataclass(of):
        return _dataclass(of, own, make, where)
    raise Missing(where)


def _dataclass(of: Any, own: dict[str, Any], make: Any, where: str) -> Any:
    made = object.__new__(of)
    for field in dataclasses.fields(of):
        found = read(own.get(field.name))
        if field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = skeleton(found, make, f"{where}.{field.name}")
        object.__setattr__(made, field.name, value)
    return made
