"""Who leads a partition: one process, by a key that expires and that it renews by compare-and-set.

The revision of the write that took the key is the epoch. Whoever can't renew stops by its own monotonic clock before the
key can expire at the broker: ``Leadership.holds`` is asked before every event, so that a process that was frozen doesn't
act on what queued up meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import anyio

from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.limits import LEADER_RENEW_S, LEADER_TTL_S
from fleet.protocol.subjects import BUCKET_PARTITIONS
from fnplatform.jetstream import JetStream, JetStreamError, WrongSequence

log = logging.getLogger("fleet.dispatcher")

MARGIN_S = 0.25
"""The leader stops this much before the key can expire."""
RETRY_S = 0.1

assert LEADER_TTL_S - MARGIN_S > 2 * LEADER_RENEW_S


class Leadership:
    """One partition's key, as one process sees it."""

    def __init__(
        self, js: JetStream, partition: str, name: str, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._js = js
        self._partition = partition
        self._name = name.encode()
        self._now_s = now_s
        self._revision = 0
        self._until_s = 0.0
        self.epoch = 0

    def holds(self, now_s: float) -> bool:
        """Whether this process leads, for sure, at this moment."""
        return now_s < self._until_s

    async def acquire(self) -> int:
        """Wait until this process leads; the epoch."""
        while True:
            began_s = self._now_s()
            try:
                revision = await self._js.kv_create(BUCKET_PARTITIONS, self._partition, self._name)
            except WrongSequence:
                await anyio.sleep(RETRY_S)
            except (FleetUnavailable, JetStreamError) as error:
                log.debug("can't ask for partition %s: %s", self._partition, error.message)
                await anyio.sleep(RETRY_S)
            else:
                self._revision = self.epoch = revision
                self._until_s = began_s + LEADER_TTL_S - MARGIN_S
                return revision

    async def keep(self) -> None:
        """Renew; returns when leadership is lost."""
        while True:
            left_s = self._until_s - self._now_s()
            if left_s <= 0:
                break
            await anyio.sleep(min(LEADER_RENEW_S, left_s))
            began_s = self._now_s()
            if not self.holds(began_s):
                break
            with anyio.move_on_after(self._until_s - began_s):
                try:
                    self._revision = await self._js.kv_update(
                        BUCKET_PARTITIONS, self._partition, self._name, self._revision
                    )
                    # Heard of too late is lost: who asked ``holds`` meanwhile, in a loop that was stuck, has ended the term.
                    if not self.holds(self._now_s()):
                        break
                    self._until_s = began_s + LEADER_TTL_S - MARGIN_S
                except WrongSequence:
                    if not await self._is_mine():
                        break
                except (FleetUnavailable, JetStreamError) as error:
                    log.debug("can't renew partition %s: %s", self._partition, error.message)
                    await anyio.sleep(RETRY_S)
        self.lose()

    async def _is_mine(self) -> bool:
        """After a renewal whose answer was lost: the key is still this process's, under another revision."""
        try:
            found = await self._js.kv_get(BUCKET_PARTITIONS, self._partition)
        except (FleetUnavailable, JetStreamError):
            return True  # not known: the clock decides
        if found is None or found[0] != self._name:
            return False
        self._revision = found[1]
        return True

    def lose(self) -> None:
        """Stop leading at once."""
        self._until_s = 0.0

    async def resign(self) -> None:
        """Let another process lead right away. Best effort."""
        if self.holds(self._now_s()):
            self.lose()
            try:
                await self._js.kv_delete(BUCKET_PARTITIONS, self._partition, self._revision)
            except (FleetUnavailable, JetStreamError) as error:
                log.debug("can't give partition %s back: %s", self._partition, error.message)
