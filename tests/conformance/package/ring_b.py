"""Imports ring_a, which imports this."""

from . import ring_a


def both():
    """Of both modules."""
    return ring_a.name() + "b"
