"""Functions, state and data of a package."""

from importlib import resources

from . import CONSTANT

_count = 0


class ToolError(Exception):
    """Something broke."""


def double(n):
    """Twice as much."""
    return n * 2


def count():
    """How often it was called."""
    global _count
    _count += 1
    return _count


def from_parent():
    """What the package above holds."""
    return CONSTANT


def late():
    """Imports when it is called."""
    from .late import NAME

    return NAME


def read_data():
    """The text beside this file."""
    return resources.files(__package__).joinpath("data.txt").read_text(encoding="utf-8")


def __getattr__(name):
    if name == "made_up":
        return "made up"
    raise AttributeError(name)


def __dir__():
    return ["made_up"]
