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


def is_kept(value: Any) -> bool:
    """Whether this is a mark, and no part of a pytree that should be looked into."""
    return isinstance(value, Kept)


def unmarked(value: Any) -> Any:
    """The pytree without its marks; the very same object where it has none."""
    if not any(map(is_kept, tree_util.tree_leaves(value, is_leaf=is_kept))):
        return value
    return tree_util.tree_map(lambda one: unmarked(one.value) if is_kept(one) else one, value, is_leaf=is_kept)
