"""Read a history and say what is wrong with it. Knows nothing of the platform's code; imports none of it.

A history is JSON lines of three writers: the ``client`` (``submit`` with the value that is right, ``outcome`` with what it
got), the ``dispatcher`` (see ``fnplatform/history.py``), and ``store`` (``stored``: one line for each outcome record that
lies in the durable stream at the end, with the lease that wrote it).

Rules, each with the name that a violation carries:

``lost``    every submitted call has an outcome at the client, and one in the store
``double``  no call has two outcomes at the client, two commits, or two records
``wrong``   the client's value is the right one
``stale``   no commit, and no stored record, under a lease older than the newest granted for its call before that commit
``overlap`` no grant of a call while an earlier lease of it, of the same leader, has not ended
``foreign`` no outcome of a call nobody submitted
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Report:
    """What a history shows."""

    submitted: int = 0
    outcomes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every rule holds."""
        return not self.violations


@dataclass
class _Call:
    expect: Any = None
    submitted: int = 0
    got: list[Row] = field(default_factory=list)
    commits: list[Row] = field(default_factory=list)
    stored: list[Row] = field(default_factory=list)
    newest: tuple[int, int] = (0, 0)
    newest_at_commit: tuple[int, int] | None = None
    open: dict[int, int] = field(default_factory=dict)  # counter -> epoch of leases that have not ended


def check(rows: Iterable[Row]) -> Report:
    """The report of a history, its lines in the order they were written."""
    report = Report()
    calls: dict[str, _Call] = defaultdict(_Call)
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[f"{row['who']}.{row['event']}" + (f".{row['why']}" if row["event"] == "end" else "")] += 1
        if "call" in row:
            _apply(calls[row["call"]], row, report.violations)
    for name, call in sorted(calls.items()):
        _judge(name, call, report)
    report.counts = dict(sorted(counts.items()))
    return report


def _apply(call: _Call, row: Row, violations: list[str]) -> None:
    event = row["event"]
    if event == "submit":
        call.submitted += 1
        call.expect = row["expect"]
    elif event == "outcome":
        call.got.append(row)
    elif event == "stored":
        call.stored.append(row)
    elif event in ("grant", "adopt"):
        order = (row["epoch"], row["counter"])
        if event == "grant":
            still = [counter for counter, epoch in call.open.items() if epoch == row["epoch"]]
            if still:
                violations.append(
                    f"overlap: call {row['call']} granted as {row['counter']} while {still} had not ended"
                )
            call.open[row["counter"]] = row["epoch"]
        call.newest = max(call.newest, order)
    elif event == "requeue":
        call.open.clear()  # its new sequence voids every lease before
    elif event == "end":
        call.open.pop(row["counter"], None)
    elif event == "commit":
        if not row.get("final", True):
            return  # a part of a chunk: its lease goes on
        call.commits.append(row)
        call.open.pop(row["counter"], None)
        if row["counter"] and row["counter"] != call.newest[1]:
            violations.append(
                f"stale: call {row['call']} committed under {row['counter']}, the newest lease was {call.newest[1]}"
            )
        call.newest_at_commit = call.newest


def _judge(name: str, call: _Call, report: Report) -> None:
    bad = report.violations.append
    if not call.submitted:
        if call.got or call.stored or call.commits:
            bad(f"foreign: call {name} has an outcome and was never submitted")
        return
    report.submitted += 1
    report.outcomes += bool(call.got)
    if not call.got:
        bad(f"lost: call {name} has no outcome at the client")
    if not call.stored:
        bad(f"lost: call {name} has no record in the store")
    if len(call.got) > 1:
        bad(f"double: call {name} has {len(call.got)} outcomes at the client")
    if len(call.commits) > 1:
        bad(f"double: call {name} was committed {len(call.commits)} times")
    if len(call.stored) > 1:
        bad(f"double: call {name} has {len(call.stored)} records")
    for row in call.got:
        if row.get("error") or row.get("value") != call.expect:
            bad(f"wrong: call {name} gave {row.get('error') or row.get('value')!r}, {call.expect!r} is right")
    for row in call.stored:
        # A commit whose line a kill -9 swallowed is judged by the record itself: by the newest lease there ever was.
        newest = call.newest_at_commit or call.newest
        if row["counter"] and row["counter"] < newest[1]:
            bad(f"stale: call {name} is stored under {row['counter']}, the newest lease was {newest[1]}")


def read(path: Path) -> list[Row]:
    """The rows of a history file. A last line cut short by a kill is left out; any other damage raises."""
    lines = path.read_text().splitlines()
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number != len(lines) - 1:
                raise
    return rows
