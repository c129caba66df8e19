"""JSON arguments as a sandbox unpickles them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from fleet._event import PICKLE_PROTOCOL
from fleet._json_arguments import Unfit, arguments_of


def pack(schema: Mapping[str, Any] | None, values: Mapping[str, Any]) -> bytes:
    """A pickle of the arguments that ``values`` are by ``schema``: the same for the same values in any order.

    Unfit for a value that can't become what its type says (a date that is none), and for what is nested too deep.
    """
    args, named = ((), values) if schema is None else arguments_of(schema, values)
    try:
        return pickle.dumps((args, {name: named[name] for name in sorted(named)}), PICKLE_PROTOCOL)
    except RecursionError:
        raise Unfit("", "it is nested too deep") from None
