"""JSON arguments as a sandbox unpickles them."""

from __future__ import annotations

import pickle
from typing import Any

from fleet._event import PICKLE_PROTOCOL
from fnplatform.gateway.problems import HttpProblem


def pack(arguments: dict[str, Any]) -> bytes:
    """A pickle of ``((), arguments)``: the same for the same arguments in any order. HttpProblem 400 if too deep."""
    ordered = {name: arguments[name] for name in sorted(arguments)}
    try:
        return pickle.dumps(((), ordered), PICKLE_PROTOCOL)
    except RecursionError:
        raise HttpProblem(400, "bad_json", "the body is nested too deep") from None
