"""Tiny random models as GGUF files, built in the test that wants them.

``make_model(tmp_path / "model.gguf", arch="qwen2", tensor_type="Q8_0")`` writes a complete model with a small
vocabulary; `metadata_overrides`, `drop` and `tensor_overrides` then make it wrong, or special, in one place.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from bench.block_scales import num_scales, write_scales
from densecore.gguf import GGMLType, GGUFWriter

__all__ = [
    "ARCHITECTURES",
    "byte_alphabet",
    "gpt2_vocabulary",
    "llama_vocabulary",
    "make_model",
    "model_metadata",
    "model_tensors",
    "pack_tensor",
]

# Types that the gguf package cannot quantize to.
_RANDOM_BLOCKS = {
    *(GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K, GGMLType.IQ4_XS),
    *(GGMLType.IQ1_S, GGMLType.IQ1_M, GGMLType.IQ2_XXS, GGMLType.IQ2_XS, GGMLType.IQ2_S),
    *(GGMLType.IQ3_XXS, GGMLType.IQ3_S, GGMLType.NVFP4),
}
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10,
               "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "IQ4_XS": 30, "BF16": 32, "MXFP4": 38}  # fmt: skip


ARCHITECTURES = ("gemma2", "llama", "phi3", "qwen2", "qwen3")  # those that `make_model` knows
FUSED = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")  # in other architectures, not in phi3


def make_model(
    path: str | os.PathLike[str],
    arch: str = "llama",
    *,
    dim: int = 64,
    hidden_dim: int = 96,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    head_dim: int | None = None,
    max_len: int = 256,
    vocab: str | Mapping[str, Any] = "llama",
    tensor_type: str | GGMLType = "F32",
    tensor_types: Mapping[str, str | GGMLType] | None = None,
    seed: int = 0,
    metadata_overrides: Mapping[str, Any] | None = None,
    drop: Collection[str] = (),
    tensor_overrides: Mapping[str, Any] | None = None,
    n_parts: int = 1,
    version: int = 3,
    alignment: int = 32,
) -> Path:
    """Writes a random model and returns the path to open (of its first part, if `n_parts` > 1).

    * `arch`: ``llama``, ``qwen2`` (biases on q, k, v), ``qwen3`` (norms on q and k), ``gemma2`` or ``phi3``;
    * `vocab`: ``llama`` or ``gpt2``, or metadata of your own with ``tokenizer.ggml.tokens``;
    * `tensor_type`: of the matrices; vectors stay F32. `tensor_types` maps name patterns (``*.attn_v.weight``)
      to other types. Sizes must be multiples of the type's block: 32, or 256 for K-quants;
    * `metadata_overrides`: values that replace or add keys; a numpy scalar or array sets the type in the file;
    * `drop`: keys and tensor names to leave out (``output.weight`` ties the embeddings);
    * `tensor_overrides`: name -> array of shape (ne1, ne0), written with the type that the tensor has.
    """
    head_dim = head_dim or dim // n_heads
    vocabulary = dict(_vocabulary(vocab))
    sizes = {
        "dim": dim, "hidden_dim": hidden_dim, "n_layers": n_layers, "n_heads": n_heads,
        "n_kv_heads": n_kv_heads, "head_dim": head_dim,
    }  # fmt: skip
    n_vocab = len(vocabulary["tokenizer.ggml.tokens"])
    metadata = model_metadata(arch, **sizes, max_len=max_len, n_vocab=n_vocab)
    metadata["general.file_type"] = _FILE_TYPES.get(_type(tensor_type).name, 0)
    metadata |= vocabulary | dict(metadata_overrides or {})
    tensors = model_tensors(arch, **sizes, n_vocab=n_vocab, seed=seed)
    tensors |= dict(tensor_overrides or {})

    writer = GGUFWriter(path, version=version, alignment=alignment)
    for key, value in metadata.items():
        if key not in drop:
            writer.add_metadata(key, value)
    for index, (name, values) in enumerate(tensors.items()):
        if name not in drop:
            kind = _tensor_type(name, values, _type(tensor_type), tensor_types or {})
            writer.add_tensor(name, *pack_tensor(values, kind, seed + index))
    return writer.write(n_parts)[0]


def model_metadata(
    arch: str,
    *,
    dim: int,
    hidden_dim: int,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    max_len: int,
    n_vocab: int,
) -> dict[str, Any]:
    """The metadata of a model without its vocabulary, as llama.cpp's converter writes it."""
    special: dict[str, Any] = {f"{arch}.attention.sliding_window": 9} if arch == "phi3" else {}
    if arch == "gemma2":
        special[f"{arch}.attention.sliding_window"] = 9
        special |= {f"{arch}.attn_logit_softcapping": 2.5, f"{arch}.final_logit_softcapping": 4.0}
    return special | {
        "general.architecture": arch,
        "general.name": f"tiny-{arch}-random",
        f"{arch}.context_length": max_len,
        f"{arch}.embedding_length": dim,
        f"{arch}.block_count": n_layers,
        f"{arch}.feed_forward_length": hidden_dim,
        f"{arch}.attention.head_count": n_heads,
        f"{arch}.attention.head_count_kv": n_kv_heads,
        f"{arch}.attention.key_length": head_dim,
        f"{arch}.attention.value_length": head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5 if arch == "llama" else 1e-6,
        f"{arch}.rope.dimension_count": head_dim,
        f"{arch}.rope.freq_base": 1e4 if arch == "llama" else 1e6,
        f"{arch}.vocab_size": n_vocab,
    }


def model_tensors(
    arch: str,
    *,
    dim: int,
    hidden_dim: int,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    n_vocab: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Random f32 weights by name: matrices of shape (n_out, n_in), vectors of shape (n,), in file order."""
    rng = np.random.default_rng(seed)

    def matrix(n_out: int, n_in: int) -> np.ndarray:
        return rng.normal(0, n_in**-0.5, (n_out, n_in)).astype(np.float32)

    def norm(size: int) -> np.ndarray:
        return rng.normal(1, 0.1, size).astype(np.float32)

    q_dim, kv_dim = n_heads * head_dim, n_kv_heads * head_dim
    tensors = {
        "token_embd.weight": rng.normal(0, 1, (n_vocab, dim)).astype(np.float32),
        "output_norm.weight": norm(dim),
        "output.weight": matrix(n_vocab, dim),
    }
    for layer in range(n_layers):
        block = {
            "attn_norm.weight": norm(dim),
            "attn_q.weight": matrix(q_dim, dim),
            "attn_k.weight": matrix(kv_dim, dim),
            "attn_v.weight": matrix(kv_dim, dim),
            "attn_output.weight": matrix(dim, q_dim),
            "ffn_norm.weight": norm(dim),
            "ffn_gate.weight": matrix(hidden_dim, dim),
            "ffn_up.weight": matrix(hidden_dim, dim),
            "ffn_down.weight": matrix(dim, hidden_dim),
        }
        if arch == "qwen2":
            for name, size in (("attn_q", q_dim), ("attn_k", kv_dim), ("attn_v", kv_dim)):
                block[f"{name}.bias"] = rng.normal(0, 0.1, size).astype(np.float32)
        if arch == "gemma2":
            block |= {"post_attention_norm.weight": norm(dim), "post_ffw_norm.weight": norm(dim)}
        if arch == "phi3":  # one below the other
            q, k, v, gate, up = (block.pop(f"{name}.weight") for name in FUSED)
            block |= {"attn_qkv.weight": np.concatenate([q, k, v]), "ffn_up.weight": np.concatenate([gate, up])}
        if arch == "qwen3":
            block |= {"attn_q_norm.weight": norm(head_dim), "attn_k_norm.weight": norm(head_dim)}
        tensors |= {f"blk.{layer}.{name}": values for name, values in block.items()}
    return tensors


def pack_tensor(values: np.ndarray, kind: GGMLType, seed: int = 0) -> tuple[np.ndarray, GGMLType, tuple[int, ...]]:
    """`values` as bytes of type `kind`: what GGUFWriter.add_tensor takes after the name.

    Types that the gguf package can quantize to hold `values`; K-quants, most IQ types and NVFP4 hold random blocks of
    about the same size instead, since only their dequantization has an independent implementation.
    """
    shape = tuple(values.shape[::-1])
    if kind in _RANDOM_BLOCKS:
        return _random_blocks(kind, values.size // kind.block_size, seed), kind, shape
    if kind in (GGMLType.F32, GGMLType.F16, GGMLType.I32):
        dtype = {GGMLType.F32: "<f4", GGMLType.F16: "<f2", GGMLType.I32: "<i4"}[kind]
        return np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8), kind, shape
    packed = gguf.quants.quantize(values.astype(np.float32), gguf.GGMLQuantizationType(kind))
    return np.ascontiguousarray(packed).reshape(-1).view(np.uint8), kind, shape


def _random_blocks(kind: GGMLType, n_blocks: int, seed: int) -> np.ndarray:
    """Blocks of random bytes, uint8 (n_blocks * type_size,), with scales that give values of about 0.1."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n_blocks, kind.type_size), np.uint8)
    write_scales(kind.name, blocks, [np.ones(n_blocks)] * num_scales(kind.name))
    ones = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(kind))  # with every scale 1
    scales = rng.uniform(0.5, 1, n_blocks) * 0.1 / ones.std()
    write_scales(kind.name, blocks, [scales] * num_scales(kind.name))
    return blocks.reshape(-1)


def llama_vocabulary(pieces: Collection[str] | None = None) -> dict[str, Any]:
    """A SentencePiece vocabulary: <unk>, <s>, </s>, the 256 bytes, then `pieces` in order of falling score."""
    if pieces is None:
        space = "\u2581"
        words = [space + word for word in ("the", "cat", "is", "on", "a", "in", "t", "c")]
        parts = ["th", "he", "an", "er", "at", "is"]
        letters = "etaoinshrdlucmfwypvbgkqjxzETAOINSHRDLU0123456789.,!?'-"
        pieces = [*words, *parts, space, *letters]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    n_pieces = len(tokens) - 259
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([0.0] * 259 + [-1.0 - n for n in range(n_pieces)], np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * n_pieces, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def gpt2_vocabulary(
    merges: Collection[str] = ("t h", "th e", "\u0120 t", "\u0120t h", "i n", "\u0120 a"),
    specials: Collection[str] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
) -> dict[str, Any]:
    """A byte-level BPE vocabulary: the 256 bytes, what `merges` make, then `specials`; the first is BOS and EOS."""
    tokens = [*byte_alphabet(), *(merge.replace(" ", "") for merge in merges), *specials]
    n_normal = len(tokens) - len(specials)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * n_normal + [3] * len(specials), np.int32),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": n_normal,
        "tokenizer.ggml.eos_token_id": n_normal,
        "tokenizer.ggml.add_bos_token": False,
    }


def byte_alphabet() -> list[str]:
    """The character by which GPT-2 writes each byte: itself where it prints, else one from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def _vocabulary(vocab: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(vocab, str):
        return {"llama": llama_vocabulary, "gpt2": gpt2_vocabulary}[vocab]()
    return vocab


def _type(kind: str | GGMLType) -> GGMLType:
    return GGMLType[kind] if isinstance(kind, str) else GGMLType(kind)


def _tensor_type(name: str, values: np.ndarray, default: GGMLType, patterns: Mapping[str, str | GGMLType]) -> GGMLType:
    for pattern, kind in patterns.items():
        if fnmatchcase(name, pattern):
            return _type(kind)
    return default if values.ndim > 1 else GGMLType.F32
