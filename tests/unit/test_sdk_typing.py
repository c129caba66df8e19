"""Both type checkers agree with tests/typing: what is right passes, what is wrong is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "typing"
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml"],
    "pyright": [sys.executable, "-m", "basedpyright", "--project", str(FOLDER), "--level", "error"],
}


def check(checker: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """Run a checker over ``files`` as a developer's project would."""
    command = CHECKERS[checker] + (["--pythonpath", sys.executable] if checker == "pyright" else [])
    return subprocess.run(
        [*command, *map(str, files)],
        cwd=ROOT, env={**os.environ, "MYPYPATH": f"sdk:{FOLDER}"}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("checker", CHECKERS)
def test_decorated_functions_keep_their_types(checker: str) -> None:
    done = check(checker, *sorted(FOLDER.glob("*.py")))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_proofs_can_fail(checker: str, tmp_path: Path) -> None:
    """A wrong claim, an argument of the wrong type, and a comment that hides nothing are each an error."""
    wrong = tmp_path / "wrong.py"
    ignore = "type: ignore[arg-type]" if checker == "mypy" else "pyright: ignore[reportArgumentType]"
    wrong.write_text(
        "import fleet\n"
        "from typing import assert_type\n\n\n"
        "@fleet.function\n"
        "def add(x: int) -> int:\n"
        "    return x\n\n\n"
        "assert_type(add.remote(1), str)\n"
        "add.remote('one')\n"
        f"add.remote(1)  # {ignore}\n"
    )
    done = check(checker, wrong)
    lines = {line for line in (10, 11, 12) if f"wrong.py:{line}" in done.stdout}
    assert lines == {10, 11, 12}, done.stdout + done.stderr
