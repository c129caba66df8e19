"""Generator functions called by ``remote_gen``: what they yield is the same here and there, in order."""

import asyncio
import functools
from dataclasses import dataclass

from tests.conformance.case import case, made


@dataclass
class Step:
    number: int
    total: float


@case("a generator function", 5)
def squares(n):
    for i in range(n):
        yield i * i


@case("a generator function that yields nothing")
def empty():
    return
    yield


@case("a generator function with a return value that nobody sees")
def returns():
    yield 1
    return "unseen"


@case("a generator function that delegates", [1, [2, [3]]])
def delegates(tree):
    for one in tree:
        if isinstance(one, list):
            yield from delegates(one)
        else:
            yield one


@case("a generator function that raises after two values", raises=LookupError)
def raises():
    yield 1
    yield 2
    raise LookupError("after two")


@case("a generator function of many small values", 3000)
def many(n):
    total = 0
    for i in range(n):
        total += i
        yield total


@case("a generator function of values of every kind")
def kinds():
    yield None
    yield {"a": (1, {2})}
    yield Step(1, 0.5)
    yield ValueError("a value, not raised")


@case("a generator function of large values", 4)
def large(n):
    for i in range(n):
        yield bytes([i]) * 300_000


@case("an async generator function", 3)
async def asynchronous(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@made("a generator function that is a closure", 3)
def closure():
    step = 10

    def call(n):
        nonlocal step
        for i in range(n):
            step += 1
            yield step * i

    return call


@case("a generator function with a finally clause")
def cleans_up():
    seen = []
    try:
        seen.append("yielded")
        yield list(seen)
    finally:
        seen.append("finally")
    yield seen


def _doubled(function):
    @functools.wraps(function)
    def wrapper(*args):
        for value in function(*args):
            yield value * 2

    return wrapper


@case("a generator function that a decorator wrapped", "ab")
@_doubled
def decorated(text):
    yield from text
