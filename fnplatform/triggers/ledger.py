"""What of clocks is settled: one message, stored in one atomic batch with the calls of the ticks that it settles.

It lies beside the cursor of events, not in it: ticks and events never wait for each other, a failure of one isn't the other's,
and a thousand clocks aren't written again with every batch of events.

``clocks`` claims the message under our epoch: what was sent before, by us or by an earlier leader, can't be stored any more,
because every batch expects the message that it knew. So after an answer that got lost, ``clocks`` tells what is true.

Errors: Moved when a later leader claimed it; StreamFull: nothing was stored; FleetUnavailable: nobody knows, ask ``clocks``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from fleet.protocol import frames
from fleet.protocol.errors import FleetError, FleetUnavailable
from fleet.protocol.messages import InvocationState, Message
from fleet.protocol.subjects import CLOCKS, STREAM_INVOCATIONS
from fnplatform.atomic import Put, publish_batch
from fnplatform.dispatcher.wire import invocation_subject
from fnplatform.jetstream import JetStream, WrongSequence
from fnplatform.triggers.clocks import ClockState

log = logging.getLogger("fleet.triggers")

Submit = Callable[[InvocationState, int, bytes], None]


class Moved(FleetError):
    """A later leader runs the clocks: this one has nothing more to do."""

    code = "clocks_moved"


class Settled(Message):
    """As stored: by trigger id, written by the leader of ``epoch``."""

    epoch: int = 0
    clocks: dict[str, ClockState] = {}  # noqa: RUF012


class ClockLedger:
    """Writes for one term of leadership. ``submit`` is told of each call that was stored, with its sequence."""

    def __init__(self, js: JetStream, partition: str, epoch: int, submit: Submit) -> None:
        self._js = js
        self._partition = partition
        self._subject = CLOCKS.build(partition=partition)
        self._epoch = epoch
        self._submit = submit
        self._seq = 0
        self._known: dict[str, ClockState] = {}

    async def clocks(self) -> Mapping[str, ClockState]:
        """Claim it; what is durable. Moved, FleetUnavailable."""
        while True:
            found = await self._js.get_last(STREAM_INVOCATIONS, self._subject)
            before, expect = (Settled(), 0) if found is None else (_read(bytes(found.data)), found.seq)
            if before.epoch > self._epoch:
                raise Moved(f"the leader of epoch {before.epoch} runs the clocks")
            try:
                self._seq = await self._js.publish(
                    self._subject, self._packed(before.clocks), expect_last_subject_seq=expect
                )
            except WrongSequence:
                continue  # something that was sent before arrived in between
            self._known = before.clocks
            return self._known

    async def store_ticks(
        self, calls: Sequence[tuple[InvocationState, bytes]], clocks: Mapping[str, ClockState]
    ) -> None:
        """All in one step. Moved, StreamFull, FleetUnavailable."""
        try:
            await self._store(calls, clocks)
        except WrongSequence:
            known = self._known
            if await self.clocks() != known:
                raise FleetUnavailable("ticks were stored whose answer was lost", hint="") from None
            # A call of that name waits already: its clock was deployed again, and the machine's was set back.
            waiting = await self._waiting(calls)
            log.warning("%d ticks run already", len(waiting))
            try:
                await self._store([call for call in calls if call[0].call not in waiting], clocks)
            except WrongSequence:
                raise FleetUnavailable("the queue changes all the time", hint="") from None

    async def _store(self, calls: Sequence[tuple[InvocationState, bytes]], clocks: Mapping[str, ClockState]) -> None:
        puts = [
            Put(invocation_subject(state, self._partition), frames.pack(state, [payload]), 0)
            for state, payload in calls
        ]
        first = await publish_batch(self._js, [*puts, Put(self._subject, self._packed(clocks), self._seq)])
        self._seq = first + len(puts)
        self._known = dict(clocks)
        for seq, (state, payload) in enumerate(calls, first):
            self._submit(state, seq, payload)

    async def _waiting(self, calls: Sequence[tuple[InvocationState, bytes]]) -> set[str]:
        """Those that the queue holds."""
        subjects = {invocation_subject(state, self._partition): state.call for state, _ in calls}
        found = await self._js.get_last_of_each(STREAM_INVOCATIONS, list(subjects), limit=len(subjects))
        return {subjects[message.subject] for message in found}

    def _packed(self, clocks: Mapping[str, ClockState]) -> bytes:
        return Settled(epoch=self._epoch, clocks=dict(clocks)).model_dump_json(exclude_defaults=True).encode()


def _read(data: bytes) -> Settled:
    return Settled.model_validate_json(data)
