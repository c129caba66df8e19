"""Packed arguments that know which values of ``fleet.put`` they refer to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet._ref import Ref
from fleet.protocol import frames
from fleet.protocol.errors import PayloadTooLarge, WrongArguments
from fleet.protocol.limits import REFS_BYTES_MAX, REFS_MAX
from fleet.protocol.units import format_bytes


class Packed(bytes):
    """Packed arguments that refer to values of ``fleet.put``: ``refs``, by digest. Others are plain bytes."""

    refs: dict[str, Ref[Any]]


def packed(data: bytes, refs: dict[str, Ref[Any]]) -> bytes:
    """``data`` with what it refers to; WrongArguments or PayloadTooLarge over what one call may refer to."""
    if not refs:
        return data
    if len(refs) > REFS_MAX:
        raise WrongArguments(
            f"the arguments refer to {len(refs)} values of fleet.put, the limit is {REFS_MAX}",
            hint="put them together as one value, a list or a dict",
        )
    size_bytes = sum(ref.size_bytes for ref in refs.values())
    if size_bytes > REFS_BYTES_MAX:
        limit = format_bytes(REFS_BYTES_MAX)
        raise PayloadTooLarge(
            f"the arguments refer to values of fleet.put of {format_bytes(size_bytes)} in all, the limit is {limit}",
            hint="split them over several calls",
        )
    result = Packed(data)
    result.refs = refs
    return result


def refs_of(data: bytes) -> dict[str, Ref[Any]]:
    """What packed arguments refer to, by digest."""
    return data.refs if type(data) is Packed else {}


class Together:
    """What the items of a chunk refer to, while it grows."""

    __slots__ = ("_bytes", "_refs")

    def __init__(self) -> None:
        self._refs: set[str] = set()
        self._bytes = 0

    def take(self, data: bytes) -> bool:
        """Count one more item in; False, and nothing is counted, if the chunk would refer to too much. One alone fits."""
        if type(data) is not Packed:
            return True
        new = {digest: ref.size_bytes for digest, ref in data.refs.items() if digest not in self._refs}
        size_bytes = self._bytes + sum(new.values())
        if len(self._refs) + len(new) > REFS_MAX or size_bytes > REFS_BYTES_MAX:
            return False
        self._refs.update(new)
        self._bytes = size_bytes
        return True


def pack_items(items: Sequence[bytes]) -> bytes:
    """The arguments of a chunk from those of its items, which a ``Together`` took."""
    refs: dict[str, Ref[Any]] = {}
    for item in items:
        if type(item) is Packed:
            refs.update(item.refs)
    return packed(frames.pack_items(items), refs)
