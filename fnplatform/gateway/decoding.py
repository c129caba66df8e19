"""Results as JSON.

================================================  ========================================================================
None, bool, int, str                              as they are (JavaScript rounds ints beyond 2**53)
float                                             as it is; NaN and the infinities are null
bytes, bytearray, memoryview                      base64
datetime, date, time                              ISO 8601; timedelta: seconds
Decimal, UUID, Fraction, paths, addresses, ...    text
list, tuple, set, frozenset, deque, range, array  list (a set's in order, where it has one)
dict and its kin                                  object; keys that are no text as text
dataclass, NamedTuple, attrs, pydantic            object of its fields
member of an Enum                                 its name
numpy array, scalar                               nested lists, number; numpy is not needed for it
exception                                         object with type and message
fleet.Event, Emit, Response                       object of what they hold; data by its content type
================================================  ========================================================================

No class is looked up, nothing of a function is imported or run: a result is data here.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from array import array
from collections import deque
from datetime import date, datetime, time, timedelta
from types import SimpleNamespace
from typing import Any

from fleet._event import Emit, Event, Response, is_json
from fleet.protocol._codec import kinds as k
from fleet.protocol._codec.arrays import NUMPY_TYPES
from fleet.protocol._codec.decode import Decoder
from fleet.protocol._codec.rebuild import Record
from fleet.protocol.codec import ExceptionData
from fleet.protocol.errors import ProtocolError, ResultNotPortable

_NUMBERS = {"b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q",
            "f2": "e", "f4": "f", "f8": "d"}  # fmt: skip
"""numpy's name of a dtype -> what ``struct`` calls it."""


class _PlainDecoder(Decoder):
    """Reads numpy's arrays as nested lists."""

    __slots__ = ()

    def kind(self, kind: int, count: int, depth: int) -> Any:
        """A tagged value."""
        if kind == k.NDARRAY and count == 3:
            text, shape = self.value(depth), self.value(depth)
            data = self.blob()
            if type(shape) is not tuple or any(type(size) is not int or size < 0 for size in shape):
                raise ProtocolError("a numpy array is malformed")
            return _nested(self._numbers(text, data, math.prod(shape)), shape)
        if kind == k.NUMPY_SCALAR and count == 2:
            text, data = self.value(depth), self.value(depth)
            if type(data) is not bytes:
                raise ProtocolError("a numpy scalar is malformed")
            return self._numbers(text, data, 1)[0]
        return super().kind(kind, count, depth)

    def _numbers(self, text: Any, data: bytes | memoryview, count: int) -> list[Any]:
        if type(text) is not str or not (NUMPY_TYPES.match(text) or text == "bfloat16"):
            raise ResultNotPortable(f"an array of dtype {str(text)[:40]} has no form in JSON", hint="return .tolist()")
        self.charge(k.ITEM_COST * (count + 1))
        order = ">" if text.startswith(">") else "<"
        name = text.lstrip("<>|=")
        if name == "bfloat16":  # The upper half of a float.
            data, name = b"".join(b"\0\0" + bytes(data[at : at + 2]) for at in range(0, len(data), 2)), "f4"
        if name in ("c8", "c16"):
            parts = self._numbers(order + ("f4" if name == "c8" else "f8"), data, 2 * count)
            return [complex(*parts[at : at + 2]) for at in range(0, len(parts), 2)]
        if name not in _NUMBERS:
            raise ResultNotPortable(f"an array of dtype {text} has no form in JSON", hint="return .tolist()")
        if count * struct.calcsize(_NUMBERS[name]) != len(data):
            raise ProtocolError("a numpy array's data don't fit its shape")
        return list(struct.unpack(f"{order}{count}{_NUMBERS[name]}", data))


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    for size in reversed(shape[1:]):
        if not size:
            return [[] for _ in range(shape[0])]
        flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    return flat


def decoded(data: bytes | memoryview) -> Any:
    """The value that the codec wrote; instances of classes as Records. ProtocolError, ResultNotPortable."""
    decoder = _PlainDecoder(bytes(data), None, None, True)
    try:
        value = decoder.value(0)
    except (ProtocolError, ResultNotPortable):
        raise
    except Exception as error:  # Fields of the wrong type or value, in whatever way that shows.
        raise ProtocolError(f"a value is malformed: {type(error).__name__}: {error}"[:300]) from None
    if decoder.at != decoder.size and decoder.data[decoder.at] != k.PAD:
        raise ProtocolError("data follows behind a value")
    return value


def to_json(value: Any) -> Any:
    """``value`` in what JSON can say, as the table above has it."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is list or kind is tuple:
        return [to_json(one) for one in value]
    if isinstance(value, dict):
        return {_key(name): to_json(one) for name, one in value.items()}
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if kind is timedelta:
        return value.total_seconds()
    if isinstance(value, set | frozenset):
        return [to_json(one) for one in _in_order(value)]
    if isinstance(value, list | tuple | deque | range | array):
        return [to_json(one) for one in value]
    if isinstance(value, Record):
        return to_json(value._asdict())
    if kind is SimpleNamespace:
        return to_json(vars(value))
    if isinstance(value, ExceptionData):
        return {"type": value.type_name, "message": value.message}
    if isinstance(value, Response):
        body = _content(value.body, value.content_type)
        return {"status": value.status, "headers": value.headers, "content_type": value.content_type, "body": body}
    if isinstance(value, Emit):
        return {"subject": value.subject, "type": value.type, "data": _content(value.body, value.datacontenttype)}
    if isinstance(value, Event):
        return {
            "id": value.id, "source": value.source, "type": value.type, "subject": value.subject,
            "time": to_json(value.time), "data": _content(value.body, value.datacontenttype),
        }  # fmt: skip
    return str(value)


def _content(body: bytes, content_type: str | None) -> Any:
    """What JSON says, text, else base64; null for nothing."""
    if not body:
        return None
    try:
        if content_type is not None and is_json(content_type):
            return to_json(json.loads(body))
        if content_type is not None and content_type.startswith("text/"):
            return body.decode()
    except (ValueError, RecursionError):  # It isn't what it says.
        pass
    return to_json(body)


def _key(name: Any) -> str:
    if type(name) is str:
        return name
    if name is None or type(name) is bool:
        return {None: "null", True: "true", False: "false"}[name]
    plain = to_json(name)
    return plain if type(plain) is str else str(plain)


def _in_order(values: set[Any] | frozenset[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # of several types
        return list(values)
