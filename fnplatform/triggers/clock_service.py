"""Clocks while this process leads: the alarm, what is stored, and what turns ticks into calls, together.

Errors: none leave ``lead``, but our own bugs. While the broker doesn't answer it tries again; once another leader runs the
clocks it rests until it is cancelled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import anyio

from fleet.protocol.errors import FleetError, FleetUnavailable
from fleet.protocol.messages import InvocationState
from fleet.protocol.subjects import BUCKET_FUNCTIONS
from fnplatform.jetstream import JetStream
from fnplatform.triggers.alarm import Alarm
from fnplatform.triggers.ledger import ClockLedger, Moved
from fnplatform.triggers.ticking import LiveClocks, Ticking

log = logging.getLogger("fleet.triggers")

PAUSE_S = 0.2


class Term(Protocol):
    """What clocks need of the term of leadership."""

    @property
    def epoch(self) -> int: ...
    def submit(self, state: InvocationState, seq: int, payload: bytes) -> None:
        """A call was queued under ``seq`` just now."""
        ...


class ClockService:
    """The clocks of one partition in one process."""

    def __init__(self, js: JetStream, partition: str, unix_s: Callable[[], float] = time.time) -> None:
        self._js = js
        self._partition = partition
        self._unix_s = unix_s
        self._ticking: Ticking | None = None

    async def lead(self, term: Term, table: LiveClocks, may: Callable[[str], bool]) -> None:
        """Run the clocks of ``table`` until cancelled. It must be complete: a clock that isn't in it is forgotten.

        ``may``: whether calls of a tenant may be stored right now.
        """
        alarm = Alarm(self._js, self._partition, self._unix_s)
        ledger = ClockLedger(self._js, self._partition, term.epoch, term.submit)
        self._ticking = Ticking(table, ledger, alarm, self._deployed, may, self._unix_s)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._hear, alarm)
                group.start_soon(self._tick, self._ticking)
        finally:
            self._ticking = None

    async def changed(self) -> None:
        """The table changed. When this returns no tick of a version that isn't live any more is stored."""
        if self._ticking is not None:
            await self._ticking.changed()

    async def _hear(self, alarm: Alarm) -> None:
        while True:
            try:
                await alarm.run()
                return  # another leader made the consumer anew
            except FleetError as error:
                log.warning("the broker's schedules can't be heard, the timer alone wakes: %s", error.message)
                await anyio.sleep(PAUSE_S)

    async def _tick(self, ticking: Ticking) -> None:
        while True:
            try:
                await ticking.run()
            except Moved as error:
                log.warning("%s: this process no longer does", error.message)
                await anyio.sleep_forever()
            except FleetError as error:
                log.warning("clocks stand still: %s", error.message)
                await anyio.sleep(PAUSE_S)

    async def _deployed(self, tenant: str, app: str) -> float:
        """When the app's record was written last: its deploy, or its rollback."""
        stream, key = f"KV_{BUCKET_FUNCTIONS}", f"$KV.{BUCKET_FUNCTIONS}.app.{tenant}.{app}"
        found = await self._js.get_last(stream, key)
        if found is None or found.operation:
            return self._unix_s()  # deleted meanwhile: the table will say so
        try:
            return datetime.fromisoformat(found.time).timestamp()
        except ValueError:
            raise FleetUnavailable(f"the broker says {found.time!r} for a time", hint="") from None
