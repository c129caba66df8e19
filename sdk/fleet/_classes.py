"""Which classes the result of a function may be made of: a closed set, never a name that a car chose.

A result names the classes of its parts. Those names are looked up, in this order, among

1. the classes that the function's return annotation reaches (through generics, unions, and the fields of dataclasses,
   NamedTuples, TypedDicts, attrs classes and pydantic models; of installed packages, too),
2. the classes that travelled to the car by value with the function,
3. the classes of the caller's own modules: ``__main__``, and imported modules outside the environment. Nothing is imported,
   and no attribute hook is run: modules and classes are searched by their ``__dict__``.
"""

from __future__ import annotations

import contextvars
import dataclasses
import enum
import functools
import os
import sys
import sysconfig
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

MAIN = "__main__"
_REACHED_MAX = 10_000
show_records: contextvars.ContextVar[bool] = contextvars.ContextVar("show_records", default=False)


@contextmanager
def records() -> Iterator[None]:
    """Inside: instances of classes that aren't known show as records (for a command line), instead of being refused."""
    token = show_records.set(True)
    try:
        yield
    finally:
        show_records.reset(token)


class Classes:
    """The classes that results of one function may be made of; found when they are first needed."""

    def __init__(
        self,
        raw: Callable[..., Any] | None = None,
        extra: Mapping[tuple[str, str], type] | None = None,
        unpack: Callable[[Any], Any] | None = None,
    ) -> None:
        self._raw = raw
        self.unpack = unpack
        """Jax: makes what the function returns of plain containers and arrays."""
        self._extra = extra if extra is not None else {}  # It grows while arguments bring classes along.

    def find(self, sort: int, module: str, qualname: str) -> type | None:
        """The class of that name, or None. (``sort`` is checked by whoever makes instances.)"""
        del sort
        key = (module, qualname)
        found = self._annotated.get(key) or self._extra.get(key) or own_class(module, qualname)
        if found is None and module == MAIN:  # A script that runs as __main__ there may be loaded under its name here.
            found = self._annotated.get((self._home, qualname)) or own_class(self._home, qualname)
        return found

    @functools.cached_property
    def _home(self) -> str:
        return str(getattr(self._raw, "__module__", None) or "")

    @functools.cached_property
    def _annotated(self) -> dict[tuple[str, str], type]:
        return {} if self._raw is None else reachable(*_returned(self._raw))


ANY_OWN = Classes()
"""For results of calls whose function is not at hand: the caller's own modules alone."""


def _returned(raw: Any) -> list[Any]:
    """What ``raw`` is annotated to return, and the classes that its closure holds."""
    while isinstance(raw, functools.partial):
        raw = raw.func
    raw = getattr(raw, "__func__", raw)
    found = [hints_of(raw).get("return")]
    inner = raw
    for _ in range(100):
        cells = getattr(inner, "__closure__", None) or ()
        found += [one for cell in cells if isinstance(one := _content(cell), type)]
        inner = getattr(inner, "__wrapped__", None)
        if inner is None:
            break
    return found


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def hints_of(of: Any) -> dict[str, Any]:
    """Annotations with what can be evaluated of them; the developer's own text alone is evaluated."""
    try:
        return typing.get_type_hints(of, include_extras=True)
    except Exception:  # One name that is not there (TYPE_CHECKING, a local class) must not hide the others.
        pass
    found = {}
    try:
        given = dict(getattr(of, "__annotations__", {}) or {})
    except Exception:  # From 3.14 on they are evaluated only now.
        return {}
    scope = getattr(of, "__globals__", None) or vars(sys.modules.get(getattr(of, "__module__", ""), types))
    for name, hint in given.items():
        if isinstance(hint, str):
            try:
                hint = eval(hint, dict(scope))
            except Exception:
                continue
        found[name] = hint
    return found


def reachable(*hints: Any) -> dict[tuple[str, str], type]:
    """Classes by (module, qualified name) that annotations mention, or the fields of such classes."""
    found: dict[tuple[str, str], type] = {}
    seen: set[int] = set()
    waiting = list(hints)
    kept: list[Any] = []  # what ``seen`` names by id must live
    while waiting and len(kept) < _REACHED_MAX:
        hint = waiting.pop()
        if hint is None or id(hint) in seen:
            continue
        seen.add(id(hint))
        kept.append(hint)
        waiting += _parts(hint)
        if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
            found[hint.__module__, hint.__qualname__] = hint
            waiting += hints_of(hint).values() if _has_fields(hint) else ()
    return found


def _parts(hint: Any) -> list[Any]:
    """What an annotation is composed of."""
    if isinstance(hint, list | tuple):  # the parameters of a Callable
        return list(hint)
    parts = [typing.get_origin(hint), getattr(hint, "__supertype__", None), getattr(hint, "__bound__", None)]
    if type(hint).__name__ == "TypeAliasType":
        try:
            parts.append(hint.__value__)
        except Exception:  # It names what isn't there.
            pass
    parts += getattr(hint, "__constraints__", ()) or ()
    for arg in typing.get_args(hint):
        parts.append(type(arg) if isinstance(arg, enum.Enum) else arg)  # Literal[Colour.RED]
    return [part for part in parts if part is not None]


def _has_fields(kind: type) -> bool:
    marks = ("__dataclass_fields__", "_fields", "__total__", "__attrs_attrs__", "__pydantic_fields__")
    return dataclasses.is_dataclass(kind) or any(mark in base.__dict__ for base in kind.__mro__ for mark in marks)


def own_class(module: str, qualname: str) -> type | None:
    """A class of that name in a module of the caller's own; nothing is imported, no attribute hook is run."""
    home = sys.modules.get(module)
    if not isinstance(home, types.ModuleType) or not _is_own(module, home):
        return None
    found: Any = home
    for part in qualname.split("."):
        found = object.__getattribute__(found, "__dict__").get(part) if found is home else type_dict(found).get(part)
        if not isinstance(found, type):
            return None
    # What a module imported from elsewhere isn't its own.
    return found if type_dict(found).get("__module__") == module and found.__qualname__ == qualname else None


def type_dict(kind: type) -> Mapping[str, Any]:
    """A class's ``__dict__``, whatever its metaclass has to say about it."""
    found: Mapping[str, Any] = type.__dict__["__dict__"].__get__(kind)
    return found


def _is_own(name: str, module: types.ModuleType) -> bool:
    """Whether a module is the developer's: ``__main__``, or one whose file lies outside the environment."""
    if name == MAIN:
        return True
    file = object.__getattribute__(module, "__dict__").get("__file__")
    if not isinstance(file, str) or name.partition(".")[0] == "fleet":
        return False
    return not any(os.path.abspath(file).startswith(folder + os.sep) for folder in _environment())


@functools.cache
def _environment() -> tuple[str, ...]:
    """Folders of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages")}
    return tuple(sorted(os.path.abspath(folder) for folder in folders if folder))
