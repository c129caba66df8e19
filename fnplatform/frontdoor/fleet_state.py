"""The verbs about the fleet itself: cars, simulate, platform."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fleet.protocol import frames, limits
from fleet.protocol.errors import FleetUnavailable, Refused
from fleet.protocol.messages import (
    CarsReply,
    CarsRequest,
    PlatformReply,
    PlatformRequest,
    Simulate,
    SimulateReply,
)
from fleet.protocol.subjects import (
    CURSOR,
    EMITTED,
    PARTITION,
    STREAM_BLOBS,
    STREAM_DEAD,
    STREAM_EVENTS,
    STREAM_INVOCATIONS,
    STREAM_LOGS,
    STREAM_OUTCOMES,
    TO_CAR,
    ToCarVerb,
)
from fleet.transport import Bus, Responder
from fnplatform.frontdoor.ports import DispatcherPort
from fnplatform.frontdoor.records import for_each
from fnplatform.jetstream import JetStream
from fnplatform.triggers.state import Cursor

Parts = Sequence[memoryview]
SIMULATE_S = 2.0
STREAMS = (STREAM_INVOCATIONS, STREAM_OUTCOMES, STREAM_EVENTS, STREAM_DEAD, STREAM_LOGS, STREAM_BLOBS)


@dataclass(frozen=True)
class PlatformFacts:
    """What doesn't change while a control-plane process runs."""

    version: str
    durability: str
    started_s: float
    http_url: str = ""
    """Where the gateway listens, as far as it is known here."""


class FleetState:
    """What runs where."""

    def __init__(
        self,
        *,
        js: JetStream,
        reply_bus: Bus,
        responder: Responder,
        dispatcher: DispatcherPort,
        facts: PlatformFacts,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._js = js
        self._reply_bus = reply_bus
        self._responder = responder
        self._dispatcher = dispatcher
        self._facts = facts
        self._now_s = now_s

    async def cars(self, tenant: str, request: CarsRequest, parts: Parts) -> CarsReply:
        """Every car that is known."""
        return CarsReply(cars=await self._dispatcher.cars())

    async def simulate(self, tenant: str, request: Simulate, parts: Parts) -> SimulateReply:
        """Change the simulated signals of one car, or of all that have such; answered when it took effect there."""
        if request.car is not None:
            names = [request.car]
        else:
            names = [car.car for car in await self._dispatcher.cars() if car.online and car.simulated]
            if not names:
                raise Refused("no car with simulated signals is online", hint="such cars are those of: fleet dev")
        await for_each(names, lambda name: self._simulate_one(name, request))
        return SimulateReply(cars=names)

    async def platform(self, tenant: str, request: PlatformRequest, parts: Parts) -> PlatformReply:
        """What ``fleet status`` shows; counts are zero while nobody leads."""
        dispatcher = self._dispatcher
        try:
            cars = await dispatcher.cars()
            depth = await dispatcher.depth(tenant)
            led = True
        except FleetUnavailable:
            cars, depth, led = [], {}, False
        infos = dict(zip(STREAMS, await for_each(STREAMS, self._js.stream_info), strict=True))
        states = {name: info["state"] for name, info in infos.items()}
        return PlatformReply(
            version=self._facts.version, protocol=limits.PROTOCOL, protocol_min=limits.PROTOCOL_MIN, tenant=tenant,
            broker_version=self._js.bus.server_version, durability=self._facts.durability, leader=led,
            epoch=dispatcher.epoch, cars=sum(car.online for car in cars),
            eligible=sum(car.online and car.standing.eligible for car in cars), waiting=sum(depth.values()),
            running=sum(car.leases for car in cars), depth=depth, dropped_replies=self._responder.dropped,
            http_url=self._facts.http_url,
            events_waiting=await self._events_waiting(int(states[STREAM_EVENTS]["last_seq"])),
            stream_bytes={name: int(state["bytes"]) for name, state in states.items()},
            stream_messages={name: int(state["messages"]) for name, state in states.items()},
            stream_bytes_max={
                name: int(info["config"]["max_bytes"]) for name, info in infos.items() if info["config"]["max_bytes"] > 0
            },
            uptime_s=self._now_s() - self._facts.started_s,
        )  # fmt: skip

    async def _events_waiting(self, last_seq: int) -> int:
        """Events that haven't become calls, and those that functions emitted and that aren't published yet."""
        found = await self._js.get_last(STREAM_INVOCATIONS, CURSOR.build(partition=PARTITION))
        cursor = Cursor() if found is None else Cursor.model_validate_json(bytes(found.data))
        emitted = await self._js.subjects(STREAM_OUTCOMES, EMITTED.wildcard())
        return cursor.behind(last_seq) + len(emitted)

    async def _simulate_one(self, name: str, request: Simulate) -> None:
        subject = TO_CAR.build(car=name, verb=ToCarVerb.SIMULATE)
        data = frames.pack(Simulate(action=request.action, car=name))
        try:
            answer = await self._reply_bus.request(subject, data, timeout_s=SIMULATE_S)
        except FleetUnavailable as error:
            raise Refused(f"the car {name} does not answer", hint="see which are online: fleet cars") from error
        reply, _ = frames.unpack(answer.data, SimulateReply)
        if reply.error is not None:
            raise reply.error.to_error()
