"""Classes of the platform that a result may hold (``fleet.Emit``, ``fleet.Response``, ...): whoever defines one registers it.

They aren't looked up by name, as the caller's are: a number says which one it is, and ``made`` looks at every value before
it makes an instance, because the data may come from a hostile car. Standard library only: it runs in the guest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fleet.protocol._codec import kinds as k


class Own(NamedTuple):
    """One class. ``fields`` gives what an instance consists of, ``made`` an instance from that; it raises for anything else."""

    number: int
    kind: type
    fields: Callable[[Any], tuple[Any, ...]]
    made: Callable[..., Any]


by_type: dict[type, Own] = {}
by_number: dict[int, Own] = {}


def register(number: int, kind: type, fields: Callable[[Any], tuple[Any, ...]], made: Callable[..., Any]) -> None:
    """Let instances of exactly ``kind`` travel. Numbers stand on the wire and never change."""
    assert number not in by_number, number
    by_type[kind] = by_number[number] = Own(number, kind, fields, made)


def cost_of(fields: Sequence[Any]) -> int:
    """What an instance takes in memory beyond its fields: tables of what it holds as pairs."""
    return sum(k.dict_cost(len(field)) for field in fields if type(field) in (list, dict))
