"""Functions of the jax lane that tests call, and deploy from here."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import fleet


class Pair(NamedTuple):
    """Two arrays of one length."""

    a: Float[Array, " n"]
    b: Float[Array, " n"]


@fleet.function(runtime="jax")
def combine(pair: Pair, scale: float = 2.0, mode: str = "sum") -> Any:
    """Arrays in and out, in containers."""
    made = (pair.a + pair.b) * scale
    return {"pair": pair, mode: made if mode == "sum" else -made, "none": None}


@fleet.function(runtime="jax")
def gather(table: Float[Array, "r c"], rows: Int[Array, " k"]) -> Any:
    """Rows of a table."""
    return table[rows].astype(jnp.bfloat16)


@fleet.function(runtime="jax")
@functools.partial(jax.jit, static_argnames=("times",))
def tiled(x: Float[Array, " n"], times: int = 2) -> Any:
    """A constant decides the shape."""
    return jnp.tile(x, times)
