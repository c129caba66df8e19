"""What is durable of events and clocks: the cursor, one message that is stored together with what it accounts for."""

from __future__ import annotations

from pydantic import Field

from fleet.protocol.messages.base import Message, Token, Version
from fnplatform.triggers.shaping import ShaperState


class LaneState(Message):
    """What one subject trigger has to do that isn't said by the cursor's ``seq`` alone.

    Written while the trigger lags behind the others, or holds events back. Whose trigger it is stands here too, so that a
    later leader can finish it after the trigger was changed.
    """

    tenant: Token
    app: Token
    function: Token
    version: Version
    index: int = 0
    upto: int = 0
    """Events up to this sequence are done."""
    until: int | None = None
    """The trigger was changed: events beyond are the business of others."""
    shaper: ShaperState | None = None
    """What it holds back."""


class Cursor(Message):
    """Events up to ``seq`` have started what they start, but for what ``lagging`` says. By trigger id both.

    ``epoch`` and ``stamp`` say which write this is: the leader's epoch, and a number that grows with each of its writes.
    """

    seq: int = 0
    epoch: int = 0
    stamp: int = 0
    lagging: dict[str, LaneState] = Field(default_factory=dict)

    def behind(self, last_seq: int) -> int:
        """How many of the events up to ``last_seq`` may still start something: at most so many."""
        uptos = [
            lane.upto if lane.until is None else last_seq - (lane.until - lane.upto) for lane in self.lagging.values()
        ]
        return max(0, last_seq - min([self.seq, *uptos]))

    def held_for(self, tenant: str, app: str) -> int:
        """How many events the triggers of an app hold back, or have still to look at: at most so many."""
        found = 0
        for lane in self.lagging.values():
            if (lane.tenant, lane.app) == (tenant, app):
                end = self.seq if lane.until is None else min(self.seq, lane.until)
                found += max(0, end - lane.upto) + (len(lane.shaper.held) if lane.shaper is not None else 0)
        return found
