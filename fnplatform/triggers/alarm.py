"""Wakes the leader when a clock is due: a native JetStream schedule, and a timer of our own beside it.

The schedule is one message on SCHEDULE in the stream SCHEDULES; setting another replaces it. When it is due the broker writes
a message on SCHEDULE_DUE of the same stream, which this consumes: one at most is kept, for a minute (core subscribers never
see it). Measured with nats-server 2.15.1: 1 to 4 ms after its time when that is 0.5 s away or more, else up to 0.2 s (it looks
every 0.25 s). The timer counts as well, so neither that, nor a schedule that is lost, nor a broker whose clock is wrong
delays anything. A wake-up may come for nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import anyio

from fleet.protocol.errors import FleetError
from fleet.protocol.subjects import PARTITION, SCHEDULE, SCHEDULE_DUE, STREAM_SCHEDULES
from fnplatform.consumer import Consumption, Delivered
from fnplatform.jetstream import JetStream

log = logging.getLogger("fleet.triggers")

DUE_TTL = "60s"
HORIZON_S = 24 * 3600.0
"""The broker is told of nothing beyond: it rings for nothing then, and is told again."""
LOOK_S = 5.0
"""The timer looks at the clock this often: it may have been set, and the machine may have slept."""


class Alarm:
    """One alarm, of the leader of one partition."""

    def __init__(self, js: JetStream, partition: str = PARTITION, unix_s: Callable[[], float] = time.time) -> None:
        self._js = js
        self._partition = partition
        self._unix_s = unix_s
        self._at_unix_s: float | None = None
        self._scheduled_unix_s: float | None = None
        self._rung = anyio.Event()
        self.schedules = 0
        """How often the broker's schedule rang."""

    async def run(self) -> None:
        """Hear the schedule's messages, until cancelled or the consumer is another leader's. FleetUnavailable."""
        name, due = f"clock-{self._partition}", SCHEDULE_DUE.build(partition=self._partition)
        await self._js.reset_consumer(STREAM_SCHEDULES, name, due)
        consumption = Consumption(self._js.bus, STREAM_SCHEDULES, name, self._on_due)
        try:
            await consumption.start()
            await consumption.run()
        finally:
            with anyio.CancelScope(shield=True):
                await consumption.close()

    def arm(self, at_unix_s: float | None) -> None:
        """Ring at this time, instead of the one before; None: not before ``ring``."""
        self._at_unix_s = at_unix_s
        now_unix_s = self._unix_s()
        # Set once: one that rang too early by our clock would ring at once again and again.
        if at_unix_s is None or at_unix_s == self._scheduled_unix_s or at_unix_s <= now_unix_s:
            return
        at_unix_s = self._scheduled_unix_s = min(at_unix_s, now_unix_s + HORIZON_S)
        at = datetime.fromtimestamp(at_unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._js.publish_then(
            SCHEDULE.build(partition=self._partition),
            b"",
            self._on_armed,
            headers={
                "Nats-Schedule": f"@at {at}",
                "Nats-Schedule-Target": SCHEDULE_DUE.build(partition=self._partition),
                "Nats-Schedule-TTL": DUE_TTL,
            },
        )

    def ring(self) -> None:
        """Wake up now."""
        self._rung.set()

    async def wait(self) -> None:
        """Until it rings."""
        while not self._rung.is_set():
            left_s = LOOK_S if self._at_unix_s is None else self._at_unix_s - self._unix_s()
            if left_s <= 0:
                break
            with anyio.move_on_after(min(left_s, LOOK_S)):
                await self._rung.wait()
        self._rung = anyio.Event()

    def _on_armed(self, stored: int | FleetError) -> None:
        if isinstance(stored, FleetError):
            self._scheduled_unix_s = None
            log.debug("no schedule, the timer alone: %s", stored.message)

    def _on_due(self, delivered: Delivered) -> None:
        self.schedules += 1
        self._rung.set()
        try:
            delivered.ack()
        except FleetError:
            log.debug("a schedule's message stays unacknowledged: it rings once more")
