"""What the benchmark of the HTTP gateway deploys."""

from __future__ import annotations

import fleet

app = fleet.App("bench")


@app.function
def add(x: int, y: int = 1) -> int:
    return x + y


@app.function(on=[fleet.http("GET", "/add")])
def added(event: fleet.Event) -> int:
    return 1
