"""From a JSON object to the arguments of a call, as the function's JSON Schema tells (``fleet._schema`` says how).

The object has been validated by whoever calls this; here strings become dates and bytes, arrays tuples and sets, and the one
of several alternatives is picked that fits. Neither a hostile value nor a hostile schema costs more than their sizes
multiplied.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import functools
import uuid
from collections.abc import Callable, Mapping
from typing import Any


class Unfit(ValueError):
    """A value that its schema doesn't take; ``pointer`` (RFC 6901) says where it stands."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer or 'the arguments'}: {detail}")
        self.pointer = pointer
        self.detail = detail


def arguments_of(schema: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments that ``values`` stand for. Unfit says which can't be converted."""
    try:
        return _arguments(schema, values)
    except RecursionError:
        raise Unfit("", "it is nested too deep") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise Unfit("", f"the function's JSON Schema makes no sense: {error}") from None


def _arguments(schema: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    reader = _Reader(schema.get("$defs", {}))
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    named = {
        name: reader.read(properties.get(name, more), value, f"/{_escaped(name)}") for name, value in values.items()
    }
    rest_name = schema.get("x-fleet-rest", "")
    rest = named.pop(rest_name, None) or ()
    by_position = list(schema.get("x-fleet-positional", ()))
    if rest:  # All that stand before *args are given by position, then.
        by_position = list(properties)[: list(properties).index(rest_name)]
    positional: list[Any] = []
    for at, name in enumerate(by_position):
        if name in named:
            positional.append(named.pop(name))
            continue
        later = next((one for one in by_position[at:] if one in named), rest_name if rest else None)
        if later is not None:
            raise Unfit(f"/{_escaped(name)}", f"it is needed where {later} is given")
        break
    return (*positional, *rest), named


class _Reader:
    """Reads values, each of them once per schema."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._read: dict[tuple[int, int], Any] = {}
        """By schema and value, of arrays and objects: what it became, or why it doesn't fit."""

    def read(self, schema: Any, value: Any, at: str) -> Any:
        """``value`` as ``schema`` tells it; Unfit."""
        if not isinstance(schema, Mapping) or not schema:  # anything goes
            return value
        if not isinstance(value, list | dict):
            return self._convert(schema, value, at)
        key = (id(schema), id(value))
        if key not in self._read:
            try:
                self._read[key] = self._convert(schema, value, at)
            except Unfit as error:
                self._read[key] = error
        found = self._read[key]
        if isinstance(found, Unfit):
            raise found
        return found

    def _convert(self, schema: Mapping[str, Any], value: Any, at: str) -> Any:
        if "$ref" in schema:
            return self.read(self._definitions[schema["$ref"].rpartition("/")[2]], value, at)
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self._first(schema[several], value, at)
        if ("const" in schema and not _same(schema["const"], value)) or (
            "enum" in schema and not any(_same(one, value) for one in schema["enum"])
        ):
            raise Unfit(at, "it is none of the values that are allowed")
        kinds = schema.get("type", ())
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        if kinds and not any(_is(kind, value) for kind in kinds):
            raise Unfit(at, f"it is not of type {' or '.join(kinds)}")
        if isinstance(value, list):
            return self._array(schema, value, at)
        if isinstance(value, dict):
            return self._object(schema, value, at)
        return _scalar(schema, kinds, value, at)

    def _first(self, schemas: list[Any], value: Any, at: str) -> Any:
        unfit: Unfit | None = None
        for schema in schemas:
            try:
                return self.read(schema, value, at)
            except Unfit as error:
                # The one that got furthest says most.
                unfit = error if unfit is None or len(error.pointer) > len(unfit.pointer) else unfit
        raise unfit or Unfit(at, "nothing is allowed here")

    def _array(self, schema: Mapping[str, Any], value: list[Any], at: str) -> Any:
        first, others = schema.get("prefixItems", ()), schema.get("items", True)
        if others is False and len(value) > len(first):
            raise Unfit(at, f"it has {len(value)} items, not {len(first)}")
        if len(value) < schema.get("minItems", 0):
            raise Unfit(at, f"it has {len(value)} items: {schema['minItems']} are needed")
        read = [
            self.read(first[n] if n < len(first) else others, item, f"{at}/{n}") for n, item in enumerate(value)
        ]  # fmt: skip
        make = _ARRAYS.get(schema.get("x-fleet-type", ""), list)
        try:
            return make(read)
        except TypeError:
            raise Unfit(at, "arrays and objects can't be part of a set") from None

    def _object(self, schema: Mapping[str, Any], value: dict[str, Any], at: str) -> dict[str, Any]:
        missing = next((name for name in schema.get("required", ()) if name not in value), None)
        if missing is not None:
            raise Unfit(at, f"{missing!r} is missing")
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        if others is False and not value.keys() <= properties.keys():
            raise Unfit(at, "it has a name that isn't allowed")
        return {
            name: self.read(properties.get(name, others), item, f"{at}/{_escaped(name)}")
            for name, item in value.items()
        }


class _Set(set[Any]):
    """Pickles as a plain set, and in the order of its array: equal JSON gives equal pickles in every process."""

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.items = items

    def __reduce__(self) -> tuple[Any, ...]:
        return set, (self.items,)


class _FrozenSet(frozenset[Any]):
    """As ``_Set``."""

    def __new__(cls, items: list[Any]) -> _FrozenSet:
        made = super().__new__(cls, items)
        made.items = items
        return made

    items: list[Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return frozenset, (self.items,)


_ARRAYS: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "set": _Set, "frozenset": _FrozenSet}
_TYPES: dict[str, Any] = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}


def _is(kind: str, value: Any) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer":
        return _is("number", value) and (isinstance(value, int) or value.is_integer())
    return kind in _TYPES and isinstance(value, _TYPES[kind])


def _same(one: Any, other: Any) -> bool:
    """As JSON compares: true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _scalar(schema: Mapping[str, Any], kinds: Any, value: Any, at: str) -> Any:
    read = (
        _FORMATS.get(schema.get("format", "")) if isinstance(value, str) or schema.get("format") == "decimal" else None
    )
    try:
        if read is not None:
            return read(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value) if "integer" in kinds else float(value) if "number" in kinds else value
    except (ValueError, ArithmeticError) as error:
        what = schema.get("format") or "number"
        raise Unfit(at, f"it is no {what}: {str(error)[:100]}") from None
    return value


def _decimal(value: str | float) -> decimal.Decimal:
    try:
        return decimal.Decimal(value if isinstance(value, str) else repr(value))
    except decimal.InvalidOperation:
        raise ValueError("digits are expected") from None


def _duration(value: str) -> datetime.timedelta:
    if "P" not in value.upper():
        raise ValueError("ISO 8601 is expected, such as PT90S")
    return _timedelta().validate_python(value)  # type: ignore[no-any-return]


@functools.cache
def _timedelta() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(datetime.timedelta)


_FORMATS: dict[str, Callable[[Any], Any]] = {
    "date-time": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "duration": _duration,
    "uuid": uuid.UUID,
    "decimal": _decimal,
    "binary": functools.partial(base64.b64decode, validate=True),
}


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
