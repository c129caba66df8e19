"""What a developer is told of errors."""

from __future__ import annotations

import logging

from fleet.protocol.errors import FleetError, FleetUnavailable, QueueFull
from fnplatform.jetstream import JetStreamError, StreamFull

log = logging.getLogger("fleet.frontdoor")


def for_user(error: FleetError) -> FleetError:
    """What a developer is told: our own words for what the broker says."""
    if isinstance(error, StreamFull):
        return QueueFull(
            "the broker's disk or stream is full", hint="free the disk, or wait until records have expired"
        )
    if isinstance(error, JetStreamError):
        log.error("the broker refused: %s", error.message)
        return FleetUnavailable("the broker refused what the control plane asked", hint="see the control plane's log")
    return error
