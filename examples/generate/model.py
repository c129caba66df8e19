"""SmolLM2 in plain jax: a Llama with grouped queries, its state in arrays of fixed sizes, a block of tokens at a time.

The network is that of "LLaMA" (Touvron et al., 2023) with the embedding used for its output, too. Rotary positions turn pairs
of neighbours (2i, 2i + 1): GGUF files have query and key reordered for that. Pure functions; one conversation, s tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float16, Float32, Int32, UInt32

from examples.generate.weights import LAYERS, Params

HEADS = 9
GROUPS = 3
"""Heads of keys and values: each serves three heads of queries."""
HEAD_WIDTH = 64
_CUTS = (HEADS * HEAD_WIDTH, (HEADS + GROUPS) * HEAD_WIDTH)
"""Where keys and values begin behind the queries."""
CONTEXT = 512
"""Tokens of a conversation, question and answer together: the state has room for so many."""
BLOCK = 25
"""Tokens of one call. What is not yet at a block's end is made again when a car leaves."""
ROPE_BASE = 100_000.0
EPSILON = 1e-5


class State(NamedTuple):
    """Where a conversation is. Fixed sizes, so that every block is the same program; 12 MB."""

    keys: Float16[Array, "30 512 3 64"]
    """By layer, position and group."""
    values: Float16[Array, "30 512 3 64"]
    position: Int32[Array, ""]
    """How many tokens ``keys`` and ``values`` hold."""
    token: Int32[Array, ""]
    """The next token, which they don't hold yet."""
    seed: UInt32[Array, " 2"]
    temperature: Float32[Array, ""]
    """0: the likeliest token each time."""


def start(
    params: Params,
    ids: Int32[Array, " s"],
    length: Int32[Array, ""],
    seed: UInt32[Array, ""],
    temperature: Float32[Array, ""],
) -> State:
    """Read a prompt: ``ids``, of which ``length`` count; what follows them may be anything."""
    params = unpacked(params)
    told: list[tuple[Array, Array]] = []

    def remember(_: int, key: Array, value: Array) -> tuple[Array, Array]:
        told.append((key, value))
        return key, value

    positions = jnp.arange(ids.shape[0])
    states = _forward(params, ids, positions, remember)
    room = jnp.zeros((LAYERS, CONTEXT, GROUPS, HEAD_WIDTH), jnp.float16)
    keys, values = (
        room.at[:, positions].set(jnp.stack(layers).astype(room.dtype)) for layers in zip(*told, strict=True)
    )
    last = lax.dynamic_index_in_dim(states, length - 1, keepdims=False)
    key, token = _choose(params, last, jax.random.PRNGKey(seed), temperature)
    return State(keys, values, length, token, key, temperature)


def block(params: Params, state: State) -> tuple[Int32[Array, " t"], State]:
    """The next BLOCK tokens, and the state behind them."""
    params = unpacked(params)

    def step(state: State, _: None) -> tuple[State, Int32[Array, ""]]:
        keys, values = state.keys, state.values

        def remember(number: int, key: Array, value: Array) -> tuple[Array, Array]:
            nonlocal keys, values
            place = (number, state.position, 0, 0)
            keys = lax.dynamic_update_slice(keys, key[None].astype(keys.dtype), place)
            values = lax.dynamic_update_slice(values, value[None].astype(values.dtype), place)
            return keys[number].astype(jnp.float32), values[number].astype(jnp.float32)

        states = _forward(params, state.token[None], state.position[None], remember)
        key, token = _choose(params, states[0], state.seed, state.temperature)
        return State(keys, values, state.position + 1, token, key, state.temperature), state.token

    state, tokens = lax.scan(step, state, None, length=BLOCK)
    return tokens, state


def unpacked(params: Params) -> Params:
    """The weights as float32; see ``weights`` for the formats."""
    layers = [{name: _matrix(part) for name, part in layer.items()} for layer in params["layers"]]
    return {"embed": _matrix(params["embed"]), "norm": params["norm"], "layers": layers}


def _matrix(packed: dict[str, Array] | Array) -> Array:
    if not isinstance(packed, dict):
        return packed
    codes, scales = packed["codes"], packed["scales"].astype(jnp.float32)
    if codes.dtype == jnp.int8:
        return (codes.astype(jnp.float32) * scales).reshape(codes.shape[0], -1)
    low, high = (half.astype(jnp.float32) * scales[..., :1] + scales[..., 1:] for half in (codes & 15, codes >> 4))
    return jnp.stack([low, high], axis=2).reshape(codes.shape[0], -1)


def _forward(
    params: Params,
    ids: Int32[Array, " s"],
    positions: Int32[Array, " s"],
    remember: Callable[[int, Array, Array], tuple[Array, Array]],
) -> Float32[Array, "s e"]:
    """The last states of ``ids``. ``remember`` is given the number of a layer with its keys and values [s, groups, width], and
    gives back all that are known: those of positions 0, 1, 2 ..."""
    states = params["embed"][ids]
    # Unrolled: a scan over stacked layers would copy each layer's weights before using them, 2.5 times the time.
    for number, layer in enumerate(params["layers"]):
        normed = _norm(layer["attention_norm"], states)
        queries, keys, values = jnp.split(_linear(layer["query_key_value"], normed), _CUTS, axis=-1)
        keys = _turned(_heads(keys, GROUPS), positions)
        keys, values = remember(number, keys, _heads(values, GROUPS))
        attended = _attention(_turned(_heads(queries, HEADS), positions), keys, values, positions)
        states += _linear(layer["attended"], attended)
        gate, up = jnp.split(_linear(layer["gate_up"], _norm(layer["forward_norm"], states)), 2, axis=-1)
        states += _linear(layer["down"], jax.nn.silu(gate) * up)
    return _norm(params["norm"], states)


def _attention(
    query: Float32[Array, "s h d"],
    keys: Float32[Array, "t g d"],
    values: Float32[Array, "t g d"],
    positions: Int32[Array, " s"],
) -> Float32[Array, "s e"]:
    """What each position sees of itself and of those before it."""
    grouped = query.reshape(query.shape[0], GROUPS, HEADS // GROUPS, HEAD_WIDTH)
    scores = jnp.einsum("sghd,tgd->ghst", grouped, keys) / math.sqrt(HEAD_WIDTH)
    seen = jnp.arange(keys.shape[0]) <= positions[:, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), axis=-1)
    return jnp.einsum("ghst,tgd->sghd", weights, values).reshape(query.shape[0], HEADS * HEAD_WIDTH)


def _turned(heads: Float32[Array, "s h d"], positions: Int32[Array, " s"]) -> Float32[Array, "s h d"]:
    """Rotary positions ("RoFormer", Su et al., 2021)."""
    angles = positions[:, None] * ROPE_BASE ** (-jnp.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
    cosine, sine = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return jnp.stack([even * cosine - odd * sine, even * sine + odd * cosine], axis=-1).reshape(heads.shape)


def _choose(
    params: Params, state: Float32[Array, " e"], seed: UInt32[Array, " 2"], temperature: Float32[Array, ""]
) -> tuple[UInt32[Array, " 2"], Int32[Array, ""]]:
    """The next seed and the next token: Gumbel noise, scaled, makes a sample of the likeliest token."""
    seed, used = jax.random.split(seed)
    scores = params["embed"] @ state
    noise = jax.random.gumbel(used, scores.shape, jnp.float32)
    return seed, jnp.argmax(scores + temperature * noise).astype(jnp.int32)


def _heads(states: Float32[Array, "s e"], count: int) -> Float32[Array, "s h d"]:
    return states.reshape(states.shape[0], count, HEAD_WIDTH)


def _linear(weights: Float32[Array, "o i"], states: Float32[Array, "s i"]) -> Float32[Array, "s o"]:
    return jnp.einsum("si,oi->so", states, weights)


def _norm(weights: Float32[Array, " e"], states: Float32[Array, "s e"]) -> Float32[Array, "s e"]:
    return states * lax.rsqrt(jnp.square(states).mean(-1, keepdims=True) + EPSILON) * weights
