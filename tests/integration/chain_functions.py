"""Functions that emit events, and functions that these start."""

from __future__ import annotations

import time

import fleet


@fleet.function
def sense(n: int) -> fleet.Emit:
    return fleet.emit("chain.heat", {"n": n})


@fleet.function
async def senses(count: int) -> list[fleet.Emit]:
    return [fleet.emit("chain.heat", {"n": n}) for n in range(count)]


@fleet.function(on=[fleet.subject("chain.heat")])
def alarm(event: fleet.Event) -> fleet.Emit | None:
    n = event.json()["n"]
    return fleet.emit("chain.alarm", {"n": n, "from": event.source}, type="alarm") if n % 2 else None


@fleet.function(on=[fleet.subject("chain.loop")])
def loop(event: fleet.Event) -> fleet.Emit:
    return fleet.emit("chain.loop", event.json() + 1)


@fleet.function(isolation="call", retries=fleet.Retries(max_attempts=3, delay=0.01))
def third_time() -> fleet.Emit:
    made = fleet.emit("chain.third", fleet.current().attempt)
    if fleet.current().attempt < 3:
        raise RuntimeError("not yet")
    return made


@fleet.function
def too_many() -> list[fleet.Emit]:
    return [fleet.emit("chain.never")] * 257


@fleet.function
def slowly(n: int, subject: str) -> fleet.Emit:
    time.sleep(0.01)
    return fleet.emit(subject, n)


@fleet.function
def large(n: int) -> fleet.Emit | bytes:
    return fleet.emit("chain.large", n) if n % 2 else bytes(5_000_000)


@fleet.function
def generated() -> object:
    yield 1
    yield fleet.emit("chain.never")


@fleet.function
def respond() -> fleet.Response:
    return fleet.Response({"a": 1}, status=201, headers={"X-Fleet": "yes"})
