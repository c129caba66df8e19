"""Make classes again that were taken apart (``_portable.classes``). Standard library only: baked into the guest.

No code of the developer runs while a class is made: neither its metaclass, nor ``__init_subclass__`` or ``__set_name__``.
What they did to the class is in its attributes already.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import enum
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, cast

from fleet._rebuild import functions as _rebuild

OF_MEMBERS = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})
"""Attributes of enum members that ``enum`` sets itself."""

_made: set[type] = set()
"""Classes that were made here: their hooks don't run for those derived from them."""


Tag = tuple[int, str]
"""A class's number in its group, and its mark."""


def _finish(tag: Tag, cls: Any) -> Any:
    _made.add(cls)
    return _rebuild.keep_class(*tag, cls)


@contextlib.contextmanager
def _no_hooks(bases: tuple[type, ...]) -> Iterator[None]:
    """Without ``__init_subclass__`` of by-value bases."""
    taken = []
    for base in {one: None for given in bases for one in given.__mro__}:
        if base in _made and "__init_subclass__" in vars(base):
            taken.append((base, vars(base)["__init_subclass__"]))
            type.__delattr__(base, "__init_subclass__")
    try:
        yield
    finally:
        for base, hook in taken:
            type.__setattr__(base, "__init_subclass__", hook)


def _library_type(metaclass: type) -> type:
    """The metaclass that isn't the developer's: its ``__new__`` is enough."""
    return next(one for one in metaclass.__mro__ if one not in _made)


def make_class(tag: Tag, metaclass: type, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
    """A class without its attributes."""
    found = _rebuild.known_class(*tag)
    if found is not None:
        return found
    maker: Any = _library_type(metaclass)
    with _no_hooks(bases):
        cls = maker.__new__(metaclass, name, bases, dict(space))
    if "_is_protocol" in space:
        maker.__init__(cls, name, bases, dict(space))
    return _finish(tag, cls)


class _Given:
    """A member of an enum before it is made."""

    def __init__(self, value: Any, args: tuple[Any, ...] | None, attributes: dict[str, Any]) -> None:
        self.value = value
        self.args = args
        self.attributes = attributes


def _new_member(cls: Any, given: Any) -> Any:
    if isinstance(given, tuple):  # enum wraps the arguments of enums of tuples once more
        given = given[0]
    base = cls._member_type_
    made = object.__new__(cls) if given.args is None else base.__new__(cls, *given.args)
    made._value_ = given.value
    vars(made).update(given.attributes)
    return made


def _no_init(_self: Any, *_args: Any) -> None:
    """Members come with all that their ``__init__`` made of them."""


def make_enum(
    tag: Tag,
    metaclass: Any,
    name: str,
    bases: tuple[Any, ...],
    members: Sequence[tuple[str, Any, Any, dict[str, Any]]],
    space: dict[str, Any],
) -> Any:
    """An enum with its members, by enum's own machinery, but without the developer's constructors."""
    found = _rebuild.known_class(*tag)
    if found is not None:
        return found
    namespace: Any = enum.EnumType.__prepare__(name, bases)
    boundary = space.pop("boundary", None)
    for key, value in space.items():
        namespace[key] = value
    namespace["__new__"] = _new_member
    namespace["__init__"] = _no_init
    for member, value, args, attributes in members:
        namespace[member] = _Given(value, args, attributes)
    options = {"boundary": boundary} if boundary is not None else {}
    with _no_hooks(bases):
        cls: Any = enum.EnumType.__new__(metaclass, name, bases, namespace, **options)
    type.__delattr__(cls, "__init__")
    if "__new_member__" in vars(cls):
        type.__delattr__(cls, "__new_member__")
    return _finish(tag, cls)


def make_named_tuple(
    tag: Tag, name: str, fields: tuple[str, ...], defaults: tuple[Any, ...], space: dict[str, Any]
) -> Any:
    """A named tuple."""
    found = _rebuild.known_class(*tag)
    if found is not None:
        return found
    cls: Any = collections.namedtuple(name, fields, rename=True, defaults=defaults)  # type: ignore[misc]
    for key, value in space.items():
        if key != "__slots__":
            setattr(cls, key, value)
    return _finish(tag, cls)


def make_typed_dict(tag: Tag, name: str, space: dict[str, Any]) -> Any:
    """A TypedDict; its keys come with its annotations."""
    found = _rebuild.known_class(*tag)
    if found is not None:
        return found
    make: Any = typing.TypedDict
    cls = make(name, {})
    for key, value in space.items():
        if key != "__slots__":
            setattr(cls, key, value)
    return _finish(tag, cls)


def set_class(cls: Any, state: dict[str, Any]) -> None:
    """The rest of a class."""
    if _rebuild.is_of_program(cls):
        return
    for name, value in state["attributes"].items():
        type.__setattr__(cls, name, value)
    notes = state.get("notes")
    if notes:
        type.__setattr__(cls, "__annotations__", notes)
    if "named" in state:
        where, named = state["named"]
        for name, value in named.items():
            where.setdefault(name, value)
    if "type_params" in state:
        type.__setattr__(cls, "__type_params__", state["type_params"])
    if "dataclass" in state:
        _set_dataclass(cls, state["dataclass"], notes or {})
    if "attrs" in state:
        _set_attrs(cls, state["attrs"])
    if isinstance(cls, abc.ABCMeta):
        abc.update_abstractmethods(cast("Any", cls))
        for one in state.get("registered", ()):
            cls.register(one)
    if vars(cls).get("_is_protocol") and hasattr(typing, "_get_protocol_attrs"):
        type.__setattr__(cls, "__protocol_attrs__", typing._get_protocol_attrs(cls))
        if state.get("runtime_protocol"):
            typing.runtime_checkable(cls)


def _set_dataclass(cls: Any, spec: dict[str, Any], notes: dict[str, Any]) -> None:
    """Let ``dataclasses`` write the methods again, on a class that may have its slots already."""
    slots = {name: value for name, value in vars(cls).items() if isinstance(value, types.MemberDescriptorType)}
    plain: dict[str, Any] = {}
    for name, kind, options, _ in spec["fields"]:
        plain[name] = {"ClassVar": typing.ClassVar, "InitVar": dataclasses.InitVar, "field": object}[kind]
        if kind != "ClassVar":
            type.__setattr__(cls, name, dataclasses.field(**options))
    type.__setattr__(cls, "__annotations__", plain)
    dataclasses.dataclass(**spec["params"])(cls)
    type.__setattr__(cls, "__annotations__", notes)
    if spec["slots"]:
        for name, value in slots.items():
            type.__setattr__(cls, name, value)
        if hasattr(cls.__dataclass_params__, "slots"):
            cls.__dataclass_params__.slots = True
    for name, _, _, note in spec["fields"]:
        cls.__dataclass_fields__[name].type = note


def _set_attrs(cls: Any, spec: dict[str, Any]) -> None:
    """Let attrs write the methods again. With slots it makes a class of its own: its methods are taken from that."""
    import attr  # of the function's packages

    these = {name: attr.ib(**options) for name, options in spec["fields"]}
    decorate = cast("Any", attr.s(these=these, slots=spec["slots"], **spec["params"]))
    if not spec["slots"]:
        made = decorate(cls)
        assert made is cls, "attrs without slots=True patches the class"
        return
    own = {
        name: value
        for name, value in vars(cls).items()
        if not isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType) and name != "__slots__"
    }
    with _no_hooks(cls.__bases__):
        written = vars(decorate(type(cls)(cls.__name__, cls.__bases__, own)))
    left_out = (types.MemberDescriptorType, types.GetSetDescriptorType)
    for name, value in written.items():
        if name not in own and name != "__slots__" and not isinstance(value, left_out):
            type.__setattr__(cls, name, value)
