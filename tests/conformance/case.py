"""How cases are written down: a function with arguments, or a value that goes there and back.

A case names the one feature of the language or of a value that it stands for; no two cases share a title. The function is
registered as it is: nothing of this module travels with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that must do the same here and on a car.

    ``raises``: the type that it raises here; None: it returns. ``wording``: why only the exception's type is compared
    (CPython's own words change between versions). ``options``: of ``fleet.function``.
    """

    title: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    raises: type[BaseException] | None = None
    wording: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    copied: bool = False
    """Run here with copies of the arguments, made as pickle makes them."""
    made: bool = False
    """``function`` makes the callable, once the topic is loaded."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that is refused before it is sent, by an error of type ``error`` that has every one of ``words``."""

    title: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    error: str
    words: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


collected: list[Case | Refusal] = []
"""What the topic that is loaded just now has registered."""


def case(title: str, /, *args: Any, **more: Any) -> Callable[[F], F]:
    """The decorated function, called with ``args``. ``more``: fields of ``Case``."""

    def register(function: F) -> F:
        collected.append(Case(title, function, args, **more))
        return function

    return register


def made(title: str, /, *args: Any, **more: Any) -> Callable[[F], F]:
    """As ``case``, for the callable that the decorated function makes once the topic is loaded."""
    return case(title, *args, made=True, **more)


def through(function: Callable[[Any], Any]) -> Callable[[str, Any], None]:
    """Registers values, each as a case: it goes into ``function``, which gives it back as it is."""

    def register(title: str, value: Any, /, **more: Any) -> None:
        collected.append(Case(title, function, (value,), **more))

    return register


def refused(title: str, /, *args: Any, error: str, words: tuple[str, ...], **options: Any) -> Callable[[F], F]:
    """The decorated function called with ``args`` is refused before anything is sent."""

    def register(function: F) -> F:
        collected.append(Refusal(title, function, args, error, words, options))
        return function

    return register


def take() -> list[Case | Refusal]:
    """What was registered since the last time, with every callable made."""
    global collected
    found, collected = collected, []
    return [replace(one, function=one.function()) if isinstance(one, Case) and one.made else one for one in found]
