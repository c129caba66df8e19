"""Decoding events from outside: every form, every bound, and nothing but EventRefused whatever the bytes are."""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol import limits
from fleet.protocol.events import EventRefused, EventTooLarge
from fleet.protocol.messages import EventHead
from fnplatform.events.decode import STRUCTURED_BYTES_MAX, completed, event_of_http, event_of_nats
from fnplatform.triggers.invocations import Arrived

WHOLE: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "com.example.t"}
JSON_EVENT = "application/cloudevents+json"


def block(**fields: str) -> bytes:
    """A header block of NATS; underscores stand for dashes."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    return ("NATS/1.0\r\n" + "".join(lines) + "\r\n").encode()


def nats(payload: bytes = b"", headers: bytes = b"", subject: str = "a.b") -> tuple[EventHead, bytes]:
    return event_of_nats("default", subject, headers, payload, new_id=lambda: "new", now=lambda: "2027-01-01T00:00:00Z")


def post(body: bytes | dict[str, Any] | list[Any], kind: str = JSON_EVENT, **headers: str) -> tuple[EventHead, bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = [("Content-Type", kind), *((name.replace("_", "-"), value) for name, value in headers.items())]
    (event,) = event_of_http(pairs, data)
    return event


def ce(**more: str) -> dict[str, str]:
    return {f"ce_{name}": value for name, value in WHOLE.items()} | {
        f"ce_{name}": value for name, value in more.items()
    }


def refused(attribute: str, decode: Callable[[], object]) -> EventRefused:
    with pytest.raises(EventRefused) as caught:
        decode()
    assert caught.value.attribute == attribute, caught.value
    assert len(caught.value.message) < 400 and caught.value.hint
    return caught.value


# --- over NATS ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b'{"t": 1}', "application/json"),
        (b" [1, 2]\n", "application/json"),
        (b"21.5", "application/json"),
        (b"null", "application/json"),
        (b"NaN", "text/plain"),
        (b"-Infinity", "text/plain"),
        (b"{half", "text/plain"),
        ("grüß".encode(), "text/plain"),
        (b"\xff\x00", "application/octet-stream"),
        (b"9" * 5000, "text/plain"),
        (b"[" * 100_000, "text/plain"),
        (b"", None),
    ],
)
def test_a_bare_message_is_its_data(payload: bytes, kind: str | None) -> None:
    head, data = nats(payload)
    assert data == payload
    assert head == EventHead(
        id="new", source="/nats/default", subject="a.b", time="2027-01-01T00:00:00Z", datacontenttype=kind
    )


def test_a_bare_message_may_say_its_id_and_content_type() -> None:
    head, data = nats(b"1;2", block(Nats_Msg_Id="x-1", Content_Type="text/csv", Trace="t"))
    assert (head.id, head.datacontenttype, data) == ("x-1", "text/csv", b"1;2")


def test_headers_of_nats_are_a_binary_event() -> None:
    head, data = nats(
        b'{"a":  1}',
        block(**ce(subject="orders%2042", time="2026-11-23T10%3A00%3A00%2B02%3A00", datacontenttype="application%2Fjson",
                   trace="%C3%BC", hops="7")),
    )  # fmt: skip
    assert data == b'{"a":  1}', "the very bytes"
    assert head == EventHead(
        id="1", source="/s", type="com.example.t", subject="a.b", time="2026-11-23T08:00:00Z",
        datacontenttype="application/json", extensions={"cesubject": "orders 42", "trace": "ü", "hops": "7"}, hops=0,
    )  # fmt: skip
    assert nats(b"x", block(**ce(subject="a.b")))[0].extensions == {}
    assert nats(b"x", block(**ce(), content_type="text/x"))[0].datacontenttype == "text/x"
    assert nats(b"{}", block(**ce()))[0].datacontenttype == "application/json"


@pytest.mark.parametrize(
    "kind", [JSON_EVENT, "application/cloudevents", "Application/CloudEvents+JSON; charset=UTF-8", None]
)
def test_json_over_nats_is_a_structured_event(kind: str | None) -> None:
    body = json.dumps({**WHOLE, "data": {"t": 1.5}, "subject": "a.b"}).encode()
    head, data = nats(body, b"" if kind is None else block(content_type=kind))
    assert (head.id, head.subject, head.datacontenttype, data) == ("1", "a.b", "application/json", b'{"t":1.5}')


def test_a_json_object_that_only_looks_like_an_event_is_data() -> None:
    assert nats(b'{"specversion": "1.0", "id": 1}')[0].id == "new"
    assert nats(json.dumps(WHOLE).encode(), block(content_type="application/json"))[0].id == "new"


# --- over HTTP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [http.to_binary, http.to_structured])
def test_what_the_library_writes_is_read(write: Callable[..., http.HTTPMessage]) -> None:
    time = datetime(2026, 11, 23, 8, 30, 0, 250_000, tzinfo=UTC)
    attributes = {**WHOLE, "subject": "a.b", "time": time, "datacontenttype": "application/json", "who": 'A "B" %ü'}
    message = write(CloudEvent(attributes, {"t": [1, 2.5, "ü"]}), JSONFormat())
    ((head, data),) = event_of_http(message.headers.items(), message.body)
    assert head == EventHead(
        id="1", source="/s", type="com.example.t", subject="a.b", time="2026-11-23T08:30:00.250000Z",
        datacontenttype="application/json", extensions={"who": 'A "B" %ü'},
    )  # fmt: skip
    event = Arrived(1, "acme", head, data, 0.0).event
    assert event.data == {"t": [1, 2.5, "ü"]} and event.time == time and event.extensions == {"who": 'A "B" %ü'}


def test_without_a_subject_the_type_is_it() -> None:
    assert post(WHOLE)[0].subject == "com.example.t"
    assert post({**WHOLE, "subject": None})[0].subject == "com.example.t", "null is absent"
    head, _ = post({**WHOLE, "subject": "blobs/photos/1.png"})
    assert (head.subject, head.extensions) == ("com.example.t", {"cesubject": "blobs/photos/1.png"}), (
        "a path is no subject"
    )


@pytest.mark.parametrize(
    ("more", "data", "kind"),
    [
        ({"data": "text"}, b'"text"', "application/json"),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text", "text/plain"),
        ({"data": {"a": 1}, "datacontenttype": "application/x+json"}, b'{"a":1}', "application/x+json"),
        ({"data_base64": base64.b64encode(b"\0\xff").decode()}, b"\0\xff", "application/octet-stream"),
        ({"data": None}, b"", None),
        ({"data": False}, b"false", "application/json"),
        ({}, b"", None),
    ],
)
def test_data_inside_json(more: dict[str, Any], data: bytes, kind: str | None) -> None:
    head, got = post({**WHOLE, **more})
    assert (got, head.datacontenttype) == (data, kind)


def test_extensions_are_texts() -> None:
    assert post({**WHOLE, "n": 7, "yes": True, "s": "x"})[0].extensions == {"n": "7", "yes": "true", "s": "x"}


def test_a_batch() -> None:
    body = json.dumps([{**WHOLE, "id": str(n), "data": n} for n in range(3)]).encode()
    events = event_of_http([("content-type", "application/cloudevents-batch+json")], body)
    assert [(head.id, data) for head, data in events] == [("0", b"0"), ("1", b"1"), ("2", b"2")]


# --- what is refused ---------------------------------------------------------------------------------------------------

LONG = "x" * (limits.EVENT_ATTRIBUTE_CHARS_MAX + 1)


@pytest.mark.parametrize(
    ("attribute", "change"),
    [
        ("id", {"id": None}),
        ("id", {"id": ""}),
        ("id", {"id": 5}),
        ("id", {"id": LONG}),
        ("id", {"id": "a\nb"}),
        ("id", {"id": "\ud800"}),
        ("source", {"source": None}),
        ("source", {"source": "/fleet/default/app/fn"}),
        ("type", {"type": None}),
        ("type", {"type": LONG, "subject": "a"}),
        ("specversion", {"specversion": None}),
        ("specversion", {"specversion": "0.3"}),
        ("specversion", {"specversion": 1.0}),
        ("subject", {"subject": "a b"}),
        ("subject", {"subject": "a..b"}),
        ("subject", {"subject": "a.*"}),
        ("subject", {"subject": "a.>"}),
        ("subject", {"subject": ".".join("a" * 17)}),
        ("subject", {"subject": ".".join(["a" * 64] * 4)}),
        ("subject", {"type": "no subject"}),
        ("time", {"time": "yesterday"}),
        ("time", {"time": "2026-02-30T00:00:00Z"}),
        ("time", {"time": "2026-01-01T00:00:00"}),
        ("time", {"time": "2026-01-01"}),
        ("time", {"time": "0001-01-01T00:00:00+23:00"}),
        ("time", {"time": 5}),
        ("datacontenttype", {"datacontenttype": ""}),
        ("datacontenttype", {"datacontenttype": ["a"]}),
        ("dataschema", {"dataschema": LONG}),
        ("big", {"big": LONG}),
        ("obj", {"obj": {"a": 1}}),
        ("float", {"float": 1.5}),
        ("int", {"int": 2**40}),
        ("Upper", {"Upper": "x"}),
        ("extensions", {f"e{n}": "x" for n in range(limits.EVENT_EXTENSIONS_MAX + 1)}),
        ("attributes", {f"e{n}": "ü" * 1000 for n in range(30)}),
        ("data_base64", {"data_base64": "!"}),
        ("data_base64", {"data_base64": 5}),
        ("data", {"data": 1, "data_base64": "AA=="}),
    ],
)
def test_refused_and_the_attribute_named(attribute: str, change: dict[str, Any]) -> None:
    refused(attribute, lambda: post({**WHOLE, **change}))


@pytest.mark.parametrize("name", [f"x\ny{'z' * 100}", "a-b", "ü", "n" * 65])
def test_names_of_extensions(name: str) -> None:
    with pytest.raises(EventRefused):
        post({**WHOLE, name: "x"})


@pytest.mark.parametrize(
    ("attribute", "body", "kind"),
    [
        ("data", b"{", JSON_EVENT),
        ("data", b"\xff", JSON_EVENT),
        ("data", b'{"a": NaN}', JSON_EVENT),
        ("data", b"[" * 200_000, JSON_EVENT),
        ("data", b'{"a":' * 200_000, JSON_EVENT),
        ("data", b"9" * 5000, JSON_EVENT),
        ("content-type", b"[]", JSON_EVENT),
        ("content-type", b"5", JSON_EVENT),
        ("content-type", b"{}", "application/json"),
        ("content-type", b"{}", ""),
        ("content-type", b"{}", "application/cloudevents+xml"),
        ("content-type", b"{}", "application/cloudevents-batch+json"),
        ("batch", b"[]", "application/cloudevents-batch+json"),
        ("batch", b"[" + b"1," * 600 + b"1]", "application/cloudevents-batch+json"),
        ("content-type", b"[1]", "application/cloudevents-batch+json"),
    ],
)
def test_bodies_that_are_no_event(attribute: str, body: bytes, kind: str) -> None:
    refused(attribute, lambda: post(body, kind))


def test_data_inside_json_that_json_can_not_say() -> None:
    body = json.dumps(WHOLE)[:-1].encode()
    refused("data", lambda: post(body + b', "data": 1e999}'))
    refused("data", lambda: post(body + b', "data": "\\ud800"}'))
    refused("data", lambda: post(body + b', "data": ' + b"[" * 900 + b"NaN" + b"]" * 900 + b"}"))


def test_too_large_says_so() -> None:
    large = b"x" * (limits.EVENT_DATA_BYTES_MAX + 1)
    for decode in (
        lambda: nats(large),
        lambda: nats(large, block(**ce())),
        lambda: post(large, "text/plain", **ce()),
        lambda: post({**WHOLE, "data": large.decode()}),
        lambda: post({**WHOLE, "data_base64": base64.b64encode(large).decode()}),
        lambda: nats(b" " * (STRUCTURED_BYTES_MAX + 1), block(content_type=JSON_EVENT)),
    ):
        error = refused("data", decode)
        assert isinstance(error, EventTooLarge) and error.code == "payload_too_large"
    nats(large[1:])


@pytest.mark.parametrize(
    ("attribute", "headers"),
    [
        ("id", ce(id="")),
        ("specversion", {"ce_id": "1"}),
        ("id", {**ce(), "Ce_Id": "other"}),
        ("time", ce(time="soon")),
        ("data", ce(data="x")),
        ("content-type", {"content_type": "application/cloudevents+avro"}),
    ],
)
def test_headers_that_are_no_event(attribute: str, headers: dict[str, str]) -> None:
    refused(attribute, lambda: nats(b"x", block(**headers)))


def test_header_blocks_that_are_none() -> None:
    refused("headers", lambda: nats(b"", b"NATS/1.0\r\nce-id: \xff\r\n\r\n"))
    refused("headers", lambda: nats(b"", b"NATS/1.0\r\nno colon\r\n\r\n"))
    refused("headers", lambda: nats(b"", b"NATS/1.0\r\n" + b"a: b\r\n" * 20_000))


def test_a_head_of_a_publish_request_is_completed_and_checked() -> None:
    made = completed(
        "default", EventHead(subject="a", time="2026-01-01T01:00:00+01:00", hops=9), 3, new_id=lambda: "new"
    )
    assert made == EventHead(id="new", source="/client/default", subject="a", time="2026-01-01T00:00:00Z")
    refused("subject", lambda: completed("default", EventHead(), 0))
    refused("source", lambda: completed("default", EventHead(subject="a", source="/fleet/x"), 0))
    refused("data", lambda: completed("default", EventHead(subject="a"), limits.EVENT_DATA_BYTES_MAX + 1))
    refused("data", lambda: completed("default", EventHead(subject="a", extensions={"data": "x"}), 0))
    refused("extensions", lambda: completed("default", EventHead(subject="a", extensions={"A": "x"}), 0))


# --- fuzzing -----------------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_NAMES = st.sampled_from(
    [*WHOLE, "time", "subject", "datacontenttype", "dataschema", "data", "data_base64", "hops", "traceparent"]
) | st.text(max_size=12)
_EVENTS = st.dictionaries(_NAMES, _JSON, max_size=8).map(lambda more: {**WHOLE, **more})
_KINDS = st.sampled_from(
    [JSON_EVENT, "application/cloudevents", "application/cloudevents-batch+json", "text/plain", ""]
)
_HEADERS = st.dictionaries(
    _NAMES.map(lambda name: f"ce-{name}") | st.sampled_from(["content-type", "nats-msg-id"]),
    st.text(max_size=40),
    max_size=8,
)
_WHOLE_HEADERS = {f"ce-{name}": value for name, value in WHOLE.items()}


def _holds(events: list[tuple[EventHead, bytes]]) -> None:
    """What every accepted event keeps to."""
    for head, data in events:
        assert head.id and head.source and head.hops == 0 and not head.source.startswith("/fleet/")
        assert len(data) <= limits.EVENT_DATA_BYTES_MAX
        assert len(head.model_dump_json().encode()) <= limits.EVENT_HEAD_BYTES_MAX + 200
        event = Arrived(1, "acme", head, data, 0.0).event
        assert event.time is None or event.time.tzinfo is not None
        assert completed("default", head, len(data)) == head


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200) | _JSON.map(lambda one: json.dumps(one).encode()), raw=st.binary(max_size=200))
def test_fuzz_nats_bytes(body: bytes, raw: bytes) -> None:
    for headers in (raw, b"NATS/1.0\r\n" + raw):
        try:
            _holds([event_of_nats("default", "a.b", headers, body)])
        except EventRefused:
            pass


@settings(max_examples=150, deadline=None)
@given(fields=_HEADERS, whole=st.booleans(), body=st.binary(max_size=50), subject=st.text(max_size=20) | st.just("a.b"))
def test_fuzz_headers(fields: dict[str, str], whole: bool, body: bytes, subject: str) -> None:
    sent = {**_WHOLE_HEADERS, **fields} if whole else fields
    raw = "".join(f"{name}: {value}\r\n" for name, value in sent.items()).encode(errors="surrogatepass")
    try:
        _holds([event_of_nats("default", subject, b"NATS/1.0\r\n" + raw + b"\r\n", body)])
    except EventRefused:
        pass
    try:
        _holds(event_of_http(sent.items(), body))
    except EventRefused:
        pass


@settings(max_examples=150, deadline=None)
@given(value=_EVENTS | _JSON | st.lists(_EVENTS, max_size=3), kind=_KINDS)
def test_fuzz_json(value: Any, kind: str) -> None:
    body = json.dumps(value).encode()
    try:
        _holds(event_of_http([("content-type", kind)], body))
    except EventRefused:
        pass
    try:
        _holds([event_of_nats("default", "a.b", block(content_type=kind), body)])
    except EventRefused:
        pass


def test_memory_is_bounded() -> None:
    """The worst JSON of the allowed size (a list of empty lists), and bodies that are too large to be looked at."""
    most = b"[" + b"[]," * (limits.EVENT_DATA_BYTES_MAX // 3 - 1) + b"[]]"
    huge = b"[" * (64 * limits.MIB)
    assert len(most) <= limits.EVENT_DATA_BYTES_MAX
    tracemalloc.start()
    try:
        assert nats(most)[0].datacontenttype == "application/json"
        for decode in (lambda: nats(huge), lambda: nats(huge, block(content_type=JSON_EVENT)), lambda: post(huge)):
            refused("data", decode)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 40 * limits.EVENT_DATA_BYTES_MAX, peak_bytes
