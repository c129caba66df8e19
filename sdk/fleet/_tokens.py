"""Bearer tokens as text: ``flt_<tenant>.<id>.<secret>``. The platform keeps only a hash of the secret. Light to import."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import NamedTuple

from fleet.protocol.errors import Refused

_TEXT = re.compile(r"flt_([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]{32,128})\Z")
ID_BYTES = 8
SECRET_BYTES = 32


class Parsed(NamedTuple):
    """The three parts of a token."""

    tenant: str
    id: str
    secret: str

    @property
    def secret_sha256(self) -> str:
        """What the platform is told of the secret: 64 hex digits. A hash without salt is enough for 256 random bits."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


def make(tenant: str) -> str:
    """A new token of ``tenant``; it holds once its id and the hash of its secret are with the platform."""
    return f"flt_{tenant}.{secrets.token_hex(ID_BYTES)}.{secrets.token_urlsafe(SECRET_BYTES)}"


def parse(text: str) -> Parsed:
    """The parts of a token; Refused for any other text (which isn't repeated in the error: it may be a secret)."""
    found = _TEXT.match(text)
    if found is None:
        raise Refused("that is no token of this platform", hint="make one with: fleet token create")
    return Parsed(*found.groups())
