"""Virtual time: a heap of things that will happen, in order, with nothing but a seed to decide what is random."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

UNIX_S = 1_800_000_000.0


class Clockwork:
    """Runs callbacks at virtual times. Two callbacks of the same time run in the order they were asked for."""

    def __init__(self, seed: int) -> None:
        self.now_s = 0.0
        self.random = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0

    @property
    def unix_s(self) -> float:
        """Seconds since 1970 in the simulated world."""
        return UNIX_S + self.now_s

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do ``act`` when ``delay_s`` passed."""
        self._made += 1
        heapq.heappush(self._heap, (self.now_s + max(0.0, delay_s), self._made, act))

    def run_until(self, end_s: float, done: Callable[[], bool]) -> None:
        """Let things happen until ``end_s`` or ``done()``."""
        while self._heap and self._heap[0][0] <= end_s and not done():
            self.now_s, _, act = heapq.heappop(self._heap)
            act()


class Wire:
    """One direction between two parties: messages arrive in order, late, or not at all while it is cut."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self._last_s = 0.0
        self.cut = False
        self.generation = 0

    def send(self, deliver: Callable[[], None]) -> None:
        """Call ``deliver`` when the message arrives; a cut before that loses it."""
        if self.cut:
            return
        clock = self._clock
        delay_s = clock.random.choice((0.0002, 0.0005, 0.001, 0.003, 0.03))
        self._last_s = max(self._last_s, clock.now_s + delay_s)
        sent_in = self.generation

        def arrive() -> None:
            if not self.cut and self.generation == sent_in:
                deliver()

        clock.after(self._last_s - clock.now_s, arrive)

    def break_off(self) -> None:
        """Lose what is on its way."""
        self.generation += 1
