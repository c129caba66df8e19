"""Pytrees as the JSON trees that a bundle and a manifest hold (``fleet.protocol.jax_bundle`` tells the form), and back.

An ``OrderedDict`` or ``defaultdict`` is written as a dict, a NamedTuple as a tuple; any other registered class, and a dict
whose keys JSON lacks, as a node: a list of its children. What it was is known where the function was traced.
Errors: ProtocolError where a value isn't of its tree.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from fleet.protocol.errors import ProtocolError

_JSON_KEYS = (str, int, float, bool, type(None))
_DICTS = (dict, collections.OrderedDict, collections.defaultdict)

Leaf = Callable[[Any], Any]


def children_of(value: Any) -> tuple[list[Any], Any] | None:
    """The children of one node in jax' order and what else it holds; None for a leaf."""
    from jax import tree_util

    found = tree_util.default_registry.flatten_one_level(value)
    return None if found is None else (list(found[0]), found[1])


def describe(value: Any, leaf: Leaf, kept: type | None = None) -> Any:
    """The tree of ``value``; ``leaf`` gives what stands for each leaf, in jax' order. ``kept``: see ``_jax.kept``."""
    if value is None:
        return None
    found = children_of(value)
    if found is None:
        return leaf(value)
    children, extra = found
    trees = [describe(child, leaf, kept) for child in children]
    if kept is not None and type(value) is kept:
        (tree,) = trees
        return {"keep": tree}
    if type(value) in _DICTS:
        keys = list(extra[1] if type(value) is collections.defaultdict else extra)
        if all(type(key) in _JSON_KEYS for key in keys):
            return {"dict": [[key, tree] for key, tree in zip(keys, trees, strict=True)]}
    elif isinstance(value, list):
        return {"list": trees}
    elif isinstance(value, tuple):
        return {"tuple": trees}
    return {"node": trees}


def leaves_of(tree: Any, value: Any) -> list[Any]:
    """The leaves of a result in order; what is kept on a device counts as one."""
    found: list[Any] = []
    _collect(tree, value, found)
    return found


def _collect(tree: Any, value: Any, found: list[Any]) -> None:
    if tree is None:
        if value is not None:
            raise _unlike()
        return
    if isinstance(tree, int):
        found.append(value)
        return
    ((kind, trees),) = tree.items()
    if kind == "keep":
        found.append(value)
    elif kind == "dict":
        if type(value) is not dict or len(value) != len(trees):
            raise _unlike()
        for key, one in trees:
            if key not in value:
                raise _unlike()
            _collect(one, value[key], found)
    else:
        if type(value) is not (tuple if kind == "tuple" else list) or len(value) != len(trees):
            raise _unlike()
        for one, item in zip(trees, value, strict=True):
            _collect(one, item, found)


def _unlike() -> ProtocolError:
    return ProtocolError("a result is not of the shape that its function returns")
