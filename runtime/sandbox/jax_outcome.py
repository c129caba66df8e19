"""What becomes of a call, as bytes: status byte, then the codec's (0 a value, 1 an exception), as in the wasm lane."""

from __future__ import annotations

from typing import Any

from jax.errors import JaxRuntimeError

from fleet.protocol import codec
from fleet.protocol._codec.exception_data import describe
from fleet.protocol.errors import FleetError, PayloadTooLarge, ResultNotPortable
from fleet.protocol.limits import PAYLOAD_BYTES_MAX
from fleet.protocol.units import format_bytes

_VALUE, _RAISED = b"\0", b"\1"
_EXHAUSTED = ("RESOURCE_EXHAUSTED", "Out of memory")
_TEXT_CHARS_MAX = 2000


def value_of(value: Any) -> bytes:
    """Result bytes of a value; PayloadTooLarge when there are more than may travel."""
    try:
        return codec.encode(value, "result", _VALUE)
    except ResultNotPortable as error:
        if "takes more than" not in error.message:
            raise
        raise PayloadTooLarge(
            f"the result takes more than {format_bytes(PAYLOAD_BYTES_MAX)}",
            hint="return less, or keep it on the device with fleet.keep",
        ) from None


def failed(error: Exception) -> tuple[bytes, str]:
    """(result bytes, summary) of a call that ended with ``error``.

    What is told is the type and the text: there is no frame of the developer's in here that a traceback could show.
    """
    told = describe(_plain(error), codec.encode)
    return codec.encode(told, prefix=_RAISED), told.summary


def _plain(error: Exception) -> Exception:
    """``error`` as one that was never raised, of a kind that its caller knows."""
    if isinstance(error, FleetError):
        return type(error)(error.message, hint=error.hint)
    text = str(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, JaxRuntimeError) and any(word in text for word in _EXHAUSTED)
    ):
        return MemoryError(text[:_TEXT_CHARS_MAX] or "the slot's memory ran out")
    for kind in (ValueError, TypeError, LookupError, NotImplementedError):
        if isinstance(error, kind):
            return kind(text[:_TEXT_CHARS_MAX])
    return RuntimeError(f"{type(error).__name__}: {text[:_TEXT_CHARS_MAX]}")
