"""A jax slot's start: import jax, make the device's client, and do once whatever is made on first use.

Afterwards no file can be opened: what jax, scipy or the codec would import or map later is imported and mapped here.
numpy and jax are imported by ``start`` alone: they look at the environment when they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fleet.protocol import codec, limits
from runtime.sandbox.jax_device import describe

PLATFORMS = {"jax-cpu": "cpu", "jax-gpu": "cuda"}
"""Platform of ``jax.export`` by lane."""
_ENVIRONMENT = {
    "HOME": "/",  # jax names a cache folder beneath it, which is never made.
    "OPENBLAS_NUM_THREADS": "1",  # One thread until Landlock binds it, and XLA has threads of its own.
    "OMP_NUM_THREADS": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "0",  # The agent keeps what is compiled, see `jax_execute`.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True, slots=True)
class Started:
    """A client that is warm. ``fingerprint``: where its compiled programs can run again."""

    device: Any
    described: dict[str, Any]
    fingerprint: str


def start(lane: str, environment: Mapping[str, str] | None = None) -> Started:
    """Import, make the client of ``lane``, and warm up. RuntimeError where there is no such device."""
    os.environ.update(_ENVIRONMENT, JAX_PLATFORMS=PLATFORMS[lane], **(environment or {}))
    import jax

    device = jax.devices()[0]
    _warm_up(device, PLATFORMS[lane])
    described, features = describe(lane, device)
    parts = (jax.__version__, described.jaxlib, device.client.platform_version, lane, described.kind, features)
    text = "\n".join(parts)
    return Started(device, asdict(described), hashlib.sha256(text.encode()).hexdigest())


def _warm_up(device: Any, platform: str) -> None:
    """Export, read, compile, save, load and run a program that needs what programs need."""
    import jax
    import jax.export
    import jax.numpy as jnp
    import numpy as np

    from runtime.sandbox import jax_audit, jax_execute
    from runtime.sandbox.jax_execute import spec_of

    def several(w: Any, x: Any) -> list[Any]:
        squares = x[:, :, None] * x[:, None, :] + w
        with_lapack = [jnp.linalg.cholesky(squares), jnp.linalg.eigh(squares)[0], jnp.linalg.qr(squares)[1]]
        looped = jax.lax.scan(lambda carry, row: (carry + row.sum(), row), jnp.float32(0), x)[0]
        return [jnp.tanh(x @ w), looped, jnp.linalg.solve(w, w), jnp.fft.rfft(x), jnp.sort(x, axis=0), *with_lapack]

    f4 = np.dtype("float32")
    (rows,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(several), platforms=[platform])(spec_of((4, 4), f4), spec_of((rows, 4), f4))
    outputs = [
        [aval.dtype.name, [size if isinstance(size, int) else str(size) for size in aval.shape]]
        for aval in exported.out_avals
    ]
    head = {
        "weights": [["float32", [4, 4]]],
        "inputs": [["float32", ["b", 4]]],
        "outputs": outputs,
        "modules": [{"platforms": [platform], "calling_convention": exported.calling_convention_version}],
    }
    audited = jax_audit.audit(exported.serialize(), head, 0, limits.MEMORY_BYTES_MAX)
    compiled = jax_execute.compile_exported(audited, [(f4, (4, 4)), (f4, (8, 4))], x64=False)
    again = jax_execute.load(jax_execute.save(compiled), device)
    w, x = np.eye(4, dtype=f4), np.arange(32, dtype=f4).reshape(8, 4)
    for one in (compiled, again):
        (argument,) = codec.decode(codec.encode([x]))
        codec.encode(one([jax_execute.put(w, device), jax_execute.put(argument, device)]))
    codec.encode_exception(ValueError("x"))
    with contextlib.suppress(ValueError):  # What jax says of shapes that don't fit is made by modules of its own.
        jax_execute.compile_exported(audited, [(f4, (4, 4)), (f4, (8, 5))], x64=False)
