"""Import the standard library at build time: what isn't in the snapshot can't be imported later."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import sys
from typing import Any

_SKIP = frozenset(
    [
        *("antigravity", "this", "idlelib", "turtle", "turtledemo", "tkinter", "lib2to3", "ensurepip", "venv", "test"),
        *("pydoc_data", "site", "sitecustomize", "usercustomize", "__hello__", "__phello__", "_pyrepl", "msilib"),
        "__main__",
    ]
)
"""Games, GUIs, tests, installers, and what acts when imported."""

_ZONE_MODULES = ("zoneinfo", "zoneinfo._common", "zoneinfo._tzpath", "tzdata")

missing: dict[str, str] = {}
"""Modules of the standard library that this build can't import, and why."""


def standard_library() -> None:
    """Import all of it, submodules too; what fails is noted in ``missing``."""
    for name in sorted(sys.stdlib_module_names):
        if name not in _SKIP and not name.startswith(("_test", "_xx", "xx")):
            _import_all(name)


def _import_all(name: str) -> None:
    module = _import(name)
    for info in pkgutil.iter_modules(getattr(module, "__path__", ()), name + "."):
        if info.name.rpartition(".")[2] not in ("__main__", "test", "tests", "idle_test"):
            _import_all(info.name)


def _import(name: str) -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(name)
    except BaseException as error:  # A module may raise anything, SystemExit too; each one missing is reported.
        missing[name] = f"{type(error).__name__}: {error}"[:120]
        return None


def time_zones() -> int:
    """Keep the time zone data of ``tzdata`` in memory and let ``zoneinfo`` read it there; how many zones."""
    zoneinfo, common, tzpath, tzdata = (importlib.import_module(name) for name in _ZONE_MODULES)
    root = os.path.join(next(iter(tzdata.__path__)), "zoneinfo")
    data: dict[str, bytes] = {}
    for folder, _folders, files in os.walk(root):
        for file in files:
            path = os.path.join(folder, file)
            with open(path, "rb") as stream:
                content = stream.read()
            if content.startswith(b"TZif"):
                data[os.path.relpath(path, root).replace(os.sep, "/")] = content

    not_found = zoneinfo.ZoneInfoNotFoundError

    def load(key: str) -> io.BytesIO:
        if key not in data:
            raise not_found(f"No time zone found with key {key}")
        return io.BytesIO(data[key])

    def available() -> set[str]:
        return {key for key in data if not key.startswith(("posix/", "right/")) and key != "posixrules"}

    setattr(common, "load_tzdata", load)  # noqa: B010
    for place in (tzpath, zoneinfo):
        setattr(place, "available_timezones", available)  # noqa: B010
    return len(data)
