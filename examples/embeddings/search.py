"""Search by meaning: sentences of the standard library's documentation nearest to a question, embedded on parked cars.

    fleet dev &
    python examples/embeddings/search.py "How do I read a compressed file?"

What travels: the exported program and, once, the weights. No line of this file runs on a car.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float32, Int32

import fleet
from examples.embeddings import model, text

SHELF = (
    "gzip", "heapq", "queue", "random", "shutil", "statistics", "tempfile", "threading", "zipfile",
)  # fmt: skip
"""Modules whose documentation is searched."""
QUESTIONS = (
    "How do I open a compressed file?",
    "Let several threads wait for each other.",
    "What is a typical value of my data?",
)
NEAREST = 3


@fleet.function(runtime="jax", params=model.load, batch=fleet.Batch(max_size=64), memory="1GiB")
def embed(params: model.Params, ids: Int32[Array, "b s"], lengths: Int32[Array, " b"]) -> Float32[Array, "b 384"]:
    """One vector of length 1 for each sentence; see ``model.embed``."""
    return model.embed(params, ids, lengths)


def embed_all(sentences: Sequence[str], size: int = 64) -> np.ndarray:
    """The embeddings of any number of sentences, in their order, float32 [sentences, 384]."""
    batches = text.batches(sentences, size)
    vectors = embed.starmap([(batch.ids, batch.lengths) for batch in batches])
    return text.joined([(batch, np.asarray(rows)) for batch, rows in zip(batches, vectors, strict=True)])


def nearest(questions: np.ndarray, vectors: np.ndarray, count: int = NEAREST) -> list[list[tuple[int, float]]]:
    """For each question the ``count`` nearest rows with their cosines, best first."""
    cosines = questions @ vectors.T
    best = np.argsort(-cosines, axis=1)[:, :count]
    return [[(int(row), float(line[row])) for row in rows] for line, rows in zip(cosines, best, strict=True)]


if __name__ == "__main__":
    questions = sys.argv[1:] or list(QUESTIONS)
    sentences = text.sentences_of(SHELF)
    vectors = embed_all([*questions, *sentences])
    found = nearest(vectors[: len(questions)], vectors[len(questions) :])
    print(f"{len(sentences)} sentences embedded")
    for question, rows in zip(questions, found, strict=True):
        print(question)
        for row, cosine in rows:
            print(f"  {cosine:.2f}  {sentences[row]}")
