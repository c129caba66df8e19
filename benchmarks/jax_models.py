"""The example models on a car against the same models jitted in this process, in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Figure, Settings, Sync, figure, fleet_of, interleaved, timed
from examples.embeddings import model as bert
from examples.embeddings.search import embed
from examples.generate import chat
from examples.generate import model as llama
from examples.generate import weights as llama_weights

BATCH = 64
"""Sentences of a call."""
TOKENS_OF_A_SENTENCE = 32
BATCHES = 6
"""Calls of a block, handed over together."""
BLOCKS = 3
"""Blocks of text of one conversation."""
QUESTION = "Why is the sky blue?"


def _short(settings: Settings) -> Settings:
    """Blocks here take seconds: a few are enough."""
    return settings if settings.quick else _Few()


class _Few(Settings):
    @property
    def blocks(self) -> int:
        """Pairs of interleaved blocks."""
        return 6


def embeddings(settings: Settings, sync: Sync) -> list[Figure]:
    """Sentences a second at equal batch, on the car and here."""
    random = np.random.default_rng(0)
    lengths = np.full(BATCH, TOKENS_OF_A_SENTENCE, np.int32)
    batches = [random.integers(1000, 30_000, (BATCH, TOKENS_OF_A_SENTENCE)).astype(np.int32) for _ in range(BATCHES)]
    params = jax.device_put(bert.load())
    jitted = jax.jit(bert.embed)

    def here() -> list[np.ndarray]:
        return [np.asarray(jitted(params, ids, lengths)) for ids in batches]

    def remote() -> list[np.ndarray]:
        return [np.asarray(rows) for rows in embed.starmap([(ids, lengths) for ids in batches])]

    with fleet_of(cars=1, sync=sync):
        for ours, theirs in zip(here(), remote(), strict=True):
            assert np.allclose(ours, theirs, atol=1e-4)
        pairs = interleaved(lambda _: timed(here, 1), lambda _: timed(remote, 1), _short(settings))
    rates = [BATCHES * BATCH / second for pair in pairs for second in pair.second]
    return [
        figure(
            "jax: MiniLM sentences a second over in process", [pair.ratio for pair in pairs], "x", target=0.85,
            better="more", sync=sync, note=f"batches of {BATCH} with {TOKENS_OF_A_SENTENCE} tokens each",
        ),
        figure("jax: MiniLM sentences a second", rates, "1/s", better="more", sync=sync),
    ]  # fmt: skip


def text(settings: Settings, sync: Sync) -> list[Figure]:
    """Tokens a second of a conversation whose state stays on the car, and of the same one here."""
    asked = chat.prompt_arguments(QUESTION)
    params = jax.device_put(llama_weights.load())
    start, block = jax.jit(llama.start), jax.jit(llama.block)

    def conversation(begin: Callable[[], Any], go_on: Callable[[Any], tuple[Any, Any]]) -> Callable[[int], list[float]]:
        def seconds(_: int) -> list[float]:
            state = begin()
            said: list[int] = []

            def one() -> None:
                nonlocal state
                made, state = go_on(state)
                said.extend(np.asarray(made).tolist())

            taken = timed(one, BLOCKS)
            told.append(said)
            return taken

        return seconds

    told: list[list[int]] = []
    here = conversation(lambda: start(params, *asked), lambda state: block(params, state))
    remote = conversation(lambda: chat.start.remote(*asked), chat.block.remote)
    with fleet_of(cars=1, sync=sync):
        here(1)
        remote(1)
        pairs = interleaved(here, remote, _short(settings))
    assert all(said == told[0] for said in told), "the same text wherever it is made"
    rates = [llama.BLOCK / second for pair in pairs for second in pair.second]
    return [
        figure(
            "jax: SmolLM2 tokens a second over in process", [pair.ratio for pair in pairs], "x", target=0.7,
            better="more", sync=sync, note=f"blocks of {llama.BLOCK} tokens, the state kept on the car",
        ),
        figure("jax: SmolLM2 tokens a second", rates, "1/s", better="more", sync=sync),
    ]  # fmt: skip
