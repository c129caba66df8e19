"""Which car keeps a value on its device (``fleet.keep``): soft state, so that the next call that takes it goes there. Pure.

A car that left, or needed the room, no longer has it: then the copy is used that was stored with the outcome. So this may be
wrong, incomplete, and forgotten by a new leader.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from fleet.protocol.messages import BlobRef

VALUES_MAX = 10_000


class KeptOnCars:
    """Names of cars by tenant and digest, the value that was kept or asked for longest ago first."""

    def __init__(self, values_max: int = VALUES_MAX) -> None:
        self._cars: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._values_max = values_max

    def note(self, tenant: str, values: Iterable[BlobRef], car: str) -> None:
        """``car`` said that it keeps these."""
        for value in values:
            key = (tenant, value.digest)
            self._cars[key] = car
            self._cars.move_to_end(key)
            if len(self._cars) > self._values_max:
                self._cars.popitem(last=False)

    def cars_with(self, tenant: str, values: Iterable[BlobRef]) -> Iterator[str]:
        """Names of cars that kept one of these, as far as is known, the largest value first."""
        for value in sorted(values, key=lambda one: -one.size_bytes):
            car = self._cars.get((tenant, value.digest))
            if car is not None:
                self._cars.move_to_end((tenant, value.digest))
                yield car
