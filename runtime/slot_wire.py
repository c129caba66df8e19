"""What agent and slot say to each other: the values, and their frames on the pipe.

Kept free of pydantic and of everything else that is slow to import: a slot is an interpreter of its own, started by
the hundred. The agent trusts nothing that comes from a slot: every frame is bounded and checked, anything else is a
ProtocolError and ends the slot.

Words:    ``position`` counts the items of one job from 0, in the order of its arguments; the item *numbers* of the map
          that they stand for are in ``SlotJob.item_numbers``.
Frames:   ``slot_frames``. Towards the slot the head is JSON; from the slot it is a fixed struct, and text where there is some.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fleet.protocol import limits
from runtime.slot_frames import BODY_BYTES_MAX, Frame, frame

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class SlotProgram:
    """One version of one function, as a slot needs to know it. ``key`` is the digest that stands for all of it."""

    key: str
    module: str
    qualname: str
    memory_bytes: int
    isolation: str = "instance"
    """``instance``: calls of the program share a warm sandbox; ``call``: a fresh one for every call."""
    tenant: str = ""
    weights: tuple[tuple[str, int], ...] = ()
    """Jax: digest and size in bytes of each piece of the weights, in order."""
    batch: tuple[int, float] | None = None
    """Jax: most rows of a batch, and seconds that its first call waits for others."""


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Where a generator's run begins: ``skip`` items are stored already, the caller has taken ``consumed`` of them."""

    skip: int = 0
    consumed: int = 0


@dataclass(frozen=True, slots=True)
class SlotJob:
    """One run: a single call (``items`` None) or a chunk of a map (``items`` = how many).

    ``args``: the pickle of ``(args, kwargs)``, for a chunk ``pack_items`` of such pickles. Neither agent nor slot
    process looks into it, only the sandbox does.
    """

    job: int
    """Chosen by the agent, > 0, never twice in the life of one slot."""
    program: SlotProgram
    args: Bytes = field(repr=False)
    call: str = ""
    attempt: int = 1
    car: str = ""
    """Pseudonym of the car, what ``fleet.current().car`` says."""
    timeout_s: float = 0.0
    """Seconds of execution, for each item of a chunk anew. The slot only tells the function its deadline (start +
    ``timeout_s``); the one who enforces it is the agent, by SIGKILL."""
    items: int | None = None
    item_numbers: list[tuple[int, int]] | None = None
    """The chunk's item numbers as [first, last] ranges, in the order of ``args``."""
    item_attempts: dict[int, int] = field(default_factory=dict)
    """Attempt of single items (by item number) where it isn't ``attempt``."""
    exact: bool = False
    """Report every item before it runs, so that the one a sandbox dies on is known."""
    checkpoint: Bytes | None = field(default=None, repr=False)
    refs: Mapping[str, Bytes] = field(default_factory=dict, repr=False)
    """Values that the arguments refer to, by digest: of ``fleet.put``, pickled, or arrays. In a slot no bytes: those that
    its sandbox keeps from an earlier job."""
    stream: StreamStart | None = None
    """The function is a generator: what it yields is told as it comes."""


@dataclass(frozen=True, slots=True)
class SlotResult:
    """What a sandbox returned for a job (``WasmSandbox.run``)."""

    result: bytes = field(repr=False)
    """Single call: status byte and codec bytes. Chunk: ``pack_items`` of what ``items`` hasn't delivered yet."""
    first: int = 0
    """Chunk: position of the first item in ``result``."""
    summary: str = ""
    """``ValueError: bad`` when the (last failing) result is an exception, else empty."""
    run_s: float = 0.0
    """Without what was made ready for it: making an instance, compiling a program, mapping its weights. It is measured and
    charged, and the next calls are planned with it. Deadlines count all of it."""
    memory_bytes: int = 0
    """Linear memory of the sandbox after the run."""


LogLine = tuple[float, int, str]
"""Unix time in seconds, stream (1 stdout, 2 stderr), text without its newline."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Isolation layers of a slot process: those the kernel granted and those it could not."""

    held: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """What a slot runs right now. ``job`` 0: nothing. ``item``: position in the chunk, None for a single call (and for a
    chunk whose first item hasn't begun). Unless the job is ``exact``, short items (under 5 ms) may begin unreported: then
    ``item`` is the last that was, and the one that runs is that or a later one.

    ``started_monotonic_s`` (CLOCK_MONOTONIC, the same in all processes) is when that job, or that item, began.
    """

    job: int = 0
    item: int | None = None
    started_monotonic_s: float = 0.0


# --- frames ----------------------------------------------------------------------------------------------------------

CODE_BYTES_MAX = limits.BUNDLE_BYTES_MAX + limits.PACKAGES_BYTES_MAX
"""The largest body of a frame towards the slot: a bundle and its packages."""
HELD_BYTES_MAX = 256 * limits.MIB
"""Values of ``fleet.put``, and of ``fleet.keep``, that a slot process has for its sandboxes. In the jax lane that is beside
``memory=``, which bounds what one run takes; jobs that wait in the pipe add theirs before they hear what has to go. Round
all of it stands the wall of ``jax_memory``."""
WEIGHTS_HELD_BYTES_MAX = 2048 * limits.MIB
"""Weights of programs that aren't the present one stay with a slot as long as all it has are no more than this."""
assert BODY_BYTES_MAX <= CODE_BYTES_MAX
assert limits.REFS_BYTES_MAX <= HELD_BYTES_MAX, "what one call refers to is there when it runs"
TEXT_BYTES_MAX = 4 * limits.ERROR_TEXT_CHARS_MAX
COMPILED_BYTES_MAX = 64 * limits.MIB
"""One program compiled for one set of shapes, as it is kept on disk."""
COMPILED_KEY_CHARS = 64


class Kind(enum.IntEnum):
    """What a frame is. Below 16: agent to slot; above: slot to agent."""

    LOAD = 1
    RUN = 2
    HOLD = 3
    DROP = 4
    CREDIT = 5
    WEIGHTS = 6
    FORGET = 7
    COMPILED = 8
    READY = 16
    ITEMS = 17
    LOG = 18
    CHECKPOINT = 19
    DONE = 20
    TRAPPED = 21
    FAILED = 22
    COMPILED_WANTED = 23
    COMPILED_MADE = 24
    KEPT = 25


# --- agent to slot ---------------------------------------------------------------------------------------------------


def load_frame(program: SlotProgram, bundle: Bytes, packages: Sequence[Bytes] = ()) -> list[Bytes]:
    """A program, to be kept until the next one."""
    fields = [
        program.key,
        program.module,
        program.qualname,
        program.memory_bytes,
        program.isolation,
        program.tenant,
        list(map(len, packages)),
        program.weights,
        program.batch,
    ]
    return frame(Kind.LOAD, json.dumps(fields).encode(), [bundle, *packages])


def hold_frame(digest: str, data: Bytes) -> list[Bytes]:
    """A value of ``fleet.put`` that jobs to come refer to, to be kept until it is dropped."""
    return frame(Kind.HOLD, digest.encode(), [data])


def drop_frame(digests: Sequence[str]) -> list[Bytes]:
    """No job to come refers to these values, unless they are sent again."""
    return frame(Kind.DROP, json.dumps(digests).encode())


def weights_frame(digest: str, size_bytes: int) -> list[Bytes]:
    """A piece of weights that programs to come use. Its file travels beside the frame, as a descriptor."""
    return frame(Kind.WEIGHTS, json.dumps([digest, size_bytes]).encode())


def forget_frame(digests: Sequence[str]) -> list[Bytes]:
    """No program to come uses these pieces of weights, unless they are passed again."""
    return frame(Kind.FORGET, json.dumps(digests).encode())


def run_frame(job: SlotJob) -> list[Bytes]:
    """A job of the program sent last."""
    saved = -1 if job.checkpoint is None else len(job.checkpoint)
    fields = [
        job.job,
        saved,
        job.call,
        job.attempt,
        job.car,
        job.timeout_s,
        job.items,
        job.item_numbers,
        list(job.item_attempts.items()),
        job.exact,
        list(job.refs),
        None if job.stream is None else [job.stream.skip, job.stream.consumed],
    ]
    body = [job.args] if job.checkpoint is None else [job.args, job.checkpoint]
    return frame(Kind.RUN, json.dumps(fields).encode(), body)


def parse_load(received: Frame) -> tuple[SlotProgram, Bytes, list[Bytes]]:
    """The program of a LOAD frame, its bundle, its packages."""
    key, module, qualname, memory_bytes, isolation, tenant, sizes, weights, batch = json.loads(received.head)
    program = SlotProgram(
        key, module, qualname, memory_bytes, isolation, tenant,
        weights=tuple((digest, size_bytes) for digest, size_bytes in weights),
        batch=None if batch is None else (batch[0], batch[1]),
    )  # fmt: skip
    body = memoryview(received.body)
    at = len(body) - sum(sizes)
    bundle: Bytes = body[:at]
    packages: list[Bytes] = []
    for size in sizes:
        packages.append(body[at : at + size])
        at += size
    return program, bundle, packages


def parse_weights(received: Frame) -> tuple[str, int]:
    """Digest and size in bytes of the piece of a WEIGHTS frame."""
    digest, size_bytes = json.loads(received.head)
    return digest, size_bytes


def parse_run(received: Frame, program: SlotProgram, held: Mapping[str, Bytes]) -> SlotJob:
    """The job of a RUN frame, for the program loaded and the values held before it; none for what the sandbox itself keeps."""
    job, saved, call, attempt, car, timeout_s, items, numbers, attempts, exact, refs, stream = json.loads(received.head)
    args, checkpoint = received.body, None
    if saved >= 0:
        view = memoryview(received.body)
        args, checkpoint = view[: len(view) - saved], view[len(view) - saved :]
    return SlotJob(
        job=job,
        program=program,
        args=args,
        call=call,
        attempt=attempt,
        car=car,
        timeout_s=timeout_s,
        items=items,
        item_numbers=None if numbers is None else [(first, last) for first, last in numbers],
        item_attempts=dict(attempts),
        exact=exact,
        checkpoint=checkpoint,
        refs={digest: held.get(digest, b"") for digest in refs},
        stream=None if stream is None else StreamStart(*stream),
    )


def credit_frame(job: int, consumed: int) -> list[Bytes]:
    """How many items of a generator its caller has taken, in all."""
    return frame(Kind.CREDIT, json.dumps([job, consumed]).encode())


def parse_credit(received: Frame) -> tuple[int, int]:
    """Job and items of a CREDIT frame."""
    job, consumed = json.loads(received.head)
    return job, consumed


def compiled_frame(key: str, data: Bytes) -> list[Bytes]:
    """The compiled program that the slot asked for by ``key``; no bytes: there is none."""
    return frame(Kind.COMPILED, key.encode(), [data])


def parse_compiled(received: Frame) -> tuple[str, Bytes]:
    """Key and bytes of a COMPILED frame."""
    return received.head.decode(), received.body
