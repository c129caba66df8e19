"""Send grants: as requests, with the arguments inside where they are at hand, together where they go to one car."""

from __future__ import annotations

import asyncio
import logging

from fleet.protocol import frames, limits
from fleet.protocol.errors import FleetError, FleetUnavailable, ProtocolError, ResultExpired
from fleet.protocol.frames import Bytes
from fleet.protocol.messages import CarCancel, CarCredit, GrantReply
from fleet.protocol.subjects import BUCKET_CHECKPOINTS, TO_CAR, ToCarVerb
from fleet.transport import Bus, Request
from fnplatform.dispatcher import events, wire
from fnplatform.dispatcher.events import Grant
from fnplatform.dispatcher.payloads import Payloads, cut
from fnplatform.dispatcher.state import Entry
from fnplatform.dispatcher.stores import Host, checkpoint_key
from fnplatform.jetstream import JetStream

log = logging.getLogger("fleet.dispatcher")


class Granter:
    """Grants and drops of one term of leadership."""

    def __init__(self, epoch: int, bus: Bus, js: JetStream, payloads: Payloads, host: Host) -> None:
        self._epoch = epoch
        self._bus = bus
        self._js = js
        self._payloads = payloads
        self._host = host

    def grant(self, grant: Grant) -> None:
        """Send a grant; one that needs something read first goes on its own, so that it doesn't hold up the others."""
        ready = Grant(grant.car, [], [])
        payloads: list[Bytes] = []
        room = wire.GRANT_BYTES_MAX
        for entry, counter in zip(grant.entries, grant.counters, strict=True):
            wait = entry.checkpoint or (entry.state.refs and not self._payloads.has_refs(entry.state))
            payload = None if wait else self._inline(entry)
            if payload is None:
                self._host.spawn(self._load_and_grant, Grant(grant.car, [entry], [counter]))
                continue
            if len(payload) > room:
                self._send_grant(ready, payloads)
                ready, payloads, room = Grant(grant.car, [], []), [], wire.GRANT_BYTES_MAX
            room -= len(payload)
            ready.entries.append(entry)
            ready.counters.append(counter)
            payloads.append(payload)
        self._send_grant(ready, payloads)

    def _inline(self, entry: Entry) -> Bytes | None:
        """The arguments to send along: empty if the car fetches the blob, None if they must be read first."""
        state, held = entry.state, entry.lease
        assert held is not None
        payload = self._payloads.cached(entry.seq)
        whole = held.items is None or held.items == [(0, (state.items or 0) - 1)]
        if payload is None or len(payload) > limits.SUBMIT_INLINE_BYTES_MAX:
            by_car = state.blob and (whole or state.payload_bytes > limits.SUBMIT_INLINE_BYTES_MAX)
            return b"" if by_car else None
        return cut(state, payload, held.items)

    async def _load_and_grant(self, grant: Grant) -> None:
        entry, counter = grant.entries[0], grant.counters[0]
        state, seq = entry.state, entry.seq
        checkpoint = None
        try:
            await self._payloads.renew_refs(state)
            payload: Bytes | None = b""
            by_car = state.blob and state.payload_bytes > limits.SUBMIT_INLINE_BYTES_MAX
            if not by_car:
                payload = await self._payloads.load(state, seq)
            if entry.checkpoint:
                saved = await self._js.kv_get(BUCKET_CHECKPOINTS, checkpoint_key(state.tenant, state.call))
                checkpoint = saved[0] if saved else None
        except ResultExpired as error:
            self._host.tell(events.Vanished(entry, seq, error))
            return
        except FleetError as error:
            log.warning("arguments of %s can't be read yet: %s", state.call, error.message)
            self._host.tell(events.GrantAnswered(grant, None))
            return
        if payload is None:
            self._host.tell(events.Vanished(entry, seq))
            return
        held = entry.lease
        if held is not None and held.lease.counter == counter and entry.seq == seq:
            wanted = held.items if len(payload) else None
            self._send_grant(grant, [cut(state, payload, wanted)], checkpoint)

    def _send_grant(self, grant: Grant, payloads: list[Bytes], checkpoint: bytes | None = None) -> None:
        if not grant.entries:
            return
        leases = []
        parts: list[Bytes] = []
        for entry, payload in zip(grant.entries, payloads, strict=True):
            by_blob = entry.state.blob and not len(payload)
            size = entry.state.payload_bytes if by_blob else len(payload)
            leases.append(
                wire.lease_grant(entry, by_blob=by_blob, payload_bytes=size, with_checkpoint=checkpoint is not None)
            )
            parts.append(payload)
            if checkpoint is not None:
                parts.append(checkpoint)
        data = wire.grant_request(leases, self._epoch, parts)

        def on_reply(reply: Request | FleetUnavailable) -> None:
            if not isinstance(reply, Request):
                # Not from here: the core may be in the middle of telling us what to do.
                asyncio.get_running_loop().call_soon(self._host.tell, events.GrantAnswered(grant, None))
                return
            accepted: list[int] | None = None
            try:
                answer, _ = frames.unpack(reply.data, GrantReply)
                accepted = answer.accepted
                if answer.reason:
                    log.info("%s refused a grant: %s", grant.car, answer.reason)
            except ProtocolError as error:
                log.warning("%s answered a grant with nonsense: %s", grant.car, error.message)
            self._host.tell(events.GrantAnswered(grant, accepted))

        self._bus.ask(self._to(grant.car, ToCarVerb.GRANT), data, on_reply, timeout_s=limits.GRANT_ACCEPT_S)

    def _to(self, car: str, verb: ToCarVerb) -> str:
        return TO_CAR.build(car=car, verb=verb.value)

    def credit(self, action: events.Credit) -> None:
        """Best effort: the caller says again how far it is."""
        try:
            data = frames.pack(CarCredit(consumed={action.counter: action.consumed}))
            self._bus.publish(self._to(action.car, ToCarVerb.CREDIT), data)
        except FleetUnavailable:
            log.debug("%s isn't told how far the caller of %d is", action.car, action.counter)

    def drop(self, action: events.Drop) -> None:
        try:
            self._bus.publish(self._to(action.car, ToCarVerb.CANCEL), frames.pack(CarCancel(counters=action.counters)))
        except FleetUnavailable:
            log.debug("%s isn't told to drop %s: its next beat is", action.car, action.counters)
