"""Connections to the platform, one for each tenant that has something to ask: a principal answers for one inbox only.

Nothing of a tenant is kept here but open calls. A connection that nobody uses is closed when another tenant needs its
place; one that was made for a tenant nobody could prove to be (``Pool.use(..., known=False)``) is closed at once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.abc

from fleet._api import Api
from fleet._blobs import Blobs
from fleet._positions import Positions, StreamTicket
from fleet._submit import Submitter
from fleet._ticket import Ticket
from fleet.protocol.errors import FleetUnavailable, QueueFull, ResultNotPortable
from fleet.protocol.messages import Message, Reply
from fleet.protocol.subjects import ApiVerb
from fleet.transport import Bus
from fnplatform.gateway.bounds import CONNECTING_MAX, RESULT_BYTES_MAX, TENANTS_MAX

log = logging.getLogger("fleet.gateway")
R = TypeVar("R", bound=Reply)


class Tenant:
    """One tenant's connection, and its calls that aren't over."""

    def __init__(self, name: str, bus: Bus, start: Callable[..., None]) -> None:
        self.name = name
        self.bus = bus
        self.api = Api(bus, name)
        blobs = Blobs(self.api)

        async def get_blob(digest: str, size_bytes: int) -> bytes:
            if size_bytes > RESULT_BYTES_MAX:
                raise too_large(size_bytes)
            return await blobs.get(digest, size_bytes)

        self.submitter = Submitter(bus, name, start, blobs.put, get_blob)
        self.get_blob = get_blob
        self.positions = Positions(bus, name)
        self.calls: dict[str, Ticket] = {}
        """Calls that were submitted here and have no outcome yet, by id."""
        self.users = 0
        self.known = False
        self._inboxes = 0

    def reconnected(self) -> None:
        """Outcomes may have been pushed to nobody meanwhile, and a new leader may not know how far streams are."""
        self.submitter.on_reconnect()
        self.positions.on_reconnect()

    async def ask(self, verb: ApiVerb, message: Message, reply: type[R]) -> R:
        """The reply to one request; raises its error."""
        answer, _ = await self.api.ask(verb, message, reply)
        return answer

    def submit(self, ticket: Ticket) -> None:
        """Hand a call over, and know it until its outcome is here."""
        self.calls[ticket.call] = ticket
        ticket.arm(lambda: self._over(ticket))
        self.submitter.submit([ticket])
        if isinstance(ticket, StreamTicket):
            self.positions.tell(ticket)

    def _over(self, ticket: Ticket) -> None:
        if self.calls.get(ticket.call) is ticket:
            del self.calls[ticket.call]

    def new_inbox(self) -> str:
        """A subject of this connection that nothing else listens on."""
        self._inboxes += 1
        return f"{self.bus.inbox}.log.{self._inboxes}"


def too_large(size_bytes: int) -> ResultNotPortable:
    """For results that aren't brought over HTTP."""
    return ResultNotPortable(
        f"the result has {size_bytes} bytes: over HTTP it may have {RESULT_BYTES_MAX}",
        hint="fetch it with the SDK: fleet.Call.from_id(ID).result()",
    )


class Pool:
    """The tenants that are connected. ``group`` owns what is done for their calls beside requests."""

    def __init__(self, url: str, creds: str | None, group: anyio.abc.TaskGroup) -> None:
        self._url = url
        self._creds = creds
        self._group = group
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()
        self._connecting = anyio.Semaphore(CONNECTING_MAX)
        self._locks: dict[str, anyio.Lock] = {}

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Tenant]:
        """The tenant's connection for the length of a ``with``; FleetUnavailable, QueueFull.

        Whoever found that the tenant is real says so: ``tenant.known = True``.
        """
        tenant = self._tenants.get(name) or await self._connect(name)
        tenant.users += 1
        self._tenants.move_to_end(name)
        try:
            yield tenant
        finally:
            tenant.users -= 1
            if not tenant.known and not tenant.users:
                self._forget(tenant)

    async def _connect(self, name: str) -> Tenant:
        lock = self._locks.setdefault(name, anyio.Lock())
        try:
            async with lock, self._connecting:
                found = self._tenants.get(name)
                if found is not None:
                    return found
                self._make_room()
                made: list[Tenant] = []

                def reconnected() -> None:
                    for tenant in made:
                        tenant.reconnected()

                bus = await Bus.connect(self._url, kind="dev", name=name, creds=self._creds, on_reconnect=reconnected)
                tenant = Tenant(name, bus, self._start)
                made.append(tenant)
                await bus.listen(f"{bus.inbox}.out", tenant.submitter.on_push)
                self._tenants[name] = tenant
                return tenant
        finally:
            if not lock.statistics().tasks_waiting:
                self._locks.pop(name, None)

    def _start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self._group.start_soon(work, *args)

    def _make_room(self) -> None:
        if len(self._tenants) < TENANTS_MAX:
            return
        idle = next((one for one in self._tenants.values() if not one.users), None)
        if idle is None:
            raise QueueFull(f"{TENANTS_MAX} tenants are served at once already", hint="try again in a moment")
        self._forget(idle)

    def _forget(self, tenant: Tenant) -> None:
        if self._tenants.get(tenant.name) is tenant:
            del self._tenants[tenant.name]
            self._group.start_soon(self._close, tenant)

    @staticmethod
    async def _close(tenant: Tenant) -> None:
        for ticket in list(tenant.calls.values()):
            tenant.submitter.forget(ticket, FleetUnavailable("the gateway no longer follows this call"))
        await tenant.bus.close()

    async def close(self) -> None:
        """Disconnect all."""
        tenants = list(self._tenants.values())
        self._tenants.clear()
        for tenant in tenants:
            await self._close(tenant)
