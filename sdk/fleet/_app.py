"""Apps: functions that are deployed together. Standard library only: scripts import this in the wasm guest, too."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from fleet._function import AsyncFunction, Decorator, Function, ParamsDecorator, decorate
from fleet.protocol.ids import check_token, token_of
from fleet.protocol.options import FunctionOptions, PlainOptions

P = ParamSpec("P")
R = TypeVar("R")


class App:
    """A named group of functions: ``app = fleet.App("billing")``, then ``@app.function``.

    The name is a token: 1 to 64 of ``A-Z a-z 0-9 _ -``; InvalidOption otherwise.
    """

    def __init__(self, name: str) -> None:
        self.name = check_token(name, "app name")

    @overload
    def function(self, raw: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncFunction[P, R]: ...
    @overload
    def function(self, raw: Callable[P, R], /) -> Function[P, R]: ...
    @overload
    def function(self, /, *, params: object, **options: Unpack[PlainOptions]) -> ParamsDecorator: ...
    @overload
    def function(self, /, **options: Unpack[PlainOptions]) -> Decorator: ...
    def function(self, raw: Callable[..., Any] | None = None, /, **options: Unpack[FunctionOptions]) -> Any:
        """Make a function of this app; takes what ``fleet.function`` takes."""
        return decorate(raw, self.name, dict(options))

    def __repr__(self) -> str:
        return f"fleet.App({self.name!r})"


_override: str | None = None


def set_default_app(name: str | None) -> None:
    """Let functions without an App belong to ``name``, as FLEET_APP does; None: back to FLEET_APP and file names."""
    global _override
    _override = None if name is None else check_token(name, "app")


def default_app_name(module: str) -> str:
    """The app of a module-level function: ``fleet.connect(app=)``, FLEET_APP, else named after the module's file."""
    given = _override or os.environ.get("FLEET_APP")
    if given:
        return check_token(given, "FLEET_APP")
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return token_of("main" if module == "__main__" else module.rpartition(".")[2])
    folder, name = os.path.split(os.path.abspath(file))
    stem = os.path.splitext(name)[0]
    return token_of(os.path.basename(folder) if stem in ("__init__", "__main__") else stem)
