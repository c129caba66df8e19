"""How objects of the standard library travel whose own pickles don't fit: made by C code or by closures, not the same in
every Python, or not picklable at all though a constructor call makes them anew."""

from __future__ import annotations

import builtins
import contextlib
import functools
import operator
import sys
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fleet._portable.world import CannotTravel, named
from fleet._rebuild import functions as _rebuild
from fleet._rebuild import kinds as _rebuild_kinds

if TYPE_CHECKING:
    from fleet._portable.pickler import Session

UNNAMED_TYPES = {
    kind: name
    for name, kind in vars(types).items()
    if isinstance(kind, type) and kind.__module__ == "builtins" and not hasattr(builtins, kind.__name__)
}
"""Types whose module and name lead nowhere, by their name in ``types``."""
for _kind in (type(None), type(NotImplemented), type(...)):
    UNNAMED_TYPES.pop(_kind, None)  # pickle knows these


def _method(_session: Session, obj: types.MethodType) -> Any:
    if getattr(obj.__self__, obj.__name__, None) == obj:
        return getattr, (obj.__self__, obj.__name__)
    return types.MethodType, (obj.__func__, obj.__self__)


def _cell(_session: Session, obj: types.CellType) -> Any:
    """Empty: the first function that comes with it fills it."""
    return _rebuild.cell, ()


def _property(_session: Session, obj: property) -> Any:
    return property, (obj.fget, obj.fset, obj.fdel, obj.__doc__)


def _wrapping(_session: Session, obj: Any) -> Any:
    return type(obj), (obj.__func__,)


def _partial(_session: Session, obj: Any) -> Any:
    state = vars(obj) or None
    return _rebuild_kinds.partial, (obj.func, obj.args, obj.keywords), state


def _partial_method(_session: Session, obj: Any) -> Any:
    return _rebuild_kinds.partial_method, (obj.func, obj.args, obj.keywords)


def _cached_property(_session: Session, obj: Any) -> Any:
    return _rebuild_kinds.cached_property, (obj.func, obj.attrname)


def _dispatch_method(_session: Session, obj: Any) -> Any:
    return _rebuild_kinds.dispatch_method, (obj.func, obj.dispatcher)


def _context_manager(_session: Session, obj: Any) -> Any:
    """What a generator function under ``contextlib.contextmanager`` gave, if it has not been entered."""
    is_async = isinstance(obj, contextlib._AsyncGeneratorContextManager)
    name = "ag_frame" if is_async else "gi_frame"
    frame = getattr(obj.gen, name, None)
    new = obj.func(*obj.args, **obj.kwds)  # runs nothing of it
    if (
        frame is None or getattr(new, name).f_lasti != frame.f_lasti
    ):  # one that has not begun stands where a new one does
        raise CannotTravel("a context manager that was entered", "can't travel", "make it inside the function")
    return _rebuild_kinds.context_manager, (is_async, obj.func, obj.args, obj.kwds)


def _forward_ref(_session: Session, obj: Any) -> Any:
    return typing.ForwardRef, (obj.__forward_arg__,)


def _cached(session: Session, obj: Any) -> Any:
    """``lru_cache`` and ``cache``: the function and the cache's size; what is in it stays here."""
    module = str(getattr(obj, "__module__", ""))
    if named(obj, module) is obj and session.world.has(module):
        return obj.__qualname__
    parameters = obj.cache_parameters()
    return _rebuild_kinds.cached, (parameters["maxsize"], parameters["typed"], obj.__wrapped__)


def _code(_session: Session, obj: types.CodeType) -> Any:
    raise CannotTravel(f"the code object {obj.co_name}", "can't travel", "pass the function that it belongs to")


def _keys(_session: Session, obj: Any) -> Any:
    return _rebuild_kinds.view, ("keys", dict.fromkeys(obj))


def _values(_session: Session, obj: Any) -> Any:
    return _rebuild_kinds.view, ("values", dict(enumerate(obj)))


def _items(_session: Session, obj: Any) -> Any:
    return _rebuild_kinds.view, ("items", dict(obj))


def _mapping_proxy(_session: Session, obj: Any) -> Any:
    return types.MappingProxyType, (dict(obj),)


def _memory(_session: Session, obj: memoryview) -> Any:
    return memoryview, (obj.tobytes(),)


def _stream(_session: Session, obj: Any) -> Any:
    for name in ("stdin", "stdout", "stderr"):
        if obj is getattr(sys, name) or obj is getattr(sys, f"__{name}__"):
            return getattr, (sys, name)
    return NotImplemented


def _variable(session: Session, obj: Any) -> Any:
    """TypeVar and its kin, by name where one leads to it."""
    home = getattr(obj, "__module__", None)
    name = obj.__name__
    if home and named(obj, home, name) is obj and session.world.has(home):
        return name
    options: dict[str, Any] = {}
    args: tuple[Any, ...] = ()
    kind = type(obj).__name__
    if kind == "TypeAliasType" and not obj.__type_params__:  # it may refer to itself
        arguments = (session.number(obj), name, home)
        return _rebuild_kinds.type_alias, arguments, obj.__value__, None, None, _rebuild_kinds.set_type_alias
    if kind == "NewType":
        args = (obj.__supertype__,)
    elif kind == "TypeAliasType":
        args, options = (obj.__value__,), {"type_params": obj.__type_params__}
    elif kind == "TypeVar":
        args = obj.__constraints__
        if not args and obj.__bound__ is not None:
            options["bound"] = obj.__bound__
        options |= {
            option: True
            for option in ("covariant", "contravariant", "infer_variance")
            if getattr(obj, f"__{option}__", False)
        }
    if getattr(obj, "has_default", bool)():
        options["default"] = obj.__default__
    return _rebuild_kinds.type_variable, (kind, name, args, options, home)


def made_by_stdlib(session: Session, obj: types.FunctionType) -> Any:
    """Wrappers that the standard library makes as closures: their maker is called again. None: it is no such wrapper."""
    if obj.__code__ is _HELPER_OF_CONTEXTMANAGER and hasattr(obj, "__wrapped__"):
        return contextlib.contextmanager, (obj.__wrapped__,)
    if obj.__code__ is _HELPER_OF_ASYNC and hasattr(obj, "__wrapped__"):
        return contextlib.asynccontextmanager, (obj.__wrapped__,)
    if obj.__code__ is _SINGLE_DISPATCH:
        made: Any = obj
        registered = [(kind, one) for kind, one in made.registry.items() if kind is not object]
        arguments = (session.number(obj), made.registry[object])
        return _rebuild_kinds.single_dispatch, arguments, registered, None, None, _rebuild_kinds.set_single_dispatch
    return None


def _nested_code(function: Any, name: str) -> types.CodeType:
    code: types.CodeType = function.__code__
    return next(one for one in code.co_consts if isinstance(one, types.CodeType) and one.co_name == name)


_HELPER_OF_CONTEXTMANAGER = _nested_code(contextlib.contextmanager, "helper")
_HELPER_OF_ASYNC = _nested_code(contextlib.asynccontextmanager, "helper")
_SINGLE_DISPATCH = _nested_code(functools.singledispatch, "wrapper")

TAKE: dict[type, Callable[[Any, Any], Any]] = {
    types.MethodType: _method,
    types.CellType: _cell,
    types.CodeType: _code,
    types.MappingProxyType: _mapping_proxy,
    property: _property,
    staticmethod: _wrapping,
    classmethod: _wrapping,
    memoryview: _memory,
    functools.partial: _partial,
    functools.partialmethod: _partial_method,
    functools.cached_property: _cached_property,
    functools.singledispatchmethod: _dispatch_method,
    typing.ForwardRef: _forward_ref,
    contextlib._GeneratorContextManager: _context_manager,
    contextlib._AsyncGeneratorContextManager: _context_manager,
    type(functools.lru_cache(operator.neg)): _cached,
    type({}.keys()): _keys,
    type({}.values()): _values,
    type({}.items()): _items,
    type(sys.stdout): _stream,
    type(sys.__stdout__): _stream,
    **{
        getattr(typing, name): _variable
        for name in ("TypeVar", "ParamSpec", "TypeVarTuple", "NewType", "TypeAliasType")
        if hasattr(typing, name)
    },
}
TAKE.pop(type(None), None)
