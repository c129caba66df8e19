"""What events become: invocations as the queue holds them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fleet._event import Event, pack_call
from fleet.protocol import frames, limits
from fleet.protocol.ids import digest, event_call_id
from fleet.protocol.messages import EventHead, InvocationState
from fnplatform.triggers.expressions import EventVars, event_vars
from fnplatform.triggers.table import Bound

KEY_CHARS = 32
CHUNK_S = 0.05
"""A chunk's events take about so long together."""
CHUNK_LAGGING_S = 0.25
"""The same for a trigger that is behind: others wait longer than that anyway, and changing functions costs a slot 20 ms."""
CHUNK_UNKNOWN = 8
"""Events in a chunk of a function that wasn't measured yet."""
NO_ARGUMENT = pack_call(None)


@dataclass(slots=True, eq=False)
class Arrived:
    """One event of EVENTS."""

    seq: int
    tenant: str
    head: EventHead
    data: bytes
    accepted_unix_s: float
    _packed: bytes | None = field(default=None, repr=False)
    _vars: EventVars | None = field(default=None, repr=False)

    @property
    def vars(self) -> EventVars:
        """As expressions see it."""
        if self._vars is None:
            self._vars = event_vars(self.head, self.data)
        return self._vars

    @property
    def event(self) -> Event:
        """As a function gets it."""
        head = self.head
        event = Event(
            head.subject, self.data, id=head.id, source=head.source, type=head.type, time=head.time,
            datacontenttype=head.datacontenttype, dataschema=head.dataschema, extensions=head.extensions,
        )  # fmt: skip
        event.datacontenttype = head.datacontenttype
        return event

    def packed(self, *, takes_event: bool) -> bytes:
        """The arguments of a call with this event."""
        if not takes_event:
            return NO_ARGUMENT
        if self._packed is None:
            self._packed = pack_call(self.event)
        return self._packed

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.data) + 2000


@dataclass(frozen=True, slots=True)
class NewInvocation:
    """One call to be stored. ``payload`` is a blob to be put before, if ``state.blob``."""

    state: InvocationState
    payload: bytes


def chunk_max(run_s: float | None, chunk_s: float = CHUNK_S) -> int:
    """How many events of a function may share a chunk of ``chunk_s``; ``run_s``: what one takes, if that was measured."""
    if run_s is None:
        return CHUNK_UNKNOWN
    return max(1, min(limits.EVENT_CHUNK_MAX, int(chunk_s / max(run_s, 1e-6))))


def call_of(bound: Bound, head: EventHead) -> str:
    """The call that this event starts, if it is a call of its own or the first one of several."""
    return event_call_id(bound.tenant, bound.app, bound.function, head.source, head.id)


def invocation_of(
    bound: Bound, events: Sequence[Arrived], unix_s: float, *, key: str = "", listed: bool = False
) -> NewInvocation:
    """The call of one event, of several as a chunk, or (``listed``) of several as one list."""
    assert events and len({event.tenant for event in events}) == 1
    manifest = bound.manifest
    items = None
    if listed:
        payload = pack_call([event.event for event in events]) if manifest.takes_event else NO_ARGUMENT
    elif len(events) == 1:
        payload = events[0].packed(takes_event=manifest.takes_event)
    else:
        payload = frames.pack_items([event.packed(takes_event=manifest.takes_event) for event in events])
        items = len(events)
    state = InvocationState(
        tenant=bound.tenant, call=call_of(bound, events[0].head), app=bound.app, function=bound.function,
        version=bound.version, inbox="", digest=digest(payload), payload_bytes=len(payload),
        blob=len(payload) > limits.INLINE_ARGS_BYTES_MAX, submitted_unix_s=unix_s,
        expires_unix_s=None if manifest.queue_timeout_s is None else unix_s + manifest.queue_timeout_s,
        items=items, pending=None if items is None else [(0, items - 1)], trigger="subject",
        key=digest(key.encode())[:KEY_CHARS] if key else "", order=events[0].seq if key else 0,
        hops=max(event.head.hops for event in events),
    )  # fmt: skip
    return NewInvocation(state, payload)
