"""Find the function of a program: by the name of its module, or in the bundle as a portable pickle."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import reduce
from typing import Any, cast

from fleet._function import Function
from fleet._rebuild import functions as _rebuild

from .loader import BundleLoader
from .placeholders import Placeholder

PICKLE = "__fleet__/function.pickle"
"""Entry of the bundle that holds a function without a module; the SDK writes it (``fleet._bundle``)."""

_rebuild.missing = Placeholder


def find(module: str, qualname: str, bundle: BundleLoader) -> Callable[..., Any]:
    """The function; raises what importing its module, or rebuilding it, raises."""
    if module:
        found: Any = reduce(getattr, qualname.split("."), importlib.import_module(module))
    else:
        try:
            found = _rebuild.load_program(bundle.get_data(PICKLE))
        except Exception as error:
            error.add_note(f"This was raised while {qualname} was being rebuilt in the sandbox, before it ran.")
            raise
    # A fleet.Function is a wrapper with options; what runs here is the function itself.
    if isinstance(found, Function):
        found = found._raw
    return cast("Callable[..., Any]", found)
