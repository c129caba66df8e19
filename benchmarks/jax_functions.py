"""The programs of the jax lane that are measured, and what calls them in process: the same function under ``jax.jit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fleet

app = fleet.App("bench-jax")

SIDE = 512
"""Of the matrices of ``chain``."""
TURNS = 250
COLD_LAYERS = 6
COLD_WIDTH = 128


@app.function(runtime="jax")
def small(x: Any) -> Any:
    """A few operations on a few numbers."""
    return jnp.tanh(x) * 2 + x.sum()


@app.function(runtime="jax", timeout=120)
def chain(x: Any) -> Any:
    """TURNS multiplications of matrices made of a vector, one after the other; a row of the last: nothing but arithmetic."""
    matrix = jnp.outer(x, x)
    return jax.lax.fori_loop(0, TURNS, lambda _, y: jnp.tanh(y @ matrix), matrix)[0]


@app.function(runtime="jax")
def negated(x: Any) -> Any:
    """As many bytes back as were sent."""
    return -x


def a_program(number: int) -> Any:
    """A deployed network with constants of its own: each number is another program."""

    def forward(x: Any) -> Any:
        for layer in range(COLD_LAYERS):
            weights = jnp.sin(jnp.arange(COLD_WIDTH * COLD_WIDTH, dtype=jnp.float32) * (number + layer + 1))
            x = jax.nn.gelu(x @ weights.reshape(COLD_WIDTH, COLD_WIDTH) / COLD_WIDTH)
        return jax.nn.softmax(x)

    forward.__qualname__ = forward.__name__ = f"forward_{number}"
    return app.function(forward, runtime="jax", name=f"cold-{number}")


def in_process(function: Any) -> Callable[..., np.ndarray]:
    """The same function jitted here, arrays of numpy in and out as a remote call has them."""
    jitted = jax.jit(function.local)

    def call(*args: Any) -> np.ndarray:
        return np.asarray(jitted(*args))

    return call
