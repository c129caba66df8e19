"""From requirement strings to exact wheels, by uv: which version of what, for the guest's Python, and fetched by hash.

Wheels are chosen for one fixed platform, whatever this machine is, so that a lock is the same everywhere: a pure wheel
where there is one, else the one for CPython 3.14 on x86-64 Linux, whose native code is left out later. Source
distributions are never built. Errors: DeployError, one sentence each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet._packages.index import uv_environment
from fleet.protocol.errors import DeployError

GUEST_PYTHON = "3.14"
PLATFORM = "x86_64-manylinux_2_28"
INSTALL_HINT = "pip install 'fnplatform[packages]'"
JAX_HINT = 'numeric work belongs to the jax lane (runtime="jax"); here use lists, math and statistics'

_UV_S_MAX = 300.0
_FOR = ("--python-version", GUEST_PYTHON, "--python-platform", PLATFORM, "--only-binary", ":all:")

# fmt: off
NUMERIC = frozenset([
    "catboost", "cupy", "h5py", "jax", "jaxlib", "lightgbm", "matplotlib", "numba", "numpy", "onnxruntime",
    "opencv-python", "opencv-python-headless", "pandas", "polars", "pyarrow", "scikit-image", "scikit-learn", "scipy",
    "statsmodels", "tensorflow", "tensorflow-cpu", "tokenizers", "torch", "torchaudio", "torchvision", "xgboost",
])
# fmt: on
"""Native through and through, and often asked for: refused before anything is fetched."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of the index, by what it is, not by where it was found."""

    name: str
    version: str
    filename: str
    sha256: str
    file_url: str = ""
    """Where it is, if it is a file of this machine. Never kept."""


def resolve(requirements: Sequence[str]) -> list[Wheel]:
    """The wheels that satisfy ``requirements`` on the guest's Python, sorted by name."""
    asked = [name_of(requirement) for requirement in requirements]
    refuse_numeric(asked, asked)
    command = ["pip", "compile", "-", *_FOR, "--format", "pylock.toml", "--no-header", "--no-annotate", "--no-sources"]
    done = _uv([*command, "--quiet"], "\n".join(requirements))
    if done.returncode != 0:
        raise explained(done.stderr)
    wheels = [_chosen(package) for package in tomllib.loads(done.stdout).get("packages", [])]
    refuse_numeric([wheel.name for wheel in wheels], asked)
    return sorted(wheels, key=lambda wheel: wheel.name)


def install(wheels: Sequence[Wheel], folder: Path) -> None:
    """Unpack exactly these wheels into ``folder``; uv checks their hashes and keeps them in its own cache."""
    command = ["pip", "install", "--target", str(folder), "--no-deps", "--require-hashes", *_FOR, "--quiet", "-r", "-"]
    lines = []
    for wheel in wheels:
        # By name the resolver would choose among the files of a folder, before it knows their hashes.
        exact = f"{wheel.name} @ {wheel.file_url}" if wheel.file_url else f"{wheel.name}=={wheel.version}"
        lines.append(f"{exact} --hash=sha256:{wheel.sha256}")
    done = _uv(command, "\n".join(lines))
    if done.returncode != 0:
        raise explained(done.stderr)


def refuse_numeric(names: Sequence[str], asked: Sequence[str]) -> None:
    """DeployError for the first of ``names`` that is known to be native; ``asked`` are those that somebody wrote."""
    found = next((name for name in names if name in NUMERIC), None)
    if found is not None:
        raise DeployError(f"{needed_by(found, asked)} can't run in a car's sandbox: it is native code", hint=JAX_HINT)


def needed_by(name: str, asked: Sequence[str]) -> str:
    """``numpy``, or ``numpy, which transformers needs,`` where nobody wrote numpy."""
    return name if name in asked else f"{name}, which {' or '.join(asked)} needs,"


def name_of(requirement: str) -> str:
    """``Python_Slugify[x]==1`` is ``python-slugify``."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def _chosen(package: dict[str, Any]) -> Wheel:
    """The pure wheel of a package in the resolver's answer, else its first one: the best for the platform."""
    name, version = str(package["name"]), str(package.get("version", ""))
    wheels = [(_filename(wheel), wheel) for wheel in package.get("wheels", [])]
    if not wheels:
        raise _without_wheel(f"{name}=={version}")
    filename, wheel = next((pair for pair in wheels if pair[0].endswith("-none-any.whl")), wheels[0])
    sha256 = wheel.get("hashes", {}).get("sha256")
    if sha256 is None:
        raise DeployError(f"the index gives no sha256 of {filename}", hint="use an index that lists hashes")
    url = str(wheel.get("url", ""))
    return Wheel(name, version, filename, sha256, url if url.startswith("file:") else "")


def _filename(wheel: dict[str, Any]) -> str:
    return str(wheel.get("name") or wheel.get("url") or wheel.get("path")).partition("#")[0].rpartition("/")[2]


def _uv(arguments: Sequence[str], stdin: str) -> subprocess.CompletedProcess[str]:
    folder = Path.cwd()
    environment = uv_environment(os.environ, folder, Path.home())
    environment.update(NO_COLOR="1", UV_NO_PROGRESS="1", UV_PYTHON_DOWNLOADS="never")
    environment.pop("VIRTUAL_ENV", None)
    try:
        return subprocess.run(
            [find_uv(), *arguments, "--python", sys.executable],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_UV_S_MAX,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeployError(
            f"resolving the packages took longer than {_UV_S_MAX:.0f} s", hint="is the package index reachable?"
        ) from None


def find_uv() -> str:
    """The resolver's program; DeployError says how to get it."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, OSError):
        found = shutil.which("uv")
    if found is None:
        raise DeployError("packages= needs the resolver uv, which isn't installed here", hint=INSTALL_HINT)
    return found


# --- what uv says ---

_NETWORK = re.compile(
    r"error sending request|client error \(connect\)|dns error|timed out|connection refused|tunnel error"
    r"|network was disabled|operation was canceled|error trying to connect|HTTP status server error",
    re.IGNORECASE,
)
_CERTIFICATE_HINT = "name your certificates in SSL_CERT_FILE, or use those of the system with UV_SYSTEM_CERTS=1"
_UNKNOWN = re.compile(r"([\w.\[\]-]+) was not found in (?:the package registry|the provided|the cache)")
_NO_VERSION = re.compile(r"(?:there (?:is|are) no versions? of|(?:is|are) available and you require) ([^\s,]+)")
_NO_WHEEL = re.compile(r"(\S+) has no (?:usable wheels|wheels with a matching|wheels)")
_PYTHON = re.compile(r"current Python version|requested Python version|Python>=?[\d.]+|Python<")


class IndexUnreachable(DeployError):
    """The package index doesn't answer. A lock that was made before still holds."""

    code = "index_unreachable"


def explained(stderr: str) -> DeployError:
    """What uv's complaint means, as one sentence."""
    text = " ".join(stderr.split())
    cause = text.partition("cause: ")[2] or text.partition("error: ")[2] or text
    if "peer certificate" in text:
        return IndexUnreachable("the package index shows a certificate that isn't trusted here", hint=_CERTIFICATE_HINT)
    if _NETWORK.search(text):
        return IndexUnreachable(
            "the package index can't be reached", hint="are you offline? Else see uv's or pip's settings"
        )
    if (found := _UNKNOWN.search(cause)) is not None:
        return DeployError(
            f"there is no package {found[1]} in the index", hint="is its name spelled as in pip install?"
        )
    if (found := _NO_WHEEL.search(cause)) is not None:
        return _without_wheel(found[1])
    if "depends on" not in cause and (found := _NO_VERSION.search(cause)) is not None:
        return DeployError(f"there is no version {found[1]} in the index", hint="ask for another version")
    if _PYTHON.search(cause):
        return DeployError(
            f"the packages don't fit Python {GUEST_PYTHON}, which cars run: {_reasons(cause)}",
            hint="ask for newer versions",
        )
    if "depends on" in cause or "you require" in cause:
        return DeployError(f"the packages contradict each other: {_reasons(cause)}", hint="loosen one of the versions")
    return DeployError(f"the packages can't be resolved: {_reasons(cause)}", hint="try it with: uv pip compile")


def _without_wheel(what: str) -> DeployError:
    return DeployError(
        f"{what} has no wheel for Python {GUEST_PYTHON}, and source distributions are never built",
        hint="choose a version that has a pure-Python wheel",
    )


def _reasons(cause: str) -> str:
    """What uv reasons from, without its conclusions."""
    reasons = re.findall(r"[Bb]ecause (.*?)(?:, we can conclude|\.? hint:|\.?$)", cause)
    text = "; ".join(reasons) or cause.partition(" hint: ")[0].strip().rstrip(".")
    return text.replace("you require", "packages= asks for")[:400]
