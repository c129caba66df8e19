"""Modules with triggers are imported in the sandbox as well, and functions get their events there."""

from __future__ import annotations

from datetime import UTC, datetime

import fleet
from fleet._event import pack_call
from fleet.protocol import codec
from runtime.slot_wire import SlotJob
from tests.sandbox.wasm_bench import Bench

APP = """
import datetime, zoneinfo
import fleet

NEW_YEAR = datetime.datetime(2027, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))

@fleet.function(on=[
    fleet.cron("*/5 * * * *", timezone="Europe/Berlin", missed="all"),
    fleet.every("30s"),
    fleet.at(NEW_YEAR),
    fleet.subject("sensors.*.t", filter="data.t > 30", batch=fleet.EventBatch(max_size=5), debounce="1s", rate_limit="9/s"),
    fleet.http("POST", "/u/{name}"),
])
def f(event: fleet.Event):
    return [event.subject, event.data, event.id, event.time]
"""


def test_a_module_with_every_trigger(bench: Bench) -> None:
    program = bench.load(APP)
    event = fleet.Event("sensors.7.t", {"t": 31}, id="e1", time=datetime(2026, 5, 1, tzinfo=UTC))
    result = bench.sandbox.run(SlotJob(1, program, pack_call(event), call="c1", timeout_s=60.0)).result
    assert result[0] == 0, codec.decode_exception(result[1:]).traceback
    assert codec.decode(result[1:]) == ["sensors.7.t", {"t": 31}, "e1", event.time]
