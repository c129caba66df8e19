"""The tour as ``make demo`` runs it: it ends by itself with exit code 0, its table filled, nothing left behind."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

RUN_S = 240.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tour() -> None:
    command = [sys.executable, "-P", "-m", "fleet.cli.main", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    told = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    assert "sessions read" in done.stdout, told
    assert re.search(r"results equal to the local run\s+yes", done.stdout), told
    assert re.search(r"processes left behind\s+0\s*$", done.stdout, re.MULTILINE), told
    by_hand = re.search(r"^(car-\d)\s+by hand\s+([\d.]+)\s+([\d.]+)\s*$", done.stdout, re.MULTILINE)
    assert by_hand, told
    killed_ms, reaped_ms = float(by_hand[2]), float(by_hand[3])
    assert 0 <= killed_ms <= reaped_ms < 5000, told
