"""What developers know a car by: nothing that tells which car it is, another name for each tenant and each start of it."""

from __future__ import annotations

import hashlib

CHARS = 12


def pseudonym(car: str, boot: str, tenant: str) -> str:
    """The pseudonym of ``car``, started as ``boot``, for ``tenant``: ``fleet.current().car``, and the car of log lines."""
    return hashlib.sha256(f"{car}\0{boot}\0{tenant}".encode()).hexdigest()[:CHARS]
