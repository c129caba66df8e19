"""The component's exports, and what is done once: at build time (imports), and when an instance starts."""

from __future__ import annotations

import sys

_BARE = frozenset(sys.modules)
"""What Python has loaded before any of our imports: a bundle can't shadow these, as a script's folder can't."""

from . import files, linux_errors  # noqa: E402

linux_errors.install()
files.install()

import gc  # noqa: E402
import hashlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402

import cloudpickle  # noqa: E402, F401
import wit_world  # noqa: E402
from wit_world.imports import host  # noqa: E402

from fleet import _ref  # noqa: E402

from . import between, loop, preload, reasons, refs, refusals, threads, wire  # noqa: E402
from . import packages as _packages  # noqa: E402, F401
from .fleet_parts import import_fleet  # noqa: E402
from .jobs import Jobs, warm_bundle  # noqa: E402
from .output import Output, install  # noqa: E402

preload.standard_library()
files.install_sqlite()
ZONES = preload.time_zones()
import_fleet()
loop.install()
threads.install()
refusals.install()
refusals.install_hashes()
reasons.install()
between.install()
wire.connect(host)
_ref.install(refs.load)
_output = Output()
_jobs = Jobs(_output, _BARE)
_WARM_BUNDLE = warm_bundle()
_response = b""
_probes: list[bytes] = []
gc.collect()
gc.freeze()  # The snapshot's objects live for ever: collections needn't walk them, nor copy their pages.


def _start() -> None:
    """What can't be in a snapshot, because it must differ from one instance to the next; then warm up.

    The first use of a page of the snapshot costs a page fault. Doing everything once that a call does, while the
    instance waits for its program, halves the time of its first call.
    """
    install(_output)
    files.activate()
    refusals.install_clocks()
    random.seed()
    logging._startTime = time.time_ns()  # type: ignore[attr-defined]
    sys.argv = ["fleet"]
    sys.path[:] = []
    os.environ.update({"HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "USER": "fleet", "FLEET_SANDBOX": "wasm"})
    Jobs(_output, _BARE).warm_up(_WARM_BUNDLE)
    between.settle()


class WitWorld(wit_world.WitWorld):  # type: ignore[misc]
    """See ``world.wit``."""

    def room(self, size: int, mode: int) -> int:
        """Reserve room for requests."""
        return wire.make_room(size, mode)

    def enter(self, what: int, size: int) -> int:
        """Take one request, give one response."""
        global _response
        _response = b""
        if what == wire.PROBE:
            _probes.append(hashlib.sha256(size.to_bytes(4, "little")).digest())
            return wire.respond(_probes[-1])
        request = wire.request(size)
        if what == wire.RUN:
            _response = _jobs.run(request)
        elif what == wire.STREAM:
            _response = _jobs.stream(request)
        elif what == wire.LOAD:
            _response = _jobs.load(request)
        elif what == wire.HOLD:
            _response = refs.hold(request)
        elif what == wire.DROP:
            _response = refs.drop(request)
        else:
            assert what == wire.START, what
            _start()
        return wire.respond(_response)
