"""What the agent says to the control plane: messages out, answers back as events. No decision is made here.

Everything is asked with a reply subject and never waited for: an answer that doesn't come, or brings an error, is asked
again by the core when it is due.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from fleet.protocol.errors import FleetUnavailable, ProtocolError
from fleet.protocol.frames import pack, unpack
from fleet.protocol.limits import BEAT_S, REQUEST_S, SAVED_BYTES_MAX
from fleet.protocol.messages import (
    Beat,
    BeatReply,
    CarHello,
    CarReply,
    CheckpointPut,
    GrantReply,
    Lease,
    LogLines,
    Message,
    OutcomeReply,
    OutcomeReport,
    Release,
)
from fleet.protocol.subjects import CAR, PARTITION, CarVerb
from fleet.transport import Bus, Request
from runtime import agent_types as t
from runtime.agent_config import AgentConfig
from runtime.agent_logs import LOG_ANSWER_S, LOG_RETRY_S, LOG_S, Answered, LogBatches
from runtime.signals.model import Clock

log = logging.getLogger("fleet.car")

Bytes = bytes | bytearray | memoryview


class ControlLink:
    """See the module. ``bus`` is None until the first connection stands."""

    def __init__(self, config: AgentConfig, clock: Clock, feed: Callable[[t.Event], None]) -> None:
        self.bus: Bus | None = None
        self.config = config
        self._clock = clock
        self._feed = feed
        self._subject = {verb: CAR.build(car=config.car, partition=PARTITION, verb=verb) for verb in CarVerb}
        self._logs = LogBatches(self._send_logs, self._flush_logs_later)
        self._log_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._killed_s = 0.0
        self.actions: dict[type, Callable[[Any], None]] = {
            t.ReplyGrant: self._reply_grant, t.SendHello: self._send_hello, t.SendOffer: self._send_offer,
            t.SendCheckpoint: lambda action: self.checkpoint(action.lease, action.state),
            t.SendBeat: self._send_beat, t.SendRelease: self._send_release, t.SendReport: self._send_report,
        }  # fmt: skip

    def killed(self) -> None:
        """The slots of a departure were just killed."""
        self._killed_s = self._clock.monotonic_s()

    def lines(self, lease: Lease, lines: Iterable[tuple[float, int, str]], item: int | None) -> None:
        """Forward what a function printed, of a chunk at ``item``."""
        self._logs.add(lease, lines, item)
        self._flush_logs_later(LOG_S)

    def checkpoint(self, lease: Lease, state: Bytes) -> None:
        """Forward what a function saved; what is too large is not kept."""
        if len(state) <= SAVED_BYTES_MAX:
            self._send(CarVerb.CHECKPOINT, pack(CheckpointPut.model_construct(lease=lease), [state]))

    async def close(self) -> None:
        """Send what waits and close the connection, within its time limit."""
        self._closed = True
        if self._log_timer is not None:
            self._log_timer.cancel()
        self._logs.flush()
        if self.bus is not None:
            await self.bus.close()

    def _flush_logs(self) -> None:
        self._log_timer = None
        self._logs.flush()

    def _flush_logs_later(self, after_s: float = LOG_RETRY_S) -> None:
        if self._log_timer is None and not self._closed:
            self._log_timer = asyncio.get_running_loop().call_later(after_s, self._flush_logs)

    def _send(self, verb: CarVerb, data: bytes) -> None:
        """Best effort: who must be heard asks and repeats."""
        if self.bus is not None and self.bus.connected:
            self.bus.publish(self._subject[verb], data)

    def _ask(
        self, verb: CarVerb, data: bytes, model: type[Any], on_reply: Callable[[Any], None], timeout_s: float
    ) -> None:
        """Ask; only a reply without an error is heard, all else is asked again by the core."""

        def replied(got: Request | FleetUnavailable) -> None:
            if isinstance(got, FleetUnavailable):
                return
            try:
                reply, _ = unpack(got.data, model)
            except ProtocolError as error:
                log.warning("reply to %s: %s", verb, error)
                return
            if reply.error is not None:
                log.warning("%s was refused: %s", verb, reply.error.message)
                return
            on_reply(reply)

        if self.bus is not None:
            self.bus.ask(self._subject[verb], data, replied, timeout_s=timeout_s)

    def publish(self, subject: str, model: Message) -> None:
        """Answer a request of the control plane; nothing if it wants no answer."""
        if subject and self.bus is not None and self.bus.connected:
            self.bus.publish(subject, pack(model))

    def _reply_grant(self, action: t.ReplyGrant) -> None:
        reply = GrantReply.model_construct(error=None, accepted=list(action.accepted), reason=action.reason)
        self.publish(action.reply, reply)

    def _send_hello(self, action: t.SendHello) -> None:
        config = self.config
        hello = CarHello(
            boot=config.boot, version=config.version, isolation=list(action.held), isolation_missing=list(action.missing),
            simulated=config.simulated, standing=action.standing, offer=action.offer,
        )  # fmt: skip
        self._ask(
            CarVerb.HELLO, pack(hello), CarReply, lambda reply: self._feed(t.HelloAnswered(reply.epoch)), REQUEST_S
        )

    def _send_offer(self, action: t.SendOffer) -> None:
        self._send(CarVerb.OFFER, pack(action.offer))

    def _send_beat(self, action: t.SendBeat) -> None:
        sent_s = self._clock.monotonic_s()
        beat = Beat.model_construct(
            boot=self.config.boot, leases=list(action.leases), standing=action.standing, offer=action.offer,
            slots=list(action.slots),
        )  # fmt: skip

        def answered(reply: BeatReply) -> None:
            self._feed(t.BeatAnswered(sent_s, reply.epoch, tuple(reply.drop), reply.hello))

        self._ask(CarVerb.BEAT, pack(beat), BeatReply, answered, BEAT_S)

    def _send_release(self, action: t.SendRelease) -> None:
        killed_s = max(0.0, self._killed_s - action.heard_s)
        release = Release(
            leases=list(action.leases), standing=action.standing, reason=action.reason,
            signal_unix_s=action.signal_unix_s, killed_s=killed_s, reaped_s=action.reaped_s,
        )  # fmt: skip
        self._ask(
            CarVerb.RELEASE, pack(release), CarReply, lambda _: self._feed(t.ReleaseAnswered(action.number)), REQUEST_S
        )
        log.info(
            "release leases=%d reason=%s killed_ms=%.2f reaped_ms=%.2f",
            len(action.leases), action.reason, killed_s * 1000, action.reaped_s * 1000,
        )  # fmt: skip

    def _send_report(self, action: t.SendReport) -> None:
        if not self._logs.empty:
            self._logs.flush()  # what a call printed comes before its outcome
        report = OutcomeReport.model_construct(outcomes=list(action.outcomes))

        def answered(reply: OutcomeReply) -> None:
            self._feed(t.Verdicts(action.number, tuple(verdict == "committed" for verdict in reply.verdicts)))

        self._ask(CarVerb.OUTCOME, pack(report, action.parts), OutcomeReply, answered, REQUEST_S)

    def _send_logs(self, lines: LogLines, answered: Answered) -> None:
        if self.bus is None:
            answered(False)
            return
        # Whatever the answer says, it was heard.
        self.bus.ask(
            self._subject[CarVerb.LOG],
            pack(lines),
            lambda got: answered(isinstance(got, Request)),
            timeout_s=LOG_ANSWER_S,
        )
