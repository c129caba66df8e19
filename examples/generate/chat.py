"""Ask a language model that runs on parked cars; the answer is printed block by block, as it is made.

    fleet dev &
    python examples/generate/chat.py "Why is the sky blue?"

One call makes a block of tokens. The conversation's state stays on the car's device and is copied out at the end of each
block: the next block prefers that car; when its owner drives away, another car goes on from the copy, and a block that was
being made is made again there. With the same seed the text is the same, however often that happens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Array, Float32, Int32, UInt32

import fleet
from examples.generate import model, weights

QUESTION = "Why is the sky blue?"
TOKENS = 100
PROMPT_SIZES = (64, 128, 256)
"""Lengths that prompts are filled up to: each is a shape that a car compiles once."""


@fleet.function(runtime="jax", params=weights.load, memory="1GiB", timeout="2m")
def start(
    params: weights.Params,
    ids: Int32[Array, " s"],
    length: Int32[Array, ""],
    seed: UInt32[Array, ""],
    temperature: Float32[Array, ""],
) -> Any:
    """The state behind a prompt; see ``model.start``."""
    return fleet.keep(model.start(params, ids, length, seed, temperature))


@fleet.function(runtime="jax", params=weights.load, memory="1GiB", timeout="2m")
def block(params: weights.Params, state: model.State) -> tuple[Int32[Array, " t"], Any]:
    """The next tokens, and the state behind them; see ``model.block``."""
    tokens, state = model.block(params, state)
    return tokens, fleet.keep(state)


def prompt_arguments(question: str, seed: int = 0, temperature: float = 0.0) -> tuple[Any, Any, Any, Any]:
    """What ``start`` takes for this question. ``temperature`` 0: the likeliest token each time."""
    ids = weights.prompt(question)
    size = next((size for size in PROMPT_SIZES if len(ids) <= size), None)
    if size is None:
        raise SystemExit(
            f"this question has {len(ids)} tokens: at most {PROMPT_SIZES[-1]} are read\nhint: ask something shorter"
        )
    padded = np.zeros(size, np.int32)
    padded[: len(ids)] = ids
    return padded, np.int32(len(ids)), np.uint32(seed), np.float32(temperature)


def blocks(question: str, tokens: int = TOKENS, *, seed: int = 0, temperature: float = 0.0) -> Iterator[list[int]]:
    """The answer's tokens, a block at a time, until the model ends its turn or has said ``tokens``."""
    asked = prompt_arguments(question, seed, temperature)
    left = min(tokens, model.CONTEXT - int(asked[1]))
    state = start.remote(*asked)
    while left > 0:
        made, state = block.remote(state)
        said = np.asarray(made).tolist()[:left]
        left -= len(said)
        yield said
        if weights.end_of_turn() in said:
            return


def pieces(parts: Iterator[list[int]]) -> Iterator[str]:
    """The text of tokens that come in blocks, as soon as it is sure: a character may be spread over two blocks."""
    said: list[int] = []
    told = ""
    for part in parts:
        said += part
        text = weights.text_of(said).rstrip("\ufffd")
        yield text[len(told) :]
        told = text


if __name__ == "__main__":
    for piece in pieces(blocks(" ".join(sys.argv[1:]) or QUESTION)):
        print(piece, end="", flush=True)
    print()
