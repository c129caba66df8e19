"""Outcome records as values or exceptions of the caller.

Nothing here runs code that a car chose: values are data (``protocol.codec``), exception types are looked up among what is
imported already, never imported, and made without running their own ``__init__``.
"""

from __future__ import annotations

import builtins
import sys
from typing import Any

from pydantic import ValidationError

from fleet.protocol.codec import ExceptionData, decode, decode_exception
from fleet.protocol.errors import BY_CODE, ProtocolError, RemoteError, from_code
from fleet.protocol.messages import WireError

_NO_PACKAGES = "A sandbox has the standard library and your own modules; installed packages come with a later release."
COPY_BYTES_MAX = 4096
"""Small results are decoded from a copy: slices of bytes are faster than those of a memoryview (1.4 against 2.9 us)."""
_VALUE, _RAISED, _ENDED = 0, 1, 2
_SLOT_WRAPPERS = (type(object.__init__), type(object.__new__))


class Failure:
    """In place of a value: the item raised, or was ended by the platform."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def decode_item(data: bytes | memoryview) -> Any:
    """The value of one result as the sandbox wrote it, or a Failure; ProtocolError when it is malformed."""
    if not len(data):
        raise ProtocolError("a result is empty")
    if len(data) <= COPY_BYTES_MAX:
        data = bytes(data)
    status = data[0]
    if status == _VALUE:
        return decode(data[1:], revive)
    if status == _RAISED:
        return Failure(revive(decode_exception(data[1:])))
    if status == _ENDED:
        try:
            return Failure(WireError.model_validate_json(bytes(data[1:])).to_error())
        except ValidationError as error:
            raise ProtocolError(f"a result's error is malformed: {error.error_count()} faults") from None
    raise ProtocolError(f"a result has the unknown status {status}")


def revive(data: ExceptionData) -> Exception:
    """The exception that ``data`` describes: its own type where that is known here, else RemoteError.

    Notes and the remote traceback come along as notes, cause and context as exceptions.
    """
    error = _bare(data)
    if isinstance(error, ModuleNotFoundError):
        error.add_note(_NO_PACKAGES)
    for note in data.notes:
        error.add_note(note)
    if data.traceback:
        error.add_note(f"Remote traceback:\n{data.traceback.rstrip()}")
    if data.cause is not None:
        error.__cause__ = _bare(data.cause)
    elif data.context is not None:
        error.__context__ = _bare(data.context)
    return error


def _bare(data: ExceptionData) -> Exception:
    if data.code in BY_CODE:
        return from_code(data.code, data.message, data.hint)
    kind = _find_type(data.module, data.qualname)
    if kind is not None:
        args = data.args if data.args is not None else (data.message,)
        error = _instance(kind, tuple(_revived(arg) for arg in args))
        if error is not None:
            return error
    message = f"{data.type_name}: {data.message}" if data.message else data.type_name
    return RemoteError(message, type_name=data.type_name)


def _revived(arg: Any) -> Any:
    """An argument with the exceptions in it: those of an exception group lie in a list."""
    if isinstance(arg, list | tuple):
        return type(arg)(_revived(one) for one in arg)
    return revive(arg) if isinstance(arg, ExceptionData) else arg


def _find_type(module: str, qualname: str) -> type[Exception] | None:
    """An exception class by name, among modules that are imported already. No attribute hook is run."""
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    for part in qualname.split("."):
        found = None if found is None else getattr(found, "__dict__", {}).get(part)
    # SystemExit or KeyboardInterrupt of a car must not end the caller.
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _instance(kind: type[Exception], args: tuple[Any, ...]) -> Exception | None:
    """An exception of ``kind`` with ``args``, made by C code alone: the class's own constructors don't run."""
    base = next(one for one in kind.__mro__ if isinstance(one.__dict__.get("__new__"), _SLOT_WRAPPERS))
    try:
        error: Exception = base.__new__(kind, *args)
        if isinstance(kind.__init__, _SLOT_WRAPPERS):
            kind.__init__(error, *args)
        else:
            error.args = args
    except Exception:  # the arguments don't fit the class: shown as RemoteError instead
        return None
    return error
