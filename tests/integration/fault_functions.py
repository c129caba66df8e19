"""Functions that the fault tests run on cars. Imports nothing but the standard library and fleet."""

from __future__ import annotations

import os
import time
from typing import Any

import fleet


@fleet.function
def add(x: int, y: int = 1) -> int:
    return x + y


@fleet.function
def length(value: bytes) -> int:
    return len(value)


@fleet.function
def blob(count: int) -> bytes:
    return bytes(count)


@fleet.function
def unportable() -> Any:
    return {"rows": [1, time.sleep]}


@fleet.function(timeout=60, retries=0)
def busy(seconds: float) -> str:
    """Work that leaves a line for each start."""
    print("started", flush=True)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass
    return f"attempt {fleet.current().attempt}"


@fleet.function(timeout=60, retries=0)
def weigh(table: list[int], seconds: float) -> int:
    """Work on a value of fleet.put that leaves a line for each start."""
    print("started", flush=True)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass
    return sum(table)


@fleet.function(queue_timeout=1.0)
def impatient(x: int) -> int:
    return x


@fleet.function(timeout=0.5, retries=0)
def too_slow() -> None:
    while True:
        pass


@fleet.function(timeout=0.5, retries=0)
def sleep_on(x: int, bad: int) -> int:
    if x == bad:
        time.sleep(60)
    return x


@fleet.function(retries=fleet.Retries(max_attempts=3, delay=0.5, backoff=2.0))
def third_time() -> int:
    attempt = fleet.current().attempt
    print(f"{attempt} {time.time():.3f}", flush=True)
    if attempt < 3:
        raise RuntimeError(f"attempt {attempt}")
    return attempt


@fleet.function(max_concurrency=1)
def alone(seconds: float) -> tuple[float, float]:
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


@fleet.function(retries=0)
def trap() -> None:
    os.abort()


@fleet.function(retries=0, memory="64MiB")
def hoard(mebibytes: int) -> int:
    return len(bytearray(mebibytes << 20))


@fleet.function(retries=0, timeout=60)
def steps(count: int, step_s: float) -> dict[str, Any]:
    """Counts on from where its checkpoint says."""
    call = fleet.current()
    first = done = call.resume(default=0)
    while done < count:
        time.sleep(step_s)
        done += 1
        call.checkpoint(done)
    return {"first": first, "done": done, "attempt": call.attempt, "car": call.car}
