"""Make objects of the standard library again whose own pickles don't fit (``_portable.kinds``). Baked into the guest."""

from __future__ import annotations

import contextlib
import functools
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from fleet._rebuild import functions as _rebuild


def cached(maxsize: int | None, typed: bool, raw: Callable[..., Any]) -> Any:
    """``functools.lru_cache``, empty."""
    return functools.lru_cache(maxsize, typed)(raw)


def single_dispatch(number: int | None, default: Callable[..., Any]) -> Any:
    """``functools.singledispatch`` of ``default``."""
    found = _rebuild.known(number)
    return _rebuild.keep(number, functools.singledispatch(default)) if found is None else found


def set_single_dispatch(made: Any, registered: Iterable[tuple[type, Callable[..., Any]]]) -> None:
    """Register the implementations."""
    for kind, implementation in registered:
        made.register(kind, implementation)


def partial(raw: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """``functools.partial``."""
    return functools.partial(raw, *args, **keywords)


def partial_method(raw: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """``functools.partialmethod``."""
    return functools.partialmethod(raw, *args, **keywords)


def cached_property(raw: Callable[[Any], Any], name: str | None) -> Any:
    """``functools.cached_property`` as its class has named it."""
    made = functools.cached_property(raw)
    made.attrname = name
    return made


def dispatch_method(default: Any, dispatcher: Any) -> Any:
    """``functools.singledispatchmethod`` with its implementations."""
    made = functools.singledispatchmethod(default)
    made.dispatcher = dispatcher
    return made


def context_manager(is_async: bool, raw: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """A context manager of a generator function, not entered yet."""
    make = contextlib.asynccontextmanager if is_async else contextlib.contextmanager
    return make(raw)(*args, **keywords)


_held: dict[int, list[Any]] = {}


def type_alias(number: int | None, name: str, home: str) -> Any:
    """A ``type`` alias whose value comes later: it may refer to itself."""
    found = _rebuild.known(number)
    if found is None:
        space: dict[str, Any] = {"__name__": home, "held": []}
        exec(f"type {name} = held[0]", space)
        found = _rebuild.keep(number, space[name])
        _held[id(found)] = space["held"]
    return found


def set_type_alias(made: Any, value: Any) -> None:
    """The value of an alias, looked at when it is asked for."""
    _held[id(made)][:] = [value]


def builtin_type(name: str) -> Any:
    """A type that Python names in ``types`` only."""
    return getattr(types, name)


def view(kind: str, of: dict[Any, Any]) -> Any:
    """A dict's keys, values or items."""
    return getattr(of, kind)()


def type_variable(kind: str, name: str, args: tuple[Any, ...], options: dict[str, Any], home: str | None) -> Any:
    """A TypeVar, ParamSpec, TypeVarTuple, NewType or alias; options that this Python doesn't know are left out."""
    made_by = getattr(typing, kind)
    try:
        made = made_by(name, *args, **options)
    except TypeError:
        made = made_by(name, *args)
    if home is not None:
        try:
            made.__module__ = home
        except AttributeError:
            pass
    return made
