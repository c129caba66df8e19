"""Where events come in: ``fleet.evt.<tenant>.<subject>`` for any NATS client, and the publish verb.

A request on ``fleet.evt`` is answered in JSON once the event is stored: ``{"id": ..., "duplicate": false}``, or
``{"error": {"code": ..., "message": ..., "hint": ...}}``. A bare publish is best effort: nobody says whether it arrived. One
that can't be decoded becomes a dead letter, so that somebody can find out; one that comes while there is no room is dropped
and counted.

Any NATS library asks with a reply subject under ``_INBOX.``: that is answered too (``subjects.is_event_reply``), any other
reply subject means that nothing is done.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

from fleet._event import now_text
from fleet.protocol.errors import FleetError, ProtocolError
from fleet.protocol.events import EventRefused
from fleet.protocol.ids import digest, is_token
from fleet.protocol.limits import EVENT_SUBJECT_CHARS_MAX
from fleet.protocol.messages import EventHead, PublishReply, PublishRequest
from fleet.protocol.subjects import STREAM_DEAD, is_event_reply
from fleet.transport import Request, Responder
from fnplatform.dead_letters import UNDECODABLE, bury_event
from fnplatform.events.decode import completed, event_of_nats
from fnplatform.events.intake import Accepted, Intake
from fnplatform.frontdoor.errors import for_user
from fnplatform.frontdoor.ports import Spawn
from fnplatform.jetstream import JetStream
from fnplatform.provision import DEAD_BYTES_MAX

log = logging.getLogger("fleet.frontdoor")

BURYING_MAX = 64
SHOWN_MAX = 32
SHOWN_CHARS_MAX = 200
"""Headers of what can't be decoded, and their length, as its dead letter shows them."""
DEAD_SHARE = 0.5
"""Anybody may publish nonsense: it takes at most this share of the dead letters' room."""
LOOK_EVERY_S = 1.0


class EventDoor:
    """Takes events from outside."""

    def __init__(self, *, intake: Intake, js: JetStream, responder: Responder, spawn: Spawn) -> None:
        self._intake = intake
        self._js = js
        self._responder = responder
        self._spawn = spawn
        self._burying = 0
        self._looked_s = self._said_s = -LOOK_EVERY_S
        self._room = True
        self.dropped = 0
        """Bare publishes that left no trace."""

    @property
    def busy(self) -> bool:
        """Whether something is on its way into a stream."""
        return self._intake.busy or self._burying > 0

    def on_message(self, request: Request) -> None:
        """One message on ``fleet.evt.>``."""
        _, _, tenant, subject = request.subject.split(".", 3)
        reply = request.reply
        if not is_token(tenant) or (reply and not is_event_reply(reply, tenant)):
            if reply:
                self._responder.answer_event(request, tenant, b"")  # counts it and sends nothing
            else:
                self._drop("their subjects name no tenant")
            return
        try:
            head, data = event_of_nats(tenant, subject, request.headers, request.data)
        except EventRefused as error:
            if reply:
                self._responder.answer_event(request, tenant, _error_answer(error))
            else:
                self._undecodable(tenant, subject, request, error)
            return

        def then(result: list[Accepted] | FleetError) -> None:
            if reply:
                self._responder.answer_event(request, tenant, _answer(result))
            elif isinstance(result, FleetError):
                self._drop(str(result))

        self._intake.accept(tenant, [(head, data)], then)

    async def publish(self, tenant: str, request: PublishRequest, parts: Sequence[memoryview]) -> PublishReply:
        """The publish verb: all events of the request are stored, or an error."""
        if len(parts) != len(request.events):
            raise ProtocolError(f"{len(request.events)} events came with {len(parts)} parts")
        events = [
            (completed(tenant, head, len(part)), bytes(part)) for head, part in zip(request.events, parts, strict=True)
        ]
        accepted = await self._intake.accepted(tenant, events)
        return PublishReply(
            ids=[one.id for one in accepted],
            duplicates=list(dict.fromkeys(one.id for one in accepted if one.duplicate)),
        )

    # --- bare publishes that can't be taken ---------------------------------------------------------------------------

    def _drop(self, why: str) -> None:
        self.dropped += 1
        now_s = time.monotonic()
        if now_s - self._said_s >= LOOK_EVERY_S:
            self._said_s = now_s
            log.warning("events that nobody asked an answer for are dropped (%d so far): %s", self.dropped, why)

    def _undecodable(self, tenant: str, subject: str, request: Request, error: EventRefused) -> None:
        if self._burying >= BURYING_MAX:
            self._drop("too many that can't be decoded")
            return
        self._burying += 1
        self._spawn(self._bury, tenant, subject, request.headers, bytes(request.data), error)

    async def _bury(self, tenant: str, subject: str, headers: bytes, data: bytes, error: EventRefused) -> None:
        """Of the same bytes on the same subject there is one letter. It shows the headers as attributes."""
        head = EventHead(
            id=digest(b"\0".join((subject.encode(), headers, data)))[:32], source=f"/nats/{tenant}",
            subject=_plain(subject, EVENT_SUBJECT_CHARS_MAX), time=now_text(), extensions=_shown(headers),
        )  # fmt: skip
        try:
            if not await self._has_room() or not await bury_event(
                self._js, tenant, UNDECODABLE, head, data, error.message
            ):
                self._drop("dead letters of events have no room left")
        except FleetError as failure:
            self._drop(str(failure))
        finally:
            self._burying -= 1

    async def _has_room(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            info = await self._js.stream_info(STREAM_DEAD)
            self._room = info["state"]["bytes"] < DEAD_BYTES_MAX * DEAD_SHARE
        return self._room


def _shown(headers: bytes) -> dict[str, str]:
    """The fields of a header block that may be none, cut."""
    lines = headers.decode("ascii", "backslashreplace").split("\r\n")[1 : SHOWN_MAX + 1]
    pairs = (line.partition(":") for line in lines if line)
    return {_plain(name, SHOWN_CHARS_MAX): _plain(value.strip(), SHOWN_CHARS_MAX) for name, _, value in pairs}


def _plain(text: str, chars_max: int) -> str:
    return text.encode("unicode_escape").decode()[:chars_max]


def _answer(result: list[Accepted] | FleetError) -> bytes:
    if isinstance(result, FleetError):
        return _error_answer(for_user(result))
    (accepted,) = result
    return json.dumps({"id": accepted.id, "duplicate": accepted.duplicate}).encode()


def _error_answer(error: FleetError) -> bytes:
    return json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}}).encode()
