"""One developer's connection for the CLI and for ``fleet.testing``.

Errors: whatever the platform answers as an error is raised as its FleetError; nobody there is FleetUnavailable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from fleet._api import Api
from fleet._settings import Settings
from fleet.protocol.limits import CONNECT_S, REQUEST_S
from fleet.protocol.messages import Message, Reply
from fleet.protocol.subjects import ApiVerb
from fleet.transport import Bus, Hook

R = TypeVar("R", bound=Reply)


@asynccontextmanager
async def connected(
    url: str | None = None, *, connect_s: float = CONNECT_S, on_reconnect: Hook | None = None
) -> AsyncIterator[Api]:
    """Requests to the fleet at ``url`` (else FLEET_URL, else a ``fleet dev`` here) for the length of a ``with``."""
    settings = Settings.resolve(url)
    bus = await Bus.connect(
        settings.url,
        kind="dev",
        name=settings.tenant,
        creds=settings.creds,
        connect_s=connect_s,
        on_reconnect=on_reconnect,
    )
    try:
        yield Api(bus, settings.tenant)
    finally:
        await bus.close()


def ask_once(
    verb: ApiVerb, request: Message, reply: type[R], *, parts: Sequence[bytes] = (), timeout_s: float = REQUEST_S
) -> R:
    """Connect, ask one thing, disconnect."""

    async def once() -> R:
        async with connected() as api:
            answer, _ = await api.ask(verb, request, reply, parts, timeout_s=timeout_s)
            return answer

    return anyio.run(once)
