"""Exceptions as data: what of an exception travels from a sandbox to the caller. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any

from fleet.protocol.errors import FleetError, ProtocolError
from fleet.protocol.limits import ERROR_TEXT_CHARS_MAX, KIB

_ARGS_BYTES_MAX = 64 * KIB
_CHAIN_MAX = 16
_TOLD_MAX = 1000
"""Exceptions told of one, chains and groups together."""
_FRAMES_MAX = 1200
"""More than Python's recursion limit, so that ordinary endless recursion is told in full."""
_MAIN_ALIAS = "__mp_main__"
"""The name under which a guest loads a script, so that its ``if __name__ == "__main__"`` block doesn't run."""


@dataclass(frozen=True, slots=True)
class ExceptionData:
    """An exception that was raised elsewhere. Building the real one is the client's affair.

    ``args`` is None where they couldn't travel; exceptions among them (those of a group) are ExceptionData, too.
    ``traceback`` is the whole text, as Python prints it, chain and group included; empty for one that wasn't raised.
    ``cause``, ``context`` and members carry all but the traceback. ``code`` is that of a FleetError, else empty.
    ``attributes`` are what the exception had besides its arguments, as far as it can travel; ``suppress``: the context
    isn't to be shown (``from``).
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
    attributes: dict[str, Any] | None = None
    suppress: bool = False

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
        if len(values) < _FIELDS_MIN:
            raise ProtocolError("an exception is cut short")
        module, qualname, message, args, traceback, notes, cause, context, code, hint = values[:_FIELDS_MIN]
        attributes, suppress = (*values[_FIELDS_MIN:], None, False)[:2]
        if not (
            all(isinstance(text, str) for text in (module, qualname, message, traceback, code, hint))
            and isinstance(notes, tuple)
            and all(isinstance(note, str) for note in notes)
            and isinstance(args, tuple | None)
            and isinstance(cause, cls | None)
            and isinstance(context, cls | None)
            and (attributes is None or (type(attributes) is dict and all(type(name) is str for name in attributes)))
            and isinstance(suppress, bool)
        ):
            raise ProtocolError("an exception is malformed")
        return cls(module, qualname, message, args, traceback, notes, cause, context, code, hint, attributes, suppress)


FIELDS = tuple(field.name for field in fields(ExceptionData))
_FIELDS_MIN = 10
"""What every version writes; readers make up for the rest."""

SLOTS: dict[type[BaseException], tuple[str, ...]] = {
    OSError: ("errno", "strerror", "filename", "filename2"),
    ImportError: ("name", "path"),
    NameError: ("name",),
    AttributeError: ("name",),
    SyntaxError: ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset"),
}
"""What builtin exceptions keep outside ``args`` and ``__dict__``."""


def name_of_module(kind: type) -> str:
    """The module that a class says it is of, by the name under which its caller knows it."""
    name = str(kind.__module__)
    return "__main__" if name == _MAIN_ALIAS else name


def describe(
    error: BaseException,
    encode: Callable[[Any], bytes],
    hide: Callable[[str], bool] | None = None,
) -> ExceptionData:
    """``error`` as data; ``encode`` tries whether its arguments can travel, ``hide`` drops frames by file name."""
    above = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    raised = error.__traceback__ is not None or above is not None
    return _Describer(encode).describe(error, _traceback_text(error, hide) if raised else "", ())


class _Describer:
    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._told = 0

    def describe(self, error: BaseException, traceback: str, above: tuple[int, ...]) -> ExceptionData:
        self._told += 1
        above = (*above, id(error))
        kind = type(error)
        ours = error if isinstance(error, FleetError) else None
        return ExceptionData(
            module=name_of_module(kind),
            qualname=kind.__qualname__,
            message=_message(error),
            args=self._args(error, above),
            traceback=traceback,
            notes=_notes(error),
            cause=self._next(error.__cause__, above),
            context=None if error.__suppress_context__ else self._next(error.__context__, above),
            code=ours.code if ours is not None else "",
            hint=str(ours.hint) if ours is not None else "",
            attributes=None if ours is not None else self._attributes(error),
            suppress=bool(error.__suppress_context__),
        )

    def _next(self, error: BaseException | None, above: tuple[int, ...]) -> ExceptionData | None:
        if error is None or len(above) > _CHAIN_MAX or self._told >= _TOLD_MAX or id(error) in above:
            return None
        return self.describe(error, "", above)

    def _args(self, error: BaseException, above: tuple[int, ...]) -> tuple[Any, ...] | None:
        try:
            args = tuple(self._told_inside(arg, above) for arg in error.args)
            return args if len(self._encode(args)) <= _ARGS_BYTES_MAX or _members(error) else None
        except Exception:  # Not portable, or ``args`` was replaced by something odd: the message has to do.
            return None

    def _told_inside(self, arg: Any, above: tuple[int, ...]) -> Any:
        """An argument with the exceptions in it as data: those of an exception group lie in a list."""
        if isinstance(arg, BaseException):
            told = self._next(arg, above)
            if told is None:
                raise ValueError("too many exceptions in one")
            return told
        if type(arg) in (list, tuple) and any(isinstance(one, BaseException) for one in arg):
            return type(arg)([self._told_inside(one, above) for one in arg])
        return arg

    def _attributes(self, error: BaseException) -> dict[str, Any] | None:
        slots = [name for kind, names in SLOTS.items() if isinstance(error, kind) for name in names]
        found = {}
        try:
            values = {name: getattr(error, name, None) for name in slots} | dict(error.__dict__)
        except Exception:  # The function's own class may do anything here.
            return None
        for name, value in values.items():
            if (value is None and name in slots) or type(name) is not str or name.startswith("__"):
                continue
            try:
                if len(self._encode(value)) <= _ARGS_BYTES_MAX:
                    found[name] = value
            except Exception:  # What can't travel stays behind; type, message and arguments matter more.
                continue
        return found or None


def _members(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup)


def _message(error: BaseException) -> str:
    try:
        text = error.message if isinstance(error, FleetError) else str(error)
    except Exception:  # The function's own __str__ may raise anything; Python prints the same words.
        text = "<exception str() failed>"
    return _cut(str(text))


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
