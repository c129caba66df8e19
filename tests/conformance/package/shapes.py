"""Classes of a package."""

import enum
from dataclasses import dataclass

from .tools import ToolError, double


class Kind(enum.Enum):
    """What it looks like."""

    ROUND = "round"
    SQUARE = "square"


@dataclass
class Circle:
    """A circle."""

    radius: float
    kind: Kind = Kind.ROUND

    def area(self):
        """Nearly."""
        return 3 * self.radius**2


def from_sibling(n):
    """By way of another module."""
    return double(n)


def fail():
    """Raises what another module defines."""
    raise ToolError("from shapes")
