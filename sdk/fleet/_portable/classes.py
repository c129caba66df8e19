"""Take classes apart so that ``_rebuild.classes`` can make them again, in another Python.

What the class statement wrote travels as it is; what Python, ``dataclasses``, ``enum``, ``typing``, ``collections`` and
attrs added is left out and added again by them, there.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import hashlib
import sys
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fleet._portable import attrs_classes as _portable_attrs
from fleet._portable.notes import names_in_texts, portable_notes
from fleet._rebuild import classes as _rebuild_classes

if TYPE_CHECKING:
    from fleet._portable.pickler import Session

_NEVER = frozenset(
    {
        *("__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__abstractmethods__", "_abc_impl"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__classcell__"),
        *("__static_attributes__", "__firstlineno__", "__orig_bases__", "__parameters__", "__slots__"),
        "__slotnames__",  # what pickling an instance leaves on its class
        *(
            "__protocol_attrs__",
            "__non_callable_proto_members__",
            "__callable_proto_members_only__",
            "_is_runtime_protocol",
        ),
        *("__dataclass_fields__", "__dataclass_params__", "__type_params__"),
    }
)
"""Made anew, or carried apart."""
_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})
_RECORDED = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")


def take_apart(session: Session, cls: type) -> Any:
    """The reduction of a class: a bare one with its bases, then all that may refer back to it."""
    tag = (session.number(cls), _mark(cls))
    attributes = {name: value for name, value in vars(cls).items() if name not in _NEVER}
    state: dict[str, Any] = {}
    make: Any
    arguments: tuple[Any, ...]
    if isinstance(cls, enum.EnumType) and cls.__members__:
        make = _rebuild_classes.make_enum
        space = _space(cls, attributes)
        arguments = (tag, type(cls), cls.__name__, cls.__bases__, _members(cls), space)
        attributes = _beside_members(cls, attributes)
    elif _is_named_tuple(cls):
        make = _rebuild_classes.make_named_tuple
        defaults = tuple(cls._field_defaults.values())  # type: ignore[attr-defined]
        arguments = (tag, cls.__name__, cls._fields, defaults, _space(cls, attributes))  # type: ignore[attr-defined]
        attributes = _beside_fields(cls, attributes)
    elif typing.is_typeddict(cls):
        make = _rebuild_classes.make_typed_dict
        arguments = (tag, cls.__name__, _space(cls, attributes))
        attributes = {
            name: value for name, value in attributes.items() if name.endswith("_keys__") or name == "__total__"
        }
    else:
        make = _rebuild_classes.make_class
        arguments = (tag, type(cls), cls.__name__, cls.__bases__, _space(cls, attributes))
    library = "typing" if vars(cls).get("_is_protocol") else None
    attributes = {
        name: value
        for name, value in attributes.items()
        if not _is_slot(cls, value) and (library is None or _home(value) != library)
    }
    notes = portable_notes(session.world, cls, deep=True)
    if notes:
        state["notes"] = notes
        where = vars(sys.modules.get(cls.__module__, sys))
        named = names_in_texts(session.world, notes, where)
        if named and not session.world.has(cls.__module__):
            state["named"] = (session.namespace(where, cls.__module__), named)
    if "__dataclass_params__" in vars(cls):
        state["dataclass"] = _dataclass(cls, attributes, notes)
    if "__attrs_attrs__" in vars(cls):
        state["attrs"] = _portable_attrs.take_apart(session.world, cls, attributes)
    if getattr(cls, "__type_params__", ()) and "__type_params__" in vars(cls):
        state["type_params"] = cls.__type_params__  # type: ignore[attr-defined,unused-ignore]
    if vars(cls).get("_is_runtime_protocol"):
        state["runtime_protocol"] = True
    registered = [one for one in _registered(cls) if session.world.can_have(one)]
    if registered:
        state["registered"] = registered
    if isinstance(vars(cls).get("__slots__"), tuple | list | str | dict):
        attributes["__slots__"] = vars(cls)["__slots__"]
    state["attributes"] = attributes
    return make, arguments, state, None, None, _rebuild_classes.set_class


def _mark(cls: type) -> str:
    """A digest of what a class says, as far as that is code and plain values: equal for the same class in two pickles."""
    seen = hashlib.sha256(f"{cls.__module__}.{cls.__qualname__}".encode())
    for name, value in vars(cls).items():
        if name not in _NEVER:
            seen.update(f"\n{name} {_said(value)}".encode())
    return seen.hexdigest()[:24]


def _said(value: Any, depth: int = 0) -> str:
    bare = getattr(value, "__func__", value)
    if isinstance(bare, types.FunctionType):
        closed = [cell.cell_contents for cell in bare.__closure__ or () if not is_empty(cell)] if depth < 2 else []
        inner = [_said(one, depth + 1) for one in closed if not isinstance(one, type)]
        code = bare.__code__
        return f"{code.co_qualname} {code.co_firstlineno} {code.co_code.hex()} {code.co_names} {inner}"
    if type(value) in _PLAIN or (type(value) in (tuple, list) and all(type(one) in _PLAIN for one in value)):
        return repr(value)
    if type(value) is dict and all(type(one) in _PLAIN for pair in value.items() for one in pair):
        return repr(value)
    return type(value).__qualname__


def is_empty(cell: types.CellType) -> bool:
    """Whether nothing has been put into a cell yet."""
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return True
    return False


def _space(cls: type, attributes: dict[str, Any]) -> dict[str, Any]:
    """What a class must be made with; taken out of ``attributes``."""
    space: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    if cls.__doc__ is not None and "__doc__" in vars(cls):
        space["__doc__"] = cls.__doc__
    if "__orig_bases__" in vars(cls):
        space["__orig_bases__"] = cls.__orig_bases__  # type: ignore[attr-defined]
    if "__slots__" in vars(cls):
        space["__slots__"] = _slots(cls)
    for name in ("_is_protocol", "__classcell__"):
        if name in attributes:
            space[name] = attributes.pop(name)
    if isinstance(cls, enum.EnumType) and issubclass(cls, enum.Flag):
        space["boundary"] = cls._boundary_  # type: ignore[attr-defined]
    return space


def _slots(cls: type) -> tuple[str, ...]:
    """Names as the class statement gave them: what is there as a slot, and the two that every class may have."""
    names = [name for name, value in vars(cls).items() if _is_slot(cls, value)]
    names += [name for name in ("__dict__", "__weakref__") if name in vars(cls)]
    return tuple(names)


def _is_slot(cls: type, value: Any) -> bool:
    return isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls


def _home(value: Any) -> str | None:
    """The module that a function's, a class method's or a static method's code belongs to."""
    bare = getattr(value, "__func__", value)
    return str(bare.__globals__.get("__name__", "")) if isinstance(bare, types.FunctionType) else None


def _registered(cls: type) -> list[type]:
    """Virtual subclasses of an abstract base class, in an order that doesn't change."""
    if not isinstance(cls, abc.ABCMeta) or "_abc_impl" not in vars(cls):
        return []
    found = [one() for one in abc._get_dump(cls)[0]]  # type: ignore[attr-defined]
    return sorted((one for one in found if one is not None), key=lambda one: (one.__module__, one.__qualname__))


# --- dataclasses


def _dataclass(cls: type, attributes: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    """Parameters and own fields; what the decorator wrote is taken out of ``attributes``."""
    fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
    own = [fields[name] for name in _own_notes(cls) if name in fields]
    spec: dict[str, Any] = {
        "params": {name: getattr(cls.__dataclass_params__, name) for name in _RECORDED},  # type: ignore[attr-defined]
        "slots": "__slots__" in vars(cls),
        "fields": [(one.name, _kind(one), _options(one), notes.get(one.name)) for one in own],
    }
    spec["params"]["match_args"] = "__match_args__" in vars(cls)
    for name, value in list(attributes.items()):
        fresh_hash = name == "__hash__" and value is None
        of_theirs = getattr(value, "__module__", "") == "dataclasses" and name not in ("__getstate__", "__setstate__")
        if fresh_hash or of_theirs or _is_written(value):
            del attributes[name]
    for one in own:
        if _kind(one) != "ClassVar":
            attributes.pop(one.name, None)
    positional = tuple(name for name, one in fields.items() if one.init and not one.kw_only and _kind(one) == "field")
    if attributes.get("__match_args__") == positional:
        del attributes["__match_args__"]
    return spec


def _own_notes(cls: type) -> list[str]:
    """Names that a class annotates itself; 3.14 makes them when they are asked for."""
    made_later = "__annotate_func__" in vars(cls)
    return list(vars(cls).get("__annotations__") or (cls.__annotations__ if made_later else ()))


def _kind(field: Any) -> str:
    return {"_FIELD": "field", "_FIELD_CLASSVAR": "ClassVar", "_FIELD_INITVAR": "InitVar"}[field._field_type.name]


def _options(field: Any) -> dict[str, Any]:
    names = ("default", "default_factory", "init", "repr", "hash", "compare", "kw_only")
    options = {name: getattr(field, name) for name in names}
    options = {name: value for name, value in options.items() if value is not dataclasses.MISSING}
    if field.metadata:
        options["metadata"] = dict(field.metadata)
    return options


def _is_written(value: Any) -> bool:
    """Whether ``dataclasses`` wrote this method, under whatever it wrapped it in."""
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    code = getattr(value, "__code__", None)
    return isinstance(code, types.CodeType) and code.co_qualname.startswith("__create_fn__.")


# --- enums


def _members(cls: enum.EnumType) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """Of each member, aliases too: its name, its value, arguments of its data type's constructor, its attributes."""
    found = []
    base: Any = cls._member_type_  # type: ignore[attr-defined]
    members: Mapping[str, Any] = cls.__members__
    for name, member in members.items():
        args = None
        if base is not object:
            get = getattr(base, "__getnewargs__", None)
            args = get(member) if get is not None else _tuple_of(member._value_)
        own = {key: value for key, value in vars(member).items() if key not in _rebuild_classes.OF_MEMBERS}
        found.append((name, member._value_, args, own))
    return found


def _tuple_of(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _beside_members(cls: enum.EnumType, attributes: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in attributes.items():
        is_own = _home(value) not in (None, "enum")
        if name in cls.__members__ or name == "__new__":
            continue
        if is_own or not (name.startswith("_") and name.endswith("_")):
            kept[name] = value
    return kept


# --- named tuples


def _is_named_tuple(cls: Any) -> bool:
    return cls.__bases__ == (tuple,) and "_fields" in vars(cls) and "_field_defaults" in vars(cls)


def _beside_fields(cls: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    """What a named tuple's class statement says beside its fields."""
    plain = vars(collections.namedtuple("plain", cls._fields, rename=True))
    kept = {}
    for name, value in attributes.items():
        code = getattr(value, "__code__", None)
        theirs = getattr(getattr(plain.get(name), "__code__", None), "co_filename", None)
        if name not in plain or (
            code is not None and code.co_filename not in (theirs, sys.modules["collections"].__file__)
        ):
            kept[name] = value
    return kept
