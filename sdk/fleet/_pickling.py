"""Arguments as pickles that only a sandbox ever loads.

Classes and functions travel by name: those of bundled modules and of the standard library, nothing else yet.
Errors: WrongArguments that names the path to what can't travel, PayloadTooLarge.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cloudpickle

from fleet._function import Function
from fleet._packed import packed
from fleet._ref import Ref
from fleet.protocol.errors import FleetError, PayloadTooLarge, WrongArguments
from fleet.protocol.limits import PAYLOAD_BYTES_MAX
from fleet.protocol.units import format_bytes

PROTOCOL = 5
_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
_BY_NAME = (type, types.FunctionType, types.BuiltinFunctionType, Function)
_PATH_DEPTH_MAX = 32
_GUEST_TOPS = frozenset({"builtins", "fleet", "cloudpickle", "copyreg"}) | sys.stdlib_module_names


class _CannotTravel(Exception):
    """Something refers to code that the sandbox doesn't have."""


class _Pickler(cloudpickle.Pickler):
    """cloudpickle's pickler, with every class and function by name or not at all.

    Values of the exact built-in types never reach ``reducer_override``: they are written at C speed.
    """

    modules: frozenset[str] | None = None
    tops: frozenset[str] = frozenset()
    refs: dict[str, Ref[Any]]
    """Values of ``fleet.put`` that were met."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Ref:
            self.refs[obj.digest] = obj
            return NotImplemented
        if isinstance(obj, _BY_NAME):
            _check_named(obj, self.modules, self.tops)
            return NotImplemented
        if isinstance(obj, types.ModuleType):
            _check_module(obj.__name__, f"module {obj.__name__}", self.modules, self.tops)
        return super().reducer_override(obj)  # type: ignore[no-untyped-call]


class ArgumentPickler:
    """Pickles arguments for one function. ``modules``: what its bundle holds; None: unknown, it was found by name.

    ``tops``: top-level names that its packages make importable.
    """

    def __init__(self, modules: frozenset[str] | None, tops: Iterable[str] = ()) -> None:
        self._modules = modules
        self._kind = type("BoundPickler", (_Pickler,), {"modules": modules, "tops": _GUEST_TOPS.union(tops)})

    def dumps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The pickle of ``(args, kwargs)``."""
        for value in args:
            if type(value) not in _PLAIN:
                break
        else:
            if not kwargs:
                return _bounded(pickle.dumps((args, {}), PROTOCOL))
        try:
            return _bounded(self._dump((args, kwargs)))
        except (_CannotTravel, pickle.PicklingError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, FleetError):
                raise
            path, why = self._blame(args, kwargs, error)
            raise WrongArguments(f"{path} can't travel to a car: {why}", hint=_HINT) from None

    def _dump(self, value: Any) -> bytes:
        out = io.BytesIO()
        pickler = self._kind(out, protocol=PROTOCOL)
        pickler.refs = {}
        pickler.dump(value)
        return packed(out.getvalue(), pickler.refs)

    def _fails(self, value: Any) -> Exception | None:
        try:
            self._dump(value)
        except Exception as error:  # whatever a __reduce__ of the developer raises
            return error
        return None

    def _blame(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> tuple[str, str]:
        """The path to the innermost value that can't be pickled by itself, and why."""
        if isinstance(error, RecursionError) or "recursion" in str(error):
            return "a value among the arguments", "it is nested too deeply"
        named = [(f"argument {index}", value) for index, value in enumerate(args)]
        named += [(f"argument {name}", value) for name, value in kwargs.items()]
        path, children = "the arguments", iter(named)
        for _ in range(_PATH_DEPTH_MAX):
            for name, value in children:
                failure = self._fails(value)
                if failure is not None:
                    path, error, children = name, failure, _children(name, value)
                    break
            else:
                break
        return path, str(error)


def _bounded(data: bytes) -> bytes:
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"the arguments have {format_bytes(len(data))}, the limit is {format_bytes(PAYLOAD_BYTES_MAX)}",
            hint="split them over several calls",
        )
    return data


_HINT = "pass plain values, or classes and functions of modules that the function's own file imports"


def _children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}[{key!r}]", item
            yield f"{path}, key {key!r}", key
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield f"{path}, member {item!r}", item
    elif not isinstance(value, (*_BY_NAME, types.ModuleType)) and hasattr(value, "__dict__"):
        for name, item in vars(value).items():
            yield f"{path}.{name}", item


def _check_named(obj: Any, modules: frozenset[str] | None, tops: frozenset[str]) -> None:
    if isinstance(obj, Function):
        if obj._raw is None:
            return
        obj = obj._raw
    kind = "class" if isinstance(obj, type) else "function"
    name = getattr(obj, "__qualname__", repr(obj))
    module = getattr(obj, "__module__", None) or ("builtins" if isinstance(obj, types.BuiltinFunctionType) else "")
    if obj is type(None) or obj is type(NotImplemented) or obj is type(...):
        return
    if "<lambda>" in name or "<locals>" in name:
        raise _CannotTravel(f"{kind} {name} is not at the top level of a module")
    _check_module(module, f"{kind} {module}.{name}", modules, tops)


def _check_module(module: str, what: str, modules: frozenset[str] | None, tops: frozenset[str]) -> None:
    if modules is not None and module in modules:
        return
    if module == "__main__":
        raise _CannotTravel(f"{what} is defined in the script, which the called function's module doesn't import")
    top = module.partition(".")[0]
    if top in tops:
        return
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    if "site-packages" in file or "dist-packages" in file or (modules is not None and not file.endswith(".py")):
        raise _CannotTravel(f"{what} belongs to the package {top}, which isn't in packages= of the function")
    if modules is not None:
        raise _CannotTravel(f"{what} is not part of the function's bundle")
