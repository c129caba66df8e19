"""One thread: locks that tell when nobody will release them, executors that work at once, threads that say why not.

Without this a wait without end traps the sandbox, and one with an end doesn't wait (measured with CPython 3.14 for WASI).
"""

from __future__ import annotations

import _thread
import concurrent.futures.thread
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .reasons import THREADS

_FOREVER = "this would wait forever: a sandbox has one thread, so nobody is there to end the wait"
_LONGEST_S = 1e9


class Lock:
    """As ``threading.Lock``. Whoever holds it is the only thread there is: a second ``acquire`` is a mistake."""

    __slots__ = ("__weakref__", "_held")

    def __init__(self) -> None:
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """True; if it is held, wait for ``timeout`` seconds and return False, or raise RuntimeError without one."""
        if not self._held:
            self._held = True
            return True
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return False
        if timeout == -1:
            raise RuntimeError(_FOREVER)
        if timeout < 0:
            raise ValueError("timeout value must be a non-negative number")
        if timeout > _LONGEST_S:
            raise OverflowError("timeout value is too large")
        time.sleep(timeout)
        return False

    __enter__ = acquire

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        """RuntimeError if it isn't held."""
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False

    def locked(self) -> bool:
        """Whether it is held."""
        return self._held

    def _at_fork_reinit(self) -> None:
        self._held = False

    def __repr__(self) -> str:
        return f"<{'locked' if self._held else 'unlocked'} _thread.lock object at {id(self):#x}>"


def _no_thread(*_args: Any, **_kwargs: Any) -> Any:
    raise RuntimeError(THREADS)


def _submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    """As ``ThreadPoolExecutor.submit``; the future that it returns is done."""
    if self._broken:
        raise concurrent.futures.thread.BrokenThreadPool(self._broken)
    if self._shutdown:
        raise RuntimeError("cannot schedule new futures after shutdown")
    future: Future[Any] = Future()
    worker = self._worker if "_worker" in self.__dict__ else _start_worker(self)
    if worker is None:
        future.set_exception(concurrent.futures.thread.BrokenThreadPool(self._broken))
        return future
    future.set_running_or_notify_cancel()
    try:
        # A copy: as in a thread of its own, what the work does to context variables stays there.
        future.set_result(worker.copy().run(fn, *args, **kwargs))
    except BaseException as error:  # As a pool's thread does: whoever asks for the result gets it.
        future.set_exception(error)
    return future


def _start_worker(self: Any) -> contextvars.Context | None:
    """Run the pool's initializer; the context it leaves behind, None if it failed."""
    context = contextvars.Context()
    self._worker = context
    try:
        context.run(self._create_worker_context().initialize)
    except BaseException:
        concurrent.futures._base.LOGGER.critical("Exception in initializer:", exc_info=True)
        self._broken = "A thread initializer failed, the thread pool is not usable anymore"
        self._worker = None
        return None
    return context


def install() -> None:
    """Patch ``threading``, ``_thread``, ``queue`` and ``concurrent.futures``."""
    for module, name, value in (
        (threading, "Lock", Lock),
        (threading, "_allocate_lock", Lock),
        (threading, "_start_joinable_thread", _no_thread),
        (_thread, "start_joinable_thread", _no_thread),
        (_thread, "start_new_thread", _no_thread),
        (_thread, "start_new", _no_thread),
        (queue, "SimpleQueue", queue._PySimpleQueue),  # type: ignore[attr-defined]
        (concurrent.futures.thread.ThreadPoolExecutor, "submit", _submit),
    ):
        setattr(module, name, value)
