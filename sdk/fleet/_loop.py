"""One background thread with an event loop: everything that talks to the platform runs there, whoever asks.

Callers block on a bare lock or await a future of their own loop: the cheapest hand-over either way (a warm call crosses
threads twice, and each crossing is a wake-up of some 50 us on a busy machine).
"""

from __future__ import annotations

import _thread
import asyncio
import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, cast

import anyio
import anyio.abc

from fleet.protocol.errors import FleetError

T = TypeVar("T")
log = logging.getLogger("fleet.client")

STOP_S = 3.0


class Waiter:
    """A one-shot event between threads. ``set`` may come from any thread, once or more often."""

    __slots__ = ("_lock", "_set")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        self._set = False

    def set(self) -> None:
        """Let the waiting thread go on."""
        if not self._set:
            self._set = True
            self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until set; False after ``timeout_s``. A signal handler (Ctrl-C) interrupts it."""
        return self._lock.acquire(True, -1 if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))


class Awaited:
    """Something under way in the client's loop that is done once, or ends with ``error``. ``arm`` may come from any thread."""

    __slots__ = ("_lock", "_wakers", "born_s", "done", "error")

    def __init__(self) -> None:
        self.born_s = time.monotonic()
        self.done = False
        self.error: FleetError | None = None
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []

    def arm(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called once it is done; at once if it is."""
        with self._lock:
            if not self.done:
                self._wakers.append(wake)
                return
        wake()

    def _end(self, error: FleetError | None) -> list[Callable[[], None]] | None:
        """Note that it is done: whom to wake, or None where it was done before."""
        with self._lock:
            if self.done:
                return None
            self.error, self.done = error, True
            wakers, self._wakers = self._wakers, []
        return wakers


async def wait_aio(arm: Callable[[Callable[[], None]], None], timeout_s: float | None = None) -> bool:
    """Await in the running loop until the callback given to ``arm`` is called from any thread; False on time-out."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(finish)
        except RuntimeError:  # the caller's loop is closed: nobody waits any more
            log.debug("a loop closed while it waited for a call")

    arm(wake)
    if timeout_s is None:
        await future
        return True
    try:
        async with asyncio.timeout(timeout_s):
            await future
    except TimeoutError:
        return False
    return True


class _Job(Generic[T]):
    """One coroutine that runs in the loop for somebody outside."""

    __slots__ = ("done", "error", "scope", "value", "wake")

    def __init__(self) -> None:
        self.value: T | None = None
        self.error: BaseException | None = None
        self.done = False
        self.wake: Callable[[], None] | None = None
        self.scope: anyio.CancelScope | None = None

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            with anyio.CancelScope() as self.scope:
                self.value = await work()
        except Exception as error:  # belongs to whoever asked
            self.error = error
        finally:
            self.done = True
            if self.wake is not None:
                self.wake()

    def get(self) -> T:
        if self.error is not None:
            raise self.error
        return cast(T, self.value)


class LoopThread:
    """The thread, started by the constructor; ``stop`` ends it."""

    def __init__(self) -> None:
        ready = Waiter()
        self._thread = threading.Thread(target=self._main, args=(ready,), name="fleet-client", daemon=True)
        self._stopping: anyio.Event | None = None
        self._failure: BaseException | None = None
        self._thread.start()
        ready.wait()
        if self._failure is not None:
            raise self._failure

    def _main(self, ready: Waiter) -> None:
        options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None and sys.platform != "win32"}
        try:
            anyio.run(self._serve, ready, backend="asyncio", backend_options=options)
        except BaseException as error:
            self._failure = error
            log.debug("the client's loop ended", exc_info=True)
        finally:
            ready.set()

    async def _serve(self, ready: Waiter) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopping = anyio.Event()
        async with anyio.create_task_group() as self.group:
            ready.set()
            await self._stopping.wait()
            self.group.cancel_scope.cancel()

    @property
    def alive(self) -> bool:
        """Whether the loop still runs."""
        return self._thread.is_alive()

    def inside(self) -> bool:
        """Whether the caller runs in this very thread."""
        return threading.current_thread() is self._thread

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Let the loop call ``call(*args)`` soon. RuntimeError when the loop has ended."""
        self.loop.call_soon_threadsafe(call, *args)

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """From inside the loop: run ``work`` as a task of the client."""
        self.group.start_soon(work, *args)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the loop and block for its value. Ctrl-C cancels it."""
        assert not self.inside(), "the client's loop would wait for itself"
        job, waiter = _Job[T](), Waiter()
        job.wake = waiter.set
        self.post(self.group.start_soon, job.run, work)
        try:
            waiter.wait()
        except BaseException:
            self.post(self._cancel, job)
            raise
        return job.get()

    async def run_aio(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the loop and await its value in the caller's loop; cancelling that cancels it."""
        job = _Job[T]()

        def arm(wake: Callable[[], None]) -> None:
            job.wake = wake
            self.post(self.group.start_soon, job.run, work)

        try:
            await wait_aio(arm)
        except asyncio.CancelledError:
            self.post(self._cancel, job)
            raise
        return job.get()

    @staticmethod
    def _cancel(job: _Job[Any]) -> None:
        if job.scope is not None:
            job.scope.cancel()

    def stop(self) -> None:
        """End the loop and wait for it, at most STOP_S."""
        if self._thread.is_alive() and self._stopping is not None:
            self.post(self._stopping.set)
            self._thread.join(STOP_S)
