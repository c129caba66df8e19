"""Functions that the tests of the SDK run on cars. Imports nothing but the standard library and fleet."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import fleet
from tests.integration import sdk_helpers


class Refused(Exception):
    """The caller's own exception type."""


@fleet.function
def add(x: int, y: int = 1) -> int:
    return x + y


@fleet.function
async def double(x: int) -> int:
    await asyncio.sleep(0)
    return x * 2


@fleet.function
def identity(value: Any) -> Any:
    return value


@fleet.function
def shout(text: str) -> str:
    return sdk_helpers.loud(text)


@fleet.function
def length(value: bytes) -> int:
    return len(value)


@fleet.function
def blob(count: int) -> bytes:
    return bytes(count)


@fleet.function
def fail(kind: str) -> None:
    if kind == "own":
        raise Refused("by me")
    if kind == "hidden":
        raise sdk_helpers.make_hidden()
    raise ValueError("bad")


@fleet.function
def fail_on(x: int, bad: int = 3) -> int:
    if x == bad:
        raise ValueError(f"item {x}")
    return x


@fleet.function(timeout=30)
def wait(duration_s: float) -> float:
    time.sleep(duration_s)
    return duration_s


@fleet.function(timeout=0.3)
def too_slow() -> None:
    time.sleep(60)


@fleet.function(retries=fleet.Retries(max_attempts=3, delay=0.01))
def third_time() -> int:
    attempt = fleet.current().attempt
    if attempt < 3:
        raise RuntimeError(f"attempt {attempt}")
    return attempt


@fleet.function(retries=fleet.Retries(max_attempts=2, delay=0.01))
def from_checkpoint() -> Any:
    call = fleet.current()
    before = call.resume()
    call.checkpoint({"step": 7})
    if before is None:
        raise RuntimeError("first")
    return before


@fleet.function
def speak(text: str) -> int:
    print(text)
    print("aside", file=sys.stderr)
    return len(text)


@fleet.function
def square_point(point: sdk_helpers.Point) -> tuple[int, int]:
    return (point.x**2, point.y**2)


@fleet.function
def who() -> tuple[str, str, int]:
    call = fleet.current()
    return call.call_id, call.car, call.attempt


@fleet.function
def pick(table: Any, index: int) -> Any:
    return table[index]


@fleet.function
def lengths(*values: Any) -> list[int]:
    return [len(value) for value in values]
