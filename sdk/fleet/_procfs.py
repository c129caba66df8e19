"""What /proc tells of processes (Linux). Standard library only."""

from __future__ import annotations

from pathlib import Path


def state_of(pid: int) -> str:
    """One letter, as in ps: R, S, D, T (stopped), Z (zombie); "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""


def children_of(pid: int) -> list[int]:
    """Processes that ``pid`` started and that still run; zombies aren't counted."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [child for child in found if state_of(child) not in ("", "Z")]


def descendants_of(pid: int) -> list[int]:
    """``pid`` and all that it started, directly or not."""
    found = [pid] if state_of(pid) not in ("", "Z") else []
    for child in children_of(pid):
        found += descendants_of(child)
    return found
