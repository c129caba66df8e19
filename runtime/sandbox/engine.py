"""wasmtime, and nothing else: the only file that imports it. Compile a component; make instances; call into them.

Why not ``wasmtime.component`` alone: its calls build type descriptions and objects anew each time. The same calls through
the same C functions, prepared once (measured on this project's machine, in microseconds):

==========================  =======  =========
                            wrapper  prepared
==========================  =======  =========
guest call, two numbers          39       9
host call from the guest         44      10
==========================  =======  =========

Payloads go through the guest's memory (``Window``), 0.3 ms per MB and way; as base64 text 12 ms, as ``list<u8>`` 670 ms.

Errors: whatever wasmtime refuses or the guest does to itself is a SandboxTrap with one sentence.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
from collections.abc import Callable
from typing import Any

import wasmtime._bindings as c_api
import wasmtime._ffi as ffi
from wasmtime import Config, Engine, ExitTrap, Store, WasiConfig, WasmtimeError
from wasmtime.component import Component, Linker

from fleet.protocol.errors import SandboxTrap
from fleet.protocol.limits import MIB
from runtime.sandbox.engine_config import CONFIG
from runtime.sandbox.window import Window

Tell = Callable[[int, int, int, int], int]
"""what, number, address, size -> answer"""

_HOST = "fleet:guest/host"
_STDERR_BYTES_MAX = 2048
_STACK_BYTES = 32 * MIB
_STACK_BYTES_SMALL = 2 * MIB
_U32, _STRING = ffi.WASMTIME_COMPONENT_U32.value, ffi.WASMTIME_COMPONENT_STRING.value


def make_engine() -> Engine:
    """An engine with the project's settings, and with the stack that this thread can give."""
    config = Config()
    for name, value in CONFIG.items():
        setattr(config, name, value)
    stack_bytes = _stack_bytes()
    c_api._wasmtime_config_async_stack_size_set(config.ptr(), stack_bytes + MIB)  # wasmtime wants it to be larger.
    config.max_wasm_stack = stack_bytes
    return Engine(config)


def _stack_bytes() -> int:
    """Native stack for guest code. CPython in the guest notices its own 1 MiB running out and raises RecursionError, but
    the native stack beside it grows up to 16 times as fast: with 8 MiB ``repr`` of a deep list is a trap, with 32 it
    isn't. The main thread's stack grows as far as its limit says; other threads have what they were made with."""
    if threading.current_thread() is not threading.main_thread():
        return _STACK_BYTES_SMALL
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    needed = _STACK_BYTES + 8 * MIB
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            return _STACK_BYTES_SMALL
        resource.setrlimit(resource.RLIMIT_STACK, (needed, hard))
    return _STACK_BYTES


def compile_component(source: str, target: str) -> None:
    """Compile the component file ``source`` to native code in ``target``. Takes 250 MB: do it in a child process."""
    with open(target, "wb") as file:
        file.write(Component.from_file(make_engine(), source).serialize())


class Machine:
    """Engine, compiled guest, and linker: what all instances share. One thread."""

    def __init__(self, aot_path: str, tell: Tell, take: Callable[[], bytes], give: Callable[[bytes], None]) -> None:
        """Map ``aot_path``, which the caller has authenticated. ``tell``, ``take`` and ``give`` answer the guest."""
        self._engine = make_engine()
        try:
            self._component = Component.deserialize_file(self._engine, aot_path)
        except WasmtimeError as error:
            raise SandboxTrap(f"the compiled guest {aot_path} doesn't fit this wasmtime: {error}", hint="") from None
        self.linker = Linker(self._engine)
        self.linker.add_wasip2()
        self._error: BaseException | None = None
        # ctypes callbacks must live as long as the linker.
        self._callbacks = (self._tell_callback(tell), self._take_callback(take), self._give_callback(give))
        with self.linker.root() as root, root.add_instance(_HOST) as host:
            for name, callback in zip(("tell", "take", "give"), self._callbacks, strict=True):
                _add_function(host.ptr(), name, callback)
        self.windows = Window.supported()

    def instantiate(self, memory_bytes: int) -> Instance:
        """A fresh instance. SandboxTrap if there is no memory for it."""
        return Instance(self, self._engine, self._component, memory_bytes)

    def take_error(self) -> BaseException | None:
        """What a callback raised during the last call, once."""
        error, self._error = self._error, None
        return error

    def _guarded(self, body: Callable[[Any, Any], None]) -> Any:
        def run(_data: Any, _context: Any, _type: Any, args: Any, _n: int, results: Any, _m: int) -> int:
            try:
                body(args, results)
            except BaseException as error:  # Must not pass through foreign frames: kept, and raised by the caller.
                self._error = error
                made = c_api._wasmtime_error_new(b"the host refused")
                return ctypes.cast(made, ctypes.c_void_p).value or 0
            return 0

        return c_api.wasmtime_component_func_callback_t(run)

    def _tell_callback(self, tell: Tell) -> Any:
        def body(args: Any, results: Any) -> None:
            answer = tell(args[0].of.u32, args[1].of.u32, args[2].of.u32, args[3].of.u32)
            results[0].kind = _U32
            results[0].of.u32 = answer

        return self._guarded(body)

    def _take_callback(self, take: Callable[[], bytes]) -> Any:
        def body(_args: Any, results: Any) -> None:
            text = ffi.bytes_to_capi(take())  # wasmtime frees it.
            results[0].kind = _STRING
            results[0].of.string = text

        return self._guarded(body)

    def _give_callback(self, give: Callable[[bytes], None]) -> Any:
        def body(args: Any, _results: Any) -> None:
            text = args[0].of.string
            give(ctypes.string_at(text.data, text.size))

        return self._guarded(body)


def _add_function(host: Any, name: str, callback: Any) -> None:
    encoded = name.encode()
    error = c_api._wasmtime_component_linker_instance_add_func(
        host, ctypes.create_string_buffer(encoded), len(encoded), callback, None, _NO_FINALIZER
    )
    if error:
        raise WasmtimeError._from_ptr(error)


_NO_FINALIZER = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))


class Instance:
    """One instance of the guest with a memory of its own. Unusable after a SandboxTrap."""

    def __init__(self, machine: Machine, engine: Engine, component: Component, memory_bytes: int) -> None:
        self._machine = machine
        self._said = b""
        self._store = Store(engine)
        wasi = WasiConfig()
        wasi.stderr_custom = self._stderr
        try:
            self._store.set_wasi(wasi)
            self.limit(memory_bytes)
            instance = machine.linker.instantiate(self._store, component)
        except WasmtimeError as error:
            self._store.close()
            raise SandboxTrap(f"no instance of the sandbox could be made: {_first_line(error)}", hint="") from None
        room, enter = instance.get_func(self._store, "room"), instance.get_func(self._store, "enter")
        assert room is not None and enter is not None, "the guest has other exports"
        self._context = self._store._context()
        self._room, self._enter = _Prepared(room, self._context), _Prepared(enter, self._context)
        self._handles = (room, enter)

    def limit(self, memory_bytes: int) -> None:
        """Bound the guest's memory from now on."""
        self._store.set_limits(memory_size=memory_bytes)

    def room(self, size_bytes: int, mode: int) -> int:
        """Address of ``size_bytes`` of room for requests."""
        return self._call(self._room, size_bytes, mode).u32  # type: ignore[no-any-return]

    def enter(self, what: int, size_bytes: int) -> tuple[int, int]:
        """Let the guest work on a request; address and size of its response."""
        packed = int(self._call(self._enter, what, size_bytes).u64)
        return packed >> 32, packed & 0xFFFF_FFFF

    def close(self) -> None:
        """Give its memory back. Takes a while where much was used: do it while idle."""
        self._store.close()

    def _call(self, function: _Prepared, first: int, second: int) -> Any:
        error = function.call(first, second)
        if error:
            raised = WasmtimeError._from_ptr(error)
            theirs = self._machine.take_error()
            if theirs is not None:
                raise theirs
            raise SandboxTrap(self._why(raised))
        return function.result

    def _why(self, error: WasmtimeError) -> str:
        if isinstance(error, ExitTrap):
            return "the function ended its sandbox, as os._exit() does: return or raise instead"
        said = self._said.decode("utf-8", "replace").strip()
        text = str(error)
        if "call stack exhausted" in text:
            reason = "its recursion went too deep"
        elif "wasm trap: " in text:
            reason = text.partition("wasm trap: ")[2].partition("\n")[0]
        else:
            reason = _first_line(error)
        last = said.splitlines()[-1] if said else ""
        return f"the sandbox ended: {reason}" + (f" ({last})" if last else "")

    def _stderr(self, data: bytes) -> int:
        self._said = (self._said + bytes(data))[-_STDERR_BYTES_MAX:]
        return len(data)


class _Prepared:
    """A guest function of two u32, ready to be called: arguments and result lie in place."""

    __slots__ = ("_arguments", "_call", "_keep", "_post", "_values", "result")

    def __init__(self, function: Any, context: Any) -> None:
        values = (c_api.wasmtime_component_val_t * 2)()
        for value in values:
            value.kind = _U32
        result = c_api.wasmtime_component_val_t()
        self._values = values[0].of, values[1].of
        self.result = result.of
        self._call = c_api._wasmtime_component_func_call
        self._post = c_api._wasmtime_component_func_post_return
        handle = ctypes.byref(function._func)
        self._arguments = (handle, context, values, 2, ctypes.byref(result), 1)
        self._keep = (function, values, result)

    def call(self, first: int, second: int) -> Any:
        """Null, or what wasmtime says went wrong."""
        a, b = self._values
        a.u32, b.u32 = first, second
        error = self._call(*self._arguments)
        return error or self._post(self._arguments[0], self._arguments[1])


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


if __name__ == "__main__":
    compile_component(sys.argv[1], sys.argv[2])
    os.chmod(sys.argv[2], 0o400)
