"""Where resolved, packed and proved packages are kept on the developer's machine.

``$FLEET_CACHE`` (else the XDG cache folder, below it ``fnplatform``), in it ``packages/``: ``locks`` by the set of
requirements, ``wheels`` by the digest of the wheel that each zip was made of, ``zips`` by their own. No index and no address
is named in any of them. What nobody has used for 60 days goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet._packages.resolving import GUEST_PYTHON, INSTALL_HINT, PLATFORM, Wheel
from fleet.protocol.errors import DeployError

UNUSED_S_MAX = 60 * 86400.0
_NOTED_S = 86400.0
"""That something was used is noted once in this time."""
_FORMAT = 1
"""Of what is kept here; a newer one leaves the old aside."""
_WORK = "work-"


@dataclass(frozen=True, slots=True)
class Packed:
    """One distribution as it goes to cars."""

    name: str
    version: str
    digest: str
    size_bytes: int
    wheel: str
    """File name of the wheel that it was made of."""
    wheel_sha256: str


@dataclass(frozen=True, slots=True)
class Lock:
    """What a set of requirements stands for."""

    packages: tuple[Packed, ...]
    tops: frozenset[str]
    """Top-level modules that cars can import."""
    left_out: tuple[str, ...] = ()
    """Native distributions that the others do without."""

    def __str__(self) -> str:
        return ", ".join(f"{one.name}=={one.version}" for one in self.packages)

    def read(self, digest: str) -> bytes:
        """The zip with this digest, from the cache; DeployError if it is gone or was damaged there."""
        path = Cache().zip_of(digest)
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == digest:
                return data
            path.unlink()
        raise DeployError("a package in the cache was damaged", hint="try again: it is made anew")


class Cache:
    """The folder, whoever else uses it. Each file is written whole or not at all."""

    def __init__(self) -> None:
        given = os.environ.get("FLEET_CACHE")
        base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fnplatform"
        self.root = base / "packages"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One process of this machine at a time: a wheel is compiled once. DeployError if the folder can't be used."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with open(self.root / "lock", "a", encoding="utf-8") as held:
                try:
                    import fcntl
                except ImportError:  # Not here: then two may compile the same.
                    pass
                else:
                    fcntl.flock(held, fcntl.LOCK_EX)
                    for left in self.root.glob(_WORK + "*"):  # Of a process that was killed: nobody else works now.
                        shutil.rmtree(left, ignore_errors=True)
                yield
        except OSError as error:
            raise DeployError(
                f"the package cache {self.root} can't be used: {error.strerror or error}",
                hint="choose another folder with FLEET_CACHE",
            ) from error

    def work_folder(self) -> tempfile.TemporaryDirectory[str]:
        """A folder for a while."""
        return tempfile.TemporaryDirectory(prefix=_WORK, dir=self.root)

    def zip_of(self, digest: str) -> Path:
        """Where the zip with this digest is kept."""
        return self.root / "zips" / f"{digest}.zip"

    # --- locks ---

    def _lock_file(self, requirements: Sequence[str]) -> Path:
        text = "\n".join([_tools(), PLATFORM, *sorted(requirements)])
        return self.root / "locks" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def lock_of(self, requirements: Sequence[str]) -> tuple[Lock, bool] | None:
        """A lock and whether it still holds; None if there is none, or if a zip of it is gone."""
        file = self._lock_file(requirements)
        try:
            content = json.loads(file.read_text("utf-8"))
            packages = tuple(Packed(**one) for one in content["packages"])
            found = Lock(packages, frozenset(content["tops"]), tuple(content["left_out"]))
            sizes = [_used(self.zip_of(one.digest)) for one in packages]
            _used(file)
            until_unix_s = content["until_unix_s"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if sizes != [one.size_bytes for one in packages]:
            return None
        return found, until_unix_s is None or time.time() < until_unix_s

    def keep_lock(self, requirements: Sequence[str], made: Lock, until_unix_s: float | None) -> None:
        """Keep a lock, which holds until then (None: for ever), and let go of what nobody used."""
        content = {
            "packages": [dataclasses.asdict(one) for one in made.packages],
            "tops": sorted(made.tops),
            "left_out": list(made.left_out),
            "until_unix_s": until_unix_s,
        }
        _write(self._lock_file(requirements), json.dumps(content, indent=1).encode())
        self._prune()

    def _prune(self) -> None:
        for path in self.root.glob("*/**/*"):
            with contextlib.suppress(OSError):
                if path.is_file() and time.time() - path.stat().st_mtime > UNUSED_S_MAX:
                    path.unlink()

    # --- wheels ---

    def _wheel_file(self, wheel: Wheel) -> Path:
        return self.root / "wheels" / _tools() / f"{wheel.sha256}.json"

    def record_of(self, wheel: Wheel) -> dict[str, Any] | None:
        """What is known of a wheel that was packed before."""
        file = self._wheel_file(wheel)
        try:
            record: dict[str, Any] = json.loads(file.read_text("utf-8"))
            _used(file)
            return record if _used(self.zip_of(record["digest"])) == record["size_bytes"] else None
        except (OSError, ValueError, KeyError):
            return None

    def keep_record(self, wheel: Wheel, record: dict[str, Any], data: bytes) -> None:
        """Keep what a wheel was packed to."""
        _write(self.zip_of(record["digest"]), data)
        _write(self._wheel_file(wheel), json.dumps(record).encode())


def not_installed() -> DeployError:
    """What to say where the sandbox isn't installed."""
    return DeployError("packages= needs the sandbox here, to try packages in it", hint=INSTALL_HINT)


def _tools() -> str:
    """What decides the content of a zip beside the wheel: bytecode is that of the guest's Python."""
    try:
        maker = importlib.metadata.version("componentize-py")
    except importlib.metadata.PackageNotFoundError:
        raise not_installed() from None
    return f"{_FORMAT}-{GUEST_PYTHON}-{maker}"


def _used(file: Path) -> int:
    """Size of a file that is used now; FileNotFoundError if it is gone."""
    stat = file.stat()
    if time.time() - stat.st_mtime > _NOTED_S:
        with contextlib.suppress(OSError):
            os.utime(file)
    return stat.st_size


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as out:
        out.write(data)
    os.replace(out.name, file)
