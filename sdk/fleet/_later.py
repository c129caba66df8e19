"""Names of the public interface that come with a later release: each answers with one sentence."""

from __future__ import annotations

from typing import Any, NoReturn

from fleet.protocol.errors import InvalidOption


def put(value: Any) -> NoReturn:
    """Upload a value once and pass its reference to calls: comes with a later release (InvalidOption)."""
    raise InvalidOption("fleet.put comes with a later release", hint="pass the value as an argument")
