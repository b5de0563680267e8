"""Shapes of well-known models, and which tensor gets which type when llama.cpp quantizes one.

The rules are those of ``llama_tensor_get_type`` in llama.cpp's ``llama-quant.cpp``, for the types listed in `MIXES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from densecore.gguf import GGMLType

__all__ = ["MIXES", "SHAPES", "Shape", "tensor_shapes", "tensor_type"]


@dataclass(frozen=True)
class Shape:
    """Dimensions of a model, and what else llama.cpp wants to know of it."""

    name: str
    architecture: str  # general.architecture
    n_layers: int
    dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    context_length: int
    rope_base: float
    norm_epsilon: float
    pre_tokenizer: str  # tokenizer.ggml.pre
    tied: bool  # the output matrix is the embedding matrix
    rope_freqs: bool = False  # a tensor of divisors of RoPE's frequencies
    n_experts: int = 0  # each of `hidden_dim`; 0: one feed-forward part
    n_experts_used: int = 0


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, 1e6, 1e-6, "qwen2", True),
        Shape("llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 5e5, 1e-5, "llama-bpe", True, True),
        Shape("qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, 1e6, 1e-6, "qwen2", True),
        Shape("llama-2-7b", "llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096, 1e4, 1e-5, "gpt-2", False),
        Shape(
            "mixtral-8x7b", "llama", 32, 4096, 14336, 32, 8, 128, 32000, 32768, 1e6, 1e-5, "gpt-2", False,
            n_experts=8, n_experts_used=2,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Mix:
    """A file type: the type of most matrices, and those of the ones that matter more."""

    number: int  # general.file_type
    base: GGMLType
    output: GGMLType  # of the output matrix, or of the embedding that takes its place
    favoured: GGMLType  # of attn_v and ffn_down in about half of the layers


MIXES = {
    "F16": Mix(1, GGMLType.F16, GGMLType.F16, GGMLType.F16),
    "BF16": Mix(32, GGMLType.BF16, GGMLType.BF16, GGMLType.BF16),
    "Q4_0": Mix(2, GGMLType.Q4_0, GGMLType.Q6_K, GGMLType.Q4_0),
    "Q8_0": Mix(7, GGMLType.Q8_0, GGMLType.Q8_0, GGMLType.Q8_0),
    "Q4_K_M": Mix(15, GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.Q6_K),
    "Q5_K_M": Mix(17, GGMLType.Q5_K, GGMLType.Q6_K, GGMLType.Q6_K),
    "Q6_K": Mix(18, GGMLType.Q6_K, GGMLType.Q6_K, GGMLType.Q6_K),
}

_FAVOURED = "attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight"

# What a type becomes where a row is not a multiple of its block.
_FALLBACKS = {GGMLType.Q4_K: GGMLType.Q5_0, GGMLType.Q5_K: GGMLType.Q5_1, GGMLType.Q6_K: GGMLType.Q8_0}


def tensor_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names of all tensors in file order, with their shapes as numpy counts.

    (n_out, n_in), (n,), or (n_experts, n_out, n_in).
    """
    yield "token_embd.weight", (shape.n_vocab, shape.dim)
    yield "output_norm.weight", (shape.dim,)
    if not shape.tied:
        yield "output.weight", (shape.n_vocab, shape.dim)
    if shape.rope_freqs:
        yield "rope_freqs.weight", (shape.head_dim // 2,)
    for layer in range(shape.n_layers):
        for name, size in _layer_shapes(shape):
            yield f"blk.{layer}.{name}", size


def _layer_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    q_dim, kv_dim = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    yield "attn_norm.weight", (shape.dim,)
    for name, size in (("attn_q", q_dim), ("attn_k", kv_dim), ("attn_v", kv_dim)):
        yield f"{name}.weight", (size, shape.dim)
        if shape.architecture == "qwen2":
            yield f"{name}.bias", (size,)
    if shape.architecture == "qwen3":
        yield "attn_q_norm.weight", (shape.head_dim,)
        yield "attn_k_norm.weight", (shape.head_dim,)
    yield "attn_output.weight", (shape.dim, q_dim)
    yield "ffn_norm.weight", (shape.dim,)
    if shape.n_experts:
        yield "ffn_gate_inp.weight", (shape.n_experts, shape.dim)
        yield "ffn_gate_exps.weight", (shape.n_experts, shape.hidden_dim, shape.dim)
        yield "ffn_up_exps.weight", (shape.n_experts, shape.hidden_dim, shape.dim)
        yield "ffn_down_exps.weight", (shape.n_experts, shape.dim, shape.hidden_dim)
        return
    yield "ffn_gate.weight", (shape.hidden_dim, shape.dim)
    yield "ffn_up.weight", (shape.hidden_dim, shape.dim)
    yield "ffn_down.weight", (shape.dim, shape.hidden_dim)


def tensor_type(shape: Shape, mix: str, name: str, size: tuple[int, ...]) -> GGMLType:
    """The type of tensor `name` in a file of type `mix`."""
    if len(size) == 1 or "ffn_gate_inp" in name:
        return GGMLType.F32
    chosen = MIXES[mix]
    kind = chosen.base
    if name == ("token_embd.weight" if shape.tied else "output.weight"):
        # Where rows do not fill the base type's blocks, llama.cpp takes Q8_0 here at once.
        kind = chosen.output if size[-1] % chosen.base.block_size == 0 else GGMLType.Q8_0
    elif shape.n_experts == 8 and name.endswith(("attn_k.weight", "attn_v.weight")):
        kind = GGMLType.Q8_0 if chosen.base.block_size > 1 else kind  # small beside the experts
    elif name.endswith(_FAVOURED) and _has_more_bits(_layer(name), shape.n_layers):
        kind = chosen.favoured
    return kind if size[-1] % kind.block_size == 0 else _FALLBACKS[kind]


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def _has_more_bits(layer: int, n_layers: int) -> bool:
    """``use_more_bits``: the first and the last eighth of the layers, and every third in between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
