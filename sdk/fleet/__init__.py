"""Run Python functions on the idle computers of parked, plugged-in electric cars.

``import fleet`` stays light: names are imported when they are first used, because this runs in every script and inside
the sandbox as well.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet._app import App
    from fleet._call import Call
    from fleet._client import Client, connect
    from fleet._context import Current, current
    from fleet._event import Emit, Event, HttpRequest, Response, emit, publish
    from fleet._function import Function, function
    from fleet._group import CallGroup
    from fleet._keep import keep
    from fleet._output import enable_output
    from fleet._ref import Ref, put
    from fleet.protocol.errors import (
        CallCancelled,
        CallError,
        CallTimeout,
        CarLost,
        DeployError,
        FleetError,
        FleetUnavailable,
        InvalidOption,
        NotDeployed,
        PayloadTooLarge,
        ProtocolError,
        QueueFull,
        QueueTimeout,
        Refused,
        RemoteError,
        ResultExpired,
        ResultNotPortable,
        SandboxTrap,
        VersionMismatch,
        WrongArguments,
    )
    from fleet.protocol.options import Batch, Requires, Retries
    from fleet.protocol.triggers import EventBatch, at, cron, every, http, subject

__version__ = "0.1.0"

__all__ = [
    "App",
    "Batch",
    "Call",
    "CallCancelled",
    "CallError",
    "CallGroup",
    "CallTimeout",
    "CarLost",
    "Client",
    "Current",
    "DeployError",
    "Emit",
    "Event",
    "EventBatch",
    "FleetError",
    "FleetUnavailable",
    "Function",
    "HttpRequest",
    "InvalidOption",
    "NotDeployed",
    "PayloadTooLarge",
    "ProtocolError",
    "QueueFull",
    "QueueTimeout",
    "Ref",
    "Refused",
    "RemoteError",
    "Requires",
    "Response",
    "ResultExpired",
    "ResultNotPortable",
    "Retries",
    "SandboxTrap",
    "VersionMismatch",
    "WrongArguments",
    "at",
    "connect",
    "cron",
    "current",
    "emit",
    "enable_output",
    "every",
    "function",
    "http",
    "keep",
    "publish",
    "put",
    "subject",
]

_HOMES = {
    "App": "fleet._app",
    "Batch": "fleet.protocol.options",
    "Call": "fleet._call",
    "CallGroup": "fleet._group",
    "Client": "fleet._client",
    "Current": "fleet._context",
    "Emit": "fleet._event",
    "Event": "fleet._event",
    "EventBatch": "fleet.protocol.triggers",
    "Function": "fleet._function",
    "HttpRequest": "fleet._event",
    "Ref": "fleet._ref",
    "Requires": "fleet.protocol.options",
    "Response": "fleet._event",
    "Retries": "fleet.protocol.options",
    "at": "fleet.protocol.triggers",
    "connect": "fleet._client",
    "cron": "fleet.protocol.triggers",
    "current": "fleet._context",
    "emit": "fleet._event",
    "enable_output": "fleet._output",
    "every": "fleet.protocol.triggers",
    "function": "fleet._function",
    "http": "fleet.protocol.triggers",
    "keep": "fleet._keep",
    "publish": "fleet._event",
    "put": "fleet._ref",
    "subject": "fleet.protocol.triggers",
}


if not TYPE_CHECKING:  # to a type checker it would make every misspelled name valid

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'fleet' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES.get(name, "fleet.protocol.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
