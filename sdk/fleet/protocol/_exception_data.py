"""Exceptions as data: what of an exception travels from a sandbox to the caller. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any

from fleet.protocol.errors import FleetError, ProtocolError
from fleet.protocol.limits import ERROR_TEXT_CHARS_MAX, KIB

_ARGS_BYTES_MAX = 64 * KIB
_CHAIN_MAX = 4
_FRAMES_MAX = 1200
"""More than Python's recursion limit, so that ordinary endless recursion is told in full."""
_MAIN_ALIAS = "__mp_main__"
"""The name under which a guest loads a script, so that its ``if __name__ == "__main__"`` block doesn't run."""


@dataclass(frozen=True, slots=True)
class ExceptionData:
    """An exception that was raised elsewhere. Building the real one is the client's affair.

    ``args`` is None where they couldn't travel. ``traceback`` is the whole text, as Python prints it, chain included.
    ``cause`` and ``context`` carry type, message and args, no traceback. ``code`` is that of a FleetError, else empty.
    """

    module: str
    qualname: str
    message: str
    args: tuple[Any, ...] | None = None
    traceback: str = ""
    notes: tuple[str, ...] = ()
    cause: ExceptionData | None = None
    context: ExceptionData | None = None
    code: str = ""
    hint: str = ""

    @property
    def type_name(self) -> str:
        """``ValueError``, ``shop.errors.SoldOut``."""
        return self.qualname if self.module in ("builtins", "__main__") else f"{self.module}.{self.qualname}"

    @property
    def summary(self) -> str:
        """``ValueError: bad``, one line, for listings."""
        first = self.message.strip().partition("\n")[0][:200]
        return f"{self.type_name}: {first}" if first else self.type_name

    @classmethod
    def of_fields(cls, values: list[Any]) -> ExceptionData:
        """From the values of ``FIELDS`` in order; ProtocolError unless they have the right types."""
        if len(values) < len(FIELDS):
            raise ProtocolError("an exception is cut short")
        module, qualname, message, args, traceback, notes, cause, context, code, hint = values[: len(FIELDS)]
        if not (
            all(isinstance(text, str) for text in (module, qualname, message, traceback, code, hint))
            and isinstance(notes, tuple)
            and all(isinstance(note, str) for note in notes)
            and isinstance(args, tuple | None)
            and isinstance(cause, cls | None)
            and isinstance(context, cls | None)
        ):
            raise ProtocolError("an exception is malformed")
        return cls(module, qualname, message, args, traceback, notes, cause, context, code, hint)


FIELDS = tuple(field.name for field in fields(ExceptionData))


def describe(
    error: BaseException,
    encode: Callable[[Any], bytes],
    hide: Callable[[str], bool] | None = None,
) -> ExceptionData:
    """``error`` as data; ``encode`` tries whether its arguments can travel, ``hide`` drops frames by file name."""
    return _describe(error, encode, _traceback_text(error, hide), 0)


def _describe(error: BaseException, encode: Callable[[Any], bytes], traceback: str, level: int) -> ExceptionData:
    kind = type(error)
    cause, context = error.__cause__, None if error.__suppress_context__ else error.__context__
    deeper = level < _CHAIN_MAX
    return ExceptionData(
        module="__main__" if kind.__module__ == _MAIN_ALIAS else str(kind.__module__),
        qualname=kind.__qualname__,
        message=_message(error),
        args=_args(error, encode),
        traceback=traceback,
        notes=_notes(error),
        cause=_describe(cause, encode, "", level + 1) if cause is not None and deeper else None,
        context=_describe(context, encode, "", level + 1) if context is not None and deeper else None,
        code=error.code if isinstance(error, FleetError) else "",
        hint=str(error.hint) if isinstance(error, FleetError) else "",
    )


def _message(error: BaseException) -> str:
    try:
        text = error.message if isinstance(error, FleetError) else str(error)
    except Exception:  # The function's own __str__ may raise anything; Python prints the same words.
        text = "<exception str() failed>"
    return _cut(str(text))


def _args(error: BaseException, encode: Callable[[Any], bytes]) -> tuple[Any, ...] | None:
    try:
        args = tuple(error.args)
        if any(isinstance(value, BaseException) for value in args):
            return None
        return args if len(encode(args)) <= _ARGS_BYTES_MAX else None
    except Exception:  # Not portable, or ``args`` was replaced by something odd: the message has to do.
        return None


def _notes(error: BaseException) -> tuple[str, ...]:
    notes = getattr(error, "__notes__", None)
    return tuple(_cut(note) for note in notes if isinstance(note, str)) if isinstance(notes, list) else ()


def _traceback_text(error: BaseException, hide: Callable[[str], bool] | None) -> str:
    import traceback  # Only where something failed: `import fleet` stays light.

    try:
        told = traceback.TracebackException(type(error), error, _shortened(error.__traceback__), compact=True)
        if hide is not None:
            _hide(told, hide)
        return _cut("".join(told.format()).replace(_MAIN_ALIAS + ".", ""))
    except Exception:  # A class may lie about its parts; the type's name still travels.
        return f"{type(error).__qualname__}\n"


def _shortened(whole: TracebackType | None) -> TracebackType | None:
    """A traceback of at most _FRAMES_MAX frames, the first and the last: telling a million would take ten seconds."""
    frames = []
    at = whole
    while at is not None:
        frames.append(at)
        at = at.tb_next
    if len(frames) <= _FRAMES_MAX:
        return whole
    half = _FRAMES_MAX // 2
    kept: TracebackType | None = frames[-half]
    for frame in reversed(frames[:half]):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _hide(told: Any, hide: Callable[[str], bool]) -> None:
    told.stack[:] = [frame for frame in told.stack if not hide(frame.filename)]
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            _hide(other, hide)


def _cut(text: str) -> str:
    if len(text) <= ERROR_TEXT_CHARS_MAX:
        return text
    half = ERROR_TEXT_CHARS_MAX // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
