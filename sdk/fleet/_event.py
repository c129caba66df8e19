"""Events: what a triggered function gets, and what it may return. Standard library only: runs in the wasm guest."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from fleet.protocol.errors import InvalidOption
from fleet.protocol.ids import new_call_id

JSON = "application/json"
TEXT = "text/plain"
BINARY = "application/octet-stream"
PICKLE_PROTOCOL = 5


def data_of(data: Any, datacontenttype: str | None = None) -> tuple[bytes, str | None]:
    """``data`` as bytes, and its content type: bytes as they are, a str as text, anything else as JSON; None is no data."""
    if data is None:
        return b"", datacontenttype
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), datacontenttype or BINARY
    if isinstance(data, str) and (datacontenttype is None or not is_json(datacontenttype)):
        return data.encode(), datacontenttype or TEXT
    try:
        return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode(), datacontenttype or JSON
    except (TypeError, ValueError) as error:
        raise InvalidOption(
            f"the data of an event can't be written as JSON: {error}",
            hint="give bytes, a str, or what json.dumps takes",
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


def pack_call(argument: Event | list[Event] | None) -> bytes:
    """The arguments of a call with an event (or a list of them), or with none, as a sandbox unpickles them."""
    return pickle.dumps(((), {}) if argument is None else ((argument,), {}), PICKLE_PROTOCOL)


class Response:
    """What a function of ``fleet.http`` may return: status, headers, and a body (bytes, str, or what JSON can say)."""

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
        self.headers = {str(name): str(value) for name, value in (headers or {}).items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return Response, (self.body, self.status, self.headers, self.content_type)

    def __repr__(self) -> str:
        return f"<fleet.Response {self.status} {len(self.body)} bytes>"


class Emit:
    """An event that a function emits by returning it: see ``fleet.emit``."""

    __slots__ = ("body", "datacontenttype", "subject", "type")

    def __init__(
        self, subject: str, data: Any = None, type: str = "fleet.event", datacontenttype: str | None = None
    ) -> None:
        if not isinstance(subject, str) or not subject:
            raise InvalidOption(f'subject={subject!r} of an event is no text like "alerts.hot"')
        self.subject = subject
        self.body, self.datacontenttype = data_of(data, datacontenttype)
        self.type = type

    def __reduce__(self) -> tuple[Any, ...]:
        return Emit, (self.subject, self.body, self.type, self.datacontenttype)

    def __repr__(self) -> str:
        return f"<fleet.Emit {self.subject} {len(self.body)} bytes>"


def emit(subject: str, data: Any = None, *, type: str = "fleet.event", datacontenttype: str | None = None) -> Emit:
    """An event to publish, once, together with the result: ``return fleet.emit("alerts.hot", {"t": 31})``, or a list of them.

    It is part of the call's outcome: published exactly once if the call succeeds, never if it fails. ``data``: bytes, a str,
    or what ``json.dumps`` takes. A call may emit 256 events of 1 MiB together.
    """
    return Emit(subject, data, type, datacontenttype)


def emits_of(value: Any) -> list[Emit]:
    """The events that a function's result stands for: itself, or each of a list or tuple that holds nothing else."""
    if isinstance(value, Emit):
        return [value]
    if isinstance(value, list | tuple) and value and all(isinstance(one, Emit) for one in value):
        return list(value)
    return []


def pack_emits(emits: Iterable[Emit]) -> bytes:
    """Events on their way out of a sandbox: JSON of a list of objects; ``unpack_emits`` of the control plane reads it."""
    rows = []
    for one in emits:
        row = {"subject": one.subject, "type": one.type, "data": base64.b64encode(one.body).decode()}
        if one.datacontenttype is not None:
            row["datacontenttype"] = one.datacontenttype
        rows.append(row)
    return json.dumps(rows, separators=(",", ":")).encode()


def now_text() -> str:
    """The time now, as events tell it (RFC 3339, UTC)."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
