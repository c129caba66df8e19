"""``fleet.publish`` towards the platform: check, hand over, wait until the event is stored.

Events that are published at the same time share a request; while several requests are open, what comes gathers for the
next one. Each has its id from the beginning, so one whose answer was lost is sent again: it is stored once.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fleet import _call
from fleet._api import unanswered
from fleet._event import data_of, now_text
from fleet._loop import Awaited, Waiter, wait_aio
from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable, InvalidOption, PayloadTooLarge, ProtocolError
from fleet.protocol.events import (
    EventRefused,
    EventTooLarge,
    check_head,
    check_size,
    default_source,
    make_head,
    parse_time,
    time_text,
)
from fleet.protocol.ids import new_call_id
from fleet.protocol.limits import CONNECT_S, PUBLISH_EVENTS_MAX, REQUEST_S, SUBMIT_INLINE_BYTES_MAX
from fleet.protocol.messages import EventHead, PublishReply, PublishRequest
from fleet.protocol.subjects import API, ApiVerb
from fleet.transport import Bus, Request

if TYPE_CHECKING:
    from fleet._client import Client

REQUESTS_OPEN_MAX = 4
OUTAGE_S = 20.0
"""How long an event is tried to be handed over to a fleet that answered before."""
RETRY_S = 0.1
BATCH_BYTES_MAX = SUBMIT_INLINE_BYTES_MAX


def head_of(
    tenant: str,
    subject: str,
    data: Any,
    id: str | None = None,
    source: str | None = None,
    type: str = "fleet.event",
    time: datetime | str | None = None,
    datacontenttype: str | None = None,
) -> tuple[EventHead, bytes]:
    """An event with all it needs, and its data as bytes; InvalidOption or PayloadTooLarge where it can't be published."""
    try:
        body, kind = data_of(data, datacontenttype)
    except UnicodeEncodeError:
        raise InvalidOption("the event's data is no text of UTF-8", hint="give bytes for anything else") from None
    try:
        check_size(len(body))
        if time is None:
            when = now_text()
        elif isinstance(time, datetime | str):
            when = time_text(time if isinstance(time, datetime) else parse_time(time))
        else:
            raise InvalidOption(f"time={time!r:.80} is no time", hint="give a datetime, or a text of RFC 3339")
        head = make_head(
            id=new_call_id() if id is None else id, source=default_source(tenant) if source is None else source,
            type=type, subject=subject, time=when, datacontenttype=kind,
        )  # fmt: skip
        check_head(head)
    except EventTooLarge as error:
        raise PayloadTooLarge(error.message, hint=error.hint) from None
    except EventRefused as error:
        raise InvalidOption(error.message, hint=error.hint) from None
    return head, body


class Publication(Awaited):
    """One event on its way."""

    __slots__ = ("alone", "data", "head")

    def __init__(self, head: EventHead, data: bytes) -> None:
        super().__init__()
        self.head = head
        self.data = data
        self.alone = False
        """Its request failed because of one of its events: each is asked for by itself."""

    def finish(self, error: FleetError | None = None) -> None:
        """Stored, or ``error``: wake whoever waits."""
        for wake in self._end(error) or ():
            wake()

    def outcome(self) -> str:
        """The event's id; raises why it wasn't stored."""
        if self.error is not None:
            raise self.error
        return self.head.id


class Publisher:
    """Hands events over. Lives in the client's loop; ``post`` has something called there, from any thread."""

    def __init__(self, bus: Bus, tenant: str, post: Callable[..., None], later: Callable[..., object]) -> None:
        self._bus = bus
        self._subject = API.build(tenant=tenant, verb=ApiVerb.PUBLISH)
        self._post = post
        self._later = later
        self._lock = threading.Lock()
        self._incoming: list[Publication] = []
        self._queue: deque[Publication] = deque()
        self._open = 0
        self._answered_once = False

    def hand_over(self, publication: Publication) -> None:
        """From any thread. What comes close together shares a request."""
        with self._lock:
            self._incoming.append(publication)
            first = len(self._incoming) == 1
        if first:
            self._post(self._take_incoming)

    def _take_incoming(self) -> None:
        with self._lock:
            incoming, self._incoming = self._incoming, []
        self._queue.extend(incoming)
        self._flush()

    def _flush(self) -> None:
        while self._queue and self._open < REQUESTS_OPEN_MAX:
            batch: list[Publication] = []
            size_bytes = 0
            while self._queue and len(batch) < PUBLISH_EVENTS_MAX:
                first = self._queue[0]
                size_bytes += len(first.data)
                if batch and (size_bytes > BATCH_BYTES_MAX or first.alone):
                    break
                batch.append(self._queue.popleft())
                if first.alone:
                    break
            self._send(batch)

    def _send(self, batch: list[Publication]) -> None:
        message = PublishRequest(events=[one.head for one in batch])
        self._open += 1
        self._bus.ask(
            self._subject,
            frames.pieces(message, [one.data for one in batch]),
            functools.partial(self._answered, batch),
            timeout_s=REQUEST_S,
        )

    def _answered(self, batch: list[Publication], got: Request | FleetUnavailable) -> None:
        self._open -= 1
        error: FleetError | None = None
        if not isinstance(got, Request):
            error = got
        else:
            self._answered_once = True
            try:
                reply, _ = frames.unpack(got.data, PublishReply)
                error = None if reply.error is None else reply.error.to_error()
            except ProtocolError as unreadable:
                error = unreadable
        if isinstance(error, FleetUnavailable):
            self._try_again(batch, error)
        elif error is not None and len(batch) > 1:
            for one in batch:
                one.alone = True
            self._queue.extendleft(reversed(batch))
        else:
            for one in batch:
                one.finish(error)
        self._flush()

    def _try_again(self, batch: Sequence[Publication], why: FleetUnavailable) -> None:
        patience_s = OUTAGE_S if self._answered_once else CONNECT_S
        now_s = time.monotonic()
        again = []
        for one in batch:
            if now_s - one.born_s > patience_s:
                one.finish(unanswered(self._bus, why, "does not say that the event is stored"))
            else:
                again.append(one)
        if again:
            self._later(RETRY_S, self._requeue, again)

    def _requeue(self, batch: list[Publication]) -> None:
        self._queue.extendleft(reversed(batch))
        self._flush()


def _started(client: Client, *event: Any) -> Publication:
    head, data = head_of(client.settings.tenant, *event)
    publication = Publication(head, data)
    client.publish(publication)
    return publication


def publish(*event: Any) -> str:
    """See ``fleet.publish``."""
    publication = _started(_call._client(), *event)
    waiter = Waiter()
    publication.arm(waiter.set)
    waiter.wait()
    return publication.outcome()


async def publish_aio(*event: Any) -> str:
    """See ``fleet.publish.aio``."""
    publication = _started(await _call._client_aio(), *event)
    await wait_aio(publication.arm)
    return publication.outcome()
