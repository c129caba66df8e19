"""The sandbox of a jax slot: programs that are data, compiled for the shapes they are called with, and run.

No code of the developer comes here. A module is read and audited before it is compiled; arguments are decoded by the
codec; whatever goes wrong with one call is that call's result. What protects the machine from a compiler that errs is the
process around it (``lockdown``), as in the wasm lane.

Errors: ``load`` raises BundleDamaged for a bundle that can't be read, ``run`` SandboxTrap for a chunk that can't be. All
else that is wrong with a program or a call is an exception in its result.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jax.errors import JaxRuntimeError

from fleet.protocol import codec, limits
from fleet.protocol.errors import FleetError, ProgramRefused, ProtocolError, SandboxTrap, WrongArguments
from fleet.protocol.units import format_bytes
from runtime.guest.inside.wire import pack_items
from runtime.sandbox import jax_batch, jax_execute
from runtime.sandbox.jax_audit import Audited, audit
from runtime.sandbox.jax_execute import Compiled, Shape
from runtime.sandbox.jax_kept import KeptStore, leaves_of, outputs_kept
from runtime.sandbox.jax_memory import MemoryWall
from runtime.sandbox.jax_outcome import failed, value_of
from runtime.sandbox.jax_program import Description, build, check_arguments, describe
from runtime.sandbox.jax_start import PLATFORMS, Started
from runtime.sandbox.jax_weights import WeightStore
from runtime.slot_wire import Bytes, SlotJob, SlotProgram, SlotResult

FLUSH_S = 0.025
FLUSH_BYTES = 256 * 1024
REPORT_S = 0.005
PROGRAMS_MAX = 16
"""Programs that stay read (and their weights on the device)."""
COMPILED_MAX = 64
"""Programs times shapes that stay ready to run."""


_CALLS_OWN = (FleetError, ValueError, TypeError, LookupError, MemoryError, NotImplementedError, JaxRuntimeError)
"""What a call, or its program, is told as its result. Anything else is a mistake in here."""


class Host(Protocol):
    """Whom a sandbox tells what becomes of a job while it runs."""

    def progress(self, position: int) -> None: ...
    def items(self, first: int, results: bytes) -> None: ...
    def compiled(self, key: str) -> Bytes | None: ...
    def keep_compiled(self, key: str, data: Bytes) -> None: ...
    def keep(self, digest: str, data: Bytes) -> None: ...


@dataclass(slots=True)
class Loaded:
    """A program that was read and audited, or the reason why it won't run."""

    program: SlotProgram
    description: Description
    audited: Audited | None = None
    refused: FleetError | None = None
    weights: list[Any] | None = None
    keeps: frozenset[int] = frozenset()
    """Outputs that stay on the device."""
    compiled: OrderedDict[tuple[Shape, ...], Compiled] = field(default_factory=OrderedDict)
    plan: jax_batch.Plan | None = None
    """How its calls are joined, if they are."""


class JaxSandbox:
    """See the module. From one thread alone. ``wall``: what bounds the process, where it is one of its own."""

    def __init__(self, host: Host, started: Started, wall: MemoryWall | None = None) -> None:
        self._host = host
        self._device = started.device
        self._fingerprint = started.fingerprint
        self._platform = PLATFORMS[started.described["lane"]]
        self._store = WeightStore(started.device)
        self._kept = KeptStore(host, started.device)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._present = ""
        self._wall = wall
        self._ready_s = 0.0
        """What compiling and weights took of the present job."""

    def prepare(self) -> None:
        """Nothing is made ahead: programs have no state that a call could leave behind."""

    def tidy(self) -> None:
        """Let go of programs and compiled shapes that were used longest ago. Call it while idle."""
        while len(self._loaded) > PROGRAMS_MAX:
            self._loaded.popitem(last=False)
        ready = sum(len(one.compiled) for one in self._loaded.values())
        for one in self._loaded.values():
            while ready > COMPILED_MAX and one.compiled:
                one.compiled.popitem(last=False)
                ready -= 1

    def load_weights(self, digest: str, fd: int, size_bytes: int) -> None:
        """Take a piece of weights that programs to come use: an open file, closed here. What is wrong with it they tell."""
        self._store.add(digest, fd, size_bytes)

    def drop_weights(self, digests: Sequence[str]) -> None:
        """Let go of pieces of weights. Programs that use them get them again before they run."""
        for digest in digests:
            self._store.drop(digest)
        gone = set(digests)
        for one in self._loaded.values():
            if any(digest in gone for digest, _ in one.program.weights):
                one.weights = None

    def drop(self, digest: str) -> None:
        """Let go of a value that was kept on the device, or referred to."""
        self._kept.drop(digest)

    def load(self, program: SlotProgram, bundle: Bytes, packages: Sequence[Bytes] = ()) -> None:
        """Read and audit ``program``, unless it is there. BundleDamaged if the bundle can't be read.

        A program that is refused is loaded, too: the result of its calls says why.
        """
        if program.key == self._present:
            return
        found = self._loaded.get(program.key)
        if self._wall is not None:
            self._wall.move(program.memory_bytes)
        if found is None:
            assert not packages, "programs of the jax lane have no packages"
            found = self._loaded[program.key] = Loaded(program, describe(bundle))
            found.keeps = outputs_kept(found.description.result)
            if program.batch is not None and not found.keeps:
                found.plan = jax_batch.plan_of(found.description, program.batch[0])
            try:
                found.audited = self._read(found)
            except FleetError as error:
                found.refused = error
        self._loaded.move_to_end(program.key)
        self._present = program.key

    def _read(self, loaded: Loaded) -> Audited:
        description = loaded.description
        number = description.module_for(self._platform)
        if number is None:
            raise ProgramRefused(
                f"the program has no module for {self._platform}",
                hint="fleet deploy says why there is none; or ask for other cars with requires=",
            )
        with jax_execute.precision(description.x64):
            return audit(description.modules[number], description.head, number, loaded.program.memory_bytes)

    def run(self, job: SlotJob) -> SlotResult:
        """Run ``job`` of a loaded program."""
        loaded = self._loaded[job.program.key]
        self._ready_s = 0.0
        start_s = time.monotonic()
        if job.items is None:
            ((result, summary),) = self._outcomes(loaded, [(job.args, job)])
            return SlotResult(result=result, summary=summary, run_s=self._since(start_s))
        return self._chunk(loaded, job, start_s)

    def run_batch(self, jobs: list[SlotJob]) -> list[SlotResult]:
        """Run single calls of a loaded program as one, where they can be joined. ``run_s`` is each call's share."""
        loaded = self._loaded[jobs[0].program.key]
        self._ready_s = 0.0
        start_s = time.monotonic()
        outcomes = self._outcomes(loaded, [(job.args, job) for job in jobs])
        share_s = self._since(start_s) / len(jobs)
        return [SlotResult(result=result, summary=summary, run_s=share_s) for result, summary in outcomes]

    def _chunk(self, loaded: Loaded, job: SlotJob, start_s: float) -> SlotResult:
        clock, host = time.monotonic, self._host
        out: list[bytes] = []
        first = size_bytes = 0
        summary = ""
        now = flushed_s = start_s
        reported_s = 0.0
        items = _items(job)
        together = 1 if loaded.plan is None or job.exact else loaded.plan.rows_max
        for position in range(0, len(items), together):
            if job.exact or now - reported_s > REPORT_S:
                host.progress(position)
                reported_s = now
            for result, failure in self._outcomes(
                loaded, [(one, job) for one in items[position : position + together]]
            ):
                summary = failure or summary
                out.append(result)
                size_bytes += len(result)
            now = clock()
            if now - flushed_s > FLUSH_S or size_bytes > FLUSH_BYTES:
                host.items(first, pack_items(out))
                first += len(out)
                out.clear()
                size_bytes = 0
                now = flushed_s = clock()
        return SlotResult(result=pack_items(out), first=first, summary=summary, run_s=self._since(start_s))

    def _since(self, start_s: float) -> float:
        return max(0.0, time.monotonic() - start_s - self._ready_s)

    @contextlib.contextmanager
    def _getting_ready(self) -> Iterator[None]:
        start_s = time.monotonic()
        try:
            yield
        finally:
            self._ready_s += time.monotonic() - start_s

    def _outcomes(self, loaded: Loaded, calls: list[tuple[Bytes, SlotJob]]) -> list[tuple[bytes, str]]:
        """(result bytes, summary of an exception or nothing) of calls that may run together."""
        plan = loaded.plan
        if plan is None or loaded.refused is not None:
            return [self._outcome(loaded, arguments, job) for arguments, job in calls]
        parts: list[jax_batch.Part] = []
        ended: list[jax_batch.Ended | None] = []
        for arguments, job in calls:
            try:
                parts.append(self._part(loaded, plan, arguments, job))
                ended.append(None)
            except _CALLS_OWN as error:
                ended.append(error)
        ran = iter(jax_batch.run(plan, parts, lambda inputs: self._call(loaded, inputs), _CALLS_OWN))
        return [self._told(loaded, next(ran) if one is None else one) for one in ended]

    def _part(self, loaded: Loaded, plan: jax_batch.Plan, arguments: Bytes, job: SlotJob) -> jax_batch.Part:
        part = jax_batch.part_of(plan, self._arrays(arguments, job))
        check_arguments(loaded.description.inputs, part.inputs)
        return part

    def _told(self, loaded: Loaded, ended: jax_batch.Ended) -> tuple[bytes, str]:
        try:
            if isinstance(ended, Exception):
                raise ended
            return value_of(build(loaded.description.result, ended, self._keep)), ""
        except _CALLS_OWN as error:
            return failed(error)

    def _outcome(self, loaded: Loaded, arguments: Bytes, job: SlotJob) -> tuple[bytes, str]:
        """The same of one call."""
        try:
            if loaded.refused is not None:
                raise loaded.refused
            if loaded.keeps and job.items is not None:
                raise WrongArguments(
                    "the function keeps a part of its result on the device, and map has no place for that",
                    hint="make the calls with .remote() or .spawn()",
                )
            inputs = self._arrays(arguments, job)
            check_arguments(loaded.description.inputs, inputs)
            outputs = self._call(loaded, inputs)
            return value_of(build(loaded.description.result, outputs, self._keep)), ""
        except _CALLS_OWN as error:
            return failed(error)

    def _arrays(self, arguments: Bytes, job: SlotJob) -> list[Any]:
        """The flat arrays of a call."""
        arrays: list[Any] = []
        for entry in _decoded(arguments):
            if isinstance(entry, dict):
                arrays += self._kept.arrays(entry, job.refs, _decoded)
            else:
                arrays.append(entry)
        return arrays

    def _keep(self, tree: Any, arrays: Sequence[Any]) -> dict[str, Any]:
        """What stands for a part of the result that stays on the device."""
        return self._kept.keep([arrays[number] for number in leaves_of(tree)])

    def _call(self, loaded: Loaded, inputs: list[Any]) -> list[Any]:
        """The outputs: numpy arrays, but for those that are kept, which stay on the device."""
        program = loaded.program
        weights = self._weights(loaded)
        compiled = self._compiled(loaded, tuple(array.shape for array in inputs))
        if compiled.memory_bytes > program.memory_bytes:
            raise MemoryError(
                f"the program takes {format_bytes(compiled.memory_bytes)} with these shapes"
                f" (arguments and weights {format_bytes(compiled.argument_bytes)},"
                f" results {format_bytes(compiled.output_bytes)}, between {format_bytes(compiled.temporary_bytes)}),"
                f" its memory= is {format_bytes(program.memory_bytes)}"
            )
        device = self._device
        there = [jax_execute.put(one, device) if isinstance(one, np.ndarray) else one for one in inputs]
        outputs = compiled.run([*weights, *there])
        return [one if number in loaded.keeps else np.asarray(one) for number, one in enumerate(outputs)]

    def _weights(self, loaded: Loaded) -> list[Any]:
        """The program's weights on the device."""
        if loaded.weights is None:
            specs = [(spec.dtype.name, _fixed(spec.shape)) for spec in loaded.description.weights]
            with self._getting_ready():
                loaded.weights = self._store.arrays(loaded.program.weights, specs)
        return loaded.weights

    def _compiled(self, loaded: Loaded, shapes: tuple[Shape, ...]) -> Compiled:
        """The program for inputs of these shapes, made where there is none yet."""
        found = loaded.compiled.get(shapes)
        if found is None:
            with self._getting_ready():
                found = loaded.compiled[shapes] = self._from_agent_or_made(loaded, shapes)
        loaded.compiled.move_to_end(shapes)
        return found

    def _from_agent_or_made(self, loaded: Loaded, shapes: tuple[Shape, ...]) -> Compiled:
        """What the agent kept of an earlier slot, where it can be used; else compiled now, and handed over."""
        description = loaded.description
        key = hashlib.sha256(f"{self._fingerprint} {shapes}".encode()).hexdigest()
        kept = self._host.compiled(key)
        if kept is not None:
            with contextlib.suppress(ProtocolError):
                return jax_execute.load(kept, self._device)
        specs = [(spec.dtype, _fixed(spec.shape)) for spec in description.weights]
        specs += [(spec.dtype, shape) for spec, shape in zip(description.inputs, shapes, strict=True)]
        assert loaded.audited is not None, "a program that was refused isn't compiled"
        made = jax_execute.compile_exported(loaded.audited, specs, x64=description.x64)
        self._host.keep_compiled(key, jax_execute.save(made))
        return made


def _fixed(shape: tuple[int | str, ...]) -> Shape:
    assert all(isinstance(size, int) for size in shape), "weights have one shape"
    return tuple(map(int, shape))


def _decoded(data: Bytes) -> list[Any]:
    """Arguments of one call as the codec has them; ValueError where they aren't a list of arrays and references."""
    try:
        values = codec.decode(data, name="arguments")
    except ProtocolError as error:
        raise ValueError(f"the arguments can't be read: {error.message}") from None
    if type(values) is not list or not all(isinstance(one, np.ndarray | dict) for one in values):
        raise ValueError("the arguments of a jax program are arrays")
    return values


def _items(job: SlotJob) -> list[memoryview]:
    """The arguments of each item of a chunk."""
    view = memoryview(job.args)
    try:
        (count,) = struct.unpack_from("<I", view)
        sizes = struct.unpack_from(f"<{count}I", view, 4) if count <= limits.CHUNK_ITEMS_MAX else ()
    except struct.error:
        count, sizes = -1, ()
    at = 4 + 4 * count
    if count != job.items or at + sum(sizes) != len(view):
        raise SandboxTrap("the arguments of a chunk don't add up")
    items = []
    for size in sizes:
        items.append(view[at : at + size])
        at += size
    return items
