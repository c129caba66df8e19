"""What the chaos run calls. A file of its own: it travels to the cars, which have no test tools."""

from __future__ import annotations

import time

import fleet

CALL_S = 0.02


@fleet.function(retries=0, timeout=30, result_ttl="1h")
def work(number: int) -> int:
    """Twenty milliseconds of work with an answer that can be checked."""
    ends = time.monotonic() + CALL_S
    value = number
    while time.monotonic() < ends:
        value = (value * 48271 + 11) % 2147483647
    return number * number + 1


@fleet.function(retries=0, timeout=120)
def long(seconds: float) -> str:
    """Work that outlives a dispatcher; every start of it prints a line."""
    print("started")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass
    return f"attempt {fleet.current().attempt}"
