"""One program compiled for one set of shapes: made, saved, loaded, run. All that depends on jax' insides is here.

What jax' own front does for every call (shardings, donation, pytrees) isn't needed for a flat function on one device;
and what it has for saving compiled programs pickles, which a slot doesn't read.
"""

from __future__ import annotations

import contextlib
import functools
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax._src.core import ShapedArray
from jax.errors import JaxRuntimeError
from jax.sharding import SingleDeviceSharding
from jaxlib import xla_client

from fleet.protocol.errors import FleetError, ProgramRefused, ProtocolError
from runtime.sandbox.jax_audit import Audited, audit_lowered

Bytes = bytes | bytearray | memoryview
Shape = tuple[int, ...]
_SIZE = struct.Struct("<I")
_HEAD_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program that runs. ``kept``: the arguments it looks at. The bytes are XLA's own account of a run."""

    executable: Any
    kept: tuple[int, ...]
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    """Between arguments and results, and the code itself."""

    @property
    def memory_bytes(self) -> int:
        """All that a run needs on the device: arguments (weights among them), results, and what is between."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes

    def run(self, arguments: Sequence[Any]) -> list[Any]:
        """Arrays on the device for arrays on the device. What XLA says, it raises (``jax.errors.JaxRuntimeError``)."""
        results: list[Any] = self.executable.execute([arguments[index] for index in self.kept])
        return results

    def __call__(self, arguments: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
        """As ``run``, with the results as numpy arrays: on a CPU they share the memory of what was computed."""
        return [np.asarray(one) for one in self.run(arguments)]


spec_of: Callable[[Any, Any], Any] = jax.ShapeDtypeStruct


def precision(x64: bool) -> contextlib.AbstractContextManager[Any]:
    """Whatever is read, audited or compiled of a program happens with the precision that it was exported with."""
    context: contextlib.AbstractContextManager[Any] = jax.enable_x64(x64)
    return context


def compile_exported(audited: Audited, shapes: Sequence[tuple[Any, Shape]], *, x64: bool) -> Compiled:
    """Compile a program that was audited for arguments of these dtypes and shapes.

    ValueError when the shapes contradict each other or those of the program; ProgramRefused for what can only be seen
    with shapes; JaxRuntimeError when XLA can't.
    """
    try:
        with precision(x64):
            specs = [spec_of(shape, dtype) for dtype, shape in shapes]
            lowered = jax.jit(audited.exported.call).lower(*specs)
            audit_lowered(audited, lowered)
            compiled = lowered.compile()
    except (FleetError, ValueError, TypeError, MemoryError, NotImplementedError, JaxRuntimeError):
        raise
    except Exception as error:  # jax and MLIR have more kinds. Another car's jax would say the same of this program.
        raise ProgramRefused(f"jax can't compile the program ({type(error).__name__}: {str(error)[:500]})") from None
    inside: Any = compiled._executable
    return _of(inside.xla_executable, tuple(sorted(inside._kept_var_idx)))


def _of(executable: Any, kept: tuple[int, ...]) -> Compiled:
    told = executable.get_compiled_memory_stats()
    return Compiled(
        executable,
        kept,
        told.argument_size_in_bytes,
        told.output_size_in_bytes - told.alias_size_in_bytes,
        told.temp_size_in_bytes + told.generated_code_size_in_bytes,
    )


def save(compiled: Compiled) -> bytes:
    """The program for ``load`` in another process of the same kind: machine code, with a head in JSON."""
    head = json.dumps({"kept": compiled.kept}).encode()
    return b"".join((_SIZE.pack(len(head)), head, compiled.executable.serialize()))


def load(data: Bytes, device: Any) -> Compiled:
    """What ``save`` saved. It is code: whoever hands it over vouches for it. ProtocolError when it can't be read."""
    view = memoryview(data)
    try:
        (size,) = _SIZE.unpack_from(view)
        if size > _HEAD_BYTES_MAX:
            raise ValueError("its head is too long")
        kept = tuple(map(int, json.loads(bytes(view[_SIZE.size : _SIZE.size + size]))["kept"]))
        devices = xla_client.DeviceList((device,))
        executable = device.client.deserialize_executable(bytes(view[_SIZE.size + size :]), executable_devices=devices)
        return _of(executable, kept)
    except Exception as error:  # XLA has its own kinds, and they change.
        raise ProtocolError(f"a compiled program can't be read: {error}") from None


_shardings: dict[Any, SingleDeviceSharding] = {}
_aval: Any = functools.lru_cache(1024)(ShapedArray)


def put(array: np.ndarray[Any, Any], device: Any) -> Any:
    """``array`` on the device, as it is: no dtype is narrowed. A CPU uses its memory where that is aligned; it mustn't
    change afterwards."""
    sharding = _shardings.get(device)
    if sharding is None:
        sharding = _shardings[device] = SingleDeviceSharding(device)
    return xla_client.batched_device_put(
        _aval(array.shape, array.dtype), sharding, [array], [device], False, enable_x64=True
    )
