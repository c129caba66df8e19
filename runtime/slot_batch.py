"""Calls of one program that run as one: gathered from the pipe, run together, answered one by one in their order.

A batch is what comes within the program's ``max_wait`` of its first call, at most ``max_size`` calls (what becomes of their
rows is the sandbox's business). A chunk of a map, a call that is to run alone (``exact``), and any frame that is no call of
the same program end it.
Time: all of a batch run since its first call began. For the agent, the first one runs and the page says how many run with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from fleet.protocol.errors import SandboxTrap
from runtime import slot_events, slot_wire
from runtime.slot_frames import Frame
from runtime.slot_wire import Bytes, Kind, SlotJob, SlotProgram, SlotResult


class Source(Protocol):
    """Where frames come from: ``runtime.slot_main.Pipe``."""

    def receive_within(self, wait_s: float) -> Frame | None: ...
    def unread(self, received: Frame) -> None: ...


class Sandbox(Protocol):
    """What runs them: ``runtime.sandbox.jax.JaxSandbox``, or any that has no batches."""

    def load(self, program: SlotProgram, bundle: Bytes, packages: Sequence[Bytes] = ()) -> None: ...
    def run(self, job: SlotJob) -> SlotResult: ...


class BatchSandbox(Sandbox, Protocol):
    """One that has."""

    def run_batch(self, jobs: list[SlotJob]) -> list[SlotResult]: ...


class Reporter(Protocol):
    """Whom it tells what runs: ``runtime.slot_main.Reporter``."""

    def begin(self, job: SlotJob, together: int = 1) -> None: ...
    def end(self) -> None: ...
    @property
    def culprit(self) -> int | None: ...


def gather(first: SlotJob, source: Source, held: Mapping[str, Bytes]) -> list[SlotJob]:
    """``first``, and what runs together with it. Blocks for ``max_wait`` at most."""
    batch = first.program.batch
    jobs = [first]
    if batch is None or not _joins(first):
        return jobs
    most, wait_s = batch
    end_s = time.monotonic() + wait_s
    while len(jobs) < most:
        received = source.receive_within(end_s - time.monotonic())
        if received is None:
            break
        job = slot_wire.parse_run(received, first.program, held) if received.kind == Kind.RUN else None
        if job is None or not _joins(job):
            source.unread(received)
            break
        jobs.append(job)
    return jobs


def _joins(job: SlotJob) -> bool:
    return job.items is None and not job.exact and job.stream is None and job.checkpoint is None


def run(
    sandbox: Sandbox,
    reporter: Reporter,
    program: SlotProgram,
    code: tuple[Bytes, Sequence[Bytes]],
    jobs: list[SlotJob],
) -> list[list[Bytes]]:
    """The frames that answer ``jobs``: one for each; one alone where the sandbox failed as a whole, which ends this slot."""
    first = jobs[0]
    reporter.begin(first, len(jobs))
    try:
        sandbox.load(program, *code)
        if program.batch is not None and _joins(first):
            results = cast(BatchSandbox, sandbox).run_batch(jobs)
        else:
            results = [sandbox.run(first)]
    except SandboxTrap as error:
        return [slot_events.trapped_frame(first.job, reporter.culprit, error.message)]
    except OSError:
        raise  # The pipe: the agent is gone.
    except Exception as error:
        # Whatever the sandbox couldn't do for this job (a damaged bundle, no memory for an instance) is told to the
        # agent, who decides: it has spare slots and other cars have other memory.
        return [slot_events.failed_frame(first.job, f"{type(error).__name__}: {error}")]
    finally:
        reporter.end()
    return [slot_events.done_frame(job.job, result) for job, result in zip(jobs, results, strict=True)]
