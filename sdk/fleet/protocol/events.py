"""What an event may be, wherever it comes from: bounds and forms of its attributes, checked before it is accepted.

Errors: EventRefused names the attribute (``details["attribute"]``) and says what is allowed. Nothing else is raised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from pydantic import ValidationError

from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption, PayloadTooLarge, ProtocolError
from fleet.protocol.ids import check_event_subject
from fleet.protocol.messages import EventHead

RESERVED_SOURCE = "/fleet/"
"""Sources that begin so are those of functions which emit: nobody else takes the ids of their events away."""
NAME_CHARS_MAX = 64
_NAME = re.compile(r"[a-z0-9]{1,%d}\Z" % NAME_CHARS_MAX)
_CONTEXT = frozenset(
    ("id", "source", "specversion", "type", "subject", "time", "datacontenttype", "dataschema", "data", "data_base64")
)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:([Zz])|([+-]\d\d:\d\d))\Z", re.ASCII)
# What a CloudEvents String may not hold: control characters, halves of surrogate pairs, noncharacters.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class EventRefused(ProtocolError):
    """An event that can't be taken as it is; ``attribute`` is what is wrong with it."""

    code: ClassVar[str] = InvalidOption.code
    default_hint = "an event has the attributes of CloudEvents 1.0"

    @property
    def attribute(self) -> str:
        """Name of the attribute, ``data``, or a header."""
        return str(self.details.get("attribute", ""))


class EventTooLarge(EventRefused):
    """Its data is over EVENT_DATA_BYTES_MAX."""

    code: ClassVar[str] = PayloadTooLarge.code
    default_hint = "put the data where the function can fetch it, and publish its address"


def refused(attribute: str, why: str, hint: str | None = None) -> EventRefused:
    """The error for ``attribute``, ready to be raised."""
    return EventRefused(f"the event's {attribute} {why}", hint=hint, attribute=attribute)


def default_source(tenant: str) -> str:
    """Source of what clients of ours publish without naming one."""
    return f"/client/{tenant}"


def make_head(**attributes: Any) -> EventHead:
    """An EventHead of these attributes; EventRefused where one isn't even of its type, or far too long."""
    try:
        return EventHead(**attributes)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise refused(str(first["loc"][0]), f"is not allowed: {first['msg']}") from None


def check_size(data_bytes: int) -> None:
    """EventTooLarge for more data than an event may carry."""
    if data_bytes > limits.EVENT_DATA_BYTES_MAX:
        raise EventTooLarge(
            f"the event's data of {data_bytes} bytes is over the limit of {limits.EVENT_DATA_BYTES_MAX} bytes",
            attribute="data",
        )


def check_subject(subject: str) -> None:
    """EventRefused unless ``subject`` can stand on the bus: tokens of A-Z a-z 0-9 _ -, with dots between them."""
    try:
        check_event_subject(subject)
    except InvalidOption as error:
        raise EventRefused(error.message, hint=error.hint, attribute="subject") from None


def check_text(attribute: str, text: str, *, empty: bool = False, chars_max: int | None = None) -> None:
    """EventRefused for a text that is too long, empty, or holds what CloudEvents forbids."""
    most = limits.EVENT_ATTRIBUTE_CHARS_MAX if chars_max is None else chars_max
    if not text and not empty:
        raise refused(attribute, "is empty")
    if len(text) > most:
        raise refused(attribute, f"has {len(text)} characters, at most {most} are allowed")
    if not text.isprintable() and _FORBIDDEN.search(text) is not None:
        raise refused(attribute, f"{_short(text)} holds control characters, or what is no Unicode")


def parse_time(text: str) -> datetime:
    """The time that an RFC 3339 text says; EventRefused for another one."""
    found = _RFC3339.match(text) if len(text) <= 64 else None
    if found is not None:
        day, time, fraction, _, offset = found.groups()
        try:
            return datetime.fromisoformat(f"{day}T{time}.{(fraction or '0')[:6]:0<6}{offset or '+00:00'}")
        except ValueError:
            pass  # a 30th of February, or an offset of 25 hours
    raise refused("time", f"{_short(text)} is no time of RFC 3339", "write it as 2027-01-31T08:30:00Z")


def time_text(time: datetime) -> str:
    """The RFC 3339 text of ``time``, in UTC as ``Z``; EventRefused for one without a time zone."""
    if time.tzinfo is None:
        raise refused("time", "has no time zone", "as in datetime.now(datetime.UTC)")
    try:
        return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise refused("time", "is out of range") from None


def check_extensions(extensions: Mapping[str, str]) -> None:
    """EventRefused for too many of them, or for names that CloudEvents doesn't allow."""
    if len(extensions) > limits.EVENT_EXTENSIONS_MAX:
        raise refused(
            "extensions", f"are {len(extensions)}, at most {limits.EVENT_EXTENSIONS_MAX} are allowed", "send fewer"
        )
    for name, text in extensions.items():
        if _NAME.match(name) is None or name in _CONTEXT:
            raise refused(
                name if _NAME.match(name) else "extensions",
                f"{_short(name)} can't name an extension",
                f"1 to {NAME_CHARS_MAX} of a-z 0-9, and no name that CloudEvents or its data has",
            )
        check_text(name, text, empty=True)


def check_head(head: EventHead) -> None:
    """EventRefused unless all attributes of an event from outside are within bounds. It has an id and a source."""
    check_subject(head.subject)
    check_text("id", head.id)
    check_text("source", head.source)
    if head.source.startswith(RESERVED_SOURCE):
        raise refused("source", f"begins with {RESERVED_SOURCE}, as that of functions", "give another one")
    check_text("type", head.type)
    size_chars = len(head.subject) + len(head.id) + len(head.source) + len(head.type)
    for name, text in (("datacontenttype", head.datacontenttype), ("dataschema", head.dataschema)):
        if text is not None:
            check_text(name, text)
            size_chars += len(text)
    if head.time is not None:
        parse_time(head.time)
    if head.extensions:
        check_extensions(head.extensions)
        size_chars += sum(len(name) + len(text) for name, text in head.extensions.items())
    # 4 bytes a character at most: the exact size is only asked for where it may be over.
    if size_chars > limits.EVENT_HEAD_BYTES_MAX // 8:
        size_bytes = len(head.model_dump_json().encode())
        if size_bytes > limits.EVENT_HEAD_BYTES_MAX:
            raise refused(
                "attributes", f"have {size_bytes} bytes together, at most {limits.EVENT_HEAD_BYTES_MAX} are allowed"
            )


def _short(text: str) -> str:
    shown = ascii(text[:60])
    return shown if len(text) <= 60 else f"{shown[:-1]}...'"
