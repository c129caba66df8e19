"""``packages=[...]``: requirement strings in, zips that cars import out. Resolved, fetched, packed and proved once.

Cache:  ``$FLEET_CACHE`` (else the XDG cache folder, below it ``fnplatform``), in it ``packages/``: ``locks`` by the set of
        requirements, ``wheels`` by the digest of the wheel that each zip was made of, ``zips`` by their own. No index and
        no address is named in any of them.
Locks:  a set that pins every version (``==``) is resolved once for all; any other one again after ``LOCK_S_MAX``, and if the
        index can't be reached then, the old lock holds.
Errors: DeployError with one sentence; nothing was sent then.

Packing and proving run in a child process of the car's own code (``runtime.guest.prove``), which this package never imports.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet._packages_resolve import (
    GUEST_PYTHON,
    INSTALL_HINT,
    JAX_HINT,
    NUMERIC,
    PLATFORM,
    IndexUnreachable,
    Wheel,
    install,
    name_of,
    needed_by,
    resolve,
)
from fleet.protocol.errors import DeployError, PayloadTooLarge
from fleet.protocol.limits import PACKAGE_BYTES_MAX, PACKAGES_BYTES_MAX, PACKAGES_MAX
from fleet.protocol.units import format_bytes

Tell = Callable[[str], None]

LOCK_S_MAX = 3600.0
PATIENCE_S = 1.0
_PROVE_S_MAX = 900.0
_FORMAT = 1
"""Of what is kept in the cache; a newer one leaves the old aside."""
_SAID = "fleet: "
"""Lines of the child that are for the developer start with this; the rest is for its own obituary."""


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
        """The zip with this digest, from the cache; DeployError if it was damaged there."""
        path = _root() / "zips" / f"{digest}.zip"
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            path.unlink()
            raise DeployError("a package in the cache was damaged", hint="try again: it is made anew")
        return data


def lock(requirements: Sequence[str], tell: Tell | None = None) -> Lock:
    """The lock of ``requirements`` (as ``Options.packages`` has them), from the cache or made now.

    ``tell`` gets a line for each step that takes long; None: they go to stderr if all of it takes longer than a second.
    """
    root = _root()
    file = root / "locks" / f"{_key(requirements)}.json"
    known = _read_lock(root, file)
    if known is not None and known[1]:
        return known[0]
    with _progress(tell) as say, _alone(root):
        known = _read_lock(root, file)  # Another process may have made it meanwhile.
        if known is not None and known[1]:
            return known[0]
        try:
            found = _make(root, requirements, say)
        except IndexUnreachable:
            if known is None:
                raise
            say("the package index can't be reached: the packages stay as they were locked before")
            return known[0]
        pinned = all(_is_pinned(requirement) for requirement in requirements)
        _write_lock(file, found, None if pinned else time.time() + LOCK_S_MAX)
        return found


# --- the cache ---


def _root() -> Path:
    given = os.environ.get("FLEET_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fnplatform"
    return base / "packages"


def _tools() -> str:
    """What decides the content of a zip beside the wheel: bytecode is that of the guest's Python."""
    try:
        maker = importlib.metadata.version("componentize-py")
    except importlib.metadata.PackageNotFoundError:
        raise _not_installed() from None
    return f"{_FORMAT}-{GUEST_PYTHON}-{maker}"


def _key(requirements: Sequence[str]) -> str:
    text = "\n".join([_tools(), PLATFORM, *sorted(requirements)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_pinned(requirement: str) -> bool:
    return requirement.count("==") == 1 and not set(requirement) & set("*,<>~!")


def _read_lock(root: Path, file: Path) -> tuple[Lock, bool] | None:
    """A lock and whether it still holds; None if there is none, or if a zip of it is gone."""
    try:
        content = json.loads(file.read_text("utf-8"))
        packages = tuple(Packed(**one) for one in content["packages"])
        found = Lock(packages, frozenset(content["tops"]), tuple(content["left_out"]))
        sizes = [(root / "zips" / f"{one.digest}.zip").stat().st_size for one in packages]
        until_unix_s = content["until_unix_s"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if sizes != [one.size_bytes for one in packages]:
        return None
    return found, until_unix_s is None or time.time() < until_unix_s


def _write_lock(file: Path, made: Lock, until_unix_s: float | None) -> None:
    content = {
        "packages": [dataclasses.asdict(one) for one in made.packages],
        "tops": sorted(made.tops),
        "left_out": list(made.left_out),
        "until_unix_s": until_unix_s,
    }
    _write(file, json.dumps(content, indent=1).encode())


def _write(file: Path, data: bytes) -> None:
    """Whole or not at all, whoever else writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as out:
        out.write(data)
    os.replace(out.name, file)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One process of this machine at a time: a wheel is compiled once."""
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(open(root / "lock", "a", encoding="utf-8"))
        except OSError as error:
            raise DeployError(
                f"the package cache {root} can't be used: {error.strerror}",
                hint="choose another folder with FLEET_CACHE",
            ) from error
        try:
            import fcntl
        except ImportError:  # Not here: then two may compile the same.
            pass
        else:
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


# --- making a lock ---


def _make(root: Path, requirements: Sequence[str], say: Tell) -> Lock:
    say(f"resolving {_counted(len(requirements), 'package')}")
    wheels = resolve(requirements)
    if len(wheels) > PACKAGES_MAX:
        raise PayloadTooLarge(f"{len(wheels)} packages are over the limit of {PACKAGES_MAX}", hint="name fewer")
    known = {wheel.name: record for wheel in wheels if (record := _known(root, wheel)) is not None}
    with tempfile.TemporaryDirectory(prefix="work-", dir=root) as name:
        work = Path(name)
        new = [wheel for wheel in wheels if wheel.name not in known]
        if new:
            say(f"fetching {_counted(len(new), 'package')}")
            install(new, work / "installed")
        job = {
            "installed": str(work / "installed"),
            "new": [[wheel.name, wheel.version] for wheel in new],
            "records": [{**record, "file": str(_zip_of(root, record))} for record in known.values()],
            "requested": [name_of(requirement) for requirement in requirements],
        }
        report = prove(work, job, say)
        by_name = {record["name"]: record for record in report["records"]}
        for wheel in new:
            record = by_name[wheel.name]
            _keep(root, work, wheel, record)
            known[wheel.name] = record
    return _judged(wheels, known, report["verdict"], requirements)


def _judged(
    wheels: Sequence[Wheel], records: dict[str, Any], verdict: dict[str, Any], requirements: Sequence[str]
) -> Lock:
    if verdict["refused"]:
        raise _refusal(verdict, requirements)
    kept = [wheel for wheel in wheels if wheel.name not in verdict["left_out"]]
    packages = tuple(
        Packed(
            wheel.name,
            wheel.version,
            records[wheel.name]["digest"],
            records[wheel.name]["size_bytes"],
            wheel.filename,
            wheel.sha256,
        )
        for wheel in kept
    )
    _check_sizes(packages)
    tops = frozenset(top for wheel in kept for top in records[wheel.name]["tops"])
    return Lock(packages, tops, tuple(verdict["left_out"]))


def _check_sizes(packages: Sequence[Packed]) -> None:
    hint = "name packages that hold less"
    large = next((one for one in packages if one.size_bytes > PACKAGE_BYTES_MAX), None)
    if large is not None:
        size = format_bytes(large.size_bytes)
        raise PayloadTooLarge(
            f"the package {large.name} has {size}, the limit is {format_bytes(PACKAGE_BYTES_MAX)}", hint=hint
        )
    total = sum(one.size_bytes for one in packages)
    if total > PACKAGES_BYTES_MAX:
        raise PayloadTooLarge(
            f"the packages have {format_bytes(total)}, the limit is {format_bytes(PACKAGES_BYTES_MAX)}", hint=hint
        )


def _refusal(verdict: dict[str, Any], requirements: Sequence[str]) -> DeployError:
    name = verdict["refused"]
    asked = [name_of(requirement) for requirement in requirements]
    if verdict["is_native"]:
        hint = JAX_HINT if name in NUMERIC else "use a package that is written in Python alone"
        return DeployError(
            f"{needed_by(name, asked)} can't run in a car's sandbox: "
            f"{verdict['module']} is native code that it can't do without",
            hint=hint,
        )
    return DeployError(
        f"{needed_by(name, asked)} can't be imported in a car's sandbox: {verdict['why']}",
        hint="it needs what a sandbox doesn't have, such as the network, threads or processes",
    )


def _known(root: Path, wheel: Wheel) -> dict[str, Any] | None:
    """The record of a wheel that was packed before."""
    try:
        record: dict[str, Any] = json.loads((root / "wheels" / _tools() / f"{wheel.sha256}.json").read_text("utf-8"))
        return record if _zip_of(root, record).stat().st_size == record["size_bytes"] else None
    except (OSError, ValueError, KeyError):
        return None


def _zip_of(root: Path, record: dict[str, Any]) -> Path:
    return root / "zips" / f"{record['digest']}.zip"


def _keep(root: Path, work: Path, wheel: Wheel, record: dict[str, Any]) -> None:
    _write(_zip_of(root, record), (work / record["file"]).read_bytes())
    _write(root / "wheels" / _tools() / f"{wheel.sha256}.json", json.dumps(record).encode())


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# --- the child that packs and proves ---


def prove(work: Path, job: dict[str, Any], say: Tell) -> dict[str, Any]:
    """Have ``runtime.guest.prove`` do ``job`` in the folder ``work``; its report."""
    if any(importlib.util.find_spec(name) is None for name in ("runtime", "wasmtime", "componentize_py", "tzdata")):
        raise _not_installed()
    (work / "job.json").write_text(json.dumps(job), "utf-8")
    command = [sys.executable, "-P", "-m", "runtime.guest.prove", str(os.getpid()), str(work)]
    tail: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        late = threading.Timer(_PROVE_S_MAX, child.kill)
        late.daemon = True
        late.start()
        try:
            assert child.stderr is not None
            for line in child.stderr:
                if line.startswith(_SAID):
                    say(line.removeprefix(_SAID).rstrip())
                else:
                    tail = [*tail[-4:], line.strip()]
        except BaseException:
            child.kill()
            raise
        finally:
            late.cancel()
    try:
        report: dict[str, Any] = json.loads((work / "report.json").read_text("utf-8"))
    except (OSError, ValueError):
        said = next((line for line in reversed(tail) if line), f"exit status {child.returncode}")
        raise DeployError(
            f"the packages could not be tried in the sandbox: {said}", hint="is a gigabyte of memory free?"
        ) from None
    if report.get("error"):
        raise DeployError(report["error"], hint=report["hint"])
    return report


def _not_installed() -> DeployError:
    return DeployError("packages= needs the sandbox here, to try packages in it", hint=INSTALL_HINT)


# --- progress ---


@contextlib.contextmanager
def _progress(tell: Tell | None) -> Iterator[Tell]:
    """``tell``, or one that writes to stderr, from the step on that is being done when patience ends."""
    if tell is not None:
        yield tell
        return
    said: list[str] = []
    patient = threading.Event()
    guard = threading.Lock()

    def show() -> None:
        with guard:
            patient.set()
            print(*said[-1:], sep="\n", file=sys.stderr)

    def say(line: str) -> None:
        with guard:
            said.append(line)
            if patient.is_set():
                print(line, file=sys.stderr)

    timer = threading.Timer(PATIENCE_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield say
    finally:
        timer.cancel()
