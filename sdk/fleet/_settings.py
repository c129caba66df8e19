"""Where the fleet is and who asks: from ``fleet.connect(...)``, else the environment, else the defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass

URL_DEFAULT = "nats://127.0.0.1:4242"
TENANT = "default"
"""Everybody's tenant until identities exist."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``url`` of the broker, ``creds``: path of a NATS credentials file, ``app``: app of functions without one."""

    url: str = URL_DEFAULT
    creds: str | None = None
    app: str | None = None
    tenant: str = TENANT

    @classmethod
    def resolve(cls, url: str | None = None, creds: str | None = None, app: str | None = None) -> Settings:
        """What was given, else FLEET_URL, FLEET_CREDS and FLEET_APP, else the defaults."""
        return cls(
            url=url or os.environ.get("FLEET_URL") or URL_DEFAULT,
            creds=creds or os.environ.get("FLEET_CREDS") or None,
            app=app or os.environ.get("FLEET_APP") or None,
        )
