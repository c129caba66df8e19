"""Which verdict a car gets on its report, and which reports are under a current lease. Pure.

A verdict is told once everything in the report is decided: the car keeps what it reported until then.
"""

from __future__ import annotations

from fleet.protocol.messages import Lease, RunOutcome
from fnplatform.dispatcher import chunks, leases
from fnplatform.dispatcher.events import Report, Reported, Result, Verdict, Verdicts
from fnplatform.dispatcher.granting import lease_fields
from fnplatform.dispatcher.state import Board, Entry, Phase


def reported(board: Board, event: Reported) -> list[tuple[Report, int, Result, Entry]]:
    """Open a report; returns what is left to judge under a current lease."""
    count = len(event.results)
    report = Report(event.car, event.reply, ["refused"] * count, count)
    current = []
    for index, result in enumerate(event.results):
        lease = result.run.lease
        if not leases.genuine(board.key, lease, event.car):
            board.counters.forged += 1
            _refuse(board, report, index, result, forged=True)
            continue
        entry = board.by_seq.get(lease.seq)
        if entry is not None and entry.lease is not None and entry.lease.order == leases.order(lease):
            current.append((report, index, result, entry))
        else:
            _not_current(board, report, index, result, entry)
    return current


def _not_current(board: Board, report: Report, index: int, result: Result, entry: Entry | None) -> None:
    """A report under a lease that doesn't hold, as far as this leader knows."""
    lease = result.run.lease
    order = leases.order(lease)
    if entry is None:
        ended = board.ended_seqs.get(lease.seq)
        if ended is not None and ended.order == order:
            decide(board, report, index, "committed")
        elif not board.caught_up:
            remember_orphan(board, result.run.lease, report.car)
            undecided(board, report)
        else:
            _refuse(board, report, index, result)
    elif entry.ops and entry.fence == order:
        undecided(board, report)  # its first copy is being stored
    elif order == entry.fence and _is_known(entry, result.run):
        decide(board, report, index, "committed")
    elif adoptable(entry, order):
        undecided(board, report)  # judged when all cars have been heard
    else:
        _refuse(board, report, index, result)


def _is_known(entry: Entry, run: RunOutcome) -> bool:
    """Whether every item that this report names has its result already."""
    if run.done and entry.state.stream:
        return run.done[-1][1] < entry.delivered
    return run.done is not None and not chunks.intersect(chunks.normal(run.done), entry.remaining)


def adoptable(entry: Entry, order: leases.Order) -> bool:
    """Whether a lease of an earlier leader may still hold for this call."""
    newer = order > entry.fence and (entry.lease is None or order > entry.lease.order)
    return newer and entry.phase in (Phase.HELD, Phase.CHECKING, Phase.DELAYED, Phase.WAITING, Phase.LEASED)


def remember_orphan(board: Board, lease: Lease, car: str) -> None:
    """A genuine lease of a call that wasn't told yet; the newest one of each call counts."""
    known = board.orphans.get(lease.seq)
    if known is None or leases.order(known[0]) < leases.order(lease):
        board.orphans[lease.seq] = (lease, car)


def decide(board: Board, report: Report | None, index: int, verdict: Verdict) -> None:
    """One verdict; the last one of a report sends it."""
    if report is None:
        return
    report.verdicts[index] = verdict
    report.open -= 1
    if report.open == 0 and not report.silent:
        board.out.append(Verdicts(report.car, report.reply, report.verdicts))


def undecided(board: Board, report: Report) -> None:
    """Can't be told yet: no answer to this report, the car sends it again."""
    report.silent = True
    report.open -= 1


def _refuse(board: Board, report: Report, index: int, result: Result, *, forged: bool = False) -> None:
    board.counters.refused += 1
    if board.notes:
        why = "forged" if forged else "not the current lease"
        board.note("refuse", **lease_fields(result.run.lease), why=why)
    decide(board, report, index, "refused")
