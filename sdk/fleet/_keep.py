"""``fleet.keep``: a part of a result that stays where it was computed. Standard library only: jax is needed once it is used.

The mark is put on in every call of a jax function, local ones, too, and taken off where a local call returns. So what jax
remembers of an inner ``jax.jit`` is the same whoever called first.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class _Calls(threading.local):
    inside = False
    """Whether this thread is in a call of a jax function, traced or local."""


_calls = _Calls()


def keep(value: T) -> T:
    """In a jax function: let this part of the result stay on the car's device.

    ``return tokens, fleet.keep(state)``: the caller gets the tokens, and a ``fleet.Ref`` in place of the state. Passed to
    another ``.remote()`` call, the reference becomes the state: on the car that has it without a copy, for which that
    car is preferred while it has a place; anywhere else from a copy, which was stored before the result was told and is kept
    for an hour after it was made or last used (and while all copies take less than 4 GiB: those used longest ago go first).
    A call that refers to what is gone fails: ResultExpired. ``value`` is any pytree of arrays, at most 256 MiB; a call keeps
    at most 16. The reference's ``.value`` isn't here: return what you want to see without ``fleet.keep``.

    To a type checker it is the value itself, as with ``fleet.put``. In a local call, and outside of jax functions, it is.
    Errors: DeployError together with ``batch=``; WrongArguments for calls by ``map``.
    """
    if not _calls.inside or importlib.util.find_spec("jax") is None:  # A local call needs no jax.
        return value
    from fleet._jax.kept import Kept

    marked: Any = Kept(value)
    return marked  # type: ignore[no-any-return]


def marked(raw: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What ``raw`` returns, with marks around what it keeps."""
    before, _calls.inside = _calls.inside, True
    try:
        return raw(*args, **kwargs)
    finally:
        _calls.inside = before


def local_call(raw: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the jax function ``raw`` returns right here: what it keeps is the value itself."""
    value = marked(raw, args, kwargs)
    kept = sys.modules.get("fleet._jax.kept")
    return value if kept is None else kept.unmarked(value)
