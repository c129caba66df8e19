"""Sockets, processes, signals, terminals: whoever asks for them is told why there are none, and what to do instead.

What Python's own code probes with ``hasattr`` stays absent (``os.fork``), with a sentence in the AttributeError; what
every program takes for granted (``socket.socket``, ``subprocess.run``) raises PermissionError when it is used, which is
the OSError that such code is prepared for.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import importlib
import multiprocessing
import multiprocessing.context
import multiprocessing.pool
import multiprocessing.process
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from .reasons import FILES, NETWORK, OPENSSL, PROCESSES, SIGNALS, TERMINAL, THREADS, USERS, UTC

HOST_NAME = "sandbox"

_ABSENT = {
    "os": {
        PROCESSES: "fork forkpty system execv execve execl execle execlp execlpe execvp execvpe posix_spawn posix_spawnp "
        "spawnl spawnle spawnlp spawnlpe spawnv spawnve spawnvp spawnvpe wait wait3 wait4 waitid waitpid kill killpg nice "
        "getppid getpgid getpgrp getsid setsid setpgid pidfd_open "
        "getpriority setpriority pipe pipe2 daemon",
        USERS: "getuid geteuid getgid getegid getgroups getlogin setuid setgid seteuid setegid setgroups initgroups umask "
        "chown fchown lchown chroot getresuid getresgid",
        TERMINAL: "get_terminal_size openpty ttyname ctermid tcgetpgrp tcsetpgrp login_tty",
        FILES: "statvfs fstatvfs mkfifo mknod sync lockf sendfile copy_file_range splice memfd_create posix_fallocate "
        "posix_fadvise fchmod getxattr setxattr listxattr removexattr inotify_init eventfd",
    },
    "signal": {
        SIGNALS: "alarm setitimer getitimer pause sigwait sigwaitinfo sigtimedwait sigpending pthread_kill pthread_sigmask "
        "siginterrupt set_wakeup_fd valid_signals pidfd_send_signal"
    },
    "time": {UTC: "tzset"},
    "hashlib": {OPENSSL: "scrypt"},
    "shutil": {FILES: "disk_usage chown"},
}
_SHARED = "Pool Manager Pipe Queue SimpleQueue JoinableQueue Value Array RawValue RawArray"
_LOCKS = "Lock RLock Condition Semaphore BoundedSemaphore Event Barrier"


def refuse(kind: type[Exception], reason: str) -> Callable[..., Any]:
    """A function that raises ``kind``, whatever it is called with."""

    def refused(*_args: Any, **_kwargs: Any) -> Any:
        raise kind(reason)

    return refused


def _put(place: Any, names: str, value: Any) -> None:
    for name in names.split():
        setattr(place, name, value)


def install() -> None:
    """Patch the standard library, once it is imported."""
    for name, reasons in _ABSENT.items():
        _explain_absent(name, {each: reason for reason, names in reasons.items() for each in names.split()})
    _install_network()
    _install_processes()
    sys.breakpointhook = refuse(RuntimeError, f"breakpoint() can't ask anybody: {TERMINAL}")


def _explain_absent(module_name: str, reasons: dict[str, str]) -> None:
    """Let a module's AttributeError say why. ``hasattr`` and ``getattr`` with a default answer as ever."""
    module = importlib.import_module(module_name)
    before = getattr(module, "__getattr__", None)

    def absent(name: str) -> Any:
        if name in reasons:
            text = f"{module_name}.{name} isn't available on a car: {reasons[name]}"
            raise AttributeError(text, name=name, obj=module)
        if before is not None:
            return before(name)
        raise AttributeError(f"module {module_name!r} has no attribute {name!r}", name=name, obj=module)

    setattr(module, "__getattr__", absent)  # noqa: B010


def _install_network() -> None:
    no_network = refuse(PermissionError, NETWORK)
    _put(socket.socket, "__init__ connect bind", no_network)
    _put(socket, "getaddrinfo getnameinfo gethostbyname gethostbyname_ex gethostbyaddr socketpair fromfd", no_network)
    _put(socket, "create_connection create_server", no_network)
    _put(socket, "gethostname getfqdn", lambda *_name: HOST_NAME)

    # Without ssl Python leaves these out, and https says "unknown url type" instead of why.
    class HTTPSConnection(http.client.HTTPConnection):
        """As far as a sandbox goes."""

        default_port = 443

        def __init__(self, *args: Any, context: Any = None, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    class HTTPSHandler(urllib.request.AbstractHTTPHandler):
        """As far as a sandbox goes."""

        def __init__(self, debuglevel: int | None = None, context: Any = None, check_hostname: Any = None) -> None:
            super().__init__(debuglevel)  # type: ignore[arg-type]

        def https_open(self, req: Any) -> Any:
            """Fails as ``http_open`` does."""
            return self.do_open(HTTPSConnection, req)

        https_request = urllib.request.AbstractHTTPHandler.do_request_

    setattr(http.client, "HTTPSConnection", HTTPSConnection)  # noqa: B010
    setattr(urllib.request, "HTTPSHandler", HTTPSHandler)  # noqa: B010


def _install_processes() -> None:
    no_process = refuse(PermissionError, PROCESSES)
    _put(subprocess.Popen, "__init__", no_process)
    _put(os, "popen", no_process)
    no_worker = refuse(RuntimeError, PROCESSES)
    _put(multiprocessing.process.BaseProcess, "start", no_worker)
    for place in (multiprocessing.context.BaseContext, multiprocessing):
        _put(place, _SHARED, no_worker)
    for name in _LOCKS.split():  # Packages make such locks in case somebody starts processes: those of threads do here.
        lock = getattr(threading, name)
        _put(multiprocessing, name, lock)
        _put(multiprocessing.context.BaseContext, name, staticmethod(lock))
    _put(multiprocessing.pool.ThreadPool, "__init__", refuse(RuntimeError, THREADS))
    _put(concurrent.futures.ProcessPoolExecutor, "__init__", no_worker)


def install_clocks() -> None:
    """Clocks of processor time, which WASI doesn't have: time since this instance began. Call it in each instance."""
    start_ns = time.monotonic_ns()

    def used_ns() -> int:
        return time.monotonic_ns() - start_ns

    def used_s() -> float:
        return used_ns() / 1e9

    def times() -> Any:
        return os.times_result((used_s(), 0.0, 0.0, 0.0, time.monotonic()))

    _put(time, "process_time thread_time", used_s)
    _put(time, "process_time_ns thread_time_ns", used_ns)
    _put(os, "times", times)


def install_hashes() -> None:
    """``hashlib.pbkdf2_hmac``, which needs OpenSSL elsewhere."""
    import hashlib
    import hmac

    def pbkdf2_hmac(hash_name: str, password: Any, salt: Any, iterations: int, dklen: int | None = None) -> bytes:
        """As the function of the same name; 100,000 rounds take a few hundred milliseconds."""
        if iterations < 1:
            raise ValueError("iteration value must be greater than 0.")
        base = hmac.new(bytes(password), None, hash_name)
        size = base.digest_size if dklen is None else dklen
        if size < 1:
            raise ValueError("key length must be greater than 0.")
        made = b""
        while len(made) < size:
            block = base.copy()
            block.update(bytes(salt) + (len(made) // base.digest_size + 1).to_bytes(4, "big"))
            last = block.digest()
            mixed = int.from_bytes(last, "big")
            for _round in range(iterations - 1):
                block = base.copy()
                block.update(last)
                last = block.digest()
                mixed ^= int.from_bytes(last, "big")
            made += mixed.to_bytes(base.digest_size, "big")
        return made[:size]

    setattr(hashlib, "pbkdf2_hmac", pbkdf2_hmac)  # noqa: B010
