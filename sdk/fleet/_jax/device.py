"""numpy's arrays as jax' own, fast. What depends on jax' insides is in one function here.

``jnp.asarray`` gives the same, but compiles a program for every shape that it sees first (48 ms), and takes 45 us after
that; this takes 6 us. On a CPU the array may use the memory it is given where that is aligned: it mustn't change afterwards.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax._src.core import ShapedArray
from jax._src.lax.lax import _convert_element_type
from jax.sharding import SingleDeviceSharding
from jaxlib import xla_client

_shardings: dict[Any, SingleDeviceSharding] = {}
_aval: Any = functools.lru_cache(1024)(ShapedArray)


def put(array: np.ndarray[Any, Any], weak: bool = False) -> jax.Array:
    """``array``, whose dtype jax has here, as ``jnp.asarray`` would give it: uncommitted, on the default device.

    ``weak``: its dtype gives way to that of an array it meets, as a Python number's does.
    """
    config: Any = jax.config
    if config.jax_default_device is not None or not jax.sharding.get_abstract_mesh().empty:
        plain: jax.Array = _convert_element_type(jax.numpy.asarray(array), array.dtype, weak_type=weak)
        return plain
    device = jax.local_devices()[0]
    sharding = _shardings.get(device)
    if sharding is None:
        sharding = _shardings[device] = SingleDeviceSharding(device)
    aval = _aval(array.shape, array.dtype, weak_type=weak)
    made: jax.Array = xla_client.batched_device_put(aval, sharding, [array], [device], False)
    return made
