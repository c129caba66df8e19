"""Events as outsiders send them, decoded: CloudEvents 1.0 over HTTP and NATS, and bare NATS messages. No I/O.

HTTP:  binary (``ce-*`` headers), structured (``application/cloudevents+json``), batched
       (``application/cloudevents-batch+json``). The subject on the bus is the attribute ``subject``, else ``type``;
       a ``subject`` with a slash, a path as storage services send it, is none of ours and becomes the extension ``cesubject``.
NATS:  a content type ``application/cloudevents`` or ``...+json`` is a structured event, as is a JSON object without headers
       that has the four attributes which every CloudEvent has (the binding before NATS had headers); ``ce-*`` headers are a
       binary one; all else is data alone, of which the platform makes an event. The subject is that on the bus; a
       different ``ce-subject`` becomes the extension ``cesubject``.

Data stays the bytes that came, except inside JSON, where it is written anew. What an outsider calls an attribute never
becomes anything but an attribute: ``hops`` stays 0.

The ``cloudevents`` library (2.2) decodes headers and checks attributes. What it does leniently is strict here: a missing id
or time is not made up, null is absent, times are RFC 3339, names and sizes are bounded.

Errors: EventRefused, which names the attribute; never another exception, whatever the bytes are.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from cloudevents.core.bindings import http
from cloudevents.core.exceptions import BaseCloudEventException, CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from fleet._event import BINARY, JSON, content_type_of, is_json, no_constant, now_text
from fleet.protocol import limits
from fleet.protocol.events import (
    EventRefused,
    check_head,
    check_size,
    default_source,
    make_head,
    parse_time,
    refused,
    time_text,
)
from fleet.protocol.ids import new_call_id
from fleet.protocol.messages import EventHead

STRUCTURED = ("application/cloudevents", "application/cloudevents+json")
BATCHED = "application/cloudevents-batch+json"
STRUCTURED_BYTES_MAX = 2 * limits.EVENT_DATA_BYTES_MAX + limits.EVENT_HEAD_BYTES_MAX
"""An event as JSON: its data as base64 or with escapes is larger than itself."""
BATCHED_BYTES_MAX = 4 * limits.EVENT_DATA_BYTES_MAX
HEADERS_BYTES_MAX = 2 * limits.EVENT_HEAD_BYTES_MAX
"""The attributes, percent-encoded, among other headers."""
_REQUIRED = ("specversion", "id", "source", "type")
_PREFIX = "ce-"
_INTEGER_MAX = 2**31 - 1


class _AsItCame(JSONFormat):
    """Data is passed on, not read."""

    def read_data(self, body: bytes, datacontenttype: str | None) -> bytes:
        return body


_AS_IT_CAME = _AsItCame()


def event_of_nats(
    tenant: str,
    subject: str,
    headers: bytes,
    payload: bytes | bytearray | memoryview,
    *,
    new_id: Callable[[], str] = new_call_id,
    now: Callable[[], str] = now_text,
) -> tuple[EventHead, bytes]:
    """The event in a message on ``fleet.evt.<tenant>.<subject>``; ``headers`` is the raw block, empty if there is none."""
    data = bytes(payload)
    fields = nats_headers(headers) if headers else {}
    media = _media_type(fields.get("content-type"))
    if media in STRUCTURED:
        _check_bytes(len(data), STRUCTURED_BYTES_MAX)
        return _structured(_loads(data), bus_subject=subject)
    if media.startswith("application/cloudevents"):
        raise _unknown_format(media)
    if any(name.startswith(_PREFIX) for name in fields):
        # Here the content type is no attribute, unlike over HTTP; whoever sends it all the same means it.
        kind = fields.pop("content-type", "")
        fields["ce-datacontenttype"] = unquote(fields.get("ce-datacontenttype", "")) or kind
        return _binary(fields, data, bus_subject=subject)
    check_size(len(data))
    return _bare(tenant, subject, fields, data, new_id, now)


def event_of_http(headers: Iterable[tuple[str, str]], body: bytes) -> list[tuple[EventHead, bytes]]:
    """The events of an HTTP request, at least one; header names in any case."""
    fields: dict[str, str] = {}
    for name, value in headers:
        _add_header(fields, name, value)
    media = _media_type(fields.get("content-type"))
    if media == BATCHED:
        _check_bytes(len(body), BATCHED_BYTES_MAX)
        return _batched(_loads(body))
    if media in STRUCTURED:
        _check_bytes(len(body), STRUCTURED_BYTES_MAX)
        return [_structured(_loads(body))]
    if media.startswith("application/cloudevents"):
        raise _unknown_format(media)
    if not any(name.startswith(_PREFIX) for name in fields):
        raise refused(
            "content-type",
            f"{media or 'that is missing'!r} says no CloudEvent, and there are no ce- headers",
            f"send ce-id, ce-source, ce-type and ce-specversion: 1.0 as headers, or {STRUCTURED[1]}",
        )
    if "content-type" in fields:
        fields["ce-datacontenttype"] = fields.pop("content-type")
    return [_binary(fields, body)]


def completed(
    tenant: str,
    head: EventHead,
    data_bytes: int,
    *,
    new_id: Callable[[], str] = new_call_id,
) -> EventHead:
    """``head`` of a publish request, checked, with an id and a source; EventRefused if it can't be accepted."""
    check_size(data_bytes)
    missing: dict[str, object] = {}
    if not head.id:
        missing["id"] = new_id()
    if not head.source:
        missing["source"] = default_source(tenant)
    if head.hops:
        missing["hops"] = 0
    if head.time is not None:
        missing["time"] = time_text(parse_time(head.time))
    made = head.model_copy(update=missing) if missing else head
    check_head(made)
    return made


def nats_headers(raw: bytes) -> dict[str, str]:
    """The fields of a header block of NATS, names in lower case; EventRefused where it isn't one."""
    if len(raw) > HEADERS_BYTES_MAX:
        raise refused("headers", f"have {len(raw)} bytes, at most {HEADERS_BYTES_MAX} are allowed", "send fewer")
    try:
        lines = raw.decode().split("\r\n")
    except UnicodeDecodeError:
        raise refused("headers", "are not UTF-8") from None
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            _add_header(fields, name, value.strip())
        elif line:
            raise refused("headers", "hold a line without a colon")
    return fields


def _add_header(fields: dict[str, str], name: str, value: str) -> None:
    name = name.strip().lower()
    known = name.startswith(_PREFIX) or name in ("content-type", "nats-msg-id")
    if known and fields.setdefault(name, value) != value:
        raise refused(name.removeprefix(_PREFIX), "was sent twice")


def _media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _unknown_format(media: str) -> EventRefused:
    return refused(
        "content-type", f"{media[:60]!r} is a form of CloudEvents that isn't read here", f"send {STRUCTURED[1]}"
    )


def _check_bytes(count: int, most: int) -> None:
    if count > most:
        check_size(count)


# --- the three forms -----------------------------------------------------------------------------------------------------


def _bare(
    tenant: str, subject: str, fields: Mapping[str, str], data: bytes, new_id: Callable[[], str], now: Callable[[], str]
) -> tuple[EventHead, bytes]:
    kind: str | None = fields.get("content-type") or None
    if kind is None and data:
        kind, value = content_type_of(data)
        if isinstance(value, dict) and value.get("specversion") == "1.0" and value.keys() >= set(_REQUIRED):
            return _structured(value, bus_subject=subject)
    head = make_head(
        id=fields.get("nats-msg-id") or new_id(), source=f"/nats/{tenant}", subject=subject, time=now(),
        datacontenttype=kind,
    )  # fmt: skip
    check_head(head)
    return head, data


def _binary(fields: Mapping[str, str], body: bytes, bus_subject: str | None = None) -> tuple[EventHead, bytes]:
    check_size(len(body))
    known = {name: value for name, value in fields.items() if name.startswith(_PREFIX) and value}
    kind = known.pop("ce-datacontenttype", None)
    attributes: dict[str, Any] = {} if kind is None else {"datacontenttype": kind}
    # The library would parse the time more leniently.
    time = known.pop("ce-time", None)
    if time is not None:
        attributes["time"] = parse_time(unquote(time))
    message = http.HTTPMessage(headers=known, body=body)
    event = http.from_binary(message, _AS_IT_CAME, lambda found, data: _checked({**found, **attributes}, data))
    if kind is None and body:
        return _made(event.get_attributes(), bus_subject, kind=content_type_of(body)[0]), body
    return _made(event.get_attributes(), bus_subject), body


def _batched(values: Any) -> list[tuple[EventHead, bytes]]:
    if not isinstance(values, list):
        raise refused("content-type", "says a batch, and the body is no JSON array", f"or send {STRUCTURED[1]}")
    if not 1 <= len(values) <= limits.PUBLISH_EVENTS_MAX:
        raise refused("batch", f"holds {len(values)} events, 1 to {limits.PUBLISH_EVENTS_MAX} are allowed")
    return [_structured(value) for value in values]


def _structured(value: Any, bus_subject: str | None = None) -> tuple[EventHead, bytes]:
    if not isinstance(value, dict):
        raise refused("content-type", "says a CloudEvent, and the body is no JSON object")
    # The format: null is the same as absent.
    found = {name: one for name, one in value.items() if one is not None}
    kind = found.get("datacontenttype")
    data, assumed = _data_of(found, kind if isinstance(kind, str) else None)
    check_size(len(data))
    attributes = {name: _text_of(name, one) for name, one in found.items()}
    if "time" in attributes:
        attributes["time"] = parse_time(attributes["time"])
    event = _checked(attributes, data)
    return _made(event.get_attributes(), bus_subject, kind=assumed if kind is None else None), data


def _data_of(found: dict[str, Any], kind: str | None) -> tuple[bytes, str | None]:
    """The data, taken out of ``found``, and what its content type is if none was given."""
    has_base64 = "data_base64" in found
    coded = found.pop("data_base64", None)
    if "data" not in found:
        if not has_base64:
            return b"", None
        if not isinstance(coded, str):
            raise refused("data_base64", "is no text")
        try:
            return base64.b64decode(coded, validate=True), BINARY
        except (binascii.Error, ValueError):
            raise refused("data_base64", "is no base64") from None
    if has_base64:
        raise refused("data", "came twice, as data and as data_base64")
    value = found.pop("data")
    try:
        if isinstance(value, str) and kind is not None and not is_json(kind):
            return value.encode(), None
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(), JSON
    except (ValueError, RecursionError):
        raise refused("data", "can't be written as JSON in UTF-8") from None


def _text_of(name: str, value: Any) -> Any:
    """An attribute of an event in JSON, as the text that CloudEvents makes of it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) and name not in _CONTEXT:
        return "true" if value else "false"
    if isinstance(value, int) and name not in _CONTEXT and abs(value) <= _INTEGER_MAX + 1:
        return str(value)
    raise refused(name[:60], "is no text" if name in _CONTEXT else "is no text, whole number or truth value")


_CONTEXT = frozenset((*_REQUIRED, "subject", "time", "datacontenttype", "dataschema"))


def _checked(attributes: dict[str, Any], data: Any) -> CloudEvent:
    """The library's event, nothing in it made up."""
    for name in _REQUIRED:
        if not attributes.get(name):
            raise refused(name, "is missing", f"every CloudEvent has {', '.join(_REQUIRED)}")
    lacks_time = "time" not in attributes
    try:
        event = CloudEvent(attributes, data)
    except CloudEventValidationError as error:
        name, problems = next(iter(error.errors.items()))
        raise refused(name[:60], f"is refused: {str(problems[0])[:200]}") from None
    except BaseCloudEventException as error:
        raise refused("attributes", f"are refused: {str(error)[:200]}") from None
    if lacks_time:
        del event.get_attributes()["time"]  # it was made up
    return event


def _made(attributes: dict[str, Any], bus_subject: str | None, kind: str | None = None) -> EventHead:
    """The head of an event that the library let pass; ``kind``: content type of data that came without one."""
    extensions = {name: value for name, value in attributes.items() if name not in _CONTEXT}
    said = attributes.get("subject")
    if bus_subject is not None:
        subject = bus_subject
    elif said and "/" not in said:
        subject = said
    else:
        subject = attributes["type"]
    if said and said != subject:
        extensions["cesubject"] = said
    time = attributes.get("time")
    head = make_head(
        id=attributes["id"], source=attributes["source"], type=attributes["type"], subject=subject,
        time=None if time is None else time_text(time), datacontenttype=attributes.get("datacontenttype") or kind,
        dataschema=attributes.get("dataschema"), extensions=extensions,
    )  # fmt: skip
    check_head(head)
    return head


def _loads(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=no_constant)
    except RecursionError:
        raise refused("data", "is JSON that nests too deep") from None
    except ValueError as error:
        raise refused("data", f"is no JSON: {str(error)[:100]}") from None
