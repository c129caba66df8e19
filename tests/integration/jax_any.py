"""Jax functions that can't be deployed: nothing says which shapes they take, or they have no form for any size."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

import fleet


@fleet.function(runtime="jax")
def double(x: Any) -> Any:
    """Any arrays, twice."""
    return x * 2


@fleet.function(runtime="jax")
def unrolled(x: Float[Array, " n"]) -> Any:
    """Without a form for any size."""
    return functools.reduce(jnp.add, [x[number] for number in range(x.shape[0])])
