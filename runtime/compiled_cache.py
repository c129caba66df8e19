"""Compiled programs on a car's disk: those of the jax lane, for the shapes they were called with.

They are machine code, which a slot runs. So each belongs to one tenant's program (the agent says which, never the slot that
made it), and each is authenticated under a key that only this user can read: what isn't as it was written is removed.
Files lie under the HMAC of their key, written under another name and renamed: several agents may share the folder.
Everything here blocks; call it in a thread.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from fleet.protocol.limits import MIB
from runtime import cache_files
from runtime.slot_wire import COMPILED_BYTES_MAX, Bytes

DISK_BYTES_MAX = 512 * MIB
_SEAL_BYTES = hashlib.sha256().digest_size


class CompiledCache:
    """See the module. A folder that can't be used costs the cache, never a call."""

    def __init__(self, folder: Path, *, disk_bytes_max: int = DISK_BYTES_MAX) -> None:
        self._folder = folder
        self._disk_bytes_max = disk_bytes_max
        self._key: bytes | None = None

    def read(self, tenant: str, program: str, key: str) -> bytes | None:
        """What was written for this program of this tenant under ``key``; None if nothing, or if it was damaged."""
        try:
            path, name = self._place(tenant, program, key)
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size > COMPILED_BYTES_MAX + _SEAL_BYTES:
                    raise ValueError("too large")
                seal, data = file.read(_SEAL_BYTES), file.read()
            if not hmac.compare_digest(seal, self._seal(name, data)):
                raise ValueError("damaged")
            os.utime(path)  # Least recently used goes first.
        except ValueError:
            path.unlink(missing_ok=True)
            return None
        except OSError:
            return None
        return data

    def write(self, tenant: str, program: str, key: str, data: Bytes) -> None:
        """Keep ``data``, at most COMPILED_BYTES_MAX; others go, those used longest ago first."""
        assert 0 < len(data) <= COMPILED_BYTES_MAX, len(data)
        try:
            _, name = self._place(tenant, program, key)
            cache_files.write(self._folder, name, [self._seal(name, data), data], self._disk_bytes_max)
        except OSError:
            return

    def _place(self, tenant: str, program: str, key: str) -> tuple[Path, str]:
        """Where it lies, and its name there."""
        secret = self._secret()
        named = hmac.new(secret, digestmod="sha256")
        for part in (tenant, program, key):
            data = part.encode()
            named.update(len(data).to_bytes(4, "little") + data)
        name = named.hexdigest()
        return self._folder / name, name

    def _seal(self, name: str, data: Bytes) -> bytes:
        sealed = hmac.new(self._secret(), name.encode(), "sha256")
        sealed.update(data)
        return sealed.digest()

    def _secret(self) -> bytes:
        """The key of this folder, made on first use. OSError when it can't be."""
        if self._key is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._key = _read_key(self._folder / ".key") or _make_key(self._folder / ".key")
        return self._key


def _read_key(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
        private = path.stat().st_mode & 0o077 == 0
    except FileNotFoundError:
        return None
    return key if len(key) == _SEAL_BYTES and private else None


def _make_key(path: Path) -> bytes:
    """A new key; the one of another agent that was quicker."""
    key = secrets.token_bytes(_SEAL_BYTES)
    handle, new = tempfile.mkstemp(prefix=".key-", dir=path.parent)  # mkstemp lets only this user read.
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key)
        if path.exists():
            os.replace(new, path)  # One that was cut short, or that others could read.
            return key
        try:
            os.link(new, path)
        except FileExistsError:
            return _read_key(path) or key
        return key
    finally:
        Path(new).unlink(missing_ok=True)
