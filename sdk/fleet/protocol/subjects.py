"""Every subject, built and parsed from one template each. Verbs are closed enums.

A template's ``{name}`` is one token; ``{name*}``, last only, is one or more tokens.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from fleet.protocol.errors import ProtocolError
from fleet.protocol.ids import is_token


class ApiVerb(enum.StrEnum):
    """What a developer may ask the frontdoor."""

    SUBMIT = "submit"
    CANCEL = "cancel"
    STATUS = "status"
    RESULT = "result"
    CONSUME = "consume"
    EXPLAIN = "explain"
    CALLS = "calls"
    REGISTER = "register"
    DEPLOY = "deploy"
    FUNCTIONS = "functions"
    HISTORY = "history"
    ROLLBACK = "rollback"
    DELETE = "delete"
    CARS = "cars"
    SIMULATE = "simulate"
    PUBLISH = "publish"
    TOKEN = "token"
    DEAD = "dead"
    LOGS = "logs"
    PLATFORM = "platform"
    BLOB_PUT = "blob.put"
    BLOB_GET = "blob.get"


class CarVerb(enum.StrEnum):
    """What a car may tell the dispatcher."""

    HELLO = "hello"
    OFFER = "offer"
    BEAT = "beat"
    RELEASE = "release"
    OUTCOME = "outcome"
    YIELD = "yield"
    CHECKPOINT = "checkpoint"
    LOG = "log"
    BLOB_GET = "blob.get"
    BLOB_PUT = "blob.put"


class ToCarVerb(enum.StrEnum):
    """What the control plane may tell a car."""

    GRANT = "grant"
    CREDIT = "credit"
    CANCEL = "cancel"
    DROP = "drop"
    REFRESH = "refresh"
    SIMULATE = "simulate"


class InternalVerb(enum.StrEnum):
    """What a frontdoor asks the leader of a partition, on the control plane's own connection."""

    CANCEL = "cancel"
    CONSUME = "consume"
    STATUS = "status"
    EXPLAIN = "explain"
    CALLS = "calls"
    CARS = "cars"
    DEPTH = "depth"
    TRIGGERS = "triggers"


@dataclass(frozen=True, slots=True)
class Template:
    """One subject, both ways."""

    text: str

    @property
    def _fields(self) -> list[str]:
        return [part[1:-1] for part in self.text.split(".") if part.startswith("{")]

    def build(self, **values: str) -> str:
        """The subject with ``values`` filled in; ProtocolError where one is no token."""
        parts = []
        for part in self.text.split("."):
            if not part.startswith("{"):
                parts.append(part)
                continue
            name = part[1:-1].removesuffix("*")
            value = str(values[name])
            tokens = value.split(".") if part.endswith("*}") else [value]
            if not all(is_token(token) for token in tokens):
                raise ProtocolError(f"{name}={value!r} can't stand in a subject")
            parts.append(value)
        return ".".join(parts)

    def parse(self, subject: str) -> dict[str, str] | None:
        """The values in ``subject``, or None when it isn't one of this template."""
        got = subject.split(".")
        want = self.text.split(".")
        values: dict[str, str] = {}
        for index, part in enumerate(want):
            if index >= len(got):
                return None
            if part.endswith("*}"):
                values[part[1:-2]] = ".".join(got[index:])
                return values if all(is_token(token) for token in got[index:]) else None
            if part.startswith("{"):
                if not is_token(got[index]):
                    return None
                values[part[1:-1]] = got[index]
            elif part != got[index]:
                return None
        return values if len(got) == len(want) else None

    def wildcard(self, **values: str) -> str:
        """The subscription that matches every subject of this template, with ``values`` fixed."""
        parts = []
        for part in self.text.split("."):
            name = part[1:-1].removesuffix("*") if part.startswith("{") else ""
            if not name:
                parts.append(part)
            elif name in values:
                parts.append(values[name])
            else:
                parts.append(">" if part.endswith("*}") else "*")
        return ".".join(parts)


API = Template("fleet.api.{tenant}.{verb*}")
EVENT = Template("fleet.evt.{tenant}.{subject*}")
CAR = Template("fleet.car.{car}.{partition}.{verb*}")
TO_CAR = Template("fleet.to.{car}.{verb}")
INTERNAL = Template("fleet.ctl.{partition}.{verb}")

INVOCATION = Template("inv.{partition}.{tenant}.{app}.{function}.{call}")
OUTCOME = Template("out.{tenant}.{app}.{function}.{call}")
OUTCOME_PART = Template("out.{tenant}.{app}.{function}.{call}.{part}")
DEAD_LETTER = Template("dead.{tenant}.{app}.{function}.{call*}")
"""``call``: that of the call, or ``<call>.<part>`` for items of a chunk that ended in this part of its outcome."""
LOG = Template("log.{tenant}.{app}.{function}.{call}")
STORED_EVENT = Template("evt.{tenant}.{event}")
"""``event`` is ``ids.event_key`` of its source and id: a copy of it finds the subject taken."""
CURSOR = Template("cur.{partition}")
"""In INVOCATIONS: up to where events became invocations, stored in one step with these."""
CLOCKS = Template("clk.{partition}")
"""In INVOCATIONS: up to where clocks became invocations, stored in one step with these."""
EMITTED = Template("emt.{tenant}.{app}.{function}.{call}.{part}")
"""In OUTCOMES: an outcome that holds events to be emitted."""
SCHEDULE = Template("sch.set.{partition}")
SCHEDULE_DUE = Template("sch.due.{partition}")
BLOB_PART = Template("blob.{tenant}.{digest}.{part}")

STREAM_INVOCATIONS = "INVOCATIONS"
STREAM_OUTCOMES = "OUTCOMES"
STREAM_EVENTS = "EVENTS"
STREAM_SCHEDULES = "SCHEDULES"
STREAM_DEAD = "DEAD"
STREAM_LOGS = "LOGS"
STREAM_BLOBS = "BLOBS"
BUCKET_FUNCTIONS = "functions"
BUCKET_CARS = "cars"
BUCKET_CHECKPOINTS = "checkpoints"
BUCKET_PARTITIONS = "partitions"
BUCKET_TOKENS = "tokens"
BUCKET_PLATFORM = "platform"

PARTITION = "0"
"""Issue 2 runs one partition; the subjects carry it already."""

_INBOX = re.compile(r"_INBOX_(dev|car|control)_([A-Za-z0-9_-]{1,64})\.[A-Za-z0-9_.-]{1,200}\Z")


def inbox_prefix(kind: str, name: str) -> str:
    """Where a principal of ``kind`` (``dev``, ``car``, or ``control`` for our own) called ``name`` receives replies."""
    assert kind in ("dev", "car", "control"), kind
    if not is_token(name):
        raise ProtocolError(f"{name!r} can't stand in a subject")
    return f"_INBOX_{kind}_{name}"


def is_inbox_of(subject: str, kind: str, name: str | None) -> bool:
    """Whether ``subject`` is a plain inbox of just this principal (None: of any of its kind): no confused deputy.

    A reply subject is chosen by whoever asks and no server checks it: answered blindly, a request with the reply
    subject ``$JS.API.STREAM.PURGE.X`` makes us purge the stream. Measured with nats-server 2.15.1.
    """
    found = _INBOX.match(subject)
    return found is not None and found[1] == kind and name in (None, found[2]) and ".." not in subject


_PLAIN_INBOX = re.compile(r"_INBOX(\.[A-Za-z0-9_-]{1,64}){1,8}\Z")


def is_event_reply(subject: str, tenant: str) -> bool:
    """Whether who publishes an event of ``tenant`` may be answered on ``subject``: in its own inbox, or below ``_INBOX.``.

    The latter is what every NATS library uses by itself. None of ours listens there, no stream holds it, and the answer says
    no more than that one event was stored: the one exception to ``is_inbox_of``.
    """
    return _PLAIN_INBOX.match(subject) is not None or is_inbox_of(subject, "dev", tenant)
