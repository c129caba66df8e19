"""A package as developers write them; ``cases/modules.py`` uses it."""

CONSTANT = 17
