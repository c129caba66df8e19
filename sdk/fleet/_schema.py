"""The JSON Schema of a function's arguments, so that callers without Python can call it. Derived at deploy, with pydantic.

It describes one JSON object with the arguments by name (draft 2020-12):

* ``properties`` stand in the order of the parameters; those without a default are ``required``. Parameters without an
  annotation take anything.
* ``*args`` is an array under its name, which ``x-fleet-rest`` tells; ``x-fleet-positional`` lists parameters that can't be
  given by name. With ``**kwargs`` there are ``additionalProperties``, else none.
* Named types (TypedDict, enums, ``type`` aliases) stand in ``$defs``; ``$ref`` is relative to this schema.
* ``format`` tells strings that become something else: ``date-time``, ``date``, ``time``, ``duration`` (ISO 8601) a datetime,
  date, time, timedelta; ``uuid`` a UUID; ``decimal`` a Decimal (a string or a number); ``binary`` bytes, in base64.
* ``x-fleet-type`` tells arrays that become a ``tuple``, a ``set`` or a ``frozenset``.
* ``integer`` becomes an int, ``number`` a float. Of ``anyOf`` the first that holds counts.

``fleet._json_arguments`` makes arguments of such an object.
"""

from __future__ import annotations

import collections.abc as abc
import datetime
import decimal
import enum
import inspect
import json
import math
import sys
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Any

import fleet
from fleet._function import Function

SCHEMA_BYTES_MAX = 16 * 1024
"""A schema is part of a manifest, which has other things to hold."""
_DEFAULT_CHARS_MAX = 200
_EMPTY = inspect.Parameter.empty
_STAR, _NAMED = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
_LEAVES = frozenset({
    Any, object, int, float, str, bool, None, type(None), bytes, datetime.datetime, datetime.date, datetime.time,
    datetime.timedelta, uuid.UUID, decimal.Decimal, list, tuple, set, frozenset, dict,
})  # fmt: skip
_ARRAYS = frozenset({list, tuple, set, frozenset, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Set})
_OBJECTS = frozenset({dict, abc.Mapping, abc.MutableMapping})


class _NotJson(Exception):
    """Part of a type that JSON can't express."""


def schema_of(function: Function[..., Any]) -> tuple[str, str]:
    """The JSON Schema of the arguments of ``function`` and ``""``, or ``""`` and why there is none, in one sentence."""
    if function.options.runtime == "jax":
        return "", f"{function.display_name} takes arrays, which JSON can't express"
    try:
        signature = function._call_signature()
        if signature is None:
            return "", f"Python doesn't tell the signature of {function.display_name}"
        text = json.dumps(_schema(function, signature), separators=(",", ":"), allow_nan=False)
    except _NotJson as error:
        return "", str(error)
    except Exception as error:  # Types are the developer's code, and pydantic has its own opinion of some.
        return "", f"no JSON Schema can be made of the signature of {function.display_name}: {_first_line(error)}"
    if len(text) > SCHEMA_BYTES_MAX:
        return "", f"the JSON Schema of {function.display_name} has {len(text)} bytes: allowed are {SCHEMA_BYTES_MAX}"
    return text, ""


def _schema(function: Function[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    parameters = list(signature.parameters.values())
    kinds = {one.name: _kind(function, one) for one in parameters}
    for name, kind in kinds.items():
        try:
            _check(kind, set())
        except _NotJson as error:
            raise _NotJson(f"JSON can't express the argument {name} of {function.display_name}: {error}") from None
    made, definitions = _generate(kinds)
    schema: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
    required: list[str] = []
    for one in parameters:
        if one.kind is _NAMED:
            schema["additionalProperties"] = made[one.name] or True
        elif one.kind is _STAR:
            schema["properties"][one.name] = {"type": "array", "items": made[one.name]}
            schema["x-fleet-rest"] = one.name
        else:
            schema["properties"][one.name] = made[one.name] | _default(one.default)
            if one.default is _EMPTY:
                required.append(one.name)
    positional = [one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    extras = {"required": required, "x-fleet-positional": positional, "$defs": definitions}
    return schema | {name: value for name, value in extras.items() if value}


def _generate(kinds: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The schema of each of ``kinds``, and the definitions that they share."""
    from pydantic import TypeAdapter  # Here: only deploys and first calls need it.

    from fleet._schema_words import Words, modern

    made_of = kinds if sys.version_info >= (3, 12) else {name: modern(kind, {}) for name, kind in kinds.items()}
    adapters = [(name, "validation", TypeAdapter(kind)) for name, kind in made_of.items()]
    made, shared = TypeAdapter.json_schemas(adapters, schema_generator=Words)  # type: ignore[arg-type]
    return {name: schema for (name, _), schema in made.items()}, shared.get("$defs", {})


def _kind(function: Function[..., Any], parameter: inspect.Parameter) -> Any:
    """The type that a parameter is annotated with; texts are read where the function was defined."""
    kind = parameter.annotation
    if kind is _EMPTY:
        return Any
    raw = inspect.unwrap(function._raw) if function._raw is not None else None
    raw = getattr(raw, "__func__", raw)
    holder = types.SimpleNamespace(__annotations__={"it": kind})
    try:
        hints = typing.get_type_hints(
            holder, getattr(raw, "__globals__", {}), _closure(raw), include_extras=True
        )  # fmt: skip
    except Exception as error:  # whatever the developer's text raises
        raise _NotJson(
            f"the annotation of {parameter.name} of {function.display_name} can't be read: {_first_line(error)}"
        ) from None
    return hints["it"]


def _closure(raw: Any) -> dict[str, Any]:
    code = getattr(raw, "__code__", None)
    found: dict[str, Any] = {}
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(raw, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _check(kind: Any, seen: set[int]) -> None:
    """_NotJson names the part of ``kind`` that JSON can't express, or whose values the function would not recognise."""
    if id(kind) in seen or (isinstance(kind, abc.Hashable) and kind in _LEAVES | _ARRAYS | _OBJECTS):
        return
    seen.add(id(kind))
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated or origin in (typing.Required, typing.NotRequired):
        _check(parts[0], seen)
    elif origin in (typing.Union, types.UnionType):
        _check_all(parts, seen)
    elif origin is typing.Literal:
        if any(not isinstance(one, str | int | bool | None) or isinstance(one, enum.Enum) for one in parts):
            raise _NotJson(f"{_named(kind)} has values that JSON lacks")
    elif origin in _ARRAYS:
        _check_all([one for one in parts if one is not Ellipsis and one != ()], seen)
    elif origin in _OBJECTS:
        if not _is_text(parts[0]):
            raise _NotJson(f"the keys of {_named(kind)} are no texts")
        _check(parts[1], seen)
    elif type(origin or kind).__name__ == "TypeAliasType":  # of typing from Python 3.12 on, else of typing_extensions
        _check_all([(origin or kind).__value__, *parts], seen)
    elif isinstance(kind, typing.NewType):
        _check(kind.__supertype__, seen)
    elif isinstance(kind, typing.TypeVar):
        _check_all([one for one in (kind.__bound__, *kind.__constraints__) if one is not None], seen)
    elif is_typed_dict(kind):
        _check_all(typing.get_type_hints(kind, include_extras=True).values(), seen)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        _check_enum(kind)
    else:
        raise _NotJson(_named(kind))


def is_typed_dict(kind: Any) -> bool:
    """Whether it is a TypedDict, of typing or of typing_extensions, which before Python 3.12 are two."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _check_all(kinds: abc.Iterable[Any], seen: set[int]) -> None:
    for kind in kinds:
        _check(kind, seen)


def _check_enum(kind: type[enum.Enum]) -> None:
    # The value arrives, not the member: it must be as good.
    if issubclass(kind, enum.Flag) or not issubclass(kind, str | int):
        raise _NotJson(f"{_named(kind)}, whose members aren't their values (use enum.StrEnum or enum.IntEnum)")


def _is_text(kind: Any) -> bool:
    if kind in (str, Any):
        return True
    if isinstance(kind, typing.NewType):
        return _is_text(kind.__supertype__)
    if typing.get_origin(kind) is typing.Annotated:
        return _is_text(typing.get_args(kind)[0])
    if typing.get_origin(kind) is typing.Literal:
        return all(isinstance(one, str) for one in typing.get_args(kind))
    return isinstance(kind, type) and issubclass(kind, str)


def _default(value: Any) -> dict[str, Any]:
    """``value`` as the default that a schema tells; nothing where JSON, or a reader's patience, doesn't reach."""
    plain = value is None or type(value) in (bool, int, float, str)
    if not plain or (type(value) is float and not math.isfinite(value)) or len(repr(value)) > _DEFAULT_CHARS_MAX:
        return {}
    return {"default": value}


def _named(kind: Any) -> str:
    if not isinstance(kind, type):
        return str(kind)
    if kind.__module__.startswith("fleet.") and kind.__name__ in fleet.__all__:
        return f"fleet.{kind.__name__}"
    return kind.__qualname__ if kind.__module__ in _PLAIN_HOMES else f"{kind.__module__}.{kind.__qualname__}"


_PLAIN_HOMES = ("builtins", "__main__")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
