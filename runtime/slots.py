"""Slots as the agent sees them: one locked-in child process each, run, watched and killed from the event loop.

Everything but ``start`` and ``reaped`` is synchronous and never blocks: frames that the pipe doesn't take at once wait
in a queue, events are delivered by calling ``on_event`` straight from the reader.

Errors: ``start`` raises OSError when the machine has no process or memory left. Whatever goes wrong later in the slot
is an event, the last one ``Exited``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import anyio

from fleet.protocol import limits
from fleet.protocol.errors import ProtocolError
from fleet.protocol.lanes import WASM
from fleet.protocol.units import format_bytes
from runtime import slot_events, slot_spawn, slot_wire
from runtime.held_values import HeldValues
from runtime.slot_events import (
    Checkpoint,
    CompiledMade,
    CompiledWanted,
    Done,
    Exited,
    Failed,
    Items,
    JobEvent,
    Kept,
    LogLines,
    Ready,
    SlotEvent,
    Trapped,
)
from runtime.slot_frames import FrameBuffer
from runtime.slot_page import Page
from runtime.slot_sender import Descriptor, FrameSender
from runtime.slot_spawn import Spawned
from runtime.slot_wire import Bytes, Layers, Progress, SlotJob, SlotProgram

log = logging.getLogger("fleet.car")

__all__ = [
    "Checkpoint",
    "CompiledMade",
    "CompiledWanted",
    "Done",
    "Exited",
    "Failed",
    "Items",
    "LogLines",
    "Ready",
    "SlotEvent",
    "SlotImage",
    "SlotProcess",
    "Trapped",
    "kill_all",
]

DATA_BYTES_MAX = limits.MEMORY_BYTES_MAX + 1024 * limits.MIB
"""The largest sandbox, and room for the host's part: payloads on their way in and out."""
_READS_PER_WAKE = 16
_TAIL_BYTES = 4096
_EOF_GRACE_S = 1.0
_MEMORY_WORDS = ("out of memory", "bad_alloc", "memoryerror", "cannot allocate", "resource_exhausted")


class SlotImage(Protocol):
    """What ``start`` needs of ``runtime.guest.build.GuestImage``: the AOT file, authenticated."""

    @property
    def path_aot(self) -> str | Path: ...


class SlotProcess:
    """One slot process. Make it with ``await SlotProcess.start(...)`` in the main thread."""

    def __init__(self, slot_id: str, on_event: Callable[[SlotProcess, SlotEvent], None]) -> None:
        """For ``start`` alone."""
        self.id = slot_id
        self.pid = 0
        self.ready = False
        self.layers = Layers()
        self.memory_bytes = 0
        """Resident memory when it got ready."""
        self.program: SlotProgram | None = None
        """The program that was sent last: a ``run`` of it needs no ``load``."""
        self.jobs: deque[int] = deque()
        """Jobs sent and not ended, the running one first."""
        self.held = HeldValues()
        self.weights = HeldValues()
        """Pieces of weights that the slot has."""
        self.values_sent = 0
        self.values_there = 0
        """How many values that jobs refer to had to be sent, and how many the slot had."""
        self.exited: Exited | None = None
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._buffer = FrameBuffer()
        self._gone = anyio.Event()
        self._killed = False
        self._signalled = False
        self._fault = ""
        self._reading = False
        self._last_call: asyncio.TimerHandle | None = None
        self._lane = WASM

    @classmethod
    async def start(
        cls,
        *,
        slot_id: str,
        image: SlotImage | None,
        on_event: Callable[[SlotProcess, SlotEvent], None],
        data_bytes_max: int = DATA_BYTES_MAX,
        lane: str = WASM,
    ) -> SlotProcess:
        """Spawn a slot and return at once; ``Ready`` comes as an event. OSError when it can't be spawned.

        ``data_bytes_max``: bound on the private memory of the process; leave room over the sandboxes' own limit. ``lane``: what
        runs in it: ``wasm`` (the guest of ``image``), ``jax-cpu`` or ``jax-gpu`` (no image).
        """
        assert threading.current_thread() is threading.main_thread(), "a slot dies with the thread that spawned it"
        slot = cls(slot_id, on_event)
        slot._lane = lane
        slot._watch(slot_spawn.spawn("" if image is None else str(image.path_aot), data_bytes_max, lane))
        return slot

    def load(
        self,
        program: SlotProgram,
        bundle: Bytes,
        packages: Sequence[Bytes] = (),
        weights: Mapping[str, Descriptor] | None = None,
    ) -> int:
        """Send a program; the slot keeps it until the next ``load``. Needed once before ``run`` of that program.

        ``weights``: an open file for each piece in ``program.weights``, by digest. Those that the slot doesn't have are passed
        to it, and kept here only until they are; how many these were.
        """
        self.program = program
        passed = self._weigh(program, weights or {}) if program.weights else 0
        self._send(slot_wire.load_frame(program, bundle, packages))
        return passed

    def run(self, job: SlotJob) -> None:
        """Send a job of the loaded program, and what it refers to unless the slot has it. Jobs run in their order."""
        assert job.program == self.program, "load the program first"
        assert job.job > 0 and job.job not in self.jobs, job.job
        if job.refs:
            self._hold(job.refs)
        self.jobs.append(job.job)
        self._send(slot_wire.run_frame(job))

    def _hold(self, refs: Mapping[str, Bytes]) -> None:
        gone, new = self.held.use({digest: len(data) for digest, data in refs.items()}, slot_wire.HELD_BYTES_MAX)
        self.values_sent += len(new)
        self.values_there += len(refs) - len(new)
        if gone:
            self._send(slot_wire.drop_frame(gone))
        for digest in new:
            self._send(slot_wire.hold_frame(digest, refs[digest]))

    def _weigh(self, program: SlotProgram, files: Mapping[str, Descriptor]) -> int:
        sizes = dict(program.weights)
        gone, new = self.weights.use(sizes, slot_wire.WEIGHTS_HELD_BYTES_MAX)
        if gone:
            self._send(slot_wire.forget_frame(gone))
        for digest in new:
            self._send(slot_wire.weights_frame(digest, sizes[digest]), files[digest])
        return len(new)

    def credit(self, job: int, consumed: int) -> None:
        """The caller of the generator that runs as ``job`` has taken ``consumed`` items of it in all."""
        if job in self.jobs:
            self._send(slot_wire.credit_frame(job, consumed))

    def compiled(self, key: str, data: Bytes) -> None:
        """Answer CompiledWanted; no bytes: there is nothing under that key."""
        self._send(slot_wire.compiled_frame(key, data))

    def set_departing(self, departing: bool) -> None:
        """What ``fleet.current().departing`` says in the slot from now on."""
        if self.exited is None:
            self._page.departing = departing

    def progress(self) -> Progress:
        """What the slot runs now, read from the shared page (about a microsecond, no system call)."""
        return Progress() if self.exited is not None else self._page.read_progress()

    def kill(self) -> None:
        """SIGKILL at once. Idempotent. Frames that the slot wrote before still arrive ahead of ``Exited``."""
        if self.exited is None:
            self._killed = True
            self._signal()

    async def reaped(self) -> None:
        """Return when the process is gone (after its ``Exited`` event)."""
        await self._gone.wait()

    def rss_bytes(self) -> int:
        """Resident memory of the process; 0 when it is gone."""
        if self.exited is not None:
            return 0
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_bytes().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * resource.getpagesize()

    # --- start -------------------------------------------------------------------------------------------------------

    def _watch(self, process: Spawned) -> None:
        self.pid, self._socket, self._stderr = process.pid, process.socket, process.stderr
        self._sender = FrameSender(process.socket, self._loop)
        self._page = Page(process.page)
        os.close(process.page)
        self._pidfd = os.pidfd_open(self.pid)  # Nobody else waits for it: the number can't be another's yet.
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        self._reading = True
        self._loop.add_reader(self._pidfd, self._on_exit)

    # --- frames ------------------------------------------------------------------------------------------------------

    def _send(self, buffers: list[Bytes], file: Descriptor | None = None) -> None:
        if self.exited is not None or self._signalled:
            return  # Its Exited event, sent or on its way, tells that what it had is lost.
        self._sender.send(buffers, file)

    def _on_readable(self) -> None:
        # Bounded: a slot that floods its pipe must not keep the agent from the other slots and the owner's signals.
        for _ in range(_READS_PER_WAKE):
            if not self._read_once():
                return

    def _read_once(self) -> bool:
        """Receive once and deliver what is whole. False when there is no more for now."""
        target = self._buffer.target()
        try:
            count = self._socket.recv_into(target)
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if count == 0:
            self._stop_reading()
            # Without its pipe it is of no use. Mostly it is just ending: let it, its exit status says why.
            self._last_call = self._loop.call_later(_EOF_GRACE_S, self._signal)
            return False
        self._buffer.received(count)
        try:
            while (received := self._buffer.take()) is not None:
                self._deliver(slot_events.parse(received))
        except ProtocolError as error:
            self._fail(error.message)
            return False
        return count == len(target)

    def _deliver(self, event: Ready | JobEvent) -> None:
        if isinstance(event, Ready):
            if self.ready:
                raise ProtocolError("a slot got ready twice")
            self.ready, self.layers, self.memory_bytes = True, event.layers, event.memory_bytes
        else:
            if not self.jobs or event.job != self.jobs[0]:
                raise ProtocolError(f"a slot speaks of job {event.job}, which it doesn't run")
            if isinstance(event, Kept):
                gone = self.held.keep(event.digest, len(event.data), slot_wire.HELD_BYTES_MAX)
                if gone:
                    self._send(slot_wire.drop_frame(gone))
            if isinstance(event, Done | Trapped | Failed):
                self.jobs.popleft()
        self._on_event(self, event)

    def _fail(self, message: str) -> None:
        """The slot broke the protocol: nothing more is believed, end it."""
        self._fault = self._fault or message
        self._stop_reading()
        self._signal()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    # --- end ---------------------------------------------------------------------------------------------------------

    def _signal(self) -> None:
        if self._signalled:
            return
        self._signalled = True
        with contextlib.suppress(ProcessLookupError):  # It ended by itself and waits to be reaped.
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._signalled = True
        # Its end of the pipe is closed: what it wrote before its end is all there, up to the pipe's buffer.
        while self._reading and self._read_once():
            pass
        self._stop_reading()
        if self._last_call is not None:
            self._last_call.cancel()
        self._sender.clear()
        returncode = _reap(self._pidfd)
        if self.values_sent or self.values_there:
            log.info("slot %s was sent %d values, and had %d", self.id, self.values_sent, self.values_there)
        message = self._fault or _tail(self._stderr)
        if self._lane != WASM and self.jobs and not (self._fault or self._killed):
            message = _explained(returncode, message, self.program)
        self._socket.close()
        os.close(self._pidfd)
        os.close(self._stderr)
        last = self._page.read_progress()
        self._page.close()
        self.exited = Exited(returncode, self._killed and not self._fault, message, last)
        try:
            self._on_event(self, self.exited)
        finally:
            self._gone.set()


def kill_all(slots: Iterable[SlotProcess]) -> None:
    """SIGKILL all of them, in order (running ones first, please), before anything else happens."""
    for slot in slots:
        slot.kill()


def _reap(pidfd: int) -> int:
    status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert status is not None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status


def _explained(returncode: int, message: str, program: SlotProgram | None) -> str:
    """What a jax slot said that ended by itself while it ran; with its memory, where that may have been too little.

    A sandbox of the wasm lane outlives that and tells it as MemoryError; here it may have been the compiler, which aborts.
    """
    if program is None or (returncode >= 0 and not any(word in message.lower() for word in _MEMORY_WORDS)):
        return message
    memory = format_bytes(program.memory_bytes)
    return f"{message + '; ' if message else ''}out of memory? The program's memory= is {memory}"


def _tail(stderr: int) -> str:
    size = os.fstat(stderr).st_size
    return os.pread(stderr, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace").strip()
