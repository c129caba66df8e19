"""The verbs about what is deployed: register, deploy, functions, history, rollback, delete."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from fleet.protocol.errors import FleetUnavailable, NotDeployed, Refused
from fleet.protocol.messages import (
    DeleteReply,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    FunctionInfo,
    FunctionsReply,
    FunctionsRequest,
    HistoryReply,
    HistoryRequest,
    RegisterReply,
    RegisterRequest,
    RollbackReply,
    RollbackRequest,
)
from fleet.protocol.subjects import CURSOR, PARTITION, STREAM_EVENTS, STREAM_INVOCATIONS
from fnplatform.frontdoor.calls import Calls
from fnplatform.frontdoor.http_functions import http_functions
from fnplatform.frontdoor.ports import DispatcherPort
from fnplatform.jetstream import JetStream
from fnplatform.registry import Registry
from fnplatform.triggers.state import Cursor

log = logging.getLogger("fleet.frontdoor")

Parts = Sequence[memoryview]
ROUTED_S = 3.0
LOOK_S = 0.1


class Apps:
    """Each verb changes the apps of its own tenant only."""

    def __init__(self, js: JetStream, registry: Registry, calls: Calls, dispatcher: DispatcherPort) -> None:
        self._js = js
        self._registry = registry
        self._calls = calls
        self._dispatcher = dispatcher

    async def _tell(self, tenant: str, app: str) -> None:
        """An event that is accepted after the answer meets the new triggers."""
        try:
            await self._dispatcher.reload(tenant, app)
        except FleetUnavailable as error:
            log.info("nobody was told that %s changed (%s): who leads next loads it", app, error.message)

    async def register(self, tenant: str, request: RegisterRequest, parts: Parts) -> RegisterReply:
        """Make versions callable."""
        versions, missing = await self._registry.register(tenant, request.manifests)
        return RegisterReply(missing=missing, versions=versions)

    async def deploy(self, tenant: str, request: DeployRequest, parts: Parts) -> DeployReply:
        """Make the manifests the whole of the app."""
        version, unchanged, missing = await self._registry.deploy(tenant, request.app, request.manifests)
        if not missing:
            await self._tell(tenant, request.app)
        return DeployReply(missing=missing, app_version=version, unchanged=unchanged)

    async def functions(self, tenant: str, request: FunctionsRequest, parts: Parts) -> FunctionsReply:
        """What is live, or exactly one version of one function."""
        app, function, version = request.app, request.function, request.version
        if version is not None:
            if app is None or function is None:
                raise Refused("a version is that of one function: name app and function too")
            manifest = await self._registry.lookup(tenant, app, function, version)
            return FunctionsReply(functions=[FunctionInfo(manifest=manifest, version=version)])
        if request.http:
            revision, found = await http_functions(self._js, self._registry, tenant, request.revision)
            return FunctionsReply(functions=found, revision=revision, unchanged=0 < revision == request.revision)
        found = await self._registry.functions(tenant, app, function)
        if not found and app is not None:
            raise NotDeployed(
                f"there is no app {app}" if function is None else f"there is no function {app}.{function}"
            )
        return FunctionsReply(functions=found)

    async def history(self, tenant: str, request: HistoryRequest, parts: Parts) -> HistoryReply:
        """Every deploy that is remembered, and which is live."""
        record = await self._registry.record(tenant, request.app)
        if record is None:
            raise NotDeployed(f"there is no app {request.app}")
        return HistoryReply(record=record)

    async def rollback(self, tenant: str, request: RollbackRequest, parts: Parts) -> RollbackReply:
        """Make an earlier deploy live again."""
        version = await self._registry.rollback(tenant, request.app, request.number)
        await self._tell(tenant, request.app)
        return RollbackReply(app_version=version)

    async def delete(self, tenant: str, request: DeleteRequest, parts: Parts) -> DeleteReply:
        """Remove the app; Refused while calls or events of it wait, unless they are to be cancelled."""
        if not request.cancel:
            await self._check_idle(tenant, request.app)
        await self._registry.delete(tenant, request.app)
        await self._tell(tenant, request.app)
        return DeleteReply(cancelled=await self._calls.cancel_app(tenant, request.app) if request.cancel else 0)

    async def _check_idle(self, tenant: str, app: str) -> None:
        """Refused while calls of the app wait or run, or its triggers hold events back: these would start nothing."""
        held = await self._held(tenant, app)
        waiting = await self._calls.waiting_of(tenant, app)
        if waiting:
            raise Refused(
                f"{len(waiting)} calls of {app} wait or run",
                hint=f"wait for them, or cancel them: fleet delete {app} --cancel",
            )
        if held:
            raise Refused(
                f"triggers of {app} hold back up to {held} events that are still to start calls",
                hint=f"wait for them (fleet status), or drop them: fleet delete {app} --cancel",
            )

    async def _held(self, tenant: str, app: str) -> int:
        """Events that triggers of the app hold back. Events of a moment ago are given the time to become calls first."""
        last_seq = int((await self._js.stream_info(STREAM_EVENTS))["state"]["last_seq"])
        cursor = Cursor()
        with anyio.move_on_after(ROUTED_S):
            while True:
                found = await self._js.get_last(STREAM_INVOCATIONS, CURSOR.build(partition=PARTITION))
                cursor = Cursor() if found is None else Cursor.model_validate_json(bytes(found.data))
                if cursor.seq >= last_seq:
                    break
                await anyio.sleep(LOOK_S)
        return cursor.held_for(tenant, app)
