"""What the sandbox of a function has, and so how a class or function gets there: by its name, by its source, or not at all.

By name: the standard library, the SDK's part in the guest, the function's packages, the modules of its bundle. By source:
``__main__`` in every form, what no name of its module leads to, and own modules that the bundle lacks.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable
from typing import Any

from fleet._function import Function
from fleet._imports import Finder, is_installed

MAIN = frozenset({"__main__", "__mp_main__"})
_TOPS = frozenset({"builtins", "fleet", "cloudpickle", "copyreg"}) | sys.stdlib_module_names
_HERE_ONLY = frozenset(
    f"fleet.{name}"
    for name in (
        *("_api", "_blobs", "_call", "_client", "_group", "_loop", "_map", "_output", "_stream", "_submit", "_ticket"),
        *("cli", "testing", "transport"),
    )
)
"""Modules of the SDK that the guest lacks; those whose objects a developer may hold."""
_INTO_WRAPPERS_MAX = 8


class CannotTravel(Exception):
    """A value that can't get to a car: ``what`` it is, ``why`` ("which ..."), ``hint``: what to do; ``about``: the value,
    or its class."""

    def __init__(self, what: str, why: str, hint: str, about: Any = None) -> None:
        super().__init__(f"{what}, which {why}")
        self.about = about
        self.what = what
        self.why = why
        self.hint = hint


class World:
    """The sandbox of one function.

    ``modules``: what its bundle holds; None: unknown, the function was found by name. With a ``finder`` the bundle is still
    to be made, and ``own`` gathers the modules that it must hold. ``tops``: importable names of its packages.
    """

    def __init__(self, modules: frozenset[str] | None, tops: Iterable[str] = (), finder: Finder | None = None) -> None:
        self._modules = modules
        self._tops = _TOPS | frozenset(tops)
        self._finder = finder
        self._known: dict[str, bool] = {}
        self._checked: dict[type, bool] = {}
        self.own: set[str] = set()
        self.read: set[str] = set()
        """Packages whose data files functions read."""

    def has(self, module: str) -> bool:
        """Whether the sandbox can import ``module``."""
        found = self._known.get(module)
        if found is None:
            found = self._known[module] = self._look(module)
        return found

    def _look(self, module: str) -> bool:
        if module in MAIN:
            return False
        if self._finder is not None and self._finder.find(module):
            self.own.add(module)
            return True
        if self._modules is not None and module in self._modules:
            return True
        top = module.partition(".")[0]
        if top in self._tops:
            return ".".join(module.split(".")[:2]) not in _HERE_ONLY
        return self._modules is None and self._finder is None and not is_installed(module)

    def is_foreign(self, module: str) -> bool:
        """Whether a module is the environment's, not the developer's: it never travels as source."""
        return module.partition(".")[0] == "fleet" or is_installed(module)

    def by_name(self, obj: Any, what: str) -> bool:
        """Whether a class or function goes by name; False: by value. CannotTravel where neither is possible."""
        module = getattr(obj, "__module__", None) or "builtins"
        if module not in MAIN:
            found = named(obj, module)
            if found is obj and self.has(module):
                return True
            if not self.has(module) and self.is_foreign(module):
                raise lacking(what, module, about=obj)
        return False

    def can_have(self, kind: type) -> bool:
        """Whether a class gets there at all, by name or by value."""
        return kind.__module__ in MAIN or self.has(kind.__module__) or not self.is_foreign(kind.__module__)

    def check_instance(self, kind: type) -> None:
        """CannotTravel for values of a class that the sandbox lacks."""
        if kind not in self._checked:
            module = kind.__module__
            if module.startswith("fleet._jax."):
                raise CannotTravel("a reference to arrays", "the sandbox doesn't have", _FOR_ARRAYS, kind)
            if module not in MAIN and not self.has(module) and self.is_foreign(module):
                raise lacking(f"a {kind.__module__.partition('.')[0]}.{kind.__qualname__}", module, kind)
            self._checked[kind] = True


_FOR_ARRAYS = 'pass it to functions with runtime="jax"; for others put lists of numbers'


def named(obj: Any, module: str, qualname: str | None = None) -> Any:
    """What the module holds under the qualified name of ``obj``; None if nothing."""
    found: Any = sys.modules.get(module)
    name = qualname or getattr(obj, "__qualname__", None) or getattr(obj, "__name__", "")
    if found is None or not name or "<" in name:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def way_to(obj: types.FunctionType, module: str) -> list[tuple[Any, str]]:
    """Steps ``(owner, attribute)`` from what a module's name leads to down to ``obj`` under its wrappers, if it is there."""
    found = named(obj, module)
    for _ in range(_INTO_WRAPPERS_MAX):
        if isinstance(found, Function) and found._raw is not None:
            step: str = "_raw"
            inner: Any = found._raw
        else:
            step, inner = "__wrapped__", getattr(found, "__wrapped__", None)
        if inner is None:
            return []
        if inner is obj:
            return [(found, step)]
        found = inner
    return []


def lacking(what: str, module: str, kind: type | None = None, about: Any = None) -> CannotTravel:
    """The sandbox doesn't have ``module``."""
    top = module.partition(".")[0]
    return CannotTravel(what, "the sandbox doesn't have", _way_out(top, kind), kind if about is None else about)


def _way_out(top: str, kind: type | None) -> str:
    if top in ("numpy", "jax", "jaxlib", "torch", "tensorflow", "cupy"):
        convert = ""
        if kind is not None:
            single = (kind.__name__ != "ndarray" and not hasattr(kind, "__len__")) or kind.__name__.endswith("_")
            convert = "pass .item(), or " if single and top == "numpy" else "pass .tolist(), or "
        return f'{convert}use runtime="jax" for array programs'
    if top in ("pandas", "polars"):
        frame = kind is not None and kind.__name__ == "DataFrame"
        convert = (".to_dict('records')" if top == "pandas" else ".to_dicts()") if frame else ".tolist()"
        return f"pass {convert.replace(chr(39), chr(34))}" if kind is not None else "pass plain lists and dicts"
    if top == "PIL":
        return "pass the bytes of the image file"
    if top == "fleet":
        return "pass plain values; code on a car can't reach the platform"
    if kind is not None:
        return f"pass plain values, or name {top} in packages=[...] if it is pure Python"
    return f"name {top} in packages=[...] if it is pure Python, or do without it in code that runs on cars"
