"""Functions that tests of the HTTP gateway call."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import fleet

app = fleet.App("web")


@dataclass
class Point:
    x: int
    y: int


@app.function
def add(x: int, y: int = 1) -> int:
    return x + y


@app.function
def echo(value: Any = None) -> Any:
    return value


@app.function
def fail(text: str = "no") -> None:
    raise ValueError(text)


@app.function
def kinds() -> dict[str, Any]:
    return {
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "bytes": b"\x00\xff", "decimal": Decimal("1.50"),
        "uuid": uuid.UUID(int=5), "set": {3, 1, 2}, "point": Point(1, 2), "nan": float("nan"), "tuple": (1, "a"),
        "keys": {1: "one", None: "none"}, "complex": 1 + 2j, "big": 2**70,
    }  # fmt: skip


@app.function
def typed(when: datetime, data: bytes, tags: set[str], amount: Decimal, points: list[tuple[int, int]]) -> list[Any]:
    return [type(one).__name__ for one in (when, data, tags, amount, points, points[0])] + [data, amount]


@app.function(timeout=30)
def sleep(seconds: float) -> str:
    print("began", flush=True)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        time.sleep(0.01)
    return "slept"


@app.function(timeout=1.0)
def too_slow() -> None:
    time.sleep(30)


@app.function
def count(n: int, pause_s: float = 0.0) -> Iterator[int]:
    for number in range(n):
        if pause_s:
            time.sleep(pause_s)
        yield number
    if n == 3:
        raise ValueError("three")


@app.function
def few(n: int) -> Iterator[int]:
    yield from range(min(n, 3))


@app.function
def talk(n: int) -> int:
    for number in range(n):
        print(f"line {number}")
    return n


@app.function(on=[fleet.http("POST", "/echo/{name}"), fleet.http("GET", "/echo/{name}")])
def hook(event: fleet.Event) -> Any:
    assert event.http is not None
    return {
        "type": event.type, "source": event.source, "subject": event.subject, "id": event.id, "data": event.data,
        "method": event.http.method, "path": event.http.path, "params": event.http.path_params,
        "query": event.http.query_list, "agent": event.http.headers.get("x-test"), "body": len(event.http.body),
    }  # fmt: skip


@app.function(on=[fleet.http("GET", "/echo/exact"), fleet.http("GET", "/plain")])
def exact() -> str:
    return "exact"


@app.function(on=[fleet.http("GET", "/files/{rest:path}")])
def rest(event: fleet.Event) -> str:
    assert event.http is not None
    return event.http.path_params["rest"]


@app.function(on=[fleet.http("GET", "/nothing")])
def nothing(event: fleet.Event) -> None:
    return None


@app.function(on=[fleet.http("GET", "/image")])
def image(event: fleet.Event) -> bytes:
    return b"\x89PNG"


@app.function(on=[fleet.http("GET", "/broken")])
def broken(event: fleet.Event) -> None:
    raise RuntimeError("the password is swordfish")


@app.function(on=[fleet.http("GET", "/slow")], timeout=1.0)
def slow(event: fleet.Event) -> None:
    time.sleep(30)


@app.function(on=[fleet.subject("web.heard")])
def heard(event: fleet.Event) -> None:
    print(event.id, event.data)


@app.function(on=[fleet.http("GET", "/page")])
def page(event: fleet.Event) -> fleet.Response:
    headers = {"X-Ok": "yes", "Connection": "close", "Content-Length": "3", "Transfer-Encoding": "chunked"}
    return fleet.Response("<b>hi</b>", 201, headers, content_type="text/html; charset=utf-8")


@app.function(on=[fleet.http("POST", "/hear")])
def hear(event: fleet.Event) -> fleet.Emit:
    return fleet.emit("web.nobody", event.json())
