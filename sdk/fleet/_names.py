"""What functions are called: for people, and as tokens. Standard library only: runs in the wasm guest, too."""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from fleet.protocol.ids import digest, token_of

_LAMBDA = "<lambda>"


def underlying(raw: Any) -> Any:
    """The function that a partial, or a partial of a partial, calls in the end."""
    while isinstance(raw, functools.partial):
        raw = raw.func
    return raw


def display_name(raw: Any) -> str:
    """Its qualified name, as Python spells it; of a callable object, that of its class."""
    inner = underlying(raw)
    return str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)


def module_name(raw: Any) -> str:
    """The module that it belongs to."""
    return str(getattr(underlying(raw), "__module__", None) or "__main__")


def token(raw: Any, is_it: Callable[[Any], bool]) -> str:
    """The token of a function without a name of its own: no two functions of one file share one.

    A lambda is called what its module calls it (``is_it`` tells whether a value is its Function), else by its place.
    """
    display = display_name(raw)
    inner = underlying(raw)
    if _LAMBDA not in display or not isinstance(inner, types.FunctionType):
        return token_of(display)
    module = sys.modules.get(inner.__module__ or "")
    for name, value in list(vars(module).items()) if module is not None else []:
        if is_it(value) and not name.startswith("_"):
            return token_of(name)
    code = inner.__code__
    columns = [column for line, _, column, _ in code.co_positions() if line is not None and column]
    place = f"{os.path.basename(code.co_filename)} {display} {code.co_firstlineno} {min(columns, default=0)}"
    return f"{token_of(display).rpartition('-')[0]}-{digest(place.encode())[:8]}"
