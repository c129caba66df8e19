"""Annotations as they travel: values where the sandbox can have them, else their text."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from fleet._portable.world import CannotTravel, World

_PLAIN = (str, int, float, bool, bytes, type(None), type(...))


def portable_notes(world: World, obj: Any, *, deep: bool) -> dict[str, Any]:
    """The annotations of a function or class; ``deep``: classes that travel by value are kept as they are.

    ``-> Matrix`` of a library that the sandbox lacks must not keep a function here, so that becomes a text.
    """
    try:
        notes = vars(obj).get("__annotations__") if isinstance(obj, type) else obj.__annotations__
        if notes is None and isinstance(obj, type):
            notes = obj.__annotations__ if "__annotate_func__" in vars(obj) else {}  # 3.14 makes them when asked
    except Exception:  # evaluated when first asked for, a name may be missing
        return {}
    return {name: _portable(world, value, deep) for name, value in (notes or {}).items()}


def names_in_texts(world: World, notes: dict[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    """Globals that annotations kept as texts name, as far as they can travel: ``get_type_hints`` looks them up."""
    names = {name for text in notes.values() if isinstance(text, str) for name in _names_in(text)}
    return {name: where[name] for name in sorted(names) if name in where and _can_travel(world, where[name])}


def names_noted(world: World, function: ast.AST, where: Mapping[str, Any]) -> dict[str, Any]:
    """The same for annotations of what a function defines inside: no code names them while they are texts."""
    names: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign) or (isinstance(node, ast.arg) and node.annotation is not None):
            for part in ast.walk(node.annotation or node):
                if isinstance(part, ast.Name):
                    names.add(part.id)
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    names.update(_names_in(part.value))
    return {name: where[name] for name in sorted(names) if name in where and _can_travel(world, where[name])}


def _names_in(text: str) -> list[str]:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return []
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]


def _can_travel(world: World, value: Any) -> bool:
    if isinstance(value, types.ModuleType):
        return world.has(value.__name__)
    return not isinstance(value, str) and _is_portable(world, value, deep=True)


def _portable(world: World, value: Any, deep: bool) -> Any:
    if isinstance(value, typing.ForwardRef):
        return value.__forward_arg__
    return value if _is_portable(world, value, deep) else inspect.formatannotation(value)


def _is_portable(world: World, value: Any, deep: bool) -> bool:
    if isinstance(value, _PLAIN):
        return True
    if isinstance(value, list | tuple):  # arguments of Callable, of Literal
        return all(_is_portable(world, one, deep) for one in value)
    if isinstance(value, type) and not isinstance(value, types.GenericAlias):
        if value.__module__ == "builtins":
            return True
        try:
            return world.by_name(value, "") or deep
        except CannotTravel:
            return False
    origin = typing.get_origin(value)
    if origin is not None:
        return _is_portable(world, origin, deep) and all(
            _is_portable(world, one, deep) for one in typing.get_args(value)
        )
    return type(value).__module__ == "typing" and (deep or not isinstance(value, typing.TypeVar))
