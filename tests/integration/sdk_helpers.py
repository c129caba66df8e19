"""A module of the developer's own that the functions import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Point:
    """An argument of an own class."""

    x: int
    y: int


def loud(text: str) -> str:
    """``text`` in capitals."""
    return text.upper()


def make_hidden() -> Exception:
    """An exception of a type that no caller can name."""

    class Hidden(Exception):
        pass

    return Hidden("from inside")
