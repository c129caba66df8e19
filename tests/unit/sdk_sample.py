"""Functions that the tests of the SDK look at."""

from __future__ import annotations

from typing import Any

import fleet


@fleet.function
def add(x: int, y: int = 1) -> int:
    """Add."""
    return x + y


@fleet.function
def add_positional(x: int, /) -> int:
    return x


@fleet.function
async def double(x: int) -> int:
    return x * 2


@fleet.function(timeout=5)
def everything(a: int, b: int = 2, *rest: int, key: int, **more: int) -> int:
    return a + b + sum(rest) + key + sum(more.values())


@fleet.function
def with_object_default(x: object = object()) -> object:
    return x


@fleet.function
def remember(state: Any) -> tuple[Any, Any, str, bool]:
    call = fleet.current()
    before = call.resume()
    call.checkpoint(state)
    return before, call.resume(), call.car, call.departing


@fleet.function
async def remember_async(state: Any) -> tuple[Any, Any]:
    before = fleet.current().resume()
    fleet.current().checkpoint(state)
    return before, fleet.current().resume()


app = fleet.App("billing")


@app.function
def billed(x: int) -> int:
    return x


class Tools:
    """A namespace."""

    @staticmethod
    @fleet.function
    def scale(x: int) -> int:
        return x * 10


class Point:
    """A class that arguments may be of."""

    def __init__(self, x: Any) -> None:
        self.x = x


alias = fleet.function(lambda x: x)


def make_nested() -> Any:
    @fleet.function
    def nested(x: int) -> int:
        return x

    return nested


def _helper(x: int) -> int:
    return x + 1


wrapped_helper = fleet.function(_helper)


def make_user(kind: type) -> Any:
    """A function that uses a class of its caller's."""
    return fleet.function(lambda one: isinstance(one, kind))
