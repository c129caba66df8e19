"""What a triggered function gets, and what it may return: Event, HttpRequest, Response, Emit. See ``_event``.

They may stand in results; where they arrive they are made from data that a car chose, so each of their fields is looked
at. Decoding imports this module: nothing here reads or writes a pickle. Standard library only: runs in the wasm guest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from fleet.protocol._codec import own
from fleet.protocol.errors import InvalidOption
from fleet.protocol.ids import check_event_subject, new_call_id
from fleet.protocol.limits import EVENT_ATTRIBUTE_CHARS_MAX

JSON = "application/json"
TEXT = "text/plain"
BINARY = "application/octet-stream"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}\Z")
_HEADERS_MAX = 100
_HEADER_CHARS_MAX = 8192


def data_of(data: Any, datacontenttype: str | None = None) -> tuple[bytes, str | None]:
    """``data`` as bytes, and its content type: bytes as they are, a str as text, anything else as JSON; None is no data."""
    if data is None:
        return b"", datacontenttype
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), datacontenttype or BINARY
    if isinstance(data, str) and (datacontenttype is None or not is_json(datacontenttype)):
        return data.encode(), datacontenttype or TEXT
    try:
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode(), datacontenttype or JSON
    except (TypeError, ValueError) as error:
        raise InvalidOption(
            f"the data can't be written as JSON: {error}",
            hint="give bytes, a str, or what json.dumps takes; NaN and the infinities are no JSON",
        ) from None


def is_json(content_type: str) -> bool:
    """Whether a media type is JSON (``application/json``, ``application/problem+json``)."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in (JSON, "text/json") or kind.endswith("+json")


class HttpRequest:
    """The HTTP request behind an event of ``fleet.http``: method, path, path_params, query, headers (lower case), body.

    ``query`` and ``headers`` hold the last value of a name; ``query_list`` and ``header_list`` all of them, in order.
    """

    __slots__ = ("body", "header_list", "headers", "method", "path", "path_params", "query", "query_list")

    def __init__(
        self,
        method: str,
        path: str,
        path_params: Mapping[str, str] | None = None,
        query: Iterable[tuple[str, str]] = (),
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        self.method = method
        self.path = path
        self.path_params = dict(path_params or {})
        self.query_list = [(name, value) for name, value in query]
        self.query = dict(self.query_list)
        self.header_list = [(name.lower(), value) for name, value in headers]
        self.headers = dict(self.header_list)
        self.body = body

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpRequest, (self.method, self.path, self.path_params, self.query_list, self.header_list, self.body)

    def __repr__(self) -> str:
        return f"<fleet.HttpRequest {self.method} {self.path}>"


class Event:
    """Something that happened: a CloudEvent (1.0).

    ``id`` and ``source`` together name it; ``type`` says what it is, ``subject`` where on the bus it was published, ``time``
    when it happened. ``data`` is decoded by its content type (JSON, text, else bytes); ``json()`` and ``text()`` decode it
    regardless of that, ``body`` is the bytes. ``extensions`` holds further attributes. ``http`` is the request behind an
    event of ``fleet.http``. For tests make one by hand: ``fleet.Event("sensors.7", {"temperature": 31})``.
    """

    __slots__ = (
        "body",
        "datacontenttype",
        "dataschema",
        "extensions",
        "http",
        "id",
        "source",
        "subject",
        "time",
        "type",
    )

    def __init__(
        self,
        subject: str = "",
        data: Any = None,
        *,
        id: str | None = None,
        source: str = "/local",
        type: str = "fleet.event",
        time: datetime | str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions: Mapping[str, str] | None = None,
        http: HttpRequest | None = None,
    ) -> None:
        self.subject = subject
        self.body, self.datacontenttype = data_of(data, datacontenttype)
        self.id = new_call_id() if id is None else id
        self.source = source
        self.type = type
        self.time = datetime.fromisoformat(time) if isinstance(time, str) else time
        self.dataschema = dataschema
        self.extensions = dict(extensions or {})
        self.http = http

    @property
    def data(self) -> Any:
        """The data by its content type: what JSON says, text, or bytes; None if there is none. ValueError if it lies."""
        if not self.body:
            return None
        kind = self.datacontenttype
        if kind is None or is_json(kind):
            return self.json()
        return self.text() if kind.startswith("text/") else self.body

    def json(self) -> Any:
        """The data read as JSON; ValueError where it isn't."""
        return json.loads(self.body)

    def text(self) -> str:
        """The data read as UTF-8; ValueError where it isn't."""
        return self.body.decode()

    def __repr__(self) -> str:
        return f"<fleet.Event {self.type} {self.subject or '-'} id={self.id} source={self.source}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return (self.source, self.id, self.body) == (other.source, other.id, other.body)

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __reduce__(self) -> tuple[Any, ...]:
        more = (self.dataschema, self.extensions, self.http)
        time = None if self.time is None else self.time.isoformat()
        known = (self.subject, self.body, self.id, self.source, self.type, time, self.datacontenttype)
        return _make, (known if more == (None, {}, None) else known + more)


def _make(
    subject: str, body: bytes, id: str, source: str, type: str, time: str | None, datacontenttype: str | None,
    dataschema: str | None = None, extensions: dict[str, str] | None = None, http: HttpRequest | None = None,
) -> Event:  # fmt: skip
    event = Event.__new__(Event)
    event.subject, event.body, event.id, event.source, event.type = subject, body, id, source, type
    event.time = None if time is None else datetime.fromisoformat(time)
    event.datacontenttype, event.dataschema, event.http = datacontenttype, dataschema, http
    event.extensions = extensions or {}
    return event


class Response:
    """What a function of ``fleet.http`` may return: status (200 to 599), headers, a body (bytes, str, or what JSON can say)."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: Any = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
            raise InvalidOption(f"status={status!r} is not allowed: 200 to 599")
        self.body, self.content_type = data_of(body, content_type)
        self.status = status
        self.headers = _checked_headers({str(name): str(value) for name, value in (headers or {}).items()})
        if content_type is not None:
            check_attribute(content_type, "content_type")

    def __reduce__(self) -> tuple[Any, ...]:
        return _response_made, (self.body, self.status, self.headers, self.content_type)

    def __repr__(self) -> str:
        return f"<fleet.Response {self.status} {len(self.body)} bytes>"


class Emit:
    """An event that a function emits by returning it: see ``fleet.emit``."""

    __slots__ = ("body", "datacontenttype", "subject", "type")

    def __init__(
        self, subject: str, data: Any = None, type: str = "fleet.event", datacontenttype: str | None = None
    ) -> None:
        self.subject = check_event_subject(subject)
        self.body, self.datacontenttype = data_of(data, datacontenttype)
        self.type = check_attribute(type, "type")
        if datacontenttype is not None:
            check_attribute(datacontenttype, "datacontenttype")

    def __reduce__(self) -> tuple[Any, ...]:
        return _emit_made, (self.subject, self.body, self.type, self.datacontenttype)

    def __repr__(self) -> str:
        return f"<fleet.Emit {self.subject} {len(self.body)} bytes>"


def emit(subject: str, data: Any = None, *, type: str = "fleet.event", datacontenttype: str | None = None) -> Emit:
    """An event to publish, once, together with the result: ``return fleet.emit("alerts.hot", {"t": 31})``, or a list of them.

    It is part of the call's outcome: published exactly once if the call succeeds, never if it fails. ``data``: bytes, a str,
    or what ``json.dumps`` takes. A call may emit 256 events of 1 MiB together. Only what a function returns is published:
    an Emit itself, or a list or tuple of nothing but these; not what a generator yields, nor what lies deeper in a result.
    InvalidOption for a subject that isn't names with dots between them.
    """
    return Emit(subject, data, type, datacontenttype)


# --- in results ------------------------------------------------------------------------------------------------------


def check_attribute(text: str, name: str) -> str:
    """``text``, or InvalidOption unless it may be an attribute of an event."""
    if type(text) is not str or not 0 < len(text) <= EVENT_ATTRIBUTE_CHARS_MAX or _CONTROL.search(text):
        raise InvalidOption(
            f"{name}={text!r:.200} is not allowed: 1 to {EVENT_ATTRIBUTE_CHARS_MAX} characters, no control characters"
        )
    return text


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    """No header may smuggle in another one."""
    if len(headers) > _HEADERS_MAX:
        raise InvalidOption(f"a response has {len(headers)} headers, the limit is {_HEADERS_MAX}")
    for name, value in headers.items():
        if not _HEADER.match(name) or len(value) > _HEADER_CHARS_MAX or _CONTROL.search(value.replace("\t", " ")):
            raise InvalidOption(
                f"header {name!r:.200}: {value!r:.200} is not allowed: a name of letters, digits and hyphens,"
                f" at most {_HEADER_CHARS_MAX} characters in one line"
            )
    return headers


def _is(kind: type, *values: Any, or_none: bool = False) -> None:
    for value in values:
        if type(value) is not kind and not (or_none and value is None):
            raise TypeError(f"{value!r:.60} is no {kind.__name__}")


def _is_pairs(pairs: Any) -> None:
    _is(list, pairs)
    _is(tuple, *pairs)
    for name, value in pairs:
        _is(str, name, value)


def _event_fields(event: Event) -> tuple[Any, ...]:
    time = None if event.time is None else event.time.isoformat()
    return (
        event.subject, event.body, event.id, event.source, event.type, time, event.datacontenttype, event.dataschema,
        event.extensions, event.http,
    )  # fmt: skip


def _event_made(
    subject: Any, body: Any, id: Any, source: Any, type: Any, time: Any, datacontenttype: Any, dataschema: Any,
    extensions: Any, http: Any,
) -> Event:  # fmt: skip
    _is(str, subject, id, source, type)
    _is(str, time, datacontenttype, dataschema, or_none=True)
    _is(bytes, body)
    _is(dict, extensions)
    _is(str, *extensions, *extensions.values())
    _is(HttpRequest, http, or_none=True)
    return _make(subject, body, id, source, type, time, datacontenttype, dataschema, extensions, http)


def _request_fields(request: HttpRequest) -> tuple[Any, ...]:
    path_params, query, headers = request.path_params, request.query_list, request.header_list
    return request.method, request.path, path_params, query, headers, request.body


def _request_made(method: Any, path: Any, path_params: Any, query: Any, headers: Any, body: Any) -> HttpRequest:
    _is(str, method, path)
    _is(dict, path_params)
    _is(str, *path_params, *path_params.values())
    _is_pairs(query)
    _is_pairs(headers)
    _is(bytes, body)
    return HttpRequest(method, path, path_params, query, headers, body)


def _response_made(body: Any, status: Any, headers: Any, content_type: Any) -> Response:
    _is(bytes, body)
    _is(int, status)
    _is(dict, headers)
    _is(str, *headers, *headers.values())
    _is(str, content_type, or_none=True)
    made = Response(None, status, headers, content_type)
    made.body = body
    return made


def _emit_made(subject: Any, body: Any, type: Any, datacontenttype: Any) -> Emit:
    _is(str, subject, type)
    _is(bytes, body)
    _is(str, datacontenttype, or_none=True)
    made = Emit(subject, None, type, datacontenttype)
    made.body = body
    return made


own.register(1, Event, _event_fields, _event_made)
own.register(2, HttpRequest, _request_fields, _request_made)
own.register(3, Response, lambda one: (one.body, one.status, one.headers, one.content_type), _response_made)
own.register(4, Emit, lambda one: (one.subject, one.body, one.type, one.datacontenttype), _emit_made)
