"""The mark of what stays on the device: a pytree node with one child. In a result its tree is ``{"keep": tree}``."""

from __future__ import annotations

from typing import Any

from jax import tree_util


class Kept:
    """A part of a result that its caller gets as a reference."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


tree_util.register_pytree_node(Kept, lambda one: ((one.value,), None), lambda _, children: Kept(children[0]))
