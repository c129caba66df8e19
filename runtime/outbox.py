"""Outcomes that the control plane hasn't answered yet: kept, batched, sent again. Pure.

An outcome is sent at once when no report is on its way; what gathers meanwhile shares the next one. Outcomes of one
lease stay in order. An outcome leaves only by a verdict (``committed`` or ``refused``), also after a departure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fleet.protocol.limits import (
    INLINE_RESULT_BYTES_MAX,
    LEASES_PER_CAR_MAX,
    MESSAGE_BYTES_MAX,
    OUTCOME_RESEND_S,
    OUTCOMES_PER_REPORT_MAX,
    PAYLOAD_BYTES_MAX,
)
from fleet.protocol.messages import BlobRef, Lease, RunOutcome, RunStatus

Bytes = bytes | bytearray | memoryview
Kept = tuple[str, Bytes]
"""Digest (as a slot says) and copy of a value that the slot keeps on its device."""

REPORT_BYTES_MAX = INLINE_RESULT_BYTES_MAX + (MESSAGE_BYTES_MAX - INLINE_RESULT_BYTES_MAX) // 2
STALLED_S = 0.25
"""A report that isn't answered for this long holds others back no longer: it may be undecided for as long as a new leader
takes to hear all cars. Until then what gathers shares a message, because each costs both ends 50 us."""
COUNT_MAX = 2 * LEASES_PER_CAR_MAX
BYTES_MAX = PAYLOAD_BYTES_MAX


@dataclass(slots=True, eq=False)
class Entry:
    """One outcome. ``storing``: how many blobs it waits for, its part if that is large, and ``kept``: what its slot keeps."""

    number: int
    outcome: RunOutcome
    part: Bytes = field(repr=False)
    storing: int = 0
    kept: Sequence[Kept] = ()
    size_bytes: int = 0

    @property
    def part_is_blob(self) -> bool:
        """Whether the part has to be put as a blob."""
        return len(self.part) > INLINE_RESULT_BYTES_MAX

    @property
    def final(self) -> bool:
        """Whether it ends its lease."""
        return self.outcome.status is not RunStatus.PARTIAL

    @property
    def key(self) -> tuple[int, int]:
        """The lease's (epoch, counter)."""
        return self.outcome.lease.epoch, self.outcome.lease.counter


@dataclass(slots=True, eq=False)
class Report:
    """Outcomes that travel together."""

    number: int
    entries: list[Entry]
    first_s: float
    sent_s: float


class Outbox:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: dict[int, Entry] = {}
        self._flying: dict[int, Report] = {}
        self._entries = 0
        self._reports = 0
        self._count = 0
        self.bytes = 0
        self.refused = 0
        """Outcomes that the control plane refused, since the start."""

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Over its bound: the agent takes no work until it is answered."""
        return self.bytes > BYTES_MAX or self._count > COUNT_MAX

    @property
    def due_s(self) -> float:
        """When something must be sent, or sent again."""
        if not self._flying:
            return float("inf")
        due_s = min([report.sent_s for report in self._flying.values()]) + OUTCOME_RESEND_S
        if self._waiting:
            flying = {entry.key for report in self._flying.values() for entry in report.entries}
            if any(not entry.storing and entry.key not in flying for entry in self._waiting.values()):
                due_s = min(due_s, max(report.first_s for report in self._flying.values()) + STALLED_S)
        return due_s

    def final_leases(self) -> list[Lease]:
        """Leases whose last outcome waits for its verdict: the car still holds them."""
        entries = [entry for report in self._flying.values() for entry in report.entries]
        entries += self._waiting.values()
        return [entry.outcome.lease for entry in entries if entry.final]

    def add(self, outcome: RunOutcome, part: Bytes, kept: Sequence[Kept] = ()) -> Entry:
        """Keep an outcome. If the returned entry is ``storing``, blobs must be put first: its large part, and ``kept``."""
        self._entries += 1
        entry = Entry(self._entries, outcome, part, kept=kept)
        entry.storing = entry.part_is_blob + len(kept)
        entry.size_bytes = len(part) + sum(len(data) for _, data in kept)
        self._waiting[entry.number] = entry
        self._count += 1
        self.bytes += entry.size_bytes
        return entry

    def stored(self, number: int, digest: str, size_bytes: int, *, kept: bool = False) -> None:
        """The part of entry ``number`` is a blob now, or something that its slot keeps is."""
        entry = self._waiting.get(number)
        if entry is None or not entry.storing:
            return
        entry.storing -= 1
        entry.size_bytes -= size_bytes
        self.bytes -= size_bytes
        if kept:
            values = [*entry.outcome.kept, BlobRef(digest=digest, size_bytes=size_bytes)]
            entry.outcome = entry.outcome.model_copy(update={"kept": values})
            entry.kept = [one for one in entry.kept if one[0] != digest]
        else:
            entry.outcome = entry.outcome.model_copy(update={"blob": digest, "blob_bytes": size_bytes})
            entry.part = b""

    def not_stored(self, number: int, message: str) -> None:
        """A blob of entry ``number`` can't be stored: the lease is given up, another car may do better."""
        entry = self._waiting.get(number)
        if entry is not None and entry.storing:
            self.bytes -= entry.size_bytes
            update: dict[str, object] = {"status": RunStatus.ABANDONED, "message": message, "done": None, "kept": []}
            entry.outcome = entry.outcome.model_copy(update=update)
            entry.part, entry.kept, entry.storing, entry.size_bytes = b"", (), 0, 0

    def take(self, now_s: float, *, all_now: bool = False) -> list[Report]:
        """Reports to send now. ``all_now``: don't wait for the answer of what is on its way."""
        reports: list[Report] = []
        while self._waiting and (all_now or all(now_s >= one.first_s + STALLED_S for one in self._flying.values())):
            entries = self._next_batch(all_now)
            if not entries:
                break
            self._reports += 1
            report = Report(self._reports, entries, now_s, now_s)
            self._flying[report.number] = report
            reports.append(report)
        return reports

    def _next_batch(self, all_now: bool) -> list[Entry]:
        batch: list[Entry] = []
        held_back: set[tuple[int, int]] = set()
        if not all_now:  # what follows of a lease must not overtake what is on its way
            held_back.update(entry.key for report in self._flying.values() for entry in report.entries)
        total = 0
        for entry in self._waiting.values():
            if entry.storing or entry.key in held_back:
                held_back.add(entry.key)
                continue
            total += len(entry.part)
            if batch and total > REPORT_BYTES_MAX:
                break
            batch.append(entry)
            if len(batch) == OUTCOMES_PER_REPORT_MAX:
                break
        for entry in batch:
            del self._waiting[entry.number]
        return batch

    def resend(self, now_s: float, *, everything: bool = False) -> list[Report]:
        """Reports whose answer is overdue (or all that fly), marked as sent now."""
        late = [
            report
            for report in self._flying.values()
            if everything or now_s >= report.sent_s + OUTCOME_RESEND_S
        ]  # fmt: skip
        for report in late:
            report.sent_s = now_s
        return late

    def committed(self, number: int, committed: tuple[bool, ...]) -> list[Entry]:
        """Entries of report ``number`` that this answer to it says are stored."""
        report = self._flying.get(number)
        if report is None or len(committed) != len(report.entries):
            return []
        return [entry for entry, was_committed in zip(report.entries, committed, strict=True) if was_committed]

    def answered(self, number: int, committed: tuple[bool, ...]) -> list[Entry]:
        """Forget report ``number``; its refused entries are returned. An answer that doesn't fit changes nothing."""
        report = self._flying.get(number)
        if report is None or len(committed) != len(report.entries):
            return []
        del self._flying[number]
        self._count -= len(report.entries)
        refused = []
        for entry, was_committed in zip(report.entries, committed, strict=True):
            self.bytes -= entry.size_bytes
            if not was_committed:
                self.refused += 1
                refused.append(entry)
        return refused
