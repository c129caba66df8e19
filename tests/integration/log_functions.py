"""Functions that print, for the tests of logs."""

from __future__ import annotations

import time

import fleet

app = fleet.App("logtest")
TWICE = fleet.Retries(max_attempts=2, delay=0.0)


@app.function(retries=TWICE)
def speak(text: str) -> str:
    """Fails once; says where it is."""
    me = fleet.current()
    print(f"{text} attempt {me.attempt}")
    if me.attempt == 1:
        raise ValueError(text)
    return str(me.car)


@app.function(retries=TWICE)
def item(number: int) -> int:
    """An item of a map; the third fails once."""
    print(f"item {number}")
    if number == 2 and fleet.current().attempt == 1:
        raise ValueError(number)
    return number


@app.function
def flood(size_bytes: int) -> None:
    """Prints more than is kept."""
    for _ in range(size_bytes // 100):
        print("x" * 99)


@app.function
def slowly(count: int, seconds: float) -> None:
    """A line every so often."""
    for number in range(count):
        print(f"line {number}")
        time.sleep(seconds)


@app.function(on=[fleet.subject("logtest.*")])
def heard(event: fleet.Event) -> None:
    """Says what happened."""
    print(f"heard {event.json()['n']}")


@app.function(on=[fleet.subject("failing.*")], retries=TWICE)
def fragile(event: fleet.Event) -> str:
    """Fails for good at the events that say so."""
    text = str(event.json()["text"])
    print(f"{text} {fleet.current().attempt}")
    if text.startswith("bad"):
        raise ValueError(text)
    return text
