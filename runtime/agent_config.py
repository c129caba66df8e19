"""The settings of one agent: what it is, how much it gives, what its owner allows."""

from __future__ import annotations

from dataclasses import dataclass, field

from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption
from fleet.protocol.ids import check_token
from fleet.protocol.lanes import LANES, WASM
from fleet.protocol.messages import Device, Offer
from fleet.protocol.pseudonyms import pseudonym
from runtime.standing import OwnerPolicy

SLOTS_MAX = 64
AHEAD_DEFAULT = 15
"""Leases per slot beyond the running one. The dispatcher fills them only with calls of functions that it measured as
short; they hide the way to the dispatcher and back."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Settings of one agent; InvalidOption where one is out of range."""

    car: str
    boot: str
    slots: int = 1
    spares: int = 1
    """Slot processes kept ready beyond ``slots``, for the whole car: one that is killed is replaced at once."""
    ahead: int = AHEAD_DEFAULT
    memory_bytes: int = limits.MEMORY_BYTES_DEFAULT
    region: str = ""
    lanes: tuple[str, ...] = (WASM,)
    devices: tuple[Device, ...] = ()
    """One for each jax lane."""
    simulated: bool = False
    version: str = ""
    policy: OwnerPolicy = field(default_factory=OwnerPolicy)

    def __post_init__(self) -> None:
        check_token(self.car, "car name")
        if not 1 <= self.slots <= SLOTS_MAX:
            raise InvalidOption(f"slots={self.slots} is not allowed: 1 to {SLOTS_MAX}")
        if self.spares not in (0, 1):
            raise InvalidOption(f"spares={self.spares} is not allowed: 0 or 1")
        if not 0 <= self.ahead <= 64:
            raise InvalidOption(f"ahead={self.ahead} is not allowed: 0 to 64")
        low, high = limits.MEMORY_BYTES_MIN, limits.MEMORY_BYTES_MAX
        if not low <= self.memory_bytes <= high:
            raise InvalidOption(f"memory={self.memory_bytes} is not allowed: {low} to {high} bytes")
        if not self.lanes or len(set(self.lanes)) < len(self.lanes) or not set(self.lanes) <= set(LANES):
            raise InvalidOption(f"lanes={','.join(self.lanes)} is not allowed: some of {', '.join(LANES)}, each once")
        assert {device.lane for device in self.devices} == set(self.lanes) - {WASM}, (self.lanes, self.devices)

    def offer(self, slots: int) -> Offer:
        """What the car offers while it can run ``slots`` jobs at once."""
        return Offer.model_construct(
            slots=slots, ahead=self.ahead, lanes=list(self.lanes), devices=list(self.devices),
            memory_bytes=self.memory_bytes, region=self.region, expected_stay_s=None,
        )  # fmt: skip

    def pseudonym(self, tenant: str) -> str:
        """What a tenant's functions know the car by: another one for each tenant and each start of the agent."""
        return pseudonym(self.car, self.boot, tenant)
