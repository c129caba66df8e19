"""The slot process: lock in, take jobs from the pipe, run them in the sandbox, answer. One thread, blocking.

It is started by ``runtime.slots`` as a fresh interpreter with an empty environment, so that nothing of the agent's
memory is in it; it ends on EOF of the pipe, with its agent (parent-death signal), or by the agent's SIGKILL.
Everything it will ever need is imported and mapped before ``lock``: afterwards no file can be opened.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol, cast

from runtime import slot_batch, slot_begin, slot_events, slot_wire
from runtime.sandbox import lockdown
from runtime.slot_begin import Settings
from runtime.slot_frames import Frame, FrameBuffer
from runtime.slot_page import Page
from runtime.slot_stream import ItemStream
from runtime.slot_wire import Bytes, Kind, LogLine, SlotJob, SlotProgram, SlotResult

_IOV_MAX = 1024
_ONE_DESCRIPTOR = socket.CMSG_SPACE(4)
_COMPILED_WAIT_S = 0.5
"""Waiting longer for what was compiled before isn't better than to compile it again."""
_LARGE_BYTES = 4 << 20
"""After a job whose bytes were more than this, freed memory goes back to the machine: glibc keeps tens of MB."""
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class Sandbox(Protocol):
    """What the loop needs of ``runtime.sandbox.wasm.WasmSandbox`` and ``runtime.sandbox.jax.JaxSandbox``."""

    def prepare(self) -> None: ...
    def tidy(self) -> None: ...
    def drop(self, digest: str) -> None: ...
    def load(self, program: SlotProgram, bundle: Bytes, packages: Sequence[Bytes] = ()) -> None: ...
    def run(self, job: SlotJob) -> SlotResult: ...


class WeighingSandbox(Sandbox, Protocol):
    """What it needs of ``runtime.sandbox.jax.JaxSandbox`` alone."""

    def load_weights(self, digest: str, fd: int, size_bytes: int) -> None: ...
    def drop_weights(self, digests: Sequence[str]) -> None: ...


class Pipe:
    """Blocking frames over the socket to the agent. ``descriptors``: whether some come with descriptors."""

    def __init__(self, connection: socket.socket, *, descriptors: bool = False) -> None:
        self._takes_descriptors = descriptors
        self._descriptors: deque[int] = deque()
        self._socket = connection
        self._buffer = FrameBuffer(slot_wire.CODE_BYTES_MAX)
        self._sending = threading.Lock()
        self._early: deque[Frame] = deque()
        """Frames that came while only credit was waited for."""
        self._credits: dict[int, int] = {}
        """Consumed items by job."""

    def receive(self) -> Frame | None:
        """The next frame that is no credit, None when the agent has closed its end."""
        while True:
            received = self._early.popleft() if self._early else self._receive()
            if received is not None and received.kind == Kind.CREDIT:
                self._note(received)
            elif received is None or received.kind != Kind.COMPILED:  # Such an answer came too late.
                return received

    def receive_within(self, wait_s: float) -> Frame | None:
        """The same, None when there is none within ``wait_s``, too."""
        readable = select.poll()
        readable.register(self._socket, select.POLLIN)
        end_s = time.monotonic() + wait_s
        while not self._early:
            received = self._buffer.take()
            if received is not None:
                self._early.append(received)
            elif not readable.poll(max(0.0, 1000 * (end_s - time.monotonic()))) or not self._fill():
                return None
        return self.receive()

    def unread(self, received: Frame) -> None:
        """Have ``receive`` return this frame next."""
        self._early.appendleft(received)

    def wait_credit(self, job: int) -> int:
        """How many items of ``job`` are consumed, once that is told anew. BrokenPipeError when the agent is gone."""
        while True:
            received = self._buffer.take()
            if received is not None and received.kind == Kind.CREDIT:
                self._note(received)
            elif received is not None:
                self._early.append(received)
            elif job in self._credits:
                return self._credits.pop(job)
            elif not self._fill():
                raise BrokenPipeError("the agent closed the pipe")

    def wait_compiled(self, key: str, wait_s: float) -> Bytes | None:
        """What the agent has kept under ``key``; None if nothing, or if it doesn't say within ``wait_s``.

        BrokenPipeError when the agent is gone.
        """
        readable = select.poll()
        readable.register(self._socket, select.POLLIN)
        end_s = time.monotonic() + wait_s
        while True:
            received = self._buffer.take()
            if received is None:
                left_s = end_s - time.monotonic()
                if left_s <= 0 or not readable.poll(1000 * left_s):
                    return None
                if not self._fill():
                    raise BrokenPipeError("the agent closed the pipe")
            elif received.kind != Kind.COMPILED:
                self._early.append(received)
            else:
                answered, data = slot_wire.parse_compiled(received)
                if answered == key:
                    return data if len(data) else None

    def _note(self, received: Frame) -> None:
        job, consumed = slot_wire.parse_credit(received)
        self._credits = {known: count for known, count in self._credits.items() if known >= job}
        self._credits[job] = consumed

    def _receive(self) -> Frame | None:
        while True:
            received = self._buffer.take()
            if received is not None or not self._fill():
                return received

    def _fill(self) -> bool:
        """Receive something; False when the agent has closed its end."""
        if self._takes_descriptors:
            count = self._receive_with_descriptors()
        else:
            count = self._socket.recv_into(self._buffer.target())
        self._buffer.received(count)
        return count > 0

    def _receive_with_descriptors(self) -> int:
        # The kernel ends a receive behind the bytes that a descriptor came with: there is one at most.
        count, notes, flags, _ = self._socket.recvmsg_into([self._buffer.target()], _ONE_DESCRIPTOR)
        for level, kind, data in notes:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS), "the agent passes descriptors alone"
            self._descriptors.extend(struct.unpack(f"{len(data) // 4}i", data))
        if flags & socket.MSG_CTRUNC:
            # Fatal, and never an error of the job that runs: the next piece would be taken for this one.
            raise OSError(errno.EMFILE, "a piece of weights was lost, too many files are open")
        return count

    def descriptor(self) -> int:
        """The descriptor that came with the frame received last; the caller's from now on."""
        return self._descriptors.popleft()

    def send(self, buffers: list[Bytes]) -> None:
        """Send all of a frame, from any thread. OSError when the agent is gone."""
        with self._sending:
            self._send(buffers)

    def _send(self, buffers: list[Bytes]) -> None:
        if len(buffers) == 1:
            self._socket.sendall(buffers[0])
            return
        left = [memoryview(part).cast("B") for part in buffers if len(part)]
        while left:
            count = self._socket.sendmsg(left[:_IOV_MAX])
            while left and count >= len(left[0]):
                count -= len(left[0])
                del left[0]
            if left:
                left[0] = left[0][count:]


class Reporter:
    """The sandbox's ``Host``: passes on what the guest tells while it runs."""

    def __init__(self, pipe: Pipe, page: Page) -> None:
        self._pipe = pipe
        self._page = page
        self._job = 0
        self._item: int | None = None
        self._chunk = self._exact = False
        self._stream = ItemStream(pipe)

    def begin(self, job: SlotJob, together: int = 1) -> None:
        """What follows belongs to ``job``. ``together``: how many jobs run as one, this one and those behind it."""
        self._job = job.job
        self._chunk, self._exact = job.items is not None, job.exact
        self._item = None
        if job.stream is not None:
            self._stream.begin(job.job, job.stream.consumed)
        self._page.write_progress(job.job, together if together > 1 else None, time.monotonic())

    def end(self) -> None:
        """Nothing runs."""
        self._stream.flush()
        self._job = 0
        self._page.write_progress(0, None, 0.0)

    @property
    def culprit(self) -> int | None:
        """The item that is running, if that is known: only ``exact`` jobs report each one."""
        return self._item if self._exact else None

    def progress(self, position: int) -> None:
        """Item ``position`` of the job begins now."""
        if self._chunk:
            self._item = position
            self._page.write_progress(self._job, position, time.monotonic())

    def items(self, first: int, results: bytes) -> None:
        """Results of the items from position ``first`` on: out of this process, hence safe from its end."""
        self._pipe.send(slot_events.items_frame(self._job, first, results))

    def item(self, data: bytes) -> None:
        """What a generator yielded."""
        self._stream.item(data)

    def credit(self) -> int:
        """Wait until more of what the generator yielded is consumed; how much more."""
        return self._stream.credit()

    def log(self, lines: list[LogLine], position: int | None) -> None:
        """Lines that the function printed."""
        self._pipe.send(slot_events.log_frame(self._job, position, lines))

    def checkpoint(self, state: bytes) -> None:
        """The function saved its state."""
        self._stream.flush()  # The agent counts by what it has of the items before it.
        self._pipe.send(slot_events.checkpoint_frame(self._job, state))

    def compiled(self, key: str) -> Bytes | None:
        """What was kept of the running program, compiled, under ``key``."""
        self._pipe.send(slot_events.compiled_wanted_frame(self._job, key))
        return self._pipe.wait_compiled(key, _COMPILED_WAIT_S)

    def keep_compiled(self, key: str, data: Bytes) -> None:
        """Have the running program, compiled, kept under ``key``."""
        if len(data) <= slot_wire.COMPILED_BYTES_MAX:
            self._pipe.send(slot_events.compiled_made_frame(self._job, key, data))

    def keep(self, digest: str, data: Bytes) -> None:
        """The sandbox keeps a part of the running job's result; ``data`` is the copy."""
        self._pipe.send(slot_events.kept_frame(self._job, digest, data))

    def departing(self) -> bool:
        """Whether the owner is about to leave."""
        return self._page.departing


def serve(pipe: Pipe, sandbox: Sandbox, reporter: Reporter) -> None:
    """Run jobs in the order they come, until the agent closes the pipe."""
    program: SlotProgram | None = None
    bundle: Bytes = b""
    packages: list[Bytes] = []
    held: dict[str, Bytes] = {}
    while (received := pipe.receive()) is not None:
        if received.kind == Kind.LOAD:
            program, bundle, packages = slot_wire.parse_load(received)
            continue
        if received.kind == Kind.HOLD:
            held[received.head.decode()] = received.body
            continue
        if received.kind == Kind.DROP:
            for digest in json.loads(received.head):
                held.pop(digest, None)
                sandbox.drop(digest)
            continue
        if received.kind in (Kind.WEIGHTS, Kind.FORGET):
            _take_weights(pipe, cast(WeighingSandbox, sandbox), received)
            continue
        assert received.kind == Kind.RUN and program is not None, received
        jobs = slot_batch.gather(slot_wire.parse_run(received, program, held), pipe, held)
        del received  # Its body is the arguments, perhaps hundreds of megabytes: `jobs` alone keeps them.
        answers = slot_batch.run(sandbox, reporter, program, (bundle, packages), jobs)
        passed_bytes = sum(len(job.args) for job in jobs) + sum(sum(map(len, answer)) for answer in answers)
        jobs.clear()
        for answer in answers:
            pipe.send(answer)
        answers.clear()
        if passed_bytes > _LARGE_BYTES and _malloc_trim is not None:
            _malloc_trim(0)
        sandbox.tidy()
        if program.isolation == "call":
            sandbox.prepare()


def _take_weights(pipe: Pipe, sandbox: WeighingSandbox, received: Frame) -> None:
    if received.kind == Kind.FORGET:
        sandbox.drop_weights(json.loads(received.head))
        return
    digest, size_bytes = slot_wire.parse_weights(received)
    sandbox.load_weights(digest, pipe.descriptor(), size_bytes)


def main(argument: str) -> None:
    """Run one slot; ``argument`` is its Settings as JSON. Returns when the agent closes the pipe."""
    settings = Settings(**json.loads(argument))
    held = lockdown.prepare("fleet-slot", [settings.pipe, settings.page])
    lockdown.die_with_parent(settings.parent_pid)
    page = Page(settings.page)
    os.close(settings.page)
    pipe = Pipe(socket.socket(fileno=settings.pipe), descriptors=settings.lane != "wasm")
    reporter = Reporter(pipe, page)

    sandbox, layers, device, resident_bytes = slot_begin.begin(settings, held, reporter)
    start_s = time.monotonic() - settings.started_monotonic_s
    try:
        pipe.send(slot_events.ready_frame(layers, start_s, resident_bytes, device))
        serve(pipe, sandbox, reporter)
    except (BrokenPipeError, ConnectionResetError):
        pass  # The agent is gone, and so is whoever would read why.
    sys.stderr.flush()
    os._exit(0)  # Nothing to save: a slot has no state that outlives it.
