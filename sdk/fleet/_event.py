"""Events: what a triggered function gets, and what it may return; how both travel. Standard library only: runs in the guest."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from fleet._event_values import (
    BINARY,
    JSON,
    TEXT,
    Emit,
    Event,
    HttpRequest,
    Response,
    check_attribute,
    data_of,
    emit,
    is_json,
)
from fleet.protocol.errors import InvalidOption, PayloadTooLarge, Refused
from fleet.protocol.ids import check_event_subject
from fleet.protocol.limits import EMITS_BYTES_MAX, EMITS_MAX

PICKLE_PROTOCOL = 5
_JSON_BEGINS = frozenset('{["-0123456789tfn')
_ATTRIBUTES = ("subject", "type", "datacontenttype")


def pack_call(argument: Event | list[Event] | None) -> bytes:
    """The arguments of a call with an event (or a list of them), or with none, as a sandbox unpickles them."""
    return pickle.dumps(((), {}) if argument is None else ((argument,), {}), PICKLE_PROTOCOL)


def emits_of(value: Any) -> list[Emit]:
    """The events that a function's result stands for: itself, or each of a list or tuple that holds nothing else.

    InvalidOption where a short list holds others as well: nobody would publish these, and nobody would notice.
    """
    kind = type(value)
    if kind is Emit:
        return [value]
    if (kind is not list and kind is not tuple) or not value:
        return []
    if len(value) > EMITS_MAX and type(value[0]) is not Emit:
        return []
    kinds = set(map(type, value))
    if Emit not in kinds:
        return []
    if len(kinds) > 1:
        raise InvalidOption(
            "a result mixes fleet.emit(...) with other values, so nothing of it would be published",
            hint="return a list of nothing but fleet.emit(...)",
        )
    return list(value)


def pack_emits(emits: Sequence[Emit]) -> bytes:
    """Events on their way out of a sandbox: JSON of a list of objects; ``unpack_emits`` of the control plane reads it.

    InvalidOption for what no event may be, PayloadTooLarge for more than a call may emit.
    """
    if len(emits) > EMITS_MAX:
        raise PayloadTooLarge(
            f"a call emits {len(emits)} events, the limit is {EMITS_MAX}", hint="put several into one, as a list"
        )
    rows = []
    size_bytes = 0
    for one in emits:
        check_event_subject(one.subject)
        check_attribute(one.type, "type")
        row = {"subject": one.subject, "type": one.type, "data": base64.b64encode(one.body).decode()}
        if one.datacontenttype is not None:
            row["datacontenttype"] = check_attribute(one.datacontenttype, "datacontenttype")
        size_bytes += len(one.body) + sum(len(row.get(name, "").encode()) for name in _ATTRIBUTES)
        rows.append(row)
    if size_bytes > EMITS_BYTES_MAX:
        raise PayloadTooLarge(
            f"a call emits {size_bytes} bytes of events, the limit is {EMITS_BYTES_MAX}",
            hint="store the data somewhere, and emit where it is",
        )
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()


def content_type_of(data: bytes) -> tuple[str, Any]:
    """The content type of data that came without one, and its value if it is JSON."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return BINARY, None
    # What can't begin JSON isn't tried.
    if text.lstrip(" \t\r\n")[:1] in _JSON_BEGINS:
        try:
            return JSON, json.loads(text, parse_constant=no_constant)
        except (ValueError, RecursionError):
            pass
    return TEXT, None


def no_constant(name: str) -> NoReturn:
    """For json.loads: NaN and the infinities are no JSON."""
    raise ValueError(f"{name} is no JSON")


class Publish:
    """``fleet.publish``: send an event; every deployed function with a trigger that matches ``subject`` starts once.

    ``fleet.publish("sensors.7.temperature", {"celsius": 21.5})`` returns the event's id once the platform has stored it.
    ``data``: bytes, a str, or what ``json.dumps`` takes; up to 1 MiB. Events with the same ``source`` and ``id`` are one
    event: give an ``id`` of your own where the same thing may be published twice, and its copies start nothing. ``time``
    is when it happened, else now. What is published while others are on their way shares requests with them; their order is
    kept for whoever waits for one before the next.

    In a sandbox there is no network: ``return fleet.emit(subject, data)`` publishes with the result.

    Errors: InvalidOption, PayloadTooLarge, QueueFull, FleetUnavailable; repeated by itself while the answer stays out.
    """

    def __call__(
        self,
        subject: str,
        data: Any = None,
        *,
        id: str | None = None,
        source: str | None = None,
        type: str = "fleet.event",
        time: datetime | str | None = None,
        datacontenttype: str | None = None,
    ) -> str:
        """Publish, and block until it is stored."""
        return str(_publishing().publish(subject, data, id, source, type, time, datacontenttype))

    async def aio(
        self,
        subject: str,
        data: Any = None,
        *,
        id: str | None = None,
        source: str | None = None,
        type: str = "fleet.event",
        time: datetime | str | None = None,
        datacontenttype: str | None = None,
    ) -> str:
        """The same for asyncio."""
        return str(await _publishing().publish_aio(subject, data, id, source, type, time, datacontenttype))

    def __repr__(self) -> str:
        return "fleet.publish"


publish = Publish()


def _publishing() -> Any:
    """The part that talks to the platform; Refused inside a sandbox."""
    if sys.platform == "wasi":
        raise Refused(
            "a function that runs on a car can't publish events by itself: a sandbox has no network",
            hint="return fleet.emit(subject, data), or a list of them: published once, when the call has succeeded",
        )
    from fleet import _publish

    return _publish


def now_text() -> str:
    """The time now, as events tell it (RFC 3339, UTC)."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


__all__ = [
    "BINARY", "JSON", "PICKLE_PROTOCOL", "TEXT", "Emit", "Event", "HttpRequest", "Publish", "Response", "content_type_of",
    "data_of", "emit", "emits_of", "is_json", "no_constant", "now_text", "pack_call", "pack_emits", "publish",
]  # fmt: skip
