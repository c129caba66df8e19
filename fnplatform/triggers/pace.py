"""How often something may start: at most ``count`` times in any ``per_s`` seconds. Pure.

A burst of ``count`` goes at once where nothing went before; what had to wait goes evenly spaced after it. GCRA alone, with
a burst of ``count``, lets almost twice as many through in the first ``per_s``: the burst, and what comes back meanwhile. So
the starts of the last ``per_s`` are counted; where ``count`` is over STEPS_MAX in steps of some ``per_s / STEPS_MAX``, each of
which counts as if all of it happened at its end: that holds the limit, and costs ``1 / STEPS_MAX`` of it.
"""

from __future__ import annotations

from collections import deque

from pydantic import Field

from fleet.protocol.messages import RateLimit
from fleet.protocol.messages.base import Message

STEPS_MAX = 64


class PaceState(Message):
    """What a Pace must be given again, so that a restart gives no second burst."""

    starts: list[tuple[float, int]] = Field([])
    """When (unix), and how many."""
    next_unix_s: float = 0.0
    """Something waits, and goes then at the earliest; 0: nothing waits."""
    now_unix_s: float = 0.0
    """The clock when this was written."""


class Pace:
    """The starts of one trigger. ``limit`` None: there is no limit."""

    def __init__(self, limit: RateLimit | None, state: PaceState) -> None:
        self._limit = limit
        self._starts = deque(state.starts)
        self._count = sum(number for _, number in state.starts)
        self._spaced_unix_s = state.next_unix_s
        self._now_unix_s = state.now_unix_s

    def at(self, now_unix_s: float) -> None:
        """The time is now this. A clock that went back means that no time has passed."""
        back_s = self._now_unix_s - now_unix_s
        self._now_unix_s = now_unix_s
        if self._limit is None:
            return
        if back_s > 0:
            self._starts = deque((unix_s - back_s, number) for unix_s, number in self._starts)
            if self._spaced_unix_s:
                self._spaced_unix_s = max(self._spaced_unix_s - back_s, 1e-9)
        while self._starts and self._starts[0][0] + self._limit.per_s <= now_unix_s:
            self._count -= self._starts.popleft()[1]

    @property
    def idle(self) -> bool:
        """Whether nothing that started counts any more."""
        return not self._starts and not self._spaced_unix_s

    @property
    def next_unix_s(self) -> float:
        """When the next start is allowed."""
        if self._limit is None:
            return self._now_unix_s
        earliest = max(self._now_unix_s, self._spaced_unix_s)
        if self._count >= self._limit.count:
            earliest = max(earliest, self._starts[0][0] + self._limit.per_s)
        return earliest

    def may_start(self) -> bool:
        """Whether one more start is allowed now."""
        return self.next_unix_s <= self._now_unix_s

    def start(self) -> None:
        """Something starts now."""
        if self._limit is None:
            return
        assert self.may_start(), self.next_unix_s
        now_unix_s = self._now_unix_s
        count_max, per_s = self._limit.count, self._limit.per_s
        starts, number = self._starts, 1
        same = bool(starts) and starts[-1][0] == now_unix_s
        stepped = count_max > STEPS_MAX and len(starts) > 1 and now_unix_s - starts[-2][0] <= per_s / STEPS_MAX
        if same or stepped:
            number += starts.pop()[1]
        starts.append((now_unix_s, number))
        self._count += 1
        if self._spaced_unix_s:
            # Who is asked a little late makes up for it; who is asked very late doesn't make a burst of it.
            self._spaced_unix_s = max(self._spaced_unix_s, now_unix_s - per_s / STEPS_MAX) + per_s / count_max

    def waits(self, waiting: bool) -> None:
        """Whether something waits for its start; while it does, starts are evenly spaced."""
        if self._limit is None or not waiting:
            self._spaced_unix_s = 0.0
        elif not self._spaced_unix_s:
            self._spaced_unix_s = self.next_unix_s

    def state(self) -> PaceState:
        """What must be stored with what was started."""
        return PaceState.model_construct(
            starts=list(self._starts), next_unix_s=self._spaced_unix_s, now_unix_s=self._now_unix_s
        )
