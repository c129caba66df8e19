"""A child process that can't outlive its parent, also when the parent is killed with SIGKILL.

Two ropes, because each fails alone: the end of a pipe that only the parent holds (a frozen child doesn't notice it), and
``PR_SET_PDEATHSIG`` (Linux only; it follows the *thread* that spawned the child and is cleared by setresuid).
The parent starts the child with ``environment(...)`` and ``stdin=PIPE``; the child calls ``tie_from_environment`` first.

Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

VARIABLE = "FLEET_LIFELINE"
PR_SET_PDEATHSIG = 1
GRACE_S = 10.0
"""How long a child whose pipe ended may take to stop in order."""


def environment(base: dict[str, str], *, death_signal: bool) -> dict[str, str]:
    """``base`` for a child that is to be tied to this process.

    ``death_signal`` only where the spawning thread lives as long as this process.
    """
    env = {key: value for key, value in base.items() if key != "PYTHONDONTWRITEBYTECODE"}
    env[VARIABLE] = str(os.getpid()) if death_signal else "pipe"
    return env


def tie_from_environment() -> None:
    """Tie this process to its parent where the parent asked for it; else nothing. Call it in the main thread."""
    wanted = os.environ.pop(VARIABLE, "")
    if not wanted:
        return
    if wanted.isdecimal() and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(wanted):  # it died before the line above: no signal will ever come
            os._exit(1)
    threading.Thread(target=_watch_pipe, args=(sys.stdin.fileno(),), name="lifeline", daemon=True).start()


def _watch_pipe(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except OSError:  # closed or broken: the same news as its end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
