"""The rule for versions of the wire protocol: N and N-1 work together, others are told what to upgrade."""

from __future__ import annotations

from fleet.protocol.errors import VersionMismatch
from fleet.protocol.limits import PROTOCOL, PROTOCOL_MIN


def check_protocol(spoken: int) -> None:
    """VersionMismatch, in one sentence that names what to upgrade, unless ``spoken`` is served."""
    if spoken > PROTOCOL:
        raise VersionMismatch(
            f"you speak protocol {spoken}, this control plane {PROTOCOL_MIN} to {PROTOCOL}: upgrade the control plane",
            hint="pip install --upgrade fnplatform, where fleet serve or fleet dev runs",
        )
    if spoken < PROTOCOL_MIN:
        raise VersionMismatch(
            f"you speak protocol {spoken}, this control plane {PROTOCOL_MIN} to {PROTOCOL}: upgrade your client",
            hint="pip install --upgrade fnplatform, where your script runs",
        )
