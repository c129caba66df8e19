"""Python interpreters of this machine, each with what a client of the platform needs and nothing else.

Looked for as ``python3.N`` on the PATH, below ``$PYENV_ROOT`` and in the list ``$PYTHONS``. Where one lacks the packages, a
virtual environment is made for it once and kept in the cache folder, under the digest of what is in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from runtime.guest.build import cache_root

ROOT = Path(__file__).parents[2]
VERSIONS = ((3, 11), (3, 12), (3, 13), (3, 14))
ASKED_S = 20
INSTALL_S = 240
UNUSED_S = 30 * 86400.0
_DISTRIBUTION = "fnplatform"


class Unavailable(Exception):
    """Why an interpreter can't be used; one sentence."""


def find(version: tuple[int, int]) -> Path:
    """A working interpreter of that version; Unavailable if there is none."""
    if version == sys.version_info[:2]:
        return Path(sys.executable)
    for candidate in _candidates(f"python{version[0]}.{version[1]}"):
        if _version_of(candidate) == version:
            return candidate
    raise Unavailable(f"CPython {version[0]}.{version[1]} is not on this machine (PATH, pyenv, $PYTHONS)")


def client(version: tuple[int, int]) -> Path:
    """An interpreter of that version that can ``import fleet`` once ``sdk`` is on its path; Unavailable says why not."""
    found = find(version)
    if found == Path(sys.executable):
        return found
    requirements = _requirements()
    digest = hashlib.sha256(f"{found} {version} {requirements}".encode()).hexdigest()[:16]
    folder = cache_root().parent / "clients" / f"{version[0]}.{version[1]}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            _install(found, folder, requirements)
            _forget_unused(folder.parent)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def _candidates(name: str) -> Iterator[Path]:
    for given in os.environ.get("PYTHONS", "").split(os.pathsep):
        if given:
            yield Path(given)
    # A shim of pyenv is a script that may refuse: the real ones first.
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted((root / "versions").glob(f"*/bin/{name}"), reverse=True)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and (Path(folder) / name).is_file():
            yield Path(folder) / name


def _version_of(python: Path) -> tuple[int, int] | None:
    """None: it doesn't run, isn't CPython, or has no ``venv``."""
    asked = "import sys, venv, ensurepip; print(sys.implementation.name, *sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, timeout=ASKED_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    name, *numbers = done.stdout.split()
    return (int(numbers[0]), int(numbers[1])) if name == "cpython" else None


@cache
def _requirements() -> str:
    """What ``import fleet`` needs, in full, as the rows of constraints.txt have it: versions and hashes."""
    rows: dict[str, str] = {}
    for row in re.split(r"\n(?=\S)", (ROOT / "constraints.txt").read_text()):
        name, equals, _ = row.partition("==")
        if equals:
            rows[_plain(name)] = row
    wanted, waiting = set(), [_DISTRIBUTION]
    while waiting:
        try:
            needs = importlib.metadata.requires(waiting.pop()) or []
        except importlib.metadata.PackageNotFoundError:  # for another version of Python, or another system
            continue
        for need in needs:
            match = re.match(r"[A-Za-z0-9._-]+", need)
            name = _plain(match[0]) if match else ""
            if "extra ==" not in need and name in rows and name not in wanted:
                wanted.add(name)
                waiting.append(name)
    return "\n".join(rows[name] for name in sorted(wanted)) + "\n"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _install(python: Path, folder: Path, requirements: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run([str(python), "-m", "venv", str(folder)])
        listed = folder / "requirements.txt"
        listed.write_text(requirements)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(listed)])
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines() or [repr(error)]
        raise Unavailable(f"{python} can't be given the client's packages: {said[-1]}") from None


def _forget_unused(folder: Path) -> None:
    """Remove what no run has used for a month: other versions of the packages made it."""
    for ready in folder.glob("*/ready"):
        if time.time() - ready.stat().st_mtime > UNUSED_S:
            shutil.rmtree(ready.parent, ignore_errors=True)


def _run(command: list[str]) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run(command, env=env, capture_output=True, text=True, timeout=INSTALL_S, check=True)
