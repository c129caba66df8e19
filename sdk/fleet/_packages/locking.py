"""``packages=[...]``: requirement strings in, zips that cars import out. Resolved, fetched, packed and proved once.

Locks:  a set that pins every version (``==``) is resolved once for all; any other one again after ``LOCK_S_MAX``, and if the
        index can't be reached then, the old lock holds.
Errors: DeployError with one sentence; nothing was sent then.

Packing and proving run in a child process of the car's own code (``runtime.guest.prove``), which this package never imports.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fleet._packages.cache import Cache, Lock, Packed, not_installed
from fleet._packages.resolving import JAX_HINT, NUMERIC, IndexUnreachable, Wheel, install, name_of, needed_by, resolve
from fleet.protocol.errors import DeployError, PayloadTooLarge
from fleet.protocol.limits import PACKAGE_BYTES_MAX, PACKAGES_BYTES_MAX, PACKAGES_MAX
from fleet.protocol.units import format_bytes

Tell = Callable[[str], None]

LOCK_S_MAX = 3600.0
PATIENCE_S = 1.0
_PROVE_S_MAX = 600.0
_SAID = "fleet: "
"""Lines of the child that are for the developer start with this; the rest is for its own obituary."""


def lock(requirements: Sequence[str], tell: Tell | None = None) -> Lock:
    """The lock of ``requirements`` (as ``Options.packages`` has them), from the cache or made now.

    ``tell`` gets a line for each step that takes long; None: they go to stderr if all of it takes longer than a second.
    """
    cache = Cache()
    known = cache.lock_of(requirements)
    if known is not None and known[1]:
        return known[0]
    with _progress(tell) as say, cache.alone():
        known = cache.lock_of(requirements)  # Another process may have made it meanwhile.
        if known is not None and known[1]:
            return known[0]
        try:
            made = _make(cache, requirements, say)
        except IndexUnreachable:
            if known is None:
                raise
            say("the package index can't be reached: the packages stay as they were locked before")
            return known[0]
        pinned = all(_is_pinned(requirement) for requirement in requirements)
        cache.keep_lock(requirements, made, None if pinned else time.time() + LOCK_S_MAX)
        return made


def _is_pinned(requirement: str) -> bool:
    return requirement.count("==") == 1 and not set(requirement) & set("*,<>~!")


# --- making a lock ---


def _make(cache: Cache, requirements: Sequence[str], say: Tell) -> Lock:
    say(f"resolving {_counted(len(requirements), 'package')}")
    wheels = resolve(requirements)
    if len(wheels) > PACKAGES_MAX:
        raise PayloadTooLarge(f"{len(wheels)} packages are over the limit of {PACKAGES_MAX}", hint="name fewer")
    records = {wheel.name: record for wheel in wheels if (record := cache.record_of(wheel)) is not None}
    with cache.work_folder() as folder:
        work = Path(folder)
        new = [wheel for wheel in wheels if wheel.name not in records]
        if new:
            say(f"fetching {_counted(len(new), 'package')}")
            install(new, work / "installed")
        job = {
            "installed": str(work / "installed"),
            "new": [[wheel.name, wheel.version] for wheel in new],
            "records": [{**record, "file": str(cache.zip_of(record["digest"]))} for record in records.values()],
            "requested": [name_of(requirement) for requirement in requirements],
        }
        report = prove(work, job, say)
        made = {record["name"]: record for record in report["records"]}
        for wheel in new:
            records[wheel.name] = made[wheel.name]
            cache.keep_record(wheel, made[wheel.name], (work / made[wheel.name]["file"]).read_bytes())
    found = _judged(wheels, records, report["verdict"], requirements)
    if found.left_out:
        say(f"left out, being native code that the other packages do without: {', '.join(found.left_out)}")
    return found


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


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# --- the child that packs and proves ---


def prove(work: Path, job: dict[str, Any], say: Tell) -> dict[str, Any]:
    """Have ``runtime.guest.prove`` do ``job`` in the folder ``work``; its report."""
    if any(importlib.util.find_spec(name) is None for name in ("runtime", "wasmtime", "componentize_py", "tzdata")):
        raise not_installed()
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


# --- progress ---


class Said:
    """Lines for the developer: kept to itself until ``show``, said on stderr from the present one on after that."""

    def __init__(self) -> None:
        self._last = ""
        self._shown = False
        self._guard = threading.Lock()

    def __call__(self, line: str) -> None:
        """The next step begins."""
        with self._guard:
            self._last = line
            if self._shown:
                print(line, file=sys.stderr)

    def show(self) -> None:
        """It takes long: say what is being done."""
        with self._guard:
            self._shown = True
            print(self._last, file=sys.stderr)


@contextlib.contextmanager
def _progress(tell: Tell | None) -> Iterator[Tell]:
    """``tell``, or one that writes to stderr what is still being done after PATIENCE_S."""
    if tell is not None:
        yield tell
        return
    said = Said()
    timer = threading.Timer(PATIENCE_S, said.show)
    timer.daemon = True
    timer.start()
    try:
        yield said
    finally:
        timer.cancel()
