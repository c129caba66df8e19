"""What pydantic's JSON Schemas say otherwise here: see ``fleet._schema``. Imports pydantic."""

from __future__ import annotations

import types
import typing
from typing import Any

import typing_extensions
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

MARK = "x-fleet-type"


def modern(kind: Any, known: dict[Any, Any]) -> Any:
    """``kind`` with pydantic's own TypedDicts in the place of Python's, which it doesn't take before Python 3.12.

    TypeError for one that refers to itself.
    """
    if typing.is_typeddict(kind):
        if type(kind).__module__ != "typing":
            return kind
        if kind not in known:
            known[kind] = None
            hints = typing.get_type_hints(kind, include_extras=True)
            fields = {name: _field(kind, name, hint, known) for name, hint in hints.items()}
            make: Any = typing_extensions.TypedDict
            known[kind] = make(kind.__name__, fields)
        if known[kind] is None:
            raise TypeError(f"{kind.__name__} refers to itself: use typing_extensions.TypedDict before Python 3.12")
        return known[kind]
    parts = typing.get_args(kind)
    if not parts or typing.get_origin(kind) is typing.Literal:
        return kind
    changed = tuple(one if one is Ellipsis else modern(one, known) for one in parts)
    if all(new is old for new, old in zip(changed, parts, strict=True)):
        return kind
    origin: Any = typing.get_origin(kind)
    if origin is typing.Annotated:
        return origin[(changed[0], *parts[1:])]
    return (typing.Union if origin is types.UnionType else origin)[changed]


def _field(kind: Any, name: str, hint: Any, known: dict[Any, Any]) -> Any:
    # Where annotations are texts, the class itself didn't see their NotRequired.
    said = typing.get_origin(hint) in _SAID
    need = typing.get_origin(hint) if said else _SAID[name not in kind.__required_keys__]
    return need[modern(typing.get_args(hint)[0] if said else hint, known)]


_SAID = (typing.Required, typing.NotRequired)


class Words(GenerateJsonSchema):
    """Pydantic's words, and marks for what arrays and strings become; no titles of single fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: their names say as much."""
        return False

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        """Base64; lengths would count its letters, so they aren't told."""
        return {"type": "string", "format": "binary", "contentEncoding": "base64"}

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """A string, which loses no digit, or a number."""
        return {"type": ["string", "number"], "format": "decimal"}

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        """An array."""
        return super().tuple_schema(schema) | {MARK: "tuple"}

    def set_schema(self, schema: core_schema.SetSchema) -> JsonSchemaValue:
        """An array of different items."""
        return super().set_schema(schema) | {MARK: "set"}

    def frozenset_schema(self, schema: core_schema.FrozenSetSchema) -> JsonSchemaValue:
        """An array of different items."""
        return super().frozenset_schema(schema) | {MARK: "frozenset"}
