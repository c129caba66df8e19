"""An app that events start, for tests: each call's result is the event as it arrived."""

from __future__ import annotations

from typing import Any

import fleet

app = fleet.App("orders")


@app.function(on=[fleet.subject("shop.orders")], isolation="instance")
def take(event: fleet.Event) -> dict[str, Any]:
    """Everything of the event that came."""
    time = None if event.time is None else event.time.isoformat()
    return {
        "id": event.id, "source": event.source, "type": event.type, "subject": event.subject, "time": time,
        "kind": event.datacontenttype, "extensions": event.extensions, "data": event.data,
    }  # fmt: skip


@app.function
def publishes() -> None:
    """What a sandbox can't do."""
    fleet.publish("shop.orders", {"item": "none"})
