"""The README's code runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.testing import LocalFleet

README = Path(__file__).parents[2] / "README.md"
SAID = {
    "collatz_steps": ["111", "178"],
    "slugify": ["42", "2.5", "any-python-anywhere", "332833500"],
    "score": ["(10,", "16)", "(10,", "16)"],
}
"""A name in a program -> what the program prints."""


@pytest.mark.parametrize("name", SAID)
def test_programs_run_as_plain_scripts(shared_fleet: LocalFleet, tmp_path: Path, name: str) -> None:
    programs = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(programs) == len(SAID)
    script = tmp_path / f"readme_{name}.py"
    script.write_text(next(program for program in programs if name in program))
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "FLEET_URL": shared_fleet.url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == SAID[name]
