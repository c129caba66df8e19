"""Read EVENTS in order, from a sequence on, without a gap: a pull consumer without acknowledgements, in the broker's memory.

What is delivered is counted. When one is missing, when the consumer is gone (the broker was restarted) or when nothing comes
although there is something, a new consumer begins behind the last event that came.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import anyio

from fleet.protocol.errors import FleetError, FleetUnavailable
from fleet.protocol.ids import new_call_id
from fleet.protocol.limits import MIB
from fleet.protocol.subjects import STORED_EVENT, STREAM_EVENTS
from fleet.transport import Request, Subscription
from fnplatform.jetstream import API, JetStream

log = logging.getLogger("fleet.triggers")

BATCH = 256
BATCH_BYTES = 8 * MIB
EXPIRES_S = 30.0
IDLE_S = 2.0
RETRY_S = 0.2
FORGET_S = 60.0
"""The broker removes a consumer that nobody pulls from."""

OnEvent = Callable[[int, bytes | bytearray], None]


class Reader:
    """Calls ``on_event`` with sequence and message of every event, in order. ``room``: whether more may come now."""

    def __init__(self, js: JetStream, on_event: OnEvent, room: Callable[[], bool]) -> None:
        self._js = js
        self._bus = js.bus
        self._on_event = on_event
        self._room = room
        self._next = 1
        self._name = ""
        self._count = 0
        self._wanted = 0
        self._broken = anyio.Event()
        self._came = False

    async def run(self, seq: int) -> None:
        """Read from ``seq`` on, until cancelled."""
        self._next = seq
        while True:
            try:
                await self._read()
            except FleetError as error:
                log.info("events can't be read right now: %s", error.message)
                await anyio.sleep(RETRY_S)

    def pull(self) -> None:
        """Ask for more, if there is room and not enough is asked for."""
        if self._wanted > BATCH // 2 or not self._name or not self._room():
            return
        body = {"batch": BATCH, "expires": int(EXPIRES_S * 1e9), "max_bytes": BATCH_BYTES}
        subject = f"{API}CONSUMER.MSG.NEXT.{STREAM_EVENTS}.{self._name}"
        try:
            self._bus.publish(subject, json.dumps(body).encode(), reply=f"{self._bus.inbox}.e.{self._name}")
        except FleetUnavailable:
            self._broken.set()
            return
        self._wanted += BATCH

    async def _read(self) -> None:
        """With one consumer, as long as it lasts."""
        name = f"triggers-{new_call_id()}"
        config = {
            "name": name, "ack_policy": "none", "deliver_policy": "by_start_sequence", "opt_start_seq": self._next,
            "filter_subject": STORED_EVENT.wildcard(), "replay_policy": "instant", "mem_storage": True, "num_replicas": 1,
            "inactive_threshold": int(FORGET_S * 1e9), "max_waiting": 16,
        }  # fmt: skip
        listening: Subscription | None = None
        self._count, self._wanted, self._broken = 0, 0, anyio.Event()
        try:
            listening = await self._bus.listen(f"{self._bus.inbox}.e.{name}", self._on_message)
            body = {"stream_name": STREAM_EVENTS, "config": config}
            await self._js.api(f"CONSUMER.CREATE.{STREAM_EVENTS}.{name}.{STORED_EVENT.wildcard()}", body)
            self._name = name
            self.pull()
            while not self._broken.is_set():
                self._came = False
                with anyio.move_on_after(IDLE_S):
                    await self._broken.wait()
                if not self._came and not self._broken.is_set() and not await self._is_alive(name):
                    return
                self.pull()
        finally:
            self._name = ""
            with anyio.move_on_after(IDLE_S, shield=True):
                if listening is not None:
                    await listening.close()
                await self._remove(name)

    async def _is_alive(self, name: str) -> bool:
        """Nothing came for a while: is there nothing?"""
        info = await self._js.api(f"CONSUMER.INFO.{STREAM_EVENTS}.{name}")
        if self._came:
            return True
        if int(info["delivered"]["consumer_seq"]) != self._count:
            return False
        if int(info["num_pending"]) and self._room():
            self._wanted = 0  # a pull got lost
        return True

    async def _remove(self, name: str) -> None:
        try:
            await self._js.api(f"CONSUMER.DELETE.{STREAM_EVENTS}.{name}")
        except FleetError as error:
            log.debug("consumer %s goes by itself: %s", name, error.message)

    def _on_message(self, request: Request) -> None:
        if not request.reply or not request.reply.startswith("$JS.ACK."):
            self._on_status(request)
            return
        tokens = request.reply.split(".")
        base = tokens[2:] if len(tokens) == 9 else tokens[4:]
        seq, count = int(base[3]), int(base[4])
        if self._broken.is_set():
            return
        if count != self._count + 1 or seq < self._next:
            log.info("event %d came as number %d after %d: reading again", seq, count, self._count)
            self._broken.set()
            return
        self._count = count
        self._wanted -= 1
        self._next = seq + 1
        self._came = True
        self._on_event(seq, request.data)
        self.pull()

    def _on_status(self, request: Request) -> None:
        if request.status in (404, 503) or (request.status == 409 and b"consumer" in request.headers.lower()):
            self._broken.set()
            return
        # A pull ended: it expired, or it had all the bytes it asked for.
        left = request.header("Nats-Pending-Messages")
        self._wanted = max(0, self._wanted - int(left or 0))
        self.pull()
