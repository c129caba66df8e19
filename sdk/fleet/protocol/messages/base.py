"""What all messages are built of: the base model, tokens, errors on the wire."""

from __future__ import annotations

import enum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fleet.protocol import limits
from fleet.protocol.errors import FleetError, from_code

Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""First 16 hex digits of the sha256 of a function's manifest."""


class Message(BaseModel):
    """Base: frozen, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants", protected_namespaces=())


class BlobRef(Message):
    """A blob that something else names: a value of ``fleet.put`` among the arguments of a call."""

    digest: Digest
    size_bytes: int = Field(ge=0, le=limits.PAYLOAD_BYTES_MAX)


class CallState(enum.StrEnum):
    """Where a call is, as ``Call.status()`` tells."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class WireError(Message):
    """A FleetError on the wire."""

    code: str
    message: str
    hint: str = ""
    details: dict[str, Any] = {}

    def to_error(self) -> FleetError:
        """The exception this stands for."""
        return from_code(self.code, self.message, self.hint, self.details)

    @classmethod
    def of(cls, error: FleetError) -> WireError:
        """The wire form of ``error``."""
        return cls(code=error.code, message=error.message, hint=error.hint, details=error.details)


class Reply(Message):
    """Base of every reply: ``error`` set means that nothing was done."""

    error: WireError | None = None
