"""What the clock run deploys: three functions that differ in what becomes of missed ticks. Each tells its tick."""

from __future__ import annotations

import fleet

app = fleet.App("clocks")


@app.function(on=[fleet.cron("* * * * * *", missed="all")], result_ttl="1h")
def run_all(event: fleet.Event) -> list[object]:
    return [event.data["scheduled"], event.data["late_s"]]


@app.function(on=[fleet.cron("* * * * * *", missed="one")], result_ttl="1h")
def run_one(event: fleet.Event) -> list[object]:
    return [event.data["scheduled"], event.data["late_s"]]


@app.function(on=[fleet.cron("* * * * * *", missed="skip")], result_ttl="1h")
def run_skip(event: fleet.Event) -> list[object]:
    return [event.data["scheduled"], event.data["late_s"]]
