"""Scripts, commands, cells and prompts as clients of a real fleet."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fleet.testing import LocalFleet


def run(fleet: LocalFleet, *command: str, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "FLEET_URL": fleet.url, "IPYTHONDIR": str(cwd)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=env,
        input=text,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


SCRIPT = """
import dataclasses, enum, os
import fleet, helpers
print("top level", "FLEET_SANDBOX" in os.environ)

class Unit(enum.Enum):
    M = 1
    KM = 1000

@dataclasses.dataclass
class Length:
    n: float
    unit: Unit = Unit.M

calls = 0

@fleet.function
def metres(length):
    global calls
    calls += 1
    assert isinstance(length, Length) and isinstance(length.unit, Unit)
    return helpers.times(length.n, length.unit.value), calls, "FLEET_SANDBOX" in os.environ

print(metres.remote(Length(2, Unit.KM)))
print(list(metres.map([Length(n) for n in range(3)]))[-1][0])
double = fleet.function(lambda x, by=2: x * by)
print(double.remote(4), double.remote([1], by=3), double.name)
print(fleet.function(helpers.times).remote(3, 5), fleet.function(Length(7).__eq__).remote(Length(7)))

def make(k):
    @fleet.function
    def add(x):
        return x + k
    return add

print([make(k).remote(1) for k in range(3)])
try:
    metres.remote(3)
except AssertionError as error:
    print("".join(error.__notes__))
"""


def test_a_script_without_a_main_guard(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "helpers.py").write_text("def times(a, b): return a * b\n")
    done = run(shared_fleet, "script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:6] == [
        "top level False", "(2000, 1, True)", "2", "8 [1, 1, 1] double", "15 True", "[1, 2, 3]"
    ]  # fmt: skip
    assert 'File "script.py", line 21, in metres' in done.stdout
    assert "assert isinstance(length, Length)" in done.stdout


def test_a_command_and_standard_input(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    text = "import fleet\nk = 40\n@fleet.function\ndef f(x):\n    return x + k\nprint(f.remote(2))\n"
    done = run(shared_fleet, "-c", text, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr
    done = run(shared_fleet, "-", cwd=tmp_path, text=text)
    assert done.returncode == 1
    said = "DeployError: Python keeps no source of f: it came from standard input (hint: save it to a file)"
    assert said in done.stderr.splitlines()[-1]


def test_cells_of_a_notebook(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    (tmp_path / "notebook.py").write_text(
        textwrap.dedent(
            """
            from IPython.core.interactiveshell import InteractiveShell
            shell = InteractiveShell.instance()
            for cell in (
                "import fleet\\nclass P:\\n    def __init__(self, n): self.n = n\\n    def __add__(self, k): return P(k + 1)",
                "@fleet.function\\ndef f(p):\\n    return (p + 1).n, isinstance(p, P)",
                "print('first', f.remote(P(1)))",
                "@fleet.function\\ndef f(p):\\n    return (p + 2).n, isinstance(p, P)",
                "print('again', f.remote(P(1)))",
            ):
                shell.run_cell(cell).raise_error()
            """
        )
    )
    done = run(shared_fleet, "notebook.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "first (2, True)" in done.stdout and "again (3, True)" in done.stdout, done.stdout


def test_a_module_run_with_m(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("VALUE = 5\n")
    (package / "data.txt").write_text("read")
    (package / "tool.py").write_text(
        "import fleet\nfrom importlib import resources\nfrom . import other\n\n@fleet.function\ndef f(x):\n"
        "    from .other import VALUE as again\n"
        "    return x + other.VALUE + again, resources.files('pkg').joinpath('data.txt').read_text()\n\n"
        "print(f.remote(1))\n"
    )
    done = run(shared_fleet, "-m", "pkg.tool", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("(11, 'read')\n", 0), done.stderr


def test_only_what_the_platform_lacks_is_uploaded(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import fleet\nfrom fleet import _blobs\nput = _blobs.Blobs.put\nsent = []\n"
        "async def counting(self, digest, data):\n    sent.append(digest)\n    await put(self, digest, data)\n"
        "_blobs.Blobs.put = counting\n"
        "@fleet.function\ndef f(x):\n    return x, 'only here'\nprint(f.remote(1), len(sent))\n"
    )
    first, second = (run(shared_fleet, "script.py", cwd=tmp_path) for _ in range(2))
    assert first.stdout == "(1, 'only here') 1\n", first.stderr
    assert second.stdout == "(1, 'only here') 0\n", "the same bytes in another process: nothing is sent"
