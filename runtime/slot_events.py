"""What a slot tells its agent: the events, and their frames.

The slot's side is written by ``*_frame``; the agent reads with ``parse``, which believes nothing: whatever doesn't fit
is a ProtocolError, and the agent kills the slot that sent it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fleet.protocol import limits
from fleet.protocol.errors import ProtocolError
from runtime.slot_frames import Frame, frame
from runtime.slot_wire import (
    COMPILED_BYTES_MAX,
    COMPILED_KEY_CHARS,
    TEXT_BYTES_MAX,
    Bytes,
    Kind,
    Layers,
    LogLine,
    Progress,
    SlotResult,
)


@dataclass(frozen=True, slots=True)
class Ready:
    """The slot is locked in, has its sandbox, and takes jobs. (Jobs sent before wait in its pipe.)"""

    layers: Layers
    start_s: float
    memory_bytes: int
    """Resident memory of the process."""
    device: dict[str, Any] | None = None
    """Jax lanes: what runs programs there, as the fields of ``messages.cars.Device``; not checked yet."""


@dataclass(frozen=True, slots=True)
class Items:
    """Finished items of a running chunk: ``results`` is ``pack_items`` of those from position ``first`` on."""

    job: int
    first: int
    results: Bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogLines:
    """What the function printed, in order. ``item``: position in the chunk, None for a single call."""

    job: int
    item: int | None
    lines: list[LogLine]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State that the function saved with ``fleet.current().checkpoint``."""

    job: int
    state: Bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Kept:
    """Jax: the slot keeps a value of the job's result under ``digest``; ``data`` is the copy (the codec's list of arrays).

    Nobody has checked that ``data`` has that digest.
    """

    job: int
    digest: str
    data: Bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """The job ended. ``result``: a single call's result bytes, or ``pack_items`` of the chunk's rest from ``first``."""

    job: int
    result: Bytes = field(repr=False)
    first: int = 0
    summary: str = ""
    run_s: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Trapped:
    """The sandbox ended by itself under this job; replace the slot. ``item``: position it died on, None if unknown."""

    job: int
    item: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The slot could not run the job (bundle damaged, no memory for an instance): not the function's doing."""

    job: int
    message: str


@dataclass(frozen=True, slots=True)
class CompiledWanted:
    """Jax: has the agent kept a compiled form of the running program under ``key``? It waits a moment for the answer."""

    job: int
    key: str


@dataclass(frozen=True, slots=True)
class CompiledMade:
    """Jax: the running program was compiled; kept under ``key``, it needn't be again."""

    job: int
    key: str
    data: Bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone and reaped. Always the last event of a slot, exactly once.

    ``returncode``: exit status, or minus the signal. ``expected``: it was killed by ``kill``. ``message``: what was
    wrong with its frames, or the end of its stderr.
    """

    returncode: int
    expected: bool
    message: str = ""
    last: Progress = field(default_factory=Progress, compare=False)
    """What it ran at its end."""


JobEvent = Items | LogLines | Checkpoint | Kept | Done | Trapped | Failed | CompiledWanted | CompiledMade
SlotEvent = Ready | JobEvent | Exited

_READY = struct.Struct("<dQI")  # start_s, memory_bytes, bytes of the held layers' names
_ITEMS = struct.Struct("<QI")  # job, first
_LOG = struct.Struct("<Qi")  # job, item or -1
_LINE = struct.Struct("<dBI")  # unix_s, stream, bytes of text
_CHECKPOINT = struct.Struct("<Q")
_DONE = struct.Struct("<QIdQ")  # job, first, run_s, memory_bytes
_TRAPPED = struct.Struct("<Qi")  # job, item or -1
_FAILED = struct.Struct("<Q")
_COMPILED = struct.Struct(f"<Q{COMPILED_KEY_CHARS}s")
_KEPT = struct.Struct("<Q64s")


def ready_frame(layers: Layers, start_s: float, memory_bytes: int, device: dict[str, Any] | None = None) -> list[Bytes]:
    held, missing = ",".join(layers.held).encode(), ",".join(layers.missing).encode()
    body: list[Bytes] = [] if device is None else [json.dumps(device).encode()]
    return frame(Kind.READY, _READY.pack(start_s, memory_bytes, len(held)) + held + missing, body)


def items_frame(job: int, first: int, results: Bytes) -> list[Bytes]:
    return frame(Kind.ITEMS, _ITEMS.pack(job, first), [results])


def log_frame(job: int, item: int | None, lines: Sequence[LogLine]) -> list[Bytes]:
    body: list[Bytes] = []
    for unix_s, stream, text in lines:
        data = text.encode("utf-8", "replace")
        body += (_LINE.pack(unix_s, stream, len(data)), data)
    return frame(Kind.LOG, _LOG.pack(job, -1 if item is None else item), [b"".join(body)])


def checkpoint_frame(job: int, state: Bytes) -> list[Bytes]:
    return frame(Kind.CHECKPOINT, _CHECKPOINT.pack(job), [state])


def kept_frame(job: int, digest: str, data: Bytes) -> list[Bytes]:
    return frame(Kind.KEPT, _KEPT.pack(job, digest.encode()), [data])


def done_frame(job: int, result: SlotResult) -> list[Bytes]:
    head = _DONE.pack(job, result.first, result.run_s, result.memory_bytes) + _text(result.summary)
    return frame(Kind.DONE, head, [result.result])


def trapped_frame(job: int, item: int | None, message: str) -> list[Bytes]:
    return frame(Kind.TRAPPED, _TRAPPED.pack(job, -1 if item is None else item) + _text(message))


def failed_frame(job: int, message: str) -> list[Bytes]:
    return frame(Kind.FAILED, _FAILED.pack(job) + _text(message))


def compiled_wanted_frame(job: int, key: str) -> list[Bytes]:
    return frame(Kind.COMPILED_WANTED, _COMPILED.pack(job, key.encode()))


def compiled_made_frame(job: int, key: str, data: Bytes) -> list[Bytes]:
    return frame(Kind.COMPILED_MADE, _COMPILED.pack(job, key.encode()), [data])


def parse(received: Frame) -> Ready | JobEvent:
    """The event of a frame from a slot; ProtocolError for anything that is none."""
    reader = _READERS.get(received.kind)
    if reader is None:
        raise ProtocolError(f"a slot sent a frame of kind {received.kind}")
    try:
        return reader(received.head, received.body)
    except struct.error as error:
        raise ProtocolError(f"a slot's frame of kind {received.kind} is malformed: {error}") from None


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:TEXT_BYTES_MAX]


def _clean(data: Bytes) -> str:
    return bytes(data[:TEXT_BYTES_MAX]).decode("utf-8", "replace")


def _seconds(value: float) -> float:
    if not 0 <= value < math.inf:  # Not a number fails this too.
        raise ProtocolError(f"a slot speaks of {value} seconds")
    return value


def _read_ready(head: bytes, body: Bytes) -> Ready:
    start_s, memory_bytes, held_bytes = _READY.unpack_from(head)
    names = head[_READY.size :]
    held, missing = _clean(names[:held_bytes]), _clean(names[held_bytes:])
    layers = Layers(tuple(filter(None, held.split(","))), tuple(filter(None, missing.split(","))))
    return Ready(layers, _seconds(start_s), memory_bytes, _device(body) if len(body) else None)


def _device(body: Bytes) -> dict[str, Any]:
    if len(body) > TEXT_BYTES_MAX:
        raise ProtocolError(f"a slot told {len(body)} bytes of its device")
    try:
        told = json.loads(bytes(body))
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise ProtocolError("what a slot told of its device can't be read")
    return told


def _read_items(head: bytes, body: Bytes) -> Items:
    job, first = _ITEMS.unpack(head)
    return Items(job, first, body)


def _read_log(head: bytes, body: Bytes) -> LogLines:
    job, item = _LOG.unpack(head)
    if len(body) > 2 * limits.LOG_BYTES_PER_CALL_MAX:
        raise ProtocolError(f"a slot sent {len(body)} bytes of log at once")
    lines: list[LogLine] = []
    at = 0
    while at < len(body):
        unix_s, stream, size = _LINE.unpack_from(body, at)
        at += _LINE.size
        if size > len(body) - at or stream not in (1, 2):
            raise ProtocolError("a slot's log lines don't add up")
        lines.append((_seconds(unix_s), stream, bytes(body[at : at + size]).decode("utf-8", "replace")))
        at += size
    return LogLines(job, None if item < 0 else item, lines)


def _read_checkpoint(head: bytes, body: Bytes) -> Checkpoint:
    (job,) = _CHECKPOINT.unpack(head)
    if len(body) > limits.SAVED_BYTES_MAX:
        raise ProtocolError(f"a slot sent a checkpoint of {len(body)} bytes")
    return Checkpoint(job, body)


def _read_kept(head: bytes, body: Bytes) -> Kept:
    job, digest = _KEPT.unpack(head)
    if not digest.isalnum() or not len(body):
        raise ProtocolError("a slot keeps something without a digest, or nothing")
    return Kept(job, digest.decode("ascii"), body)


def _read_done(head: bytes, body: Bytes) -> Done:
    job, first, run_s, memory_bytes = _DONE.unpack_from(head)
    return Done(job, body, first, _clean(head[_DONE.size :]), _seconds(run_s), memory_bytes)


def _read_trapped(head: bytes, body: Bytes) -> Trapped:
    job, item = _TRAPPED.unpack_from(head)
    return Trapped(job, None if item < 0 else item, _clean(head[_TRAPPED.size :]))


def _read_failed(head: bytes, body: Bytes) -> Failed:
    (job,) = _FAILED.unpack_from(head)
    return Failed(job, _clean(head[_FAILED.size :]))


def _compiled(head: bytes) -> tuple[int, str]:
    job, key = _COMPILED.unpack(head)
    if not key.isalnum():
        raise ProtocolError("a slot's key of a compiled program is no key")
    return job, key.decode("ascii")


def _read_compiled_wanted(head: bytes, body: Bytes) -> CompiledWanted:
    return CompiledWanted(*_compiled(head))


def _read_compiled_made(head: bytes, body: Bytes) -> CompiledMade:
    if len(body) > COMPILED_BYTES_MAX:
        raise ProtocolError(f"a slot sent a compiled program of {len(body)} bytes")
    return CompiledMade(*_compiled(head), body)


_READERS: dict[int, Callable[[bytes, Bytes], Ready | JobEvent]] = {
    Kind.READY: _read_ready,
    Kind.ITEMS: _read_items,
    Kind.LOG: _read_log,
    Kind.CHECKPOINT: _read_checkpoint,
    Kind.KEPT: _read_kept,
    Kind.DONE: _read_done,
    Kind.TRAPPED: _read_trapped,
    Kind.FAILED: _read_failed,
    Kind.COMPILED_WANTED: _read_compiled_wanted,
    Kind.COMPILED_MADE: _read_compiled_made,
}
