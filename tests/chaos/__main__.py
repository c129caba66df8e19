"""``make chaos``: the long run, its verdict on stdout as a table and its history in a file."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.chaos.run import SHORT, Plan, chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="the run that make test does")
    parser.add_argument("--history", type=Path, default=None, help="where the JSONL goes (default: a temporary file)")
    options = parser.parse_args()
    path = options.history or Path(tempfile.mkdtemp(prefix="fleet-chaos-")) / "history.jsonl"
    plan = SHORT if options.short else replace(Plan(), calls=options.calls)
    report = chaos(replace(plan, seed=options.seed), path)
    for name, count in report.counts.items():
        print(f"{name:32} {count:6}")
    print(f"{'calls submitted':32} {report.submitted:6}\n{'calls with an outcome':32} {report.outcomes:6}")
    for line in report.violations[:50]:
        print(f"VIOLATION {line}")
    print(f"history: {path}", file=sys.stderr)
    print("chaos: " + ("every rule holds" if report.ok else f"{len(report.violations)} violations"))
    return 0 if report.ok and report.submitted == plan.calls + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
