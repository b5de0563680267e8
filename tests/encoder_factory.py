"""Tiny random encoders as GGUF files, built in the test that wants them; see `gguf_factory` for decoders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densecore.gguf import GGMLType, GGUFWriter
from tests.gguf_factory import pack_tensor

__all__ = ["bert_vocabulary", "make_encoder"]

SPACE = "\u2581"


def bert_vocabulary() -> dict[str, Any]:
    """WordPiece: five special tokens, then the letters and some words, at the start of a word and within one."""
    words = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", *"abcdefghijklmnopqrstuvwxyz", *".,!?"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [SPACE + word for word in words] + [*"abcdefghijklmnopqrstuvwxyz", "ing", "s"]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.tokens": list(dict.fromkeys(tokens)),
        "tokenizer.ggml.token_type": np.array([3] * 5 + [1] * (len(dict.fromkeys(tokens)) - 5), np.int32),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
    }


def make_encoder(
    path: str | os.PathLike[str],
    arch: str = "bert",
    *,
    dim: int = 64,
    hidden_dim: int = 96,
    n_layers: int = 2,
    n_heads: int = 4,
    max_len: int = 128,
    tensor_type: str = "F32",
    pooling: int | None = 1,
    n_labels: int = 0,
    seed: int = 0,
    metadata_overrides: Mapping[str, Any] | None = None,
    tensor_overrides: Mapping[str, np.ndarray] | None = None,
    drop: tuple[str, ...] = (),
) -> Path:
    """Writes a random model: ``bert``, ``nomic-bert`` or ``jina-bert-v2``; with `n_labels` a cross-encoder."""
    rng = np.random.default_rng(seed)
    vocabulary = bert_vocabulary()
    n_vocab = len(vocabulary["tokenizer.ggml.tokens"])
    metadata = {
        "general.architecture": arch,
        "general.name": f"tiny-{arch}-random",
        "general.file_type": {"F32": 0, "F16": 1, "Q8_0": 7}[tensor_type],
        f"{arch}.context_length": max_len,
        f"{arch}.embedding_length": dim,
        f"{arch}.block_count": n_layers,
        f"{arch}.feed_forward_length": hidden_dim,
        f"{arch}.attention.head_count": n_heads,
        f"{arch}.attention.layer_norm_epsilon": 1e-12,
        f"{arch}.attention.causal": False,
        **({} if pooling is None else {f"{arch}.pooling_type": pooling}),
        **({f"{arch}.rope.freq_base": 1000.0} if arch == "nomic-bert" else {}),
        **vocabulary,
        **(metadata_overrides or {}),
    }

    def matrix(n_out: int, n_in: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(0, scale * n_in**-0.5, (n_out, n_in)).astype(np.float32)

    def vector(n: int, mean: float = 0.0) -> np.ndarray:
        return rng.normal(mean, 0.1, n).astype(np.float32)

    def linear(name: str, n_out: int, n_in: int) -> dict[str, np.ndarray]:
        biases = {} if arch == "nomic-bert" else {f"{name}.bias": vector(n_out)}
        return {f"{name}.weight": matrix(n_out, n_in)} | biases

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": vector(dim, 1.0), f"{name}.bias": vector(dim)}

    tensors = {"token_embd.weight": matrix(n_vocab, dim, 8.0), "token_types.weight": matrix(2, dim, 4.0)}
    if arch == "bert":
        tensors["position_embd.weight"] = matrix(max_len, dim, 4.0)
    tensors |= norm("token_embd_norm")
    for layer in range(n_layers):
        block = norm("attn_output_norm") | norm("layer_output_norm")
        if arch == "nomic-bert":
            block |= linear("attn_qkv", 3 * dim, dim) | linear("ffn_gate", hidden_dim, dim)
            block |= linear("ffn_up", hidden_dim, dim)
        else:
            for name in ("attn_q", "attn_k", "attn_v"):
                block |= linear(name, dim, dim)
            block |= linear("ffn_up", hidden_dim, dim)
        if arch == "jina-bert-v2":
            block["ffn_gate.weight"] = matrix(hidden_dim, dim)
            del block["ffn_up.bias"]
        block |= linear("attn_output", dim, dim) | linear("ffn_down", dim, hidden_dim)
        tensors |= {f"blk.{layer}.{name}": values for name, values in block.items()}
    if n_labels:
        tensors |= linear("cls", dim, dim) | linear("cls.output", n_labels, dim)

    tensors |= tensor_overrides or {}
    writer = GGUFWriter(path)
    for key, value in metadata.items():
        if key not in drop:
            writer.add_metadata(key, value)
    for index, (name, values) in enumerate(tensors.items()):
        if name not in drop:
            is_matrix = values.ndim > 1 and not name.startswith(("position", "token_types"))
            kind = GGMLType[tensor_type] if is_matrix else GGMLType.F32
            writer.add_tensor(name, *pack_tensor(values, kind, seed + index))
    return writer.write(1)[0]
