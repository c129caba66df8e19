"""What events start in the chaos run of events. A file of its own: it travels to the cars, which have no test tools."""

from __future__ import annotations

import fleet

APP = "chaosevents"
BAD_EVERY = 100
"""One event in so many fails for good."""
BAD = 7
FLAKY_EVERY = 100
"""One event in so many fails at its first attempt."""
FLAKY = 3
FILTER_EVERY = 10
KEYS = 50
ATTEMPTS = 3

app = fleet.App(APP)


@app.function(on=[fleet.subject("load.>")], result_ttl="1d")
def every(event: fleet.Event) -> int:
    """Takes all of them."""
    return int(event.json()["n"])


@app.function(
    on=[fleet.subject("load.*")],
    retries=fleet.Retries(max_attempts=ATTEMPTS, delay=0.1, backoff=1.0),
    result_ttl="1d",
)
def picky(event: fleet.Event) -> int:
    """Fails for good at known events, and at others once."""
    n = int(event.json()["n"])
    if n % BAD_EVERY == BAD:
        raise ValueError(n)
    if n % FLAKY_EVERY == FLAKY and fleet.current().attempt == 1:
        raise RuntimeError(n)
    return n


@app.function(
    on=[fleet.subject("load.*", filter=f"data.n % {FILTER_EVERY} == 0", key=f"string(data.n % {FILTER_EVERY * KEYS})")],
    result_ttl="1d",
)
def keyed(event: fleet.Event) -> int:
    """Takes some of them, those of one key one after the other."""
    return int(event.json()["n"])
