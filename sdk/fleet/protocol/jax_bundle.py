"""The bundle of a jax program: what a car gets instead of code. Data alone: a description, and exported modules.

Layout: magic ``fjx1`` | head length u32 | head (JSON, UTF-8) | modules, each as long as the head says. Little endian.

The head: ``x64`` bool; ``weights``, ``inputs``, ``outputs``: lists of ``[dtype, shape]``, where a dimension is a number, or
text that names a size (``b``) or computes one (``2*n``); ``result``: the tree of a result; ``batch``: true or false, whether
rows of several calls may be joined, or null without ``batch=``; ``modules``: list of ``{platforms, calling_convention,
stablehlo, size}``.
Each module is ``jax.export``'s serialisation of a *flat* function: weights, then inputs, in; outputs out, as a list.

``JaxProgram.arguments`` is JSON: a list with one row ``[parameter, tree]`` for each argument, with a third element, the number
that is its default, where a caller may leave it out. A constant has ``{"static": repr}`` in place of its tree, or inside of it.

Trees are JSON: ``n`` (a number: the index of a flat array),
``null`` (None), ``{"list": [...]}``, ``{"tuple": [...]}``, ``{"dict": [[key, tree], ...]}`` in jax' order of keys,
``{"node": [...]}`` (a registered class: its children), ``{"keep": tree}`` (stays on the device). A result has in place of what
is kept the record ``{"ref": digest, "bytes": n, "arrays": [[dtype, shape], ...]}``.

Arguments of one call, on the wire: the codec's list with one entry per flat input: a numpy array, or for a reference
``{"ref": digest, "bytes": n, "arrays": m}``, which stands for ``m`` inputs: a blob holds the codec's list of them.
Standard library only. Errors: ProtocolError for a bundle that can't be read.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from fleet.protocol.errors import ProtocolError
from fleet.protocol.limits import BUNDLE_BYTES_MAX

_MAGIC = b"fjx1"
_HEAD = struct.Struct("<4sI")
Bytes = bytes | bytearray | memoryview


def pack(head: dict[str, Any], modules: list[bytes]) -> bytes:
    """The bundle; ``head["modules"]`` has one entry for each module, whose ``size`` is filled in. Same input, same bytes."""
    rows = [{**row, "size": len(module)} for row, module in zip(head["modules"], modules, strict=True)]
    text = json.dumps({**head, "modules": rows}, sort_keys=True, separators=(",", ":")).encode()
    return b"".join((_HEAD.pack(_MAGIC, len(text)), text, *modules))


def unpack(data: Bytes) -> tuple[dict[str, Any], list[Bytes]]:
    """Head and modules of a bundle; ProtocolError for anything else. The head's content is not checked here."""
    view = memoryview(data).cast("B")
    if not _HEAD.size <= len(view) <= BUNDLE_BYTES_MAX:
        raise ProtocolError("a jax program has an impossible size")
    magic, size = _HEAD.unpack_from(view)
    if magic != _MAGIC or _HEAD.size + size > len(view):
        raise ProtocolError("this is no jax program")
    try:
        head = json.loads(bytes(view[_HEAD.size : _HEAD.size + size]))
        sizes = [row["size"] for row in head["modules"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ProtocolError("the description of a jax program can't be read") from None
    if not all(type(one) is int and one > 0 for one in sizes) or _HEAD.size + size + sum(sizes) != len(view):
        raise ProtocolError("the modules of a jax program don't add up to its length")
    modules: list[Bytes] = []
    at = _HEAD.size + size
    for one in sizes:
        modules.append(view[at : at + one])
        at += one
    return head, modules
