"""The jax lanes that this machine can have: what jax itself says, asked in a child process.

The answer is kept on disk until jaxlib, Python or the graphics cards are others; agents that start together ask once. The
agent never imports jax.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fleet.protocol.errors import InvalidOption
from fleet.protocol.lanes import JAX_GPU, WASM
from fleet.protocol.messages import Device

log = logging.getLogger("fleet.car")

PROBE = (sys.executable, "-P", "-m", "runtime.sandbox.jax_probe")
PROBE_S = 120.0
"""Jax looks for cards when it starts; on a busy machine that takes its time."""
FORMAT = 1
"""Of the kept answer."""
INSTALL_HINT = "pip install 'fnplatform[jax]'"
_DEVICES = TypeAdapter(tuple[Device, ...])


def jaxlib_version() -> str | None:
    """The version of jaxlib that a slot would use, None where jax isn't installed."""
    if importlib.util.find_spec("jax") is None:
        return None
    try:
        return importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return None


def devices(cache_dir: Path | None) -> tuple[Device, ...]:
    """One device for each jax lane that this machine can have; none without jax, or with one that doesn't start.

    Blocks: 1 s the first time, under a millisecond from ``cache_dir``.
    """
    version = jaxlib_version()
    if version is None:
        return ()
    if cache_dir is None:
        return _ask()
    cards = sorted(glob.glob("/dev/nvidia[0-9]*"))
    key = hashlib.sha256(json.dumps([FORMAT, version, sys.version, sys.prefix, cards]).encode()).hexdigest()[:16]
    kept = cache_dir / f"jax-devices-{key}.json"
    try:
        found = _read(kept)
        if not found:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with _locked(cache_dir / "jax-devices.lock"):
                found = _read(kept) or _ask()
                if found:
                    _write(kept, found)
        return found
    except OSError as error:
        log.warning("what jax says of this machine can't be kept in %s: %s", cache_dir, error)
        return _ask()


def lanes_of(wanted: Sequence[str] | None, found: Sequence[Device]) -> tuple[tuple[str, ...], tuple[Device, ...]]:
    """The lanes of a car and their devices: all that are possible, or just ``wanted``; InvalidOption where one isn't."""
    by_lane = {device.lane: device for device in found}
    if wanted is None:
        return (WASM, *by_lane), tuple(by_lane.values())
    chosen = []
    for lane in wanted:
        device = next((device for device in found if device.lane == lane), None)
        if device is not None:
            chosen.append(device)
        elif lane == JAX_GPU and found:
            raise InvalidOption(f"--lanes {lane}: jax finds no graphics card here", hint="pip install 'jax[cuda12]'")
        elif lane != WASM:
            raise InvalidOption(f"--lanes {lane}: jax is not installed here, or doesn't start", hint=INSTALL_HINT)
    return tuple(wanted), tuple(chosen)


def _ask() -> tuple[Device, ...]:
    try:
        answered = subprocess.run(PROBE, capture_output=True, text=True, timeout=PROBE_S, check=True)
        return _DEVICES.validate_json(answered.stdout)
    except (OSError, subprocess.SubprocessError, ValidationError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        log.warning("jax is installed but doesn't start, this car runs without it: %s", lines[-1] if lines else error)
        return ()


def _read(kept: Path) -> tuple[Device, ...]:
    try:
        return _DEVICES.validate_json(kept.read_bytes())
    except (FileNotFoundError, ValidationError):
        return ()


def _write(kept: Path, found: tuple[Device, ...]) -> None:
    draft = kept.with_suffix(f".{os.getpid()}")
    draft.write_bytes(_DEVICES.dump_json(found))
    draft.replace(kept)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
