"""Hear the cars of a partition: their messages become events, and the core's answers replies into their own inboxes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import BaseModel

from fleet.protocol import frames, limits
from fleet.protocol.errors import FleetError, ProtocolError, VersionMismatch
from fleet.protocol.ids import is_token
from fleet.protocol.messages import (
    Beat,
    BeatReply,
    CarHello,
    CarReply,
    CheckpointPut,
    InvocationState,
    Lease,
    LogEntry,
    LogLines,
    Offer,
    OutcomeReply,
    OutcomeReport,
    Release,
    WireError,
)
from fleet.protocol.pseudonyms import pseudonym
from fleet.protocol.subjects import BUCKET_CHECKPOINTS, CAR, LOG, CarVerb, is_inbox_of
from fleet.transport import Bus, Request, Responder, Subscription
from fnplatform.dispatcher import events, wire
from fnplatform.dispatcher.leases import genuine, order
from fnplatform.dispatcher.state import Board
from fnplatform.dispatcher.stores import Host, checkpoint_key, inbox_of
from fnplatform.jetstream import JetStream

log = logging.getLogger("fleet.dispatcher")


class Hearing:
    """Messages of cars, for one term of leadership."""

    def __init__(self, board: Board, bus: Bus, responder: Responder, js: JetStream, partition: str, host: Host) -> None:
        self._board = board
        self._epoch = board.epoch
        self._bus = bus
        self._responder = responder
        self._js = js
        self._partition = partition
        self._host = host
        self._subscriptions: list[Subscription] = []

    async def listen(self) -> None:
        """Hear the cars of this partition."""
        handlers: dict[CarVerb, Callable[[str, Request], None]] = {
            CarVerb.HELLO: self._on_hello,
            CarVerb.OFFER: self._on_offer,
            CarVerb.BEAT: self._on_beat,
            CarVerb.RELEASE: self._on_release,
            CarVerb.OUTCOME: self._on_outcome,
            CarVerb.CHECKPOINT: self._on_checkpoint,
            CarVerb.LOG: self._on_log,
        }
        for verb, handler in handlers.items():
            subject = CAR.wildcard(partition=self._partition, verb=verb.value)
            self._subscriptions.append(await self._bus.listen(subject, self._checked(handler)))

    async def close(self) -> None:
        """Stop hearing them; never raises."""
        for subscription in self._subscriptions:
            await subscription.close()

    def _checked(self, handler: Callable[[str, Request], None]) -> Callable[[Request], None]:
        def on_message(request: Request) -> None:
            car = request.subject.split(".", 3)[2]
            if self._host.over or not is_token(car):
                return
            if request.reply and not is_inbox_of(request.reply, "car", car):
                self._responder.respond(request, "car", car, b"")  # counts it and sends nothing
                return
            try:
                handler(car, request)
            except ProtocolError as error:
                self._answer(car, request, CarReply(epoch=self._epoch, error=WireError.of(error)))

        return on_message

    def _answer(self, car: str, request: Request, reply: BaseModel) -> None:
        if not self._host.over:
            self._responder.respond(request, "car", car, frames.pack(reply))

    def _acknowledge(self, car: str, request: Request) -> None:
        self._answer(car, request, CarReply.model_construct(epoch=self._epoch))

    def _on_hello(self, car: str, request: Request) -> None:
        hello, _ = frames.unpack(request.data, CarHello)
        if not limits.PROTOCOL_MIN <= hello.protocol <= limits.PROTOCOL:
            side = "control plane" if hello.protocol > limits.PROTOCOL else "car"
            error = VersionMismatch(f"the car speaks protocol {hello.protocol}: upgrade the {side}", hint="")
            self._answer(car, request, CarReply(error=WireError.of(error)))
            return
        self._host.tell(events.HelloSaid(car, hello))
        self._acknowledge(car, request)

    def _on_offer(self, car: str, request: Request) -> None:
        offer, _ = frames.unpack(request.data, Offer)
        self._host.tell(events.Offered(car, offer))
        self._acknowledge(car, request)

    def _on_beat(self, car: str, request: Request) -> None:
        beat, _ = frames.unpack(request.data, Beat)
        self._host.tell(events.Beaten(car, beat, request))

    def beat_answer(self, answer: events.BeatAnswer) -> None:
        reply = BeatReply.model_construct(epoch=self._epoch, drop=answer.drop, hello=answer.hello, error=None)
        self._answer(answer.car, answer.reply, reply)

    def _on_release(self, car: str, request: Request) -> None:
        release, _ = frames.unpack(request.data, Release)
        self._host.tell(events.Released(car, release))
        self._acknowledge(car, request)

    def _on_outcome(self, car: str, request: Request) -> None:
        report, parts = frames.unpack(request.data, OutcomeReport)
        self._host.tell(events.Reported(car, wire.results_of(report, parts), request))

    def verdicts(self, action: events.Verdicts) -> None:
        reply = OutcomeReply.model_construct(verdicts=action.verdicts, error=None)
        self._answer(action.car, action.reply, reply)

    def state_held(self, car: str, lease: Lease) -> InvocationState | None:
        """The call of a lease that this car holds, or held a moment ago."""
        if not genuine(self._board.key, lease, car):
            return None
        board = self._board
        entry = board.by_seq.get(lease.seq)
        if entry is not None:
            current = entry.lease is not None and entry.lease.order == order(lease)
            return entry.state if current or entry.fence == order(lease) else None
        ended = board.ended_seqs.get(lease.seq)
        return ended.state if ended is not None and ended.order == order(lease) else None

    def _on_checkpoint(self, car: str, request: Request) -> None:
        put, parts = frames.unpack(request.data, CheckpointPut)
        state = self.state_held(car, put.lease)
        size = len(parts[0]) if parts else 0
        if state is None or state.items is not None or size > limits.SAVED_BYTES_MAX:
            self._acknowledge(car, request)  # nothing to save it for
            return
        # Noted before it is stored: a failure reported right behind it must not be granted again without it.
        self._host.tell(events.Checkpointed(put.lease.seq))
        self._host.spawn(self._save, car, request, state, bytes(parts[0]) if parts else b"")

    async def _save(self, car: str, request: Request, state: InvocationState, saved: bytes) -> None:
        try:
            await self._js.kv_put(BUCKET_CHECKPOINTS, checkpoint_key(state.tenant, state.call), saved)
        except FleetError as error:
            self._answer(car, request, CarReply(error=WireError.of(error)))
            return
        self._acknowledge(car, request)

    def _on_log(self, car: str, request: Request) -> None:
        lines, _ = frames.unpack(request.data, LogLines)
        state = self.state_held(car, lines.lease)
        if state is None and self._board.adopting and genuine(self._board.key, lines.lease, car):
            return  # its lease may be adopted yet: no answer, the car sends it again
        if state is not None:
            data = frames.pack(self._log_entry(state, car, lines))
            subject = LOG.build(tenant=state.tenant, app=state.app, function=state.function, call=state.call)
            self._js.publish_then(subject, data, _log_stored)
            if state.inbox:
                self._responder.push(inbox_of(state, "log"), "dev", state.tenant, data)
        if request.reply:
            self._acknowledge(car, request)

    def _log_entry(self, state: InvocationState, car: str, lines: LogLines) -> LogEntry:
        """The lines under the names that developers know: of the car its pseudonym."""
        entry = self._board.by_seq.get(lines.lease.seq)
        known = self._board.cars.get(car)
        attempts = entry.item_attempts if entry is not None else state.item_attempts
        items = lines.items
        told = state.items is not None and all(0 <= item < state.items and count > 0 for item, count in items)
        if not told or sum(count for _, count in items) != len(lines.lines):
            items = []  # a car is not trusted
        return LogEntry(
            app=state.app, function=state.function, call=state.call,
            attempt=entry.attempt if entry is not None else state.attempts + 1,
            car=pseudonym(car, known.boot if known is not None else "", state.tenant), lines=lines.lines, items=items,
            attempts={item: attempts[item] + 1 for item, _ in items if attempts.get(item)},
        )  # fmt: skip


def _log_stored(stored: int | FleetError) -> None:
    """Printed lines are kept as well as the broker can; a call doesn't wait for them."""
    if not isinstance(stored, int):
        log.debug("printed lines not stored: %s", stored.message)
