"""Generator functions that the stream tests run on cars. Imports nothing but the standard library and fleet."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import fleet


@fleet.function
def one() -> int:
    return 1


@fleet.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


@fleet.function
def told(n: int) -> Iterator[int]:
    """Prints each item before it yields it: what the car does, whatever its caller takes."""
    for i in range(n):
        print(i)
        yield i


@fleet.function
def forever(start: int = 0) -> Iterator[int]:
    while True:
        yield start
        start += 1


@fleet.function
def paced(n: int, pause_s: float) -> Iterator[int]:
    print("began", flush=True)
    for i in range(n):
        time.sleep(pause_s)
        yield i


@fleet.function
def saving(n: int, pause_s: float) -> Iterator[int]:
    call = fleet.current()
    first = call.resume(0)
    print(f"began at {first}", flush=True)
    for i in range(first, n):
        time.sleep(pause_s)
        yield i
        call.checkpoint(i + 1)


@fleet.function
async def asynchronous(n: int) -> AsyncIterator[str]:
    for i in range(n):
        await asyncio.sleep(0.001)
        yield f"item {i}"


@fleet.function
def large(n: int, size: int) -> Iterator[bytes]:
    for i in range(n):
        yield bytes([i]) * size


class Broken(Exception):
    """Raised on the car, known here."""


@fleet.function(retries=0)
def breaks(after: int) -> Iterator[int]:
    yield from range(after)
    raise Broken(f"after {after}")


@fleet.function(retries=fleet.Retries(max_attempts=3, delay=0.01))
def third_time(n: int) -> Iterator[int]:
    for i in range(n):
        if i == n // 2 and fleet.current().attempt < 3:
            raise Broken("not yet")
        yield i


@fleet.function(retries=0)
def unportable(after: int) -> Iterator[Any]:
    yield from range(after)
    yield time.sleep


@fleet.function
def returning() -> Iterator[int]:
    yield 1
    return "nobody gets this"


@fleet.function(retries=0, timeout=0.5)
def quick_but_patient(n: int) -> Iterator[int]:
    yield from range(n)


@fleet.function(retries=0, timeout=0.5)
def hangs(after: int) -> Iterator[int]:
    yield from range(after)
    while True:
        pass


def twice(function: Callable[..., Iterator[int]]) -> Callable[..., Iterator[int]]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Iterator[int]:
        return (x * 2 for x in function(*args))

    return wrapper


@fleet.function
@twice
def decorated(n: int) -> Iterator[int]:
    yield from range(n)
