"""A stream of readings: a filter, an order per sensor, and a chain of two functions.

    fleet dev &
    fleet run examples/sensors/meters.py::watch '{"station": "CA-305", "kwh": 44.1, "stood_min": 874, "at": "today"}'
    fleet deploy examples/sensors/meters.py
    fleet publish meters.caltech.CA-305 '{"station": "CA-305", "kwh": 44.1, "stood_min": 874, "at": "2019-05-01T22:52:36Z"}'
    fleet logs meters -f

The meter of a charging station tells, whenever a car leaves, how much it got and how long it stood. ``watch`` sees the large
ones alone, those of one station one after the other; where a car stood full for long it emits an event, which starts
``remind``. ``python -m examples.sensors.replay`` publishes a recorded day (``examples/data``).
"""

from __future__ import annotations

import fleet

STATION_KW = 6.6
IDLE_MIN = 120
"""Who stands full for longer is reminded."""


@fleet.function(on=[fleet.subject("meters.*.*", filter="data.kwh >= 8.0", key="data.station")])
def watch(event: fleet.Event) -> fleet.Emit | None:
    """Emit ``idle.STATION`` for a car that stood full for more than IDLE_MIN minutes."""
    reading = event.json()
    full_min = round(60 * reading["kwh"] / STATION_KW)
    idle_min = reading["stood_min"] - full_min
    print(f"{reading['station']} {reading['at']}: {reading['kwh']} kWh, full for {max(0, idle_min)} min")
    if idle_min <= IDLE_MIN:
        return None
    return fleet.emit(f"idle.{reading['station']}", {**reading, "idle_min": idle_min})


@fleet.function(on=[fleet.subject("idle.>", key="data.station")])
def remind(event: fleet.Event) -> str:
    """The message for the driver."""
    idle = event.json()
    hours, minutes = divmod(idle["idle_min"], 60)
    text = f"station {idle['station']}: your car was full {hours} h {minutes} min before you left"
    print(text)
    return text
