"""What slots ask and tell of compiled programs, answered from disk by threads: the agent's loop never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import anyio.to_thread

from runtime.compiled_cache import CompiledCache
from runtime.slot_events import CompiledMade, CompiledWanted
from runtime.slot_wire import Bytes


class AskingSlot(Protocol):
    """What this needs of a slot process."""

    id: str

    def compiled(self, key: str, data: Bytes) -> None: ...


class CompiledDesk:
    """See the module. ``cache`` None: nothing is kept. ``start_soon`` is that of the agent's task group."""

    def __init__(self, cache: CompiledCache | None, start_soon: Callable[..., Any]) -> None:
        self._cache = cache
        self._start_soon = start_soon
        self._writing: set[str] = set()
        """Slots of which something is being written: one piece each at a time, whatever a slot makes up."""

    def heard(self, slot: AskingSlot, tenant: str, program: str, event: CompiledWanted | CompiledMade) -> None:
        """Answer, or keep, what ``slot`` says while it runs ``program`` of ``tenant``."""
        cache = self._cache
        if isinstance(event, CompiledWanted):
            if cache is None:
                slot.compiled(event.key, b"")
            else:
                self._start_soon(self._answer, cache, slot, tenant, program, event.key)
        elif cache is not None and len(event.data) and slot.id not in self._writing:
            self._writing.add(slot.id)
            self._start_soon(self._keep, cache, slot.id, tenant, program, event)

    async def _answer(self, cache: CompiledCache, slot: AskingSlot, tenant: str, program: str, key: str) -> None:
        found = await anyio.to_thread.run_sync(cache.read, tenant, program, key)
        slot.compiled(key, found or b"")

    async def _keep(self, cache: CompiledCache, slot_id: str, tenant: str, program: str, made: CompiledMade) -> None:
        try:
            await anyio.to_thread.run_sync(cache.write, tenant, program, made.key, made.data)
        finally:
            self._writing.discard(slot_id)
