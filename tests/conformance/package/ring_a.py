"""Imports ring_b, which imports this."""

from . import ring_b


def name():
    """Of this module."""
    return "a"


def other():
    """Through the other module and back."""
    return ring_b.both()
