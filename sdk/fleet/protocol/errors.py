"""All errors a user of the platform can meet, one tree, one sentence each; what travels as a code comes back as its class.

::

    FleetError
     |- InvalidOption (ValueError)   an option or argument of ours is out of its range
     |- DeployError                  what was to be deployed can't be
     |- NotDeployed                  no such app, function or version
     |- WrongArguments (TypeError)   the arguments don't fit the function's signature
     |- PayloadTooLarge              arguments, result or bundle over a limit
     |- QueueFull                    the queue, or the tenant's share of it, holds no more
     |- CallError                    a call that ended without a result of the function
     |   |- CallTimeout (TimeoutError)   ran longer than timeout=
     |   |- QueueTimeout (TimeoutError)  waited longer than queue_timeout=
     |   |- CallCancelled                cancel() or Ctrl-C
     |   |- CarLost                      five cars in a row vanished while running it
     |   |- SandboxTrap                  the sandbox ended: stack exhausted, aborted, killed
     |   |- ResultNotPortable            the function returned what can't leave the sandbox
     |   `- RemoteError                  the function raised a type that isn't known here
     |- ResultExpired                the outcome is no longer kept, or the call never was
     |- FleetUnavailable             nobody answers at FLEET_URL
     |- VersionMismatch              protocol versions don't overlap
     |- Refused                      the platform refused a request (wrong state, not allowed)
     `- ProtocolError                bytes that are no message of ours
         `- ProgramRefused           a jax program with something in it that cars don't run

Standard library only: the wasm guest imports this too.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FleetError(Exception):
    """Base of every error of the platform. ``code`` is stable on the wire; ``hint`` says what to do next."""

    code: ClassVar[str] = "fleet_error"
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str = "", *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.details))


def _rebuild(cls: type[FleetError], message: str, hint: str, details: dict[str, Any]) -> FleetError:
    return cls(message, hint=hint, **details)


class InvalidOption(FleetError, ValueError):
    code = "invalid_option"
    default_hint = "give it a value that is allowed"


class DeployError(FleetError):
    code = "deploy_error"
    default_hint = "does the file run by itself, with: python FILE?"


class NotDeployed(FleetError):
    code = "not_deployed"
    default_hint = "see what is deployed with: fleet list"


class WrongArguments(FleetError, TypeError):
    code = "wrong_arguments"
    default_hint = "compare the call with the function's signature"


class PayloadTooLarge(FleetError):
    code = "payload_too_large"


class QueueFull(FleetError):
    code = "queue_full"
    retryable = True
    default_hint = "wait until calls have run, or cancel some: fleet calls, fleet cancel CALL"


class CallError(FleetError):
    """A call that ended without a result of the function."""

    code = "call_error"


class CallTimeout(CallError, TimeoutError):
    code = "call_timeout"
    default_hint = "raise timeout= of the function, or give it less to do per call"


class QueueTimeout(CallError, TimeoutError):
    code = "queue_timeout"
    default_hint = "ask why calls wait with: fleet explain CALL; or raise queue_timeout="


class CallCancelled(CallError):
    code = "call_cancelled"


class CarLost(CallError):
    code = "car_lost"
    default_hint = "does the function crash its car? Run it with .local(), or look at: fleet logs"


class SandboxTrap(CallError):
    code = "sandbox_trap"
    default_hint = "recursion too deep, or memory exhausted below Python? Try it with .local()"


class ResultNotPortable(CallError):
    code = "result_not_portable"
    default_hint = "return built-in values: numbers, str, bytes, list, tuple, set, dict, datetime"


class RemoteError(CallError):
    """The function raised ``type_name``, a type that is not reachable from the caller."""

    code = "remote_error"

    @property
    def type_name(self) -> str:
        """Qualified name of the remote exception's type."""
        return str(self.details.get("type_name", ""))


class ResultExpired(FleetError):
    code = "result_expired"
    default_hint = "outcomes are kept for result_ttl= of the function"


class FleetUnavailable(FleetError):
    code = "unavailable"
    retryable = True
    default_hint = "start one here with: fleet dev; or set FLEET_URL"


class VersionMismatch(FleetError):
    code = "version_mismatch"


class Refused(FleetError):
    code = "refused"


class ProtocolError(FleetError):
    code = "protocol_error"


class ProgramRefused(ProtocolError):
    """A car looked at a jax program before compiling it, and found what isn't on its list."""

    code = "program_refused"
    default_hint = "cars run what jax.export writes for one device: no callbacks, no kernels of one's own, no shardings"


def _tree(cls: type[FleetError]) -> dict[str, type[FleetError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found.update(_tree(sub))
    return found


BY_CODE: dict[str, type[FleetError]] = _tree(FleetError)
"""Class of every stable wire code."""


def from_code(code: str, message: str, hint: str = "", details: dict[str, Any] | None = None) -> FleetError:
    """The error that travelled as ``code``; an unknown code becomes a plain FleetError."""
    return BY_CODE.get(code, FleetError)(message, hint=hint, **(details or {}))
