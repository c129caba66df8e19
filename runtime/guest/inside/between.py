"""What a call leaves behind in the interpreter is put back before the next call of the same function.

A warm instance keeps what its modules keep: globals, caches, files in ``/tmp``. What isn't anybody's, and would surprise
the next call, goes back to what it was when the function's module had been imported: the working directory, the standard
streams, ``os.environ``, ``sys.argv``, decimal's precision and rounding, the recursion limit.

An item of a chunk takes 4 us: what can be noticed when it happens is noticed there (``_changed``), the rest is looked at.
"""

from __future__ import annotations

import decimal
import os
import sys
from collections.abc import Callable
from typing import Any

from . import files

_changed = False
_stdout: Any = None
_stderr: Any = None
_stdin: Any = None
_environment: dict[str, str] = {}
_tree: Any = None
_folder = ""
_arguments: list[str] = []
_recursion = 0
_numbers = decimal.Context()


def install() -> None:
    """Notice when the environment, decimal's context or the recursion limit may change."""
    for place, name in ((decimal, "getcontext"), (decimal, "setcontext"), (sys, "setrecursionlimit")):
        setattr(place, name, _noticed(getattr(place, name)))
    kind: Any = type(os.environ)
    for name in ("__setitem__", "__delitem__"):
        setattr(kind, name, _noticed(getattr(kind, name)))


def _noticed(really: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        global _changed
        _changed = True
        return really(*args)

    call.__name__ = call.__qualname__ = really.__name__
    call.__module__, call.__doc__ = really.__module__, really.__doc__
    return call


def settle() -> None:
    """Remember how things are: the function's module is imported, no call has begun."""
    global _stdout, _stderr, _stdin, _environment, _tree, _folder, _arguments, _recursion, _numbers, _changed
    _stdout, _stderr, _stdin = sys.stdout, sys.stderr, sys.stdin
    _environment = dict(os.environ)
    _tree = files.tree()
    _folder = _tree.cwd
    _arguments = list(sys.argv)
    _recursion = sys.getrecursionlimit()
    _numbers = decimal.getcontext().copy()
    _changed = False


def restore() -> None:
    """Put back what differs."""
    if sys.stdout is not _stdout or sys.stderr is not _stderr or sys.stdin is not _stdin:
        sys.stdout, sys.stderr, sys.stdin = _stdout, _stderr, _stdin
    if _tree.cwd is not _folder:
        _tree.cwd = _folder
    if sys.argv != _arguments:
        sys.argv = list(_arguments)
    if _changed:
        _restore_rest()


def _restore_rest() -> None:
    global _changed
    if os.environ != _environment:
        for name in [*os.environ]:
            if name not in _environment:
                del os.environ[name]
        os.environ.update(_environment)
    if sys.getrecursionlimit() != _recursion:
        sys.setrecursionlimit(_recursion)
    decimal.setcontext(_numbers.copy())
    _changed = False
