"""What all routes of the gateway share: who asks, the connection of a tenant, and whether the process is ending."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
from starlette.requests import Request

from fleet._settings import TENANT
from fleet.protocol.errors import FleetError
from fleet.protocol.messages import CallRequest, StatusReply
from fleet.protocol.subjects import ApiVerb
from fnplatform.gateway.auth import Authority
from fnplatform.gateway.bounds import CALL_S_MAX, STREAMS_MAX
from fnplatform.gateway.problems import HttpProblem
from fnplatform.gateway.schemas import Schemas
from fnplatform.gateway.tenants import Pool, Tenant

READY_CACHE_S = 0.25


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """``nats_url``: the platform's broker. ``open_to_all``: no token is needed. ``origins``: whose pages may ask (CORS).

    ``call_s_max``: longest that an answer is waited for. ``port`` 0: a free one.
    """

    nats_url: str
    creds: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    open_to_all: bool = False
    origins: tuple[str, ...] = ()
    call_s_max: float = CALL_S_MAX


class Gateway:
    """State of one gateway process."""

    def __init__(self, settings: GatewaySettings, pool: Pool) -> None:
        self.settings = settings
        self.pool = pool
        local = settings.host in ("127.0.0.1", "localhost", "::1")
        self.authority = Authority(pool, open_to_all=settings.open_to_all, local=local, origins=settings.origins)
        self.schemas = Schemas()
        self.stopping = anyio.Event()
        self._streams = 0
        self._answered_s = -1.0

    @asynccontextmanager
    async def tenant(self, request: Request) -> AsyncIterator[Tenant]:
        """The connection of the tenant whose rights the request has; HttpProblem 401, 403."""
        caller = await self.authority.caller(request)
        async with self.pool.use(caller.tenant) as tenant:
            tenant.known = tenant.known or caller.proven or caller.tenant == TENANT
            yield tenant

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """A place for one stream; HttpProblem 503 where there is none."""
        if self._streams >= STREAMS_MAX:
            raise HttpProblem(503, "busy", f"{STREAMS_MAX} streams are open here already")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def is_ready(self) -> bool:
        """Whether a control plane answers."""
        if self.stopping.is_set():
            return False
        if time.monotonic() - self._answered_s < READY_CACHE_S:
            return True
        try:
            async with self.pool.use(TENANT) as tenant:
                tenant.known = True
                await tenant.ask(ApiVerb.STATUS, CallRequest(), StatusReply)
        except FleetError:
            return False
        self._answered_s = time.monotonic()
        return True
