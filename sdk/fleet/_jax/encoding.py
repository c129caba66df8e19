"""Flat arguments as the codec's bytes. numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from fleet.protocol import codec
from fleet.protocol.errors import PayloadTooLarge, ResultNotPortable, WrongArguments
from fleet.protocol.limits import PAYLOAD_BYTES_MAX
from fleet.protocol.units import format_bytes


def encoded(entries: list[Any], name: str) -> bytes:
    """The codec's bytes of the arguments of ``name``; PayloadTooLarge over the limit."""
    size_bytes = sum(one.nbytes for one in entries if isinstance(one, np.ndarray))
    if size_bytes <= PAYLOAD_BYTES_MAX:
        try:
            data = codec.encode(entries, "the arguments")
        except ResultNotPortable as error:
            raise WrongArguments(f"{name}: {error.message}", hint=error.hint) from None
        size_bytes = len(data)
        if size_bytes <= PAYLOAD_BYTES_MAX:
            return data
    raise PayloadTooLarge(
        f"{name}: the arguments have {format_bytes(size_bytes)}, the limit is {format_bytes(PAYLOAD_BYTES_MAX)}",
        hint="split them over several calls",
    )
