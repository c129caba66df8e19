"""Events that came before this leader looked: their calls are looked up before they may start. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fnplatform.triggers.invocations import call_of
from fnplatform.triggers.plans import Waiting

CHECKS_MAX = 256

CallName = tuple[str, str, str, str]
"""(tenant, app, function, call)"""


class LookUps:
    """The events that are still to be looked up, in order."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()

    def add(self, waiting: Waiting) -> None:
        """The next event."""
        self._waiting.append(waiting)

    def next(self) -> list[CallName]:
        """Calls to be looked up, some of them at a time; none: there are none left."""
        found: list[CallName] = []
        for waiting in self._waiting:
            if len(found) >= CHECKS_MAX:
                break
            found += [(*lane.bound.owner, call_of(lane.bound, waiting.event.head)) for lane, _ in waiting.takers]
        return found

    def answered(self, looked_up: Sequence[CallName], known: set[str]) -> int:
        """Of these calls ``known`` were started before: they lose their takers; how many did."""
        calls = {one[3] for one in looked_up}
        count = 0
        while self._waiting:
            waiting = self._waiting[0]
            by_call = {call_of(lane.bound, waiting.event.head): (lane, key) for lane, key in waiting.takers}
            if not by_call.keys() <= calls:
                break
            self._waiting.popleft()
            count += len(waiting.takers)
            waiting.takers = [taker for call, taker in by_call.items() if call not in known]
            count -= len(waiting.takers)
            waiting.checked = True
        return count
