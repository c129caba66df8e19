"""How the zip of a package ends, and how distributions are named: what its maker and the guest share."""

from __future__ import annotations

import struct

INDEX_MARK = b"fleet1"
INDEX_TAIL = struct.Struct("<6sII")
"""The zip's comment: mark, where the index lies in the file, its bytes.

The index is a marshalled dictionary behind zlib: ``name`` and ``info`` (the folder of the metadata) of the distribution,
``tops`` and ``natives`` (modules, by name), ``entries``: path -> (where its bytes lie, how many, how many inflated)."""


def normalized(name: str) -> str:
    """The name of a distribution as names are compared."""
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)
