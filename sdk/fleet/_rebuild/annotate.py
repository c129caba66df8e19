"""Annotations of functions that are made again. Standard library only; baked into the guest."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def annotate(function: Any, notes: dict[str, Any]) -> None:
    """Give ``function`` the annotations ``notes``.

    From CPython 3.14 on, what copies annotations (``functools.wraps`` among them) copies the function that makes them.
    """
    function.__annotations__ = notes
    if sys.version_info < (3, 14):
        return
    annotationlib = importlib.import_module("annotationlib")

    def made(format: int, /) -> dict[str, Any]:
        """In any format of ``annotationlib.Format``: as values, with forward references, as text."""
        if format == annotationlib.Format.VALUE_WITH_FAKE_GLOBALS:
            raise NotImplementedError(format)
        return dict(annotationlib.annotations_to_string(notes) if format == annotationlib.Format.STRING else notes)

    function.__annotate__ = made
