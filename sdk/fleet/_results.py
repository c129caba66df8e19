"""Outcome records as values or exceptions of the caller.

Nothing here runs code that a car chose: values are data (``protocol.codec``), their classes come from a closed set
(``_classes``), exception types are looked up there and among what is imported already, never imported, and made without
running their own ``__init__``.
"""

from __future__ import annotations

import builtins
import functools
import sys
import types
from typing import Any

from pydantic import ValidationError

import fleet._event_values  # noqa: F401  (classes of the platform that results may hold)
from fleet._classes import ANY_OWN, Classes, show_records, type_dict
from fleet.protocol._codec.exception_data import SLOTS
from fleet.protocol.codec import COPY_BYTES_MAX, ExceptionData, decode, decode_exception
from fleet.protocol.errors import BY_CODE, ProtocolError, RemoteError, from_code
from fleet.protocol.messages import WireError

_NO_PACKAGES = "A sandbox has the standard library, your own modules, and what packages=[...] of the function names."
_VALUE, _RAISED, _ENDED, _EMITTING = 0, 1, 2, 3
_PLAIN = (type(None), bool, int, float, str, bytes, tuple, list, dict, set, frozenset)
_EARLIER = {
    ("re", "PatternError"): ("re", "error"),
    ("pathlib", "UnsupportedOperation"): ("builtins", "NotImplementedError"),
    ("builtins", "PythonFinalizationError"): ("builtins", "RuntimeError"),
}
"""Exceptions of the sandbox's Python under the names, or as the types, that earlier Pythons have for them."""
_DICT, _ARGS, _CAUSE, _CONTEXT, _SUPPRESS = (
    BaseException.__dict__[name] for name in ("__dict__", "args", "__cause__", "__context__", "__suppress_context__")
)
"""Set past whatever ``__setattr__`` a class has."""
_SLOT_WRAPPERS = (type(object.__init__), type(object.__new__))


class Failure:
    """In place of a value: the item raised, or was ended by the platform."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def decode_item(data: bytes | memoryview, classes: Classes = ANY_OWN) -> Any:
    """The value of one result as the sandbox wrote it, or a Failure.

    ``classes``: what instances in it may be made of. ProtocolError when it is malformed, ResultNotPortable when it has an
    instance of another class.
    """
    if not len(data):
        raise ProtocolError("a result is empty")
    data = bytes(data) if len(data) <= COPY_BYTES_MAX else memoryview(data)
    status = data[0]
    if status in (_VALUE, _EMITTING):
        alive = revive if classes is ANY_OWN else functools.partial(revive, classes=classes)
        at = 1 if status == _VALUE else 5 + int.from_bytes(data[1:5], "little")
        value = decode(data[at:], alive, classes.find, records=show_records.get())
        return value if classes.unpack is None else classes.unpack(value)
    if status == _RAISED:
        return Failure(_raised(decode_exception(data[1:], classes.find), classes))
    if status == _ENDED:
        try:
            return Failure(WireError.model_validate_json(bytes(data[1:])).to_error())
        except ValidationError as error:
            raise ProtocolError(f"a result's error is malformed: {error.error_count()} faults") from None
    raise ProtocolError(f"a result has the unknown status {status}")


def revive(data: ExceptionData, classes: Classes = ANY_OWN) -> BaseException:
    """The exception that ``data`` describes, as a value: its own type where that is known here, else RemoteError.

    Notes and the remote traceback come along as notes; cause, context and the members of a group as exceptions. No code of
    its class is run.
    """
    return _chained(data, classes, BaseException)


def _raised(data: ExceptionData, classes: Classes) -> Exception:
    # SystemExit or KeyboardInterrupt of a car must not end the caller.
    error = _chained(data, classes, Exception)
    assert isinstance(error, Exception), error
    return error


def _chained(data: ExceptionData, classes: Classes, most: type[BaseException]) -> BaseException:
    error = _bare(data, classes, most)
    notes = list(data.notes)
    if isinstance(error, ModuleNotFoundError):
        notes.append(_NO_PACKAGES)
    if data.traceback:
        notes.append(f"Remote traceback:\n{data.traceback.rstrip()}")
    if notes:
        _DICT.__get__(error)["__notes__"] = notes
    if data.cause is not None:
        _CAUSE.__set__(error, revive(data.cause, classes))
    if data.context is not None:
        _CONTEXT.__set__(error, revive(data.context, classes))
    _SUPPRESS.__set__(error, data.suppress or data.cause is not None)
    return error


def _bare(data: ExceptionData, classes: Classes, most: type[BaseException]) -> BaseException:
    if data.code in BY_CODE:
        return from_code(data.code, data.message, data.hint)
    name = (data.module, data.qualname)
    kind = _find_type(*name, classes) or _find_type(*_EARLIER.get(name, name), classes)
    if kind is not None and issubclass(kind, most):
        args = data.args if data.args is not None else (data.message,)
        error = _instance(kind, tuple(_revived(arg, classes) for arg in args))
        if error is not None:
            _add_attributes(error, data.attributes or {})
            return error
    message = f"{data.type_name}: {data.message}" if data.message else data.type_name
    return RemoteError(message, type_name=data.type_name)


def _revived(arg: Any, classes: Classes) -> Any:
    """An argument with the exceptions in it: those of an exception group lie in a list."""
    if type(arg) in (list, tuple):
        return type(arg)([_revived(one, classes) for one in arg])
    return revive(arg, classes) if isinstance(arg, ExceptionData) else arg


def _add_attributes(error: BaseException, attributes: dict[str, Any]) -> None:
    """What the exception had besides its arguments. Nothing of its class is hidden, no property or hook is run."""
    slots = {name: kind for kind, names in SLOTS.items() if isinstance(error, kind) for name in names}
    own = _DICT.__get__(error)
    for name, value in attributes.items():
        if name in slots:
            slot = slots[name].__dict__.get(name)
            if type(slot) is types.MemberDescriptorType:
                slot.__set__(error, value)
        elif not name.startswith("__"):
            present = next((type_dict(base)[name] for base in type(error).__mro__ if name in type_dict(base)), None)
            if type(present) in _PLAIN:
                own[name] = value


def _find_type(module: str, qualname: str, classes: Classes) -> type[BaseException] | None:
    """An exception class by name: one of ``classes``, or of a module that is imported already. No hook is run."""
    found: Any = None if module == "builtins" else classes.find(0, module, qualname)
    if found is None:
        found = builtins if module == "builtins" else sys.modules.get(module)
        for part in qualname.split("."):
            found = None if found is None else getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _instance(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException | None:
    """An exception of ``kind`` with ``args``, made by C code alone: the class's own constructors don't run."""
    base = next(one for one in kind.__mro__ if isinstance(one.__dict__.get("__new__"), _SLOT_WRAPPERS))
    try:
        error: BaseException = base.__new__(kind, *args)
        if isinstance(kind.__init__, _SLOT_WRAPPERS):
            kind.__init__(error, *args)
        else:
            _ARGS.__set__(error, args)
    except Exception:  # the arguments don't fit the class: shown as RemoteError instead
        return None
    return error
