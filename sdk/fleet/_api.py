"""Typed requests to the frontdoor, from inside the client's loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

import anyio

from fleet.protocol import frames
from fleet.protocol.errors import FleetUnavailable
from fleet.protocol.limits import CONNECT_S, REQUEST_S
from fleet.protocol.messages import Message, Reply
from fleet.protocol.subjects import API, ApiVerb
from fleet.transport import Bus

R = TypeVar("R", bound=Reply)
RETRY_S = 0.1


def unanswered(bus: Bus, why: FleetUnavailable, what: str) -> FleetUnavailable:
    """Why nobody answers, in a sentence; ``what`` the fleet fails to do if it is there."""
    if not bus.connected:
        return FleetUnavailable(f"the connection to the fleet at {bus.url} broke and did not come back")
    if why.details.get("no_responders"):
        return _no_control_plane(bus)
    return FleetUnavailable(f"the fleet at {bus.url} {what}")


def _no_control_plane(bus: Bus) -> FleetUnavailable:
    return FleetUnavailable(f"a broker answers at {bus.url}, but no control plane behind it")


class Api:
    """Requests of one tenant over ``bus``."""

    def __init__(self, bus: Bus, tenant: str) -> None:
        self.bus = bus
        self._tenant = tenant

    async def ask(
        self,
        verb: ApiVerb,
        message: Message,
        reply: type[R],
        parts: Sequence[bytes | memoryview] = (),
        *,
        timeout_s: float = REQUEST_S,
    ) -> tuple[R, list[memoryview]]:
        """The reply and its parts; raises its ``error``. While nobody is there it tries again for CONNECT_S.

        Only a request that can't have reached anybody is sent again, so that nothing is done twice.
        """
        subject = API.build(tenant=self._tenant, verb=verb)
        data = frames.pieces(message, parts)
        give_up_s = time.monotonic() + CONNECT_S
        while True:
            try:
                got = await self.bus.request(subject, data, timeout_s=timeout_s)
                break
            except FleetUnavailable as error:
                reached_nobody = error.details.get("no_responders") or not self.bus.connected
                if not reached_nobody or time.monotonic() >= give_up_s:
                    raise self._worded(error) from None
            await anyio.sleep(RETRY_S)
        answer, answer_parts = frames.unpack(got.data, reply)
        if answer.error is not None:
            raise answer.error.to_error()
        return answer, answer_parts

    def _worded(self, error: FleetUnavailable) -> FleetUnavailable:
        if error.details.get("no_responders"):
            return _no_control_plane(self.bus)
        return error
