"""Run calls: find the function, load the arguments, call it, turn what comes of it into data.

Result bytes: one status byte and codec bytes; 0 value, 1 exception that the function raised, 3 a value that is events to
be published, which stand in front of it (see ``OutcomeRecord``).
Whatever a function does, short of ending the sandbox, is a result; nothing that it raises leaves ``run``.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import os
import pickle
import struct
import sys
import time
import traceback
import types
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from fleet import _context
from fleet._event import emits_of, pack_emits
from fleet._function import Function
from fleet.protocol import codec
from fleet.protocol._codec.exception_data import ExceptionData, describe
from fleet.protocol.errors import ResultNotPortable

from . import between, generate, loader, program, reasons, wire
from .output import Output

FLUSH_S = 0.025
FLUSH_BYTES = 256 * 1024
REPORT_S = 0.005

_VALUE = b"\0"
_RAISED = b"\1"
_EMITTING = b"\3"
_SINGLE = wire.RESULT_HEAD.pack(0, 0)
_SINGLE_VALUE = wire.RESULT_HEAD.pack(0, 0) + _VALUE
_PACKAGE = "/" + __package__ + "/"
_FLEET = os.path.dirname(Function.__call__.__code__.co_filename) + "/"
_RUNNERS = frozenset(
    function.__code__.co_filename
    for function in (asyncio.run, asyncio.BaseEventLoop.run_forever, importlib.import_module)
)
"""Frames of ``asyncio.run`` and ``import_module``: the function didn't call them, we did."""


class Call:
    """The running call as ``fleet.current()`` asks about it (``fleet._context.Backend``)."""

    def __init__(self) -> None:
        self.call = ""
        self.car = ""
        self.timeout_s = 0.0
        self.started_monotonic_s = 0.0
        self.number: int | None = None
        self.attempt = 1
        self.state: bytes | None = None
        self.yields: generate.Yields | None = None

    @property
    def call_id(self) -> str:
        """``<call>``, or ``<call>/<index>`` for an item of a map."""
        return self.call if self.number is None else f"{self.call}/{self.number}"

    @property
    def deadline(self) -> float | None:
        """When the agent ends this call or item, in Unix seconds."""
        if self.timeout_s <= 0:
            return None
        return time.time() - (time.monotonic() - self.started_monotonic_s) + self.timeout_s

    def checkpoint(self, state: bytes) -> None:
        """Hand ``state`` to the host."""
        self.state = state if self.yields is None else self.yields.mark(state)
        wire.tell(wire.CHECKPOINT, 0, self.state)

    def resume(self) -> bytes | None:
        """The state that was saved last."""
        return self.state if self.yields is None else self.yields.resume(self.state)

    def departing(self) -> bool:
        """Whether the owner is about to leave."""
        return bool(wire.tell(wire.DEPARTING, 0))


_WARM_SOURCE = """
def f(a, *args, **kwargs):
    return {"a": [a, args, kwargs, None, 1.5], "b": str(a)}
"""


def warm_bundle() -> bytes:
    """A bundle with a function that does what most functions do."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _WARM_SOURCE)
    return made.getvalue()


class Jobs:
    """One program and its runs."""

    def __init__(self, output: Output, keep: frozenset[str]) -> None:
        self._output = output
        self._keep = keep
        self._module = ""
        self._qualname = ""
        self._bundle: loader.BundleLoader | None = None
        self._function: Callable[..., Any] | None = None
        self._call = Call()
        self._summary = ""

    def load(self, request: memoryview) -> bytes:
        """Take a program. Its code runs only with the first call. Empty, or one sentence on what is wrong."""
        module_bytes, qualname_bytes, code_bytes, bundle_bytes, packages = wire.LOAD_HEAD.unpack_from(request)
        at = wire.LOAD_HEAD.size
        sizes = struct.unpack_from(f"<{packages}I", request, at)
        at += 4 * packages
        self._module = str(request[at : at + module_bytes], "utf-8")
        at += module_bytes
        self._qualname = str(request[at : at + qualname_bytes], "utf-8")
        at += qualname_bytes
        parts = []
        for size in (0 if code_bytes == wire.NONE else code_bytes, bundle_bytes, *sizes):
            parts.append(bytes(request[at : at + size]))
            at += size
        request.release()
        wire.drop_large_room()
        try:
            self._bundle = loader.install(parts[1], self._keep, parts[2:])
            self._bundle.know(None if code_bytes == wire.NONE else parts[0])
        except Exception as error:  # A damaged zip raises a dozen kinds; the car reports the sentence and tries again.
            return f"the bundle can't be read: {type(error).__name__}: {error}".encode()
        _context.install(self._call)
        return b""

    def stream(self, request: memoryview) -> bytes:
        """Run a generator; the response as that of a single call, without a value."""
        self._call.yields = generate.Yields(self._call, self._output, *wire.STREAM_HEAD.unpack_from(request))
        run = request[wire.STREAM_HEAD.size :]
        request.release()
        try:
            return self.run(run)
        finally:
            self._call.yields = None

    def run(self, request: memoryview) -> bytes:
        """Run a single call or a chunk; the response (RESULT_HEAD, summary, result)."""
        (attempt, items, timeout_s, exact, call_bytes, car_bytes, ranges, attempts, saved_bytes, args_bytes) = (
            wire.RUN_HEAD.unpack_from(request)
        )
        at = wire.RUN_HEAD.size
        call = self._call
        call.call = str(request[at : at + call_bytes], "utf-8")
        at += call_bytes
        call.car = str(request[at : at + car_bytes], "utf-8")
        at += car_bytes
        pairs = list(struct.iter_unpack("<II", request[at : at + 8 * (ranges + attempts)]))
        at += 8 * (ranges + attempts)
        call.state = None if saved_bytes == wire.NONE else bytes(request[at : at + saved_bytes])
        at += 0 if saved_bytes == wire.NONE else saved_bytes
        call.attempt, call.timeout_s, call.number = attempt, timeout_s, None
        self._summary = ""
        arguments = request[at : at + args_bytes]
        request.release()
        if items == wire.NONE:
            return self._single(arguments)
        numbers = [number for first, last in pairs[:ranges] for number in range(first, last + 1)]
        return self._chunk(arguments, items, numbers or list(range(items)), dict(pairs[ranges:]), bool(exact))

    def warm_up(self, bundle: bytes) -> None:
        """Do once what every call does, with a program of nothing, and forget it."""
        self._bundle = finder = loader.install(bundle, self._keep)
        try:
            self._module, self._qualname = loader.MAIN, "f"
            with redirect_stdout(io.StringIO()):
                self._single(memoryview(pickle.dumps(((1, "a", [2.5]), {"b": b"x"}))))
        finally:
            sys.meta_path.remove(finder)
            del sys.modules[loader.MAIN], sys.modules[loader.MAIN_ALIAS]

    def _single(self, arguments: memoryview) -> bytes:
        self._output.begin(wire.NONE)
        self._call.started_monotonic_s = time.monotonic()
        try:
            function = self._function or self._find()
            args, kwargs = pickle.loads(arguments)
            arguments.release()
            wire.drop_large_room()
            value = function(*args, **kwargs)
            if type(value) is types.CoroutineType:
                value = asyncio.run(value)
            args = kwargs = None
            if self._call.yields is not None:
                generate.drain(value, self._call.yields)
                value = None
            elif isinstance(value, generate.GENERATORS):
                generate.refuse_single(value)
            head = _SINGLE_VALUE if type(value) not in generate.MAY_EMIT else _SINGLE + _status(value)
            result = codec.encode(value, "result", head)
        except BaseException as error:
            args = kwargs = value = None
            result = self._failed(error)
            summary = self._summary.encode("utf-8", "replace")
            result = b"".join((wire.RESULT_HEAD.pack(0, len(summary)), summary, result))
        between.restore()
        self._output.end()
        return result

    def _chunk(
        self, arguments: memoryview, count: int, numbers: list[int], attempts: dict[int, int], exact: bool
    ) -> bytes:
        call, output, tell = self._call, self._output, wire.tell
        loads, encode, clock, restore = pickle.loads, codec.encode, time.monotonic, between.restore
        attempt = call.attempt
        out: list[bytes] = []
        first = size = 0
        at = 4 + 4 * count
        now = flushed_s = clock()
        reported_s = 0.0
        for position, length in enumerate(struct.unpack_from(f"<{count}I", arguments, 4)):
            if exact or now - reported_s > REPORT_S:
                tell(wire.PROGRESS, position)
                reported_s = now
            call.number = number = numbers[position]
            call.attempt = attempts.get(number, attempt) if attempts else attempt
            call.started_monotonic_s = now
            output.begin(position)
            try:
                function = self._function or self._find()
                args, kwargs = loads(arguments[at : at + length])
                value = function(*args, **kwargs)
                if type(value) is types.CoroutineType:
                    value = asyncio.run(value)
                result = encode(value, "result", _VALUE if type(value) not in generate.MAY_EMIT else _status(value))
            except BaseException as error:
                result = self._failed(error)
            at += length
            restore()
            output.end()
            if out and len(result) > FLUSH_BYTES:  # Large ones go alone: what is read on the way stays in small lists.
                tell(wire.ITEMS, first, wire.pack_items(out))
                first += len(out)
                out.clear()
                size = 0
            out.append(result)
            size += len(result)
            now = clock()
            if now - flushed_s > FLUSH_S or size > FLUSH_BYTES:
                tell(wire.ITEMS, first, wire.pack_items(out))
                first += len(out)
                out.clear()
                size = 0
                now = flushed_s = clock()
        summary = self._summary.encode("utf-8", "replace")
        return b"".join((wire.RESULT_HEAD.pack(first, len(summary)), summary, wire.pack_items(out)))

    def _find(self) -> Callable[..., Any]:
        """Make the function ready; raises what that raises."""
        assert self._bundle is not None, "run comes after load"
        self._function = program.find(self._module, self._qualname, self._bundle)
        between.settle()
        if self._bundle.compiled is not None:
            wire.tell(wire.CODE, wire.NONE, self._bundle.hand_over())
        return self._function

    def _failed(self, error: BaseException) -> bytes:
        """The result of a call that raised ``error``."""
        if isinstance(error, MemoryError):
            traceback.clear_frames(error.__traceback__)  # Frees what filled the memory, before we need some.
        if isinstance(error, ResultNotPortable):
            error.__traceback__ = None  # Ours, not the function's.
        reasons.explain(error)
        try:
            told = describe(error, codec.encode, _is_ours)
            self._summary = told.summary
            return codec.encode(told, prefix=_RAISED)
        except BaseException as second:  # Out of memory again, or a class that lies about itself: the name must do.
            self._summary = type(error).__name__
            text = f"{self._summary} (and telling more of it failed: {type(second).__name__})"
            return codec.encode(ExceptionData("builtins", "RuntimeError", text), prefix=_RAISED)


def _status(value: Any) -> bytes:
    """What stands before a value: whether it is events to be published, and these."""
    emits = emits_of(value)
    if not emits:
        return _VALUE
    packed = pack_emits(emits)
    return _EMITTING + len(packed).to_bytes(4, "little") + packed


def _is_ours(file_name: str) -> bool:
    return _PACKAGE in file_name or file_name.startswith((_FLEET, "<frozen importlib")) or file_name in _RUNNERS
