"""Build the wasm guest on first use, keep it in a cache, and never map a native-code file that wasn't authenticated.

Steps:  copy the guest's sources and the standard-library part of ``fleet`` to a folder of their own; componentize (about
        15 s); compile ahead of time (about 15 s); seal. Both heavy steps run in child processes: compiling leaves 250 MB
        of heap behind.
Cache:  ``$FLEET_CACHE``, else the XDG cache folder, below it ``fnplatform/guest/<digest of all inputs>``. A file lock lets
        several cars of one machine build once.
Seal:   HMAC-SHA256 of the AOT file under a key that only this user can read. A flipped bit in that file would be native
        code (none of 24 was noticed by wasmtime): a file that doesn't verify is built anew, with a sentence why.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import importlib.metadata
import importlib.util
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleet.protocol.errors import FleetError
from runtime.guest.inside.fleet_parts import MODULES
from runtime.sandbox.engine_config import CONFIG_ID

Progress = Callable[[str], None]

_HERE = Path(__file__).parent
_BUILD_S_MAX = 900.0
_POLL_S = 0.1
_UNUSED_S_MAX = 3 * 86400.0
_AOT = "guest.cwasm"
_SEAL = "seal.json"
_ENTRY = "fleet_guest_entry"
_WORLD = "sandbox"
_WORK = "build-"
_PACKAGE = "_fleet_guest"


class GuestBuildError(FleetError):
    """The guest couldn't be built: a missing package, a full disk, a broken tool chain."""

    code = "guest_build_error"


@dataclass(frozen=True, slots=True)
class GuestImage:
    """An authenticated AOT file that slots may map."""

    path_aot: str
    digest: str
    """Of all inputs of the build."""
    sha256: str
    """Of the AOT file."""


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that guests are kept in."""
    if cache_dir is not None:
        return Path(cache_dir) / "guest"
    if chosen := os.environ.get("FLEET_CACHE"):
        return Path(chosen) / "guest"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "fnplatform" / "guest"


def inputs_digest() -> str:
    """What the guest is made of: our sources, the tools' versions, this processor."""
    found = hashlib.sha256()
    for path, name in _sources():
        found.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    for package in ("wasmtime", "componentize-py", "cloudpickle", "tzdata"):
        try:
            found.update(f"{package} {importlib.metadata.version(package)}\0".encode())
        except importlib.metadata.PackageNotFoundError:
            raise GuestBuildError(
                f"the sandbox needs the package {package}", hint="pip install 'fnplatform[car]'"
            ) from None
    found.update(f"{CONFIG_ID} {platform.system()} {platform.machine()} {_processor()}".encode())
    return found.hexdigest()


def ensure_guest(cache_dir: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> GuestImage:
    """The guest of this version, from the cache or built now. GuestBuildError says what is in the way.

    From the cache this takes the time to hash the file (30 to 150 ms); call it once per agent, not per slot.
    """
    tell = progress or (lambda _line: None)
    digest = inputs_digest()
    root = cache_root(cache_dir)
    folder = root / digest[:32]
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(root / "lock", tell):
            _remove_leftovers(root)
            key = _key(root / "key")
            image = _verified(folder, digest, key, tell)
            return image if image is not None else _build(folder, digest, key, tell)
    except OSError as error:
        raise GuestBuildError(
            f"the guest cache {root} can't be used: {error.strerror or error}",
            hint="free some space (200 MB), or choose another folder with FLEET_CACHE",
        ) from error


def build(progress: Progress, cache_dir: str | os.PathLike[str] | None = None) -> GuestImage:
    """Build the guest of this version, whether or not the cache has it."""
    shutil.rmtree(cache_root(cache_dir) / inputs_digest()[:32], ignore_errors=True)
    return ensure_guest(cache_dir, progress)


def _sources() -> Iterator[tuple[Path, str]]:
    """(file, its path in the build folder) of everything of ours that goes in."""
    yield _HERE / "world.wit", "world.wit"
    for path in sorted((_HERE / "inside").glob("*.py")):
        yield path, f"{_PACKAGE}/{path.name}"
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise GuestBuildError(f"{name} is not installed", hint="install fnplatform again")
        target = name.replace(".", "/")
        yield Path(spec.origin), f"{target}/__init__.py" if spec.submodule_search_locations else f"{target}.py"


def _processor() -> str:
    """What AOT code depends on beside the architecture. (wasmtime checks it too, but a cache may move to another CPU.)"""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    flags = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:16]


@contextmanager
def _locked(path: Path, tell: Progress) -> Iterator[None]:
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another process that builds or checks the sandbox")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _key(path: Path) -> bytes:
    """The secret of this cache, made on first use."""
    try:
        key = path.read_bytes()
        if len(key) == 32 and path.stat().st_mode & 0o077 == 0:
            return key
        path.unlink()
    except FileNotFoundError:
        pass
    key = secrets.token_bytes(32)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
        os.fsync(file.fileno())
    return key


def _seal_of(path: Path, key: bytes) -> tuple[str, str]:
    """(sha256, HMAC) of a file."""
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256")
    return content.hexdigest(), hmac.new(key, content.digest(), "sha256").hexdigest()


def _verified(folder: Path, digest: str, key: bytes, tell: Progress) -> GuestImage | None:
    """The image in ``folder`` if it is the one that was built there; else None, and a sentence if it is damaged."""
    path = folder / _AOT
    try:
        sealed = json.loads((folder / _SEAL).read_text())
        sha256, mac = _seal_of(path, key)
        if hmac.compare_digest(mac, str(sealed["hmac"])) and sealed["digest"] == digest:
            os.utime(folder)
            return GuestImage(str(path), digest, sha256)
        reason = "its content isn't what was built"
    except FileNotFoundError:
        if not folder.exists():
            return None
        reason = "a file is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    tell(f"the cached sandbox is damaged ({reason}): building it again")
    return None


def _build(folder: Path, digest: str, key: bytes, tell: Progress) -> GuestImage:
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=folder.parent) as name:
        work = Path(name)
        tell("building the sandbox, once per version: 1/2 Python and its standard library")
        stage = work / "stage"
        _stage(stage)
        component = work / "guest.wasm"
        _child(_python(_COMPONENTIZE, *_componentize_arguments(stage, component)), stage)
        tell("building the sandbox: 2/2 compiling it for this processor")
        made = work / "made"
        made.mkdir(mode=0o700)
        _child(_python(_COMPILE, str(component), str(made / _AOT)), work)
        sha256, mac = _seal_of(made / _AOT, key)
        (made / _SEAL).write_text(json.dumps({"digest": digest, "sha256": sha256, "hmac": mac}))
        for file in made.iterdir():
            file.chmod(0o400)
            with open(file, "rb") as synced:
                os.fsync(synced.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
        _prune(folder)
    size_mb = (folder / _AOT).stat().st_size / 1e6
    tell(f"the sandbox is ready ({size_mb:.0f} MB in {folder.parent})")
    return GuestImage(str(folder / _AOT), digest, sha256)


def _remove_leftovers(root: Path) -> None:
    """Remove what a build left that was killed. Whoever builds holds the lock, as the caller does: nobody does now."""
    for folder in root.glob(_WORK + "*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prune(newest: Path) -> None:
    """Remove guests of other versions that nobody has used for a while."""
    for folder in newest.parent.iterdir():
        if folder != newest and folder.is_dir() and time.time() - folder.stat().st_mtime > _UNUSED_S_MAX:
            shutil.rmtree(folder, ignore_errors=True)


_STEP = """
import runpy, sys
from runtime.sandbox.lockdown import die_with_parent
die_with_parent(int(sys.argv.pop(1)))
"""
"""Every step ends with the program that builds, also when that is killed with -9."""
_COMPONENTIZE = _STEP + "import componentize_py; sys.exit(componentize_py.script())"
_COMPILE = _STEP + "runpy.run_module('runtime.sandbox.engine', run_name='__main__')"


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-c", program, str(os.getpid()), *arguments]


def _componentize_arguments(stage: Path, out: Path) -> list[str]:
    wit = ["-q", "-d", str(stage / "world.wit"), "-w", _WORLD]
    return [*wit, "componentize", _ENTRY, "-p", str(stage), "-o", str(out)]


def _stage(stage: Path) -> None:
    """Everything the guest consists of, in one folder: the build sees nothing else of this machine."""
    for source, name in _sources():
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for package in ("cloudpickle", "tzdata"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise GuestBuildError(f"the sandbox needs the package {package}", hint="pip install 'fnplatform[car]'")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(spec.submodule_search_locations[0], stage / package, ignore=ignored)
    (stage / f"{_ENTRY}.py").write_text(f"from {_PACKAGE}.main import WitWorld\n")


def _child(command: list[str], folder: Path) -> None:
    """Run a build step. Its environment names no Python of this machine, so that nothing else is mixed in."""
    environment = {"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile(dir=folder) as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait(process)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        said = output.read()
    if process.returncode != 0:
        tail = said.decode("utf-8", "replace").strip().splitlines()[-12:]
        raise GuestBuildError(
            f"building the sandbox failed (exit status {process.returncode}): " + "\n".join(tail),
            hint="is there 1 GB of memory and 500 MB of disk? Else report it",
        )


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a build step; GuestBuildError when it takes too long, or when this program is told to end meanwhile."""
    late_s = time.monotonic() + _BUILD_S_MAX
    while True:
        try:
            process.wait(_POLL_S)
            return
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() > late_s:
            raise GuestBuildError(f"building the sandbox took longer than {_BUILD_S_MAX:.0f} s")
        # Agents build in a thread, and Python waits for its threads before it ends: it must not wait for half a minute.
        if not threading.main_thread().is_alive():
            raise GuestBuildError("building the sandbox was interrupted")
