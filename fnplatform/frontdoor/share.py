"""How much of the queue each tenant holds: at most TENANT_QUEUE_SHARE of it.

An estimate that never errs upwards by more than what other frontdoors accepted within REFRESH_S: the dispatcher's count, asked
now and then, plus what was accepted here since.
"""

from __future__ import annotations

from fleet.protocol.errors import QueueFull

REFRESH_S = 1.0


class QueueShare:
    """Calls in the queue by tenant; each may hold ``calls_max``."""

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self._counted: dict[str, int] = {}
        self._since: dict[str, int] = {}

    @property
    def tenants(self) -> list[str]:
        """Whose count is worth asking for."""
        return list(self._counted.keys() | self._since.keys())

    def take(self, tenant: str, count: int) -> None:
        """Reserve room for ``count`` calls; QueueFull if the tenant's share holds no more."""
        held = self._counted.get(tenant, 0) + self._since.get(tenant, 0)
        if held + count > self._calls_max:
            raise QueueFull(f"your share of the queue is full: {held} calls wait, {self._calls_max} may", share=True)
        self._since[tenant] = self._since.get(tenant, 0) + count

    def give_back(self, tenant: str, count: int) -> None:
        """Room that was reserved and is not used after all."""
        self._since[tenant] = max(0, self._since.get(tenant, 0) - count)

    def counted(self, tenant: str, count: int, since_before: int) -> None:
        """The dispatcher counted ``count``; what was taken before it was asked (``since_before``) is in there."""
        self._counted[tenant] = count
        self._since[tenant] = max(0, self._since.get(tenant, 0) - since_before)
        if not count and not self._since[tenant]:
            del self._counted[tenant], self._since[tenant]

    def since(self, tenant: str) -> int:
        """What was taken since the last count."""
        return self._since.get(tenant, 0)
