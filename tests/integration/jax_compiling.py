"""Functions of the jax lane for ``test_jax_compiling``: one that is compiled at once, one that takes seconds to compile."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import fleet

app = fleet.App("jax-compiling")


def _long(x: jax.Array) -> jax.Array:
    for number in range(160):  # Many operations that can't become one.
        x = jnp.sort(jnp.sin(x) * number, axis=number % 2)
    return x


@app.function(runtime="jax")
def double(x: jax.Array) -> jax.Array:
    return x * 2.0


@app.function(runtime="jax", timeout="0.8s")
def short_of_time(x: jax.Array) -> jax.Array:
    return _long(x)


@app.function(runtime="jax")
def patient(x: jax.Array) -> jax.Array:
    return _long(x)
