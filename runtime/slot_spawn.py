"""How a slot's process comes to be: a fresh interpreter with a pipe, a page and a place for its last words, no more."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from runtime.slot_page import make_page

SOCKET_BYTES = 1 << 20
"""Wanted size of the pipe's buffers; the kernel gives what it allows."""
_PIPE_FD, _PAGE_FD = 3, 4
_BOOT = "import sys,json;a=json.loads(sys.argv[1]);sys.path[:0]=a[0];from runtime.slot_main import main;main(a[1])"


@dataclass(frozen=True, slots=True)
class Spawned:
    """A slot's process and the agent's ends of what it was given. All of it belongs to the caller."""

    pid: int
    socket: socket.socket
    """The pipe, non-blocking."""
    page: int
    """Descriptor of the shared page (``slot_page``)."""
    stderr: int
    """Descriptor of what the process writes to stdout and stderr."""


def spawn(path_aot: str, data_bytes_max: int, lane: str = "wasm") -> Spawned:
    """Start a slot process of ``lane`` (``path_aot`` is the wasm lane's). OSError when the machine has no process,
    descriptor or memory left, or the packages of the lane aren't installed."""
    import_path = list(_import_path(lane))
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
            ours.setblocking(False)
            page = make_page()
            undo.callback(os.close, page)
            stderr = os.memfd_create("fleet-slot-stderr", os.MFD_CLOEXEC)
            undo.callback(os.close, stderr)
            settings = {
                "pipe": _PIPE_FD,
                "page": _PAGE_FD,
                "parent_pid": os.getpid(),
                "path_aot": path_aot,
                "started_monotonic_s": time.monotonic(),
                "data_bytes_max": data_bytes_max,
                "lane": lane,
                "import_path": import_path,
            }
            pid = os.posix_spawn(
                sys.executable,
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-X",
                    "utf8",
                    "-c",
                    _BOOT,
                    json.dumps([import_path, json.dumps(settings)]),
                ],
                {},  # Nothing of the agent's environment, credentials least of all.
                file_actions=_descriptors(theirs.fileno(), page, stderr),
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGCHLD],
            )
        undo.pop_all()
    return Spawned(pid, ours, page, stderr)


_OURS = ("runtime", "fleet")
_JAX = ("jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum", "flatbuffers")
_PACKAGES = {"wasm": (*_OURS, "wasmtime"), "jax-cpu": (*_OURS, *_JAX), "jax-gpu": (*_OURS, *_JAX)}


@functools.cache
def _import_path(lane: str) -> list[str]:
    """Folders that a slot imports from: ours and those of its lane; the standard library it finds by itself."""
    folders: list[str] = []
    for package in _PACKAGES[lane]:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise FileNotFoundError(f"the package {package} is not installed")
        folder = str(Path(found.origin).parent.parent)
        if folder not in folders:
            folders.append(folder)
    return folders


def _descriptors(pipe: int, page: int, stderr: int) -> list[tuple[int, ...] | tuple[int, int, str, int, int]]:
    """File actions that give the child these three and nothing else."""
    # dup2 onto a number that is still to be copied would lose that one: first out of the way, then in place.
    first = max(pipe, page, stderr, 64) + 1
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    for offset, descriptor in enumerate((pipe, page, stderr)):
        actions.append((os.POSIX_SPAWN_DUP2, descriptor, first + offset))
    actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    for offset, place in ((2, 1), (2, 2), (0, _PIPE_FD), (1, _PAGE_FD)):
        actions.append((os.POSIX_SPAWN_DUP2, first + offset, place))
    actions += [(os.POSIX_SPAWN_CLOSE, first + offset) for offset in range(3)]
    return actions
