"""Codes and structs that host and guest share, and the guest's side of passing bytes.

The host imports this module too (for the codes): nothing here may need the guest at import.
"""

from __future__ import annotations

import binascii
import struct
from array import array
from typing import Any

# What the host asks (``enter``).
LOAD = 1
RUN = 2
PROBE = 3
"""Answer with the sha256 of the request's size as u32, little endian: the host looks where in its memory that lies."""
START = 4
"""Become an instance: what must not be the same in all of them. Once, after PROBE and before LOAD."""
HOLD = 5
"""Keep a value of ``fleet.put``: its digest (DIGEST_BYTES), then its pickle."""
DROP = 6
"""Forget such values: their digests, one behind the other."""
STREAM = 7
"""As RUN, for a generator: STREAM_HEAD, then what RUN takes."""

# What the guest says (``tell``).
PROGRESS = 1
ITEMS = 2
LOG = 3
CHECKPOINT = 4
DEPARTING = 5
ITEM = 6
"""What a generator yielded next: result bytes."""
CREDIT = 7
"""Wait until more of what the generator yielded was consumed; answered with how many more."""
CODE = 8
"""The modules of the bundle as compiled here, before any argument is looked at. Once, if LOAD asks for it."""

NONE = 0xFFFF_FFFF
"""No position: a single call."""

LOAD_HEAD = struct.Struct("<IIIII")
"""Bytes of the module's name, of the qualified name, of compiled code (NONE: tell CODE), of the bundle, and how many
packages. Their sizes follow (u32 each), then all of these in that order."""

CODE_BYTES_MAX = 4 << 20

DIGEST_BYTES = 32

RUN_HEAD = struct.Struct("<IIdBxxxIIIIII")
"""attempt, items (NONE: single), timeout_s, exact, bytes of call id, of car, ranges of item numbers, item attempts,
bytes of checkpoint (NONE: no checkpoint), bytes of arguments. All of them follow in that order, ranges and attempts as
pairs of u32."""

STREAM_HEAD = struct.Struct("<QQ")
"""Items that aren't wanted any more because they were stored under an earlier lease, and how many of them were consumed."""

RESULT_HEAD = struct.Struct("<II")
"""Position of the first item, bytes of the summary; summary and result follow."""

PIECE_BYTES = 192 * 1024
"""Bytes in one piece of ``take`` and ``give``; a multiple of 3, so that base64 has no padding between pieces."""

ROOM_BYTES = 64 * 1024
"""Room that is kept; for a larger request the host asks for room each time."""

_BYTES_HEADER = bytes.__basicsize__ - 1
"""A bytes object's content lies this far behind the object's address."""

_host: Any = None
_window = True
_room = array("B", bytes(16))


def connect(host: Any) -> None:
    """Use ``host``, the component's imports."""
    global _host
    _host = host


def tell(what: int, number: int, data: bytes = b"") -> int:
    """Say ``what`` about ``number`` with ``data``; the host's answer."""
    if not data:
        return int(_host.tell(what, number, 0, 0))
    if _window:
        return int(_host.tell(what, number, id(data) + _BYTES_HEADER, len(data)))
    _give(data)
    return int(_host.tell(what, number, 0, len(data)))


def make_room(size: int, mode: int) -> int:
    """Reserve ``size`` bytes for requests; their address."""
    global _room, _window
    _window = mode == 0
    if len(_room) != size:
        _room = array("B", bytes(16))  # The old one is freed before the new one is made.
        _room = array("B", bytes(size))
    return _room.buffer_info()[0]


def drop_large_room() -> None:
    """Free the room of a large request whose content is loaded. The host makes room anew after each large one."""
    global _room
    if len(_room) > ROOM_BYTES:
        _room = array("B", bytes(16))


def request(size: int) -> memoryview:
    """The request of ``size`` bytes that the host has written."""
    if _window:
        return memoryview(_room)[:size]
    pieces = []
    left = size
    while left > 0:
        piece = binascii.a2b_base64(_host.take())
        assert piece, "the host gave less than it said"
        pieces.append(piece)
        left -= len(piece)
    return memoryview(b"".join(pieces))


def respond(data: bytes) -> int:
    """Address and size of a response; the caller keeps ``data`` alive until the next request."""
    if _window or not data:
        return (id(data) + _BYTES_HEADER) << 32 | len(data)
    _give(data)
    return len(data)


def _give(data: bytes) -> None:
    view = memoryview(data)
    for at in range(0, len(data), PIECE_BYTES):
        _host.give(binascii.b2a_base64(view[at : at + PIECE_BYTES], newline=False).decode("ascii"))


def pack_items(items: list[bytes]) -> bytes:
    """As ``fleet.protocol.frames.pack_items``, which needs pydantic."""
    return b"".join((struct.pack(f"<{len(items) + 1}I", len(items), *map(len, items)), *items))
