"""Instances of the caller's classes from data, without running any of their code.

An instance is made by ``object.__new__`` (``tuple.__new__`` for a NamedTuple) and its fields are put into its ``__dict__``
or its slots: no ``__init__``, ``__post_init__``, ``__setattr__``, property or validator runs. The class has to be of the
sort that the data says, and to have exactly these fields. What does run is the caller's own ``__hash__`` and ``__eq__``,
where instances are members of sets or keys of dicts.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Sequence
from typing import Any

from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.decode import Decoder, UnknownClass
from fleet.protocol._codec.encode_more import PYDANTIC_PARTS, class_attribute, declared_fields, sort_of
from fleet.protocol.errors import ProtocolError

_PLAIN = (type(None), bool, int, float, str, bytes, tuple, list, dict, set, frozenset)
_NAME_CHARS_MAX = 200
_Setter = Callable[[Any, Any], None]


class Record:
    """An instance of a class that isn't known here: its name and its attributes, for people to look at."""

    __slots__ = ("_attributes", "_name")

    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        self._name = name
        self._attributes = attributes

    def __getattr__(self, name: str) -> Any:
        try:
            return self._attributes[name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"{self._name}({', '.join(f'{name}={value!r}' for name, value in self._attributes.items())})"

    def __eq__(self, other: object) -> bool:
        return type(other) is Record and (self._name, self._attributes) == (other._name, other._attributes)

    def __hash__(self) -> int:
        return hash((self._name, *self._attributes.items()))

    def _asdict(self) -> dict[str, Any]:
        """Its attributes."""
        return self._attributes


class RecordMember:
    """A member of an Enum that isn't known here: its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return type(other) is RecordMember and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


class Shape:
    """A class that the data named: what is known of it here, and where the parts of its instances go."""

    __slots__ = ("fields", "in_dict", "kind", "label", "module", "names", "sentence", "slots", "sort", "where")

    def __init__(self, sort: int, module: str, label: str, names: tuple[str, ...], fields: int) -> None:
        self.sort = sort
        self.module = module
        self.label = label
        self.names = names
        self.fields = fields
        self.kind: type | None = None
        self.sentence = ""
        self.where: Any = None
        self.in_dict: list[tuple[int, str]] = []
        self.slots: list[tuple[int | None, _Setter]] = []

    @property
    def full_name(self) -> str:
        """``Item``, ``shop.Item``."""
        full = self.label if self.module in ("", "__main__", "builtins") else f"{self.module}.{self.label}"
        return full if len(full) <= _NAME_CHARS_MAX else full[:_NAME_CHARS_MAX] + "..."

    def resolve(self, kind: type | None) -> None:
        """Take ``kind`` for it; if it doesn't fit, ``sentence`` says why."""
        if kind is None:
            wrong = "which is not known here"
        elif sort_of(kind) != self.sort:
            wrong = f"which is not {k.SORTS[self.sort]} here"
        else:
            wrong = "" if self.sort == k.ENUMERATION else self._place(kind)
        if not wrong:
            self.kind = kind
        self.sentence = f"is of class {self.full_name}, {wrong}"

    def _place(self, kind: type) -> str:
        """Find a place for each part; what is different here, or nothing."""
        declared = declared_fields(kind, self.sort)
        given, extra = self.names[: self.fields], self.names[self.fields :]
        unknown = [name for name in given if name not in declared]
        missing = [name for name in declared if name not in given and not _may_lack(kind, self.sort, name)]
        if unknown:
            return f"which has no field {unknown[0][:60]!r} here"
        if missing:
            return f"which has a field {missing[0][:60]!r} here that the result lacks"
        if self.sort == k.NAMEDTUPLE:
            return "" if given == declared and not extra else "which has other fields here"
        self.where = _dict_of(kind)
        for number, name in enumerate(self.names):
            present = class_attribute(kind, name)
            if type(present) is types.MemberDescriptorType:
                self.slots.append((number, present.__set__))
            # Beside the declared fields, nothing may hide what the class defines, apart from plain values.
            elif self.where is None or name.startswith("__") or not (name in declared or type(present) in _PLAIN):
                return f"which has no place for {name[:60]!r} here"
            else:
                self.in_dict.append((number, name))
        if self.sort == k.ATTRS and "_attrs_cached_hash" in _names_in(kind.__hash__):
            cached = class_attribute(kind, "_attrs_cached_hash")
            if type(cached) is types.MemberDescriptorType:
                self.slots.append((None, cached.__set__))
            else:
                self.in_dict.append((-1, "_attrs_cached_hash"))
        return ""

    def fill(self, instance: Any, values: Sequence[Any]) -> None:
        """Put the parts where they belong."""
        for number, setter in self.slots:
            setter(instance, None if number is None else values[number])
        if self.in_dict:
            own = self.where.__get__(instance)
            for number, name in self.in_dict:
                own[name] = None if number < 0 else values[number]


def _names_in(function: Any) -> tuple[str, ...]:
    return tuple(getattr(getattr(function, "__code__", None), "co_names", ()))


def _may_lack(kind: type, sort: int, name: str) -> bool:
    """A field that no constructor sets may never have got a value."""
    if sort == k.DATACLASS:
        return not class_attribute(kind, "__dataclass_fields__")[name].init
    return sort == k.ATTRS and any(
        one.name == name and not one.init for one in class_attribute(kind, "__attrs_attrs__")
    )


def _dict_of(kind: type) -> Any:
    """Gives the ``__dict__`` of an instance, whatever its class has under that name; None where there is none."""
    found = (base.__dict__["__dict__"] for base in reversed(kind.__mro__) if "__dict__" in base.__dict__)
    return next((one for one in found if type(one) is types.GetSetDescriptorType), None)


def _shape(decoder: Decoder, depth: int) -> tuple[Shape, int]:
    """The class that is named here, in full or by its number, and where in the data."""
    at = decoder.at
    head = decoder.take(1)[0]
    if head < 0x80 or head == 0xD2:
        number = head if head < 0x80 else decoder.number(4, signed=True)
        if not 0 <= number < len(decoder.classes):
            raise ProtocolError("a class is malformed")
        return decoder.classes[number], at
    if head not in range(0x90, 0xA0) and head != 0xDC:
        raise ProtocolError("a class is malformed")
    count = head & 0x0F if head < 0xA0 else decoder.number(2)
    decoder.room(count, depth - 1, k.OBJECT_COST * (2 + count))  # Names alone, which nest no deeper.
    if bytes(decoder.take(3)) != bytes((0xD4, k.EXT_KIND, k.CLASS)):
        raise ProtocolError("a class is malformed")
    sort, module, label, fields, *names = [decoder.value(depth) for _ in range(count - 1)]
    if not (
        all(type(text) is str for text in (module, label, *names)) and len(set(names)) == len(names)
        and type(sort) is int and sort in k.SORTS and type(fields) is int and 0 <= fields <= len(names)
    ):  # fmt: skip
        raise ProtocolError("a class is malformed")
    shape = Shape(sort, module, label, tuple(names), fields)
    shape.resolve(decoder.find(sort, module, label) if decoder.find is not None else None)
    decoder.classes.append(shape)
    return shape, at


def instance(decoder: Decoder, count: int, depth: int) -> Any:
    """An instance of a class of the caller, or a Record; UnknownClass where neither may be."""
    shape, at = _shape(decoder, depth)
    if shape.kind is None and not decoder.records:
        raise UnknownClass(at, shape.sentence)
    values = [decoder.value(depth) for _ in range(count - 1)]
    wanted = len(shape.names) + (len(PYDANTIC_PARTS) if shape.sort == k.PYDANTIC else 0)
    if len(values) != wanted or shape.sort == k.ENUMERATION:
        raise ProtocolError("an instance has other fields than its class")
    return _made(shape, values, at)


def instances(decoder: Decoder, count: int, depth: int) -> list[Any]:
    """A list of instances of one class, written column by column."""
    shape, at = _shape(decoder, depth)
    if shape.kind is None and not decoder.records:
        raise UnknownClass(at, shape.sentence)
    if count - 1 != len(shape.names) or count < 2 or shape.sort not in (k.DATACLASS, k.NAMEDTUPLE, k.ATTRS):
        raise ProtocolError("an instance has other fields than its class")
    columns, length = decoder.columns(count - 1, depth)
    decoder.charge((k.INSTANCE_COST + k.dict_cost(len(columns)) + 4 * k.CELL_COST) * length)
    return [_made(shape, row, at) for row in zip(*columns)]


def _made(shape: Shape, values: Sequence[Any], at: int) -> Any:
    kind: Any = shape.kind
    if kind is None:
        return Record(shape.label, dict(zip(shape.names, values)))
    if shape.sort == k.NAMEDTUPLE:
        return tuple.__new__(kind, values)
    try:
        made = object.__new__(kind)
    except TypeError:  # abstract, or built on a C type of its own
        raise UnknownClass(at, f"is of class {shape.full_name}, which can't be made from its fields") from None
    shape.fill(made, values)
    if shape.sort == k.PYDANTIC:
        _fill_model(made, kind, shape.names, list(values[len(shape.names) :]))
    return made


def _fill_model(made: Any, kind: type, names: tuple[str, ...], parts: list[Any]) -> None:
    """The three slots of a pydantic model."""
    given, extra, private = parts
    if not (type(given) is set and all(type(name) is str for name in given)):
        raise ProtocolError("a model is malformed")
    allowed = class_attribute(kind, "model_config").get("extra") == "allow"
    known = set(names)
    if extra is not None:
        if type(extra) is not dict or not allowed or not all(type(name) is str for name in extra):
            raise ProtocolError("a model is malformed")
        known |= set(extra)
    own = class_attribute(kind, "__private_attributes__") or {}
    if private is not None and not (type(private) is dict and set(private) <= set(own)):
        raise ProtocolError("a model is malformed")
    if not given <= known:
        raise ProtocolError("a model is malformed")
    for part, value in zip(PYDANTIC_PARTS, parts):
        class_attribute(kind, part).__set__(made, value)


def enum_member(decoder: Decoder, count: int, depth: int) -> Any:
    """A member of an Enum of the caller, by its name, or a combination of flags."""
    shape, at = _shape(decoder, depth)
    name, number = (decoder.value(depth) for _ in range(count - 1))
    if shape.sort != k.ENUMERATION or not (
        (type(name) is str and number is None) or (name is None and type(number) is int)
    ):
        raise ProtocolError("a member of an Enum is malformed")
    kind: Any = shape.kind
    if kind is None:
        if not decoder.records:
            raise UnknownClass(at, shape.sentence)
        return RecordMember(f"{shape.label}.{name}" if name is not None else f"{shape.label}({number})")
    if name is not None:
        member = kind.__dict__["_member_map_"].get(name)
    elif issubclass(kind, enum.Flag):
        known = kind.__dict__["_value2member_map_"].get(number)
        # What the standard library does for a combination that wasn't met before; not what the class makes of it.
        member = known if known is not None else vars(enum.Flag)["_missing_"].__func__(kind, number)
    else:
        member = None
    if type(member) is not kind:
        said = f"{shape.full_name}.{name}" if name is not None else f"{shape.full_name}({number})"
        raise UnknownClass(at, f"is {said[:120]}, which the class doesn't have here")
    return member
