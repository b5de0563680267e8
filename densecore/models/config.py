"""The dimensions of a model, read from a GGUF file's metadata and checked before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile, Metadata
from densecore.kernels.kv_layout import CACHE_DTYPES, block_bytes

__all__ = ["ModelConfig", "RopeConfig"]

MAX_DIMENSION = 1 << 20
MAX_LAYERS = 4096
MAX_CONTEXT = 1 << 28


@dataclass(frozen=True)
class RopeConfig:
    """Arguments of :func:`densecore.kernels.rope.rope_frequencies`, as the file gives them."""

    rope_dim: int
    freq_base: float
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    ext_factor: float = 1.0
    attn_factor: float = 1.0
    truncate: bool = True

    @classmethod
    def read(cls, metadata: Metadata, arch: str, head_dim: int, context_length: int) -> RopeConfig:
        """From the keys ``{arch}.rope.*``."""
        key = f"{arch}.rope"
        rope_dim = metadata.integer(f"{key}.dimension_count", head_dim, minimum=2, maximum=head_dim)
        if rope_dim % 2:
            raise ModelLoadError(
                f"{key}.dimension_count is {rope_dim}, but elements are rotated in pairs: it must be even"
            )
        freq_base = metadata.number(f"{key}.freq_base", 10000.0, positive=True)
        legacy_factor = metadata.number(f"{key}.scale_linear", 1.0, positive=True)
        factor = metadata.number(f"{key}.scaling.factor", legacy_factor, positive=True)
        kind = metadata.string(f"{key}.scaling.type", "none" if factor == 1.0 else "linear")
        if kind not in ("none", "linear", "yarn", "longrope"):
            raise ModelLoadError(f"{key}.scaling.type is {kind!r}; known are none, linear, yarn and longrope")
        if kind == "yarn" and freq_base <= 1:
            raise ModelLoadError(f"{key}.freq_base is {freq_base:g}; with YaRN scaling it must be above 1")
        original = metadata.integer(
            f"{key}.scaling.original_context_length", context_length, minimum=0, maximum=MAX_CONTEXT
        )
        ext_factor = metadata.number(f"{key}.scaling.yarn_ext_factor", 1.0, minimum=0.0, maximum=1.0)
        return cls(
            rope_dim=rope_dim,
            freq_base=freq_base,
            scaling="none" if kind == "longrope" else kind,  # which is in tensors
            factor=factor,
            original_context=original or context_length,  # 0 means not given
            beta_fast=metadata.number(f"{key}.scaling.yarn_beta_fast", 32.0, positive=True),
            beta_slow=metadata.number(f"{key}.scaling.yarn_beta_slow", 1.0, positive=True),
            ext_factor=ext_factor,
            truncate=metadata.boolean(f"{key}.scaling.yarn_truncate", True),  # DenseCore's own key
            attn_factor=_attn_factor(metadata, key, factor if kind == "yarn" and ext_factor else 1.0),
        )


def _attn_factor(metadata: Metadata, key: str, yarn_factor: float) -> float:
    """The factor on rotated values, beside the one that YaRN itself has: one in the file takes the place of that."""
    own = 1 + 0.1 * math.log(yarn_factor)
    total = metadata.number(f"{key}.scaling.yarn_attn_factor", own, positive=True)
    return metadata.number(f"{key}.scaling.attn_factor", 1.0, positive=True) * total / own


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions in the words of the field; each comes from the metadata key named beside it."""

    architecture: str  # general.architecture
    dim: int  # embedding_length
    hidden_dim: int  # feed_forward_length
    n_layers: int  # block_count
    n_heads: int  # attention.head_count
    n_kv_heads: int  # attention.head_count_kv
    head_dim: int  # attention.key_length
    n_vocab: int  # rows of token_embd
    context_length: int  # context_length
    norm_epsilon: float  # attention.layer_norm_rms_epsilon, or layer_norm_epsilon
    rope: RopeConfig

    @classmethod
    def read(cls, file: GGUFFile, kv_heads: tuple[int, int] | None = None) -> ModelConfig:
        """Read and check; ModelLoadError names the key, its value and what is allowed.

        kv_heads : n_kv_heads and head_dim where they are not what the keys say
        """
        metadata = file.metadata
        arch = metadata.string("general.architecture")

        def dimension(name: str, *default: int, maximum: int = MAX_DIMENSION) -> int:
            return metadata.integer(f"{arch}.{name}", *default, minimum=1, maximum=maximum)

        dim, n_heads = dimension("embedding_length"), dimension("attention.head_count")
        n_kv_heads, head_dim = kv_heads or _read_kv_heads(file, dim, n_heads)
        context_length = dimension("context_length", maximum=MAX_CONTEXT)
        return cls(
            architecture=arch,
            dim=dim,
            hidden_dim=dimension("feed_forward_length"),
            n_layers=dimension("block_count", maximum=MAX_LAYERS),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            n_vocab=_vocabulary_rows(file),
            context_length=context_length,
            norm_epsilon=_norm_epsilon(metadata, arch),
            rope=RopeConfig.read(metadata, arch, head_dim, context_length),
        )

    def kv_block_bytes(self, block_size: int, dtype: str) -> int:
        """Bytes that a block of `block_size` tokens takes in the KV cache, over all layers."""
        return self.n_layers * block_bytes(self.n_kv_heads, block_size, self.head_dim, CACHE_DTYPES[dtype])


def _read_kv_heads(file: GGUFFile, dim: int, n_heads: int) -> tuple[int, int]:
    """Heads of keys and values, and the elements of each."""
    metadata = file.metadata
    arch = metadata.string("general.architecture")

    def dimension(name: str, default: int) -> int:
        return metadata.integer(f"{arch}.attention.{name}", default, minimum=1, maximum=MAX_DIMENSION)

    n_kv_heads = dimension("head_count_kv", n_heads)
    if n_heads % n_kv_heads:
        raise ModelLoadError(
            f"{file.path}: {arch}.attention.head_count is {n_heads}, not a multiple of "
            f"attention.head_count_kv = {n_kv_heads}"
        )
    if dim % n_heads and f"{arch}.attention.key_length" not in metadata:
        raise ModelLoadError(
            f"{file.path}: {arch}.embedding_length is {dim}, not a multiple of attention.head_count = {n_heads}, "
            f"and {arch}.attention.key_length is not given"
        )
    head_dim = dimension("key_length", max(dim // n_heads, 1))
    if dimension("value_length", head_dim) != head_dim:
        raise ModelLoadError(f"{file.path}: {arch}.attention.value_length must equal key_length = {head_dim}")
    return n_kv_heads, head_dim


def _norm_epsilon(metadata: Metadata, arch: str) -> float:
    """That of RMSNorm; models with LayerNorm have the other key."""
    rms, other = f"{arch}.attention.layer_norm_rms_epsilon", f"{arch}.attention.layer_norm_epsilon"
    return metadata.number(other if other in metadata and rms not in metadata else rms, minimum=1e-13, maximum=1.0)


def _vocabulary_rows(file: GGUFFile) -> int:
    """Rows of the embedding matrix; the vocabulary's size where the file lists one must agree."""
    info = file.tensors.get("token_embd.weight")
    if info is None or len(info.shape) != 2:
        raise ModelLoadError(f"{file.path}: tensor token_embd.weight (dim, n_vocab) is missing: not a complete model")
    rows = info.shape[1]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and len(tokens) > rows:
        raise ModelLoadError(
            f"{file.path}: tokenizer.ggml.tokens lists {len(tokens)} tokens, but token_embd.weight has {rows} rows"
        )
    return rows
