"""What stands in for modules that the developer's machine has and a sandbox doesn't.

Scripts and test files import such modules at their top level all the time (``import pytest``), for functions that never
run here. While the modules of a bundle are executed, a plain ``import`` at top level that finds nothing gives a
placeholder, which can be asked for attributes, called, used as a decorator and derived from. Once a function runs, using
one raises ModuleNotFoundError with a sentence. An import in a function, or with a ``try`` or ``with`` around it anywhere
up the chain of importing modules, raises at once: somebody may wait for that error.

Modules of packages get placeholders for what this Python lacks of the standard library alone (networkx imports ``bz2``),
unless the package itself waits for the error.
"""

# ruff: noqa: SIM905 - lists of names read best as written here
from __future__ import annotations

import abc
import builtins
import dis
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from . import reasons
from .reasons import sentence

_ORIGINAL = builtins.__import__
PACKAGES = "/packages/"
"""Files of packages lie below this."""
_GENERATOR_FLAGS = 0x20 | 0x80 | 0x200
"""CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR: Python wraps their whole body in a handler of its own."""
_ERROR_ENDINGS = ("Error", "Exception", "Warning")

_depth = 0
"""Modules of the bundle that are being executed now."""
_files: set[str] = set()


@contextmanager
def executing(file: str, owns: Callable[[str], bool]) -> Iterator[None]:
    """While a module of the bundle is executed from ``file``; ``owns`` tells the bundle's own top-level names."""
    _files.add(file)
    reasons.set_owner(owns)
    with executing_package():
        yield


@contextmanager
def executing_package() -> Iterator[None]:
    """While a module of a package is executed."""
    global _depth
    if _depth == 0:
        builtins.__import__ = _import
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0 and builtins.__import__ is _import:
            builtins.__import__ = _ORIGINAL


def _import(
    name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
) -> Any:
    try:
        module = _ORIGINAL(name, globals, locals, fromlist or (), level)
    except ImportError:
        # Never in sys.modules: whoever asks there, or imports it later in a try or a function, gets the truth.
        if level or "*" in (fromlist or ()) or reasons.is_here(name) or not _may_stand_in(name, sys._getframe(1)):
            raise
        return Placeholder(name) if fromlist else _bound(name)
    if fromlist and level == 0 and name.partition(".")[0] == "fleet" and _may_stand_in(name, sys._getframe(1)):
        for part in fromlist:
            if part != "*" and not hasattr(module, part):
                setattr(module, part, Placeholder(f"{name}.{part}"))
    return module


def _bound(name: str) -> Any:
    """What ``import a.b.c`` binds: ``a``. If that is there, and only some ``b`` isn't, ``a`` gets the placeholder."""
    top, *rest = name.split(".")
    if top not in sys.modules:
        return Placeholder(top)
    at: Any = sys.modules[top]
    path = top
    for part in rest:
        path += "." + part
        if path not in sys.modules:
            setattr(at, part, Placeholder(path))
            break
        at = sys.modules[path]
    return sys.modules[top]


def _may_stand_in(name: str, importer: FrameType) -> bool:
    """Whether the import of ``name`` is at a module's top level and nobody up the chain waits for it to fail."""
    file = importer.f_code.co_filename
    if importer.f_code.co_name != "<module>":
        return False
    if file.startswith(PACKAGES):
        # Whoever waits for the whole package to be missing doesn't wait for this: it is here.
        own = file[: file.find("/", len(PACKAGES)) + 1] or file
        return name.partition(".")[0] in sys.stdlib_module_names and not _any_guarded(
            importer, lambda other: other.startswith(own)
        )
    return file in _files and not _any_guarded(importer, _files.__contains__)


def _any_guarded(frame: FrameType | None, counts: Callable[[str], bool]) -> bool:
    """Whether ``frame``, or one above it, is guarded; those whose files count."""
    while frame is not None:
        if counts(frame.f_code.co_filename) and _is_guarded(frame):
            return True
        frame = frame.f_back
    return False


def _is_guarded(frame: FrameType) -> bool:
    """Whether ``frame`` is inside a ``try`` or a ``with`` right now."""
    code, at = frame.f_code, frame.f_lasti
    if code.co_flags & _GENERATOR_FLAGS:
        return False
    table: Any = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    return any(entry.start <= at < entry.end for entry in table)


def _check(name: str) -> None:
    if _depth == 0:
        raise ModuleNotFoundError(sentence(name), name=name)


class Placeholder:
    """Stands for a module that isn't here, and for whatever is taken from it."""

    def __init__(self, name: str) -> None:
        self.__dict__["_missing"] = name
        self.__dict__["__name__"] = self.__dict__["__qualname__"] = name.rpartition(".")[2]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name != "__version__":
            raise AttributeError(name)  # Protocols are asked for all the time; here there are none but those below.
        _check(self._missing)
        return Placeholder(f"{self._missing}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        _check(self._missing)

    def __mro_entries__(self, _bases: tuple[Any, ...]) -> tuple[type]:
        return (_absent(self._missing),)

    def __repr__(self) -> str:
        return f"<{self._missing}, which isn't available on a car>"

    def __str__(self) -> str:
        _check(self._missing)
        return repr(self)

    def __eq__(self, other: object) -> bool:
        _check(self._missing)
        return self is other

    __hash__ = object.__hash__

    def __reduce__(self) -> Any:
        raise ModuleNotFoundError(sentence(self._missing), name=self._missing)


def _answer(value: Callable[[Placeholder], Any]) -> Callable[..., Any]:
    def method(self: Placeholder, *_args: Any, **_kwargs: Any) -> Any:
        _check(self._missing)
        return value(self)

    return method


def _no_number(self: Placeholder) -> Any:
    raise ModuleNotFoundError(sentence(self._missing), name=self._missing)


_OPERATORS = (
    "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift radd rsub rmul rtruediv rfloordiv rmod rpow "
    "rmatmul rand ror rxor rlshift rrshift neg pos abs invert lt le gt ge call getitem enter aenter"
).split()
_ANSWERS: dict[str, Callable[[Placeholder], Any]] = {
    **dict.fromkeys(_OPERATORS, lambda self: self),
    **dict.fromkeys(("setitem", "delitem", "delattr", "exit"), lambda _self: None),
    **dict.fromkeys(("bool", "contains", "instancecheck", "subclasscheck"), lambda _self: False),
    **dict.fromkeys(("int", "float", "index", "complex"), _no_number),
    "iter": lambda _self: iter(()),
    "len": lambda _self: 0,
}
for _name, _value in _ANSWERS.items():
    setattr(Placeholder, f"__{_name}__", _answer(_value))


class _AbsentType(abc.ABCMeta):
    """Type of the classes below; of ABCMeta, so that they can be mixed with abstract classes."""

    _missing: str

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        _check(cls._missing)
        return Placeholder(f"{cls._missing}.{name}")


class _Absent(metaclass=_AbsentType):
    """Base of classes that derive from a placeholder. They can be defined, but not instantiated."""

    _missing = ""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        _check(cls._missing)
        return Placeholder(cls._missing)

    def __init_subclass__(cls, **_kwargs: Any) -> None:
        """Take the keywords that the absent class would take."""


_absent_classes: dict[str, type] = {}


def _absent(name: str) -> type:
    """The class that stands for ``name``, always the same one."""
    if name not in _absent_classes:
        short = name.rpartition(".")[2]
        bases = (_Absent, Exception) if short.endswith(_ERROR_ENDINGS) else (_Absent,)
        _absent_classes[name] = _AbsentType(short, bases, {"_missing": name})
    return _absent_classes[name]
