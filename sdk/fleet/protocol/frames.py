"""A message on the wire: a JSON header that a model describes, then opaque byte strings ("parts").

Layout: ``F`` | version u8 | parts u16 | header length u32 | length u32 of each part | header | parts. Little endian.
Whoever passes a message on never looks into the parts; nobody but a sandbox unpickles any.

``pack_items`` and ``unpack_items`` put many small byte strings (the items of a chunk) into one part the same way.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from fleet.protocol.errors import ProtocolError

M = TypeVar("M", bound=BaseModel)
Bytes = bytes | bytearray | memoryview

_HEAD = struct.Struct("<cBHI")
_MAGIC = b"F"
_VERSION = 1
PARTS_MAX = 0xFFFF


def pack(model: BaseModel, parts: Sequence[Bytes] = ()) -> bytes:
    """The message of ``model`` with ``parts`` behind it."""
    return b"".join(pieces(model, parts))


def pieces(model: BaseModel, parts: Sequence[Bytes] = ()) -> list[Bytes]:
    """The same message uncopied: what comes before the parts, and the parts themselves."""
    header = model.model_dump_json(exclude_defaults=True).encode()
    if not parts:
        return [_HEAD.pack(_MAGIC, _VERSION, 0, len(header)), header]
    lengths = struct.pack(f"<{len(parts)}I", *map(len, parts))
    return [b"".join((_HEAD.pack(_MAGIC, _VERSION, len(parts), len(header)), lengths, header)), *parts]


def unpack(data: Bytes, model: type[M]) -> tuple[M, list[memoryview]]:
    """The model and the parts of a message; ProtocolError for anything else, never another exception."""
    view = memoryview(data)
    if len(view) < _HEAD.size:
        raise ProtocolError(f"{len(view)} bytes are no message")
    magic, version, count, header_bytes = _HEAD.unpack_from(view)
    if magic != _MAGIC or version != _VERSION:
        raise ProtocolError("not a message of this protocol")
    at = _HEAD.size
    if len(view) < at + 4 * count + header_bytes:
        raise ProtocolError("the message is cut short")
    lengths = struct.unpack_from(f"<{count}I", view, at)
    at += 4 * count
    header = view[at : at + header_bytes]
    at += header_bytes
    if at + sum(lengths) != len(view):
        raise ProtocolError("the message's parts don't add up to its length")
    parts = []
    for length in lengths:
        parts.append(view[at : at + length])
        at += length
    try:
        return model.model_validate_json(bytes(header)), parts
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ProtocolError(f"{model.__name__}: {where}: {first['msg']}") from None


def pack_items(items: Sequence[Bytes]) -> bytes:
    """Byte strings as one: count u32, their lengths u32 each, then they themselves."""
    return b"".join((struct.pack(f"<{len(items) + 1}I", len(items), *map(len, items)), *items))


def unpack_items(data: Bytes, count_max: int) -> list[memoryview]:
    """What ``pack_items`` packed; ProtocolError for anything else."""
    view = memoryview(data)
    if len(view) < 4:
        raise ProtocolError("an item list is cut short")
    (count,) = struct.unpack_from("<I", view)
    if count > count_max or len(view) < 4 + 4 * count:
        raise ProtocolError(f"an item list of {count} items is over {count_max} or cut short")
    lengths = struct.unpack_from(f"<{count}I", view, 4)
    at = 4 + 4 * count
    if at + sum(lengths) != len(view):
        raise ProtocolError("an item list doesn't add up to its length")
    items = []
    for length in lengths:
        items.append(view[at : at + length])
        at += length
    return items
