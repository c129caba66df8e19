"""Find where in a value, or behind a function, lies what can't travel, and say it in one sentence.

The pickler stops at the first such thing and knows what it is; where it is, is found by pickling the parts one by one.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleet._function import Function
from fleet._portable import source as _source
from fleet._portable.source import NoSource
from fleet._portable.world import CannotTravel

_DEPTH_MAX = 32
_LOCAL_ONLY = ("lock", "RLock", "Condition", "Semaphore", "Event", "local", "socket", "Connection", "Cursor", "Thread")

REFUSALS = (CannotTravel, NoSource, TypeError, ValueError, AttributeError, RecursionError)
"""What pickling raises for values that can't be pickled, beside ``pickle.PicklingError``."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a value, and how to say where it is; ``used``: a function uses it, so that the sentence has its verb."""

    path: str
    value: Any
    used: bool = False
    named: bool = False
    """Whether the path says already what it is."""


def sentence(parts: Iterable[Part], error: Exception, fails: Callable[[Any], Exception | None]) -> tuple[str, str]:
    """One sentence and a hint on what of ``parts`` can't travel; ``fails`` pickles a part and gives the error."""
    if isinstance(error, RecursionError) or "recursion" in str(error):
        return "a value is nested too deeply to travel to a car", "pass it in pieces, or flatter"
    part = Part("what the function uses", None, used=True)
    children: Iterable[Part] = parts
    for _ in range(_DEPTH_MAX):
        for child in children:
            failure = fails(child.value)
            if failure is not None:
                part, error = child, failure
                children = () if _is_about(failure, child.value) else _children(child)
                break
        else:
            break
    return _worded(part, error)


def _is_about(error: Exception, value: Any) -> bool:
    """Whether the error is about this very value, not about a part of it."""
    about = getattr(error, "about", None)
    return about is not None and (about is value or (about is type(value) and not isinstance(value, type)))


def _worded(part: Part, error: Exception) -> tuple[str, str]:
    if isinstance(error, NoSource):
        return str(error), error.hint
    if isinstance(error, CannotTravel):
        what, why, hint = error.what, error.why, error.hint
    else:
        what, why = f"a {_kind_of(part.value)}", "can't travel"
        if not str(error).startswith("cannot pickle"):
            why += f" ({type(error).__name__}: {error})"
        hint = "pass plain values instead"
        if part.used:
            local = type(part.value).__name__ in _LOCAL_ONLY
            hint = "make it inside the function" if local or not part.named else "do without it in the function"
    if part.named:
        return f"{part.path}, which {why}", hint
    return (f"{part.path} ({what}), which {why}" if part.used else f"{part.path} is {what}, which {why}"), hint


def _kind_of(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _children(part: Part) -> Iterator[Part]:
    path, used = part.path, part.used
    value: Any = part.value._raw if isinstance(part.value, Function) else part.value
    if isinstance(value, types.FunctionType):
        yield from _behind_function(value)
    elif isinstance(value, types.MethodType):
        yield Part(f"{path}.__self__", value.__self__, used)
        yield from _behind_function(value.__func__)
    elif isinstance(value, type):
        yield from _behind_class(value)
    elif isinstance(value, property | staticmethod | classmethod) or hasattr(value, "__wrapped__"):
        for name in ("fget", "fset", "fdel", "__func__", "__wrapped__"):
            if getattr(value, name, None) is not None:
                yield Part(path, getattr(value, name), used)
    elif isinstance(value, types.ModuleType):
        return
    else:
        yield from _within(part)


def _within(part: Part) -> Iterator[Part]:
    path, value, used = part.path, part.value, part.used
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield Part(f"{path}[{key!r}]", item, used)
            yield Part(f"{path}, key {key!r}", key, used)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield Part(f"{path}[{index}]", item, used)
    elif isinstance(value, set | frozenset):
        for item in value:
            yield Part(f"{path}, member {item!r}", item, used)
    elif hasattr(value, "func") and hasattr(value, "keywords"):  # a partial
        yield Part(f"{path}.func", value.func, used)
        yield Part(f"{path}.args", value.args, used)
        yield Part(f"{path}.keywords", value.keywords, used)
    for name, item in getattr(value, "__dict__", {}).items():
        yield Part(f"{path}.{name}", item, used)
    if type(value).__module__ != "builtins":
        yield Part(f"{path}, its class", type(value), used)


def _behind_function(function: Any) -> Iterator[Part]:
    who = f"function {function.__qualname__}"
    names = _source.names_used(function.__code__).globals
    for name in names:
        if name in function.__globals__ and name != "__builtins__":
            yield _global(who, name, function.__globals__[name])
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield Part(f"{who} uses the variable {name}", cell.cell_contents, used=True)
        except ValueError:  # an empty cell
            continue
    defaults = inspect.getfullargspec(function) if function.__defaults__ or function.__kwdefaults__ else None
    if defaults is not None:
        given = defaults.defaults or ()
        for name, value in zip(defaults.args[len(defaults.args) - len(given) :], given, strict=True):
            yield Part(f"{who} has the default {name}", value, used=True)
        for name, value in (defaults.kwonlydefaults or {}).items():
            yield Part(f"{who} has the default {name}", value, used=True)
    for name, value in vars(function).items():
        yield Part(f"{who} has the attribute {name}", value, used=True)


def _global(who: str, name: str, value: Any) -> Part:
    if isinstance(value, types.ModuleType):
        under = "" if value.__name__ == name else f" (as {name})"
        return Part(f"{who} uses {value.__name__}{under}", value, used=True, named=True)
    return Part(f"{who} uses the global {name}", value, used=True)


def _behind_class(cls: type) -> Iterator[Part]:
    who = f"class {cls.__qualname__}"
    for base in cls.__bases__:
        yield Part(f"{who} derives from {base.__module__}.{base.__qualname__}", base, used=True, named=True)
    if type(cls) is not type:
        yield Part(f"{who} has the metaclass {type(cls).__qualname__}", type(cls), used=True, named=True)
    for name, value in vars(cls).items():
        if name not in ("__dict__", "__weakref__", "_abc_impl", "__doc__"):
            yield Part(f"{who} has the attribute {name}", value, used=True)
