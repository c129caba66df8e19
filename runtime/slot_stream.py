"""A generator's items on their way out of the slot process, and its caller's progress on the way in.

An item goes out at once when none did for FLUSH_S; those that follow sooner share a frame, which a thread sends: the
generator may compute for as long as it likes before it yields again, and gives no time of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from runtime import slot_events
from runtime.guest.inside.wire import pack_items
from runtime.slot_wire import Bytes

FLUSH_S = 0.002
FLUSH_BYTES = 256 * 1024


class Pipe(Protocol):
    """What this needs of ``runtime.slot_main.Pipe``."""

    def send(self, buffers: list[Bytes]) -> None: ...

    def wait_credit(self, job: int) -> int: ...


class ItemStream:
    """The items of one job after another. ``item``, ``flush`` and ``credit`` are called in the thread that runs the guest."""

    def __init__(self, pipe: Pipe, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipe = pipe
        self._clock = clock
        self._lock = threading.Lock()
        self._job = 0
        self._items: list[bytes] = []
        self._bytes = 0
        self._first = 0
        self._consumed = 0
        self._sent_s = -FLUSH_S
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, job: int, consumed: int) -> None:
        """What follows belongs to ``job``, of which ``consumed`` items are known to be taken."""
        self._job, self._first, self._consumed = job, 0, consumed

    def item(self, data: bytes) -> None:
        """One item was yielded."""
        with self._lock:
            self._items.append(data)
            self._bytes += len(data)
            if self._clock() - self._sent_s >= FLUSH_S or self._bytes >= FLUSH_BYTES:
                self._send()
                return
        if not self._wake.is_set():
            self._send_later()

    def flush(self) -> None:
        """Send what waits: it survives this process from now on."""
        with self._lock:
            if self._items:
                self._send()

    def credit(self) -> int:
        """Wait until more items are consumed than was known; how many more. Sends what waits before.

        A run that waits before its first item says so with an empty list: its time must not go on.
        """
        with self._lock:
            if self._items or not self._first:
                self._send()
        consumed = self._pipe.wait_credit(self._job)
        more = consumed - self._consumed
        self._consumed = consumed
        return more

    def _send(self) -> None:
        items, self._items, self._bytes = self._items, [], 0
        first, self._first = self._first, self._first + len(items)
        self._pipe.send(slot_events.items_frame(self._job, first, pack_items(items)))
        self._sent_s = self._clock()

    def _send_later(self) -> None:
        if self._thread is None:
            # Not before the slot is locked in: that is done to one thread and inherited by those it starts.
            self._thread = threading.Thread(target=self._keep_sending, name="items", daemon=True)
            self._thread.start()
        self._wake.set()

    def _keep_sending(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(FLUSH_S)
            self._wake.clear()
            try:
                self.flush()
            except OSError:
                return  # The agent is gone; the other thread notices too.
