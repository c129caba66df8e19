"""What a call leaves behind in the interpreter is put back before the next call of the same function.

A warm instance keeps what its modules keep: globals, caches, files in ``/tmp``. What isn't anybody's, and would surprise
the next call, goes back to what it was when the function's module had been imported: the working directory, the standard
streams, ``os.environ``, ``sys.argv``, decimal's precision, the recursion limit. Looking takes a fraction of a microsecond.
"""

from __future__ import annotations

import decimal
import os
import sys
from typing import Any

from . import files

_settled = False
_streams: tuple[Any, Any, Any] = (None, None, None)
_environment: dict[Any, Any] = {}
_folder = ""
_arguments: list[str] = []
_recursion = 0
_numbers = decimal.Context()


def settle() -> None:
    """Remember how things are: the function's module is imported, no call has begun."""
    global _settled, _streams, _environment, _folder, _arguments, _recursion, _numbers
    _streams = (sys.stdout, sys.stderr, sys.stdin)
    _environment = dict(os.environ._data)  # type: ignore[attr-defined]
    _folder = os.getcwd()
    _arguments = list(sys.argv)
    _recursion = sys.getrecursionlimit()
    _numbers = decimal.getcontext().copy()
    _settled = True


def restore() -> None:
    """Put back what differs."""
    if not _settled:
        return
    if sys.stdout is not _streams[0] or sys.stderr is not _streams[1] or sys.stdin is not _streams[2]:
        sys.stdout, sys.stderr, sys.stdin = _streams
    if os.environ._data != _environment:  # type: ignore[attr-defined]
        _restore_environment()
    if os.getcwd() != _folder:
        files.go_to(_folder)
    if sys.argv != _arguments:
        sys.argv = list(_arguments)
    if sys.getrecursionlimit() != _recursion:
        sys.setrecursionlimit(_recursion)
    now = decimal.getcontext()
    if now.prec != _numbers.prec or now.rounding != _numbers.rounding or now.traps != _numbers.traps:
        decimal.setcontext(_numbers.copy())


def _restore_environment() -> None:
    now = os.environ._data  # type: ignore[attr-defined]
    for key in [*now]:
        if key not in _environment:
            del os.environ[os.fsdecode(key)]
    for key, value in _environment.items():
        if now.get(key) != value:
            os.environ[os.fsdecode(key)] = os.fsdecode(value)
