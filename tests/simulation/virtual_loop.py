"""asyncio in virtual time: when nothing is ready, the clock jumps to what comes next. Nothing may wait for the outside."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _NoSelector(selectors.DefaultSelector):
    """Never waits; tells the loop's clock how long it would have."""

    loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        assert self.loop is not None
        assert timeout is not None, "everybody waits for what never happens"
        self.loop.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is its own. The same program runs the same way each time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        selector = _NoSelector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        """Virtual seconds."""
        return self.now_s
