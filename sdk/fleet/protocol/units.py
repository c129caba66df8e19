"""Friendly sizes and durations: ``"256MiB"``, ``"10m"``, ``"7d"`` to bytes and seconds. Standard library only."""

from __future__ import annotations

import math
import re

from fleet.protocol.errors import InvalidOption

_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "k": 1024,
    "m": 1024**2,
    "g": 1024**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*\Z")


def parse_bytes(value: object, what: str, minimum: int, maximum: int) -> int:
    """Bytes from an int or a text such as ``"256MiB"``; InvalidOption names ``what`` and the allowed range."""
    allowed = f"from {format_bytes(minimum)} to {format_bytes(maximum)}"
    number: float | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str):
        number = _scaled(value, _BYTES)
    if number is None:
        raise InvalidOption(f'{what}={value!r} is no size: give bytes or a text like "256MiB", {allowed}')
    if not minimum <= number <= maximum:
        raise InvalidOption(f"{what}={value!r} is out of range: allowed is {allowed}")
    return int(number)


def parse_seconds(value: object, what: str, minimum: float, maximum: float) -> float:
    """Seconds from a number or a text such as ``"10m"``; InvalidOption names ``what`` and the allowed range."""
    allowed = f"from {format_seconds(minimum)} to {format_seconds(maximum)}"
    number: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str):
        number = _scaled(value, _SECONDS)
    if number is None or math.isnan(number):
        raise InvalidOption(f'{what}={value!r} is no duration: give seconds or a text like "10m", {allowed}')
    if not minimum <= number <= maximum:
        raise InvalidOption(f"{what}={value!r} is out of range: allowed is {allowed}")
    return number


def format_bytes(count: float) -> str:
    """``count`` for people: ``256 MiB``, ``1.5 GiB``, ``17 B``."""
    for unit, scale in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= scale:
            return f"{_short(count / scale)} {unit}"
    return f"{count:.0f} B"


def format_seconds(duration_s: float) -> str:
    """``duration_s`` for people: ``7 d``, ``1.5 h``, ``250 ms``."""
    for unit, scale in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if duration_s >= scale:
            return f"{_short(duration_s / scale)} {unit}"
    return f"{_short(duration_s * 1000)} ms"


def _short(number: float) -> str:
    """Two digits behind the point, rounded down: a limit that is shown must itself be allowed."""
    return f"{math.floor(number * 100 + 1e-6) / 100:.2f}".rstrip("0").rstrip(".")


def _scaled(text: str, units: dict[str, int] | dict[str, float]) -> float | None:
    found = _QUANTITY.match(text)
    scale = units.get(found[2].lower()) if found else None
    return None if found is None or scale is None else float(found[1]) * scale
