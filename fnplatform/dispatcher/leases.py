"""The right to run one call on one car: its order, its signature. Pure.

A lease is (call, seq, epoch, counter, car) with a MAC under a key that only the control plane has. Of all leases of one
call the one with the newest (epoch, counter) holds; ``seq``, the stream sequence of the invocation's message, changes
with every durable requeue and so voids older leases even where nobody remembers them.
"""

from __future__ import annotations

import hmac

from fleet.protocol.messages import Lease

Order = tuple[int, int]
"""(epoch, counter): later is newer."""

_MAC_CHARS = 32
_COUNTER_BITS = 32


def first_counter(epoch: int) -> int:
    """Where the counters of an epoch start: no two leases of a partition share one, so a counter alone names a lease."""
    return epoch << _COUNTER_BITS


def mac_of(key: bytes, call: str, seq: int, epoch: int, counter: int, car: str) -> str:
    """The signature of a lease (HMAC-SHA256, 128 bits of it in hex)."""
    text = f"{call}|{seq}|{epoch}|{counter}|{car}"
    return hmac.digest(key, text.encode(), "sha256").hex()[:_MAC_CHARS]


def sign(key: bytes, call: str, seq: int, epoch: int, counter: int, car: str) -> Lease:
    """A lease made here. Built without validation: every value in it is one of ours."""
    mac = mac_of(key, call, seq, epoch, counter, car)
    return Lease.model_construct(call=call, seq=seq, epoch=epoch, counter=counter, car=car, mac=mac)


def genuine(key: bytes, lease: Lease, car: str) -> bool:
    """Whether ``lease`` was made under ``key`` for the car that shows it."""
    if lease.car != car:
        return False
    mac = mac_of(key, lease.call, lease.seq, lease.epoch, lease.counter, lease.car)
    return hmac.compare_digest(mac, lease.mac)


def order(lease: Lease) -> Order:
    """What decides which of two leases of one call holds."""
    return (lease.epoch, lease.counter)
