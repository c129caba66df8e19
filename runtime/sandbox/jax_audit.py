"""Read a module of a jax program and refuse what isn't allowed, before anything is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.export

from fleet.protocol.errors import ProtocolError


class ProgramRefused(ProtocolError):
    """A program that a car doesn't run."""

    code = "program_refused"


@dataclass(frozen=True, slots=True)
class Audited:
    exported: Any


def audit(module: bytes, head: Mapping[str, Any], index: int, memory_bytes: int) -> Audited:
    """The module, checked; ProgramRefused names what was found."""
    try:
        return Audited(jax.export.deserialize(bytearray(module)))
    except Exception as error:
        raise ProgramRefused(f"the module can't be read: {error}") from None
