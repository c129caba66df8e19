"""What ``fleet serve`` is told: where the broker is, or how to start one, and what its promises shall be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fleet.protocol.errors import InvalidOption
from fleet.protocol.ids import check_token, new_call_id
from fleet.protocol.limits import QUEUE_CALLS_MAX
from fnplatform.broker import Credentials
from fnplatform.gateway.child import HttpSettings

PORT_DEFAULT = 4242
CONNECT_S_DEFAULT = 10.0


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Settings of one control-plane process.

    ``nats_url`` None: start a broker of our own in ``data_dir`` at ``host``:``port`` (0: any free one), with ``sync``.
    Else connect there, with ``control`` and ``reply`` as the two users; where they aren't given, ``data_dir``, if given,
    is that of a broker of ours and holds them. ``connect_s``: how long to wait for a broker that isn't up yet.
    ``queue_calls_max``: calls that may wait, of all tenants together. ``http``: start a gateway, too; None: none, or one that
    somebody else started at ``http_url``.
    """

    nats_url: str | None = None
    data_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = PORT_DEFAULT
    sync: Literal["always", "default"] = "always"
    control: Credentials | None = None
    reply: Credentials | None = None
    name: str = field(default_factory=lambda: f"control-{new_call_id()[-12:]}")
    connect_s: float = CONNECT_S_DEFAULT
    queue_calls_max: int = QUEUE_CALLS_MAX
    http: HttpSettings | None = None
    http_url: str = ""

    def __post_init__(self) -> None:
        if self.nats_url is None and self.data_dir is None:
            raise InvalidOption("a broker of our own needs a folder for its data", hint="give one with --data")
        if not 0 <= self.port <= 65535:
            raise InvalidOption(f"port {self.port} is not allowed: 0 to 65535")
        if self.sync not in ("always", "default"):
            raise InvalidOption(f"sync {self.sync!r} is not allowed: 'always' or 'default'")
        if self.connect_s <= 0:
            raise InvalidOption(f"connect_s {self.connect_s} is not allowed: more than 0")
        if not 2 <= self.queue_calls_max <= QUEUE_CALLS_MAX:
            raise InvalidOption(f"a queue of {self.queue_calls_max} calls is not allowed: 2 to {QUEUE_CALLS_MAX}")
        check_token(self.name, "the name of a control plane")
