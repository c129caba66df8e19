"""Events that a function emitted, as its result bytes bring them: read, and checked as anything that a car says. Pure.

Result bytes with status byte 3: the length of the events (u32, little endian), the events (``fleet._event.pack_emits``), and
the value, which is nobody's business here.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from fleet._event_values import check_attribute
from fleet.protocol.errors import InvalidOption, ProtocolError
from fleet.protocol.frames import Bytes
from fleet.protocol.ids import check_event_subject
from fleet.protocol.limits import EMITS_BYTES_MAX, EMITS_MAX, INLINE_RESULT_BYTES_MAX, KIB

STATUS = 3
_HEAD_BYTES = 5
PACKED_BYTES_MAX = 2 * EMITS_BYTES_MAX + EMITS_MAX * KIB
"""Attributes may double when they are written as JSON, data grows by a third; and the names of the attributes."""
_NAMES = ({"subject", "type", "data"}, {"subject", "type", "data", "datacontenttype"})

assert PACKED_BYTES_MAX + EMITS_BYTES_MAX + EMITS_MAX * KIB < INLINE_RESULT_BYTES_MAX, (
    "a result that emits is never a blob"
)


class Emitted(NamedTuple):
    """One event on its way out of a sandbox."""

    subject: str
    type: str
    data: bytes
    datacontenttype: str | None


def packed_in(result: Bytes) -> memoryview:
    """The packed events of one result with status byte 3; ProtocolError where it is cut short."""
    view = memoryview(result)
    if len(view) < _HEAD_BYTES or view[0] != STATUS:
        raise ProtocolError("a result without the events that it announces")
    end = _HEAD_BYTES + int.from_bytes(view[1:_HEAD_BYTES], "little")
    if end >= len(view):
        raise ProtocolError("a result's events are cut short")
    return view[_HEAD_BYTES:end]


def unpack_emits(packed: Bytes) -> list[Emitted]:
    """The events that ``pack_emits`` packed, at least one; ProtocolError for anything else."""
    if len(packed) > PACKED_BYTES_MAX:
        raise ProtocolError(f"{len(packed)} bytes of events")
    try:
        rows = json.loads(bytes(packed))
    except (ValueError, RecursionError):
        raise ProtocolError("a result's events are no JSON") from None
    if type(rows) is not list or not 0 < len(rows) <= EMITS_MAX:
        raise ProtocolError(f"a result's events are no list of 1 to {EMITS_MAX}")
    emitted = [_one(row) for row in rows]
    size_bytes = sum(len(one.data) for one in emitted)
    if size_bytes > EMITS_BYTES_MAX:
        raise ProtocolError(f"{size_bytes} bytes of events, the limit is {EMITS_BYTES_MAX}")
    return emitted


def _one(row: Any) -> Emitted:
    if type(row) is not dict or set(row) not in _NAMES or not all(type(value) is str for value in row.values()):
        raise ProtocolError("an event of a result has other attributes than it may")
    content_type = row.get("datacontenttype")
    try:
        check_event_subject(row["subject"])
        check_attribute(row["type"], "type")
        if content_type is not None:
            check_attribute(content_type, "datacontenttype")
        data = base64.b64decode(row["data"].encode("ascii"), validate=True)
    except (InvalidOption, UnicodeEncodeError, binascii.Error):
        raise ProtocolError("an event of a result is malformed") from None
    return Emitted(row["subject"], row["type"], data, content_type)
