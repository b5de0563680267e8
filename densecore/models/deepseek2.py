"""DeepSeek-V2, V3 and R1: multi-head latent attention (MLA), and a mixture of experts beside shared ones.

DeepSeek-AI 2024, "DeepSeek-V2" and "DeepSeek-V3 Technical Report". Keys and values of all heads are made of one short
vector a token, the *latent*, and of a part of the key that carries the position:

    score of head h = q_nope[h] . (W_k[h] latent) + q_rope[h] . k_rope,    value of head h = W_v[h] latent

Only the latent and k_rope are cached. W_k[h] is applied to the query in place of the keys (the paper's "absorption"),
and W_v[h] to what a head has read, so that attention is that of one KV head, whose keys (k_rope, latent) are also its
values. Files hold W_k transposed and W_v as ``attn_k_b`` and ``attn_v_b``; older ones hold both in ``attn_kv_b``, of
which the part W_k is then kept transposed in memory, as float32.

In layers of experts, V3's choice is by sigmoid with a bias, in the best groups; see `routing.Rule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels import columns, matmul, rope
from densecore.kernels.formats import FORMATS
from densecore.models.base import Model
from densecore.models.config import MAX_DIMENSION, MAX_LAYERS, ModelConfig
from densecore.models.experts import (
    DenseFeedForward,
    ExpertConfig,
    ExpertLayer,
    ExpertLinear,
    SharedExpert,
    dense_feed_forward,
    feed_forward,
    has_experts,
    load_dense,
    load_expert_layer,
    load_shared_expert,
    multiply_grouped,
    shared_feed_forward,
)
from densecore.models.step import Step
from densecore.models.weights import Linear, WeightLoader

__all__ = ["DeepSeek2"]

# Of the norms of latents, whatever the file says of the others: as DeepSeek's own code.
LOW_RANK_EPSILON = np.float32(1e-6)


@dataclass(frozen=True)
class MlaConfig:
    """Sizes of attention; each comes from the metadata key named beside it."""

    q_rank: int  # attention.q_lora_rank; 0: queries are made directly
    rank: int  # attention.kv_lora_rank: elements of the latent
    rope_dim: int  # rope.dimension_count: elements of k_rope
    nope_dim: int  # attention.key_length_mla, or key_length in older files, without rope_dim
    value_dim: int  # attention.value_length_mla, or value_length in older files

    @classmethod
    def read(cls, file: GGUFFile) -> MlaConfig:
        """Read and check; ModelLoadError names the key, its value and what is allowed."""
        metadata = file.metadata
        arch = metadata.string("general.architecture")

        def size(name: str, minimum: int = 1, *default: int) -> int:
            return metadata.integer(f"{arch}.{name}", *default, minimum=minimum, maximum=MAX_DIMENSION)

        is_new = f"{arch}.attention.key_length_mla" in metadata
        key, value = ("attention.key_length_mla", "attention.value_length_mla") if is_new else (
            "attention.key_length", "attention.value_length")  # fmt: skip
        rope_dim = size("rope.dimension_count", 2)
        return cls(
            q_rank=size("attention.q_lora_rank", 0, 0),
            rank=size("attention.kv_lora_rank"),
            rope_dim=rope_dim,
            nope_dim=size(key, rope_dim + 1) - rope_dim,
            value_dim=size(value),
        )


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in the file."""

    attn_norm: np.ndarray  # (dim,)
    attn_q: Linear  # (n_heads * (nope_dim + rope_dim), dim or q_rank): attn_q, or attn_q_b
    attn_q_a: Linear | None  # (q_rank, dim)
    attn_q_a_norm: np.ndarray | None  # (q_rank,)
    attn_kv_a_mqa: Linear  # (rank + rope_dim, dim) latent and k_rope
    attn_kv_a_norm: np.ndarray  # (rank,)
    attn_k_b: ExpertLinear  # for each head (rank, nope_dim)
    attn_v_b: ExpertLinear  # for each head (value_dim, rank)
    attn_output: Linear  # (dim, n_heads * value_dim)
    ffn_norm: np.ndarray  # (dim,)
    dense: DenseFeedForward | None
    experts: ExpertLayer | None
    shared: SharedExpert | None


class DeepSeek2(Model):
    """See the module's text."""

    pairing = rope.ADJACENT

    def __init__(self, file: GGUFFile) -> None:
        metadata = file.metadata
        arch = metadata.string("general.architecture")
        self.mla = MlaConfig.read(file)
        self.experts = ExpertConfig.read(file, normalise=False) if has_experts(file) else None
        key = f"{arch}.leading_dense_block_count"
        self.num_dense = metadata.integer(key, 0, minimum=0, maximum=MAX_LAYERS)  # layers without experts
        self.n_shared = metadata.integer(f"{arch}.expert_shared_count", 0, minimum=0, maximum=64)
        super().__init__(file)
        self.attention_scale = np.float32((self.mla.nope_dim + self.mla.rope_dim) ** -0.5)
        multiplier = metadata.number(f"{arch}.rope.scaling.yarn_log_multiplier", 0.0, minimum=0.0, maximum=10.0)
        settings = self.config.rope
        if settings.scaling == "yarn" and multiplier:  # YaRN's factor is on the scores, not on what is rotated
            self.magnitude = settings.attn_factor
            self.attention_scale *= np.float32((1 + multiplier * math.log(settings.factor)) ** 2)

    @classmethod
    def read_config(cls, file: GGUFFile) -> ModelConfig:
        mla = MlaConfig.read(file)
        return ModelConfig.read(file, kv_heads=(1, mla.rope_dim + mla.rank))

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c, m = self.config, self.mla
        q_dim, has_q_a = c.n_heads * (m.nope_dim + m.rope_dim), m.q_rank > 0
        attn_k_b, attn_v_b = self._load_heads(load, prefix)
        dense = experts = shared = None
        if self.experts is None or int(prefix.rpartition(".")[2]) < self.num_dense:
            dense = load_dense(load, prefix, c.dim, c.hidden_dim)
        else:
            experts = load_expert_layer(load, prefix, c.dim, self.experts)
            if self.n_shared:
                shared = load_shared_expert(load, prefix, c.dim, self.n_shared * self.experts.hidden_dim)
        return Layer(
            attn_norm=load.vector(f"{prefix}.attn_norm.weight", c.dim),
            attn_q=load.linear(f"{prefix}.attn_q_b" if has_q_a else f"{prefix}.attn_q", q_dim, m.q_rank or c.dim),
            attn_q_a=load.linear(f"{prefix}.attn_q_a", m.q_rank, c.dim) if has_q_a else None,
            attn_q_a_norm=load.vector(f"{prefix}.attn_q_a_norm.weight", m.q_rank) if has_q_a else None,
            attn_kv_a_mqa=load.linear(f"{prefix}.attn_kv_a_mqa", m.rank + m.rope_dim, c.dim),
            attn_kv_a_norm=load.vector(f"{prefix}.attn_kv_a_norm.weight", m.rank),
            attn_k_b=attn_k_b,
            attn_v_b=attn_v_b,
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, c.n_heads * m.value_dim),
            ffn_norm=load.vector(f"{prefix}.ffn_norm.weight", c.dim),
            dense=dense,
            experts=experts,
            shared=shared,
        )

    def _load_heads(self, load: WeightLoader, prefix: str) -> tuple[ExpertLinear, ExpertLinear]:
        """The matrices of each head: `attn_k_b` and `attn_v_b`, from either kind of file."""
        n_heads, m = self.config.n_heads, self.mla
        names = f"{prefix}.attn_k_b", f"{prefix}.attn_v_b"
        shapes = (m.rank, m.nope_dim), (m.value_dim, m.rank)
        if not load.has(f"{prefix}.attn_kv_b.weight"):
            tensors = [load.matrices(name, n_heads, *shape) for name, shape in zip(names, shapes, strict=True)]
            k_b, v_b = (
                ExpertLinear(name, fmt, data, data.size // n_heads, *shape)
                for name, (fmt, data), shape in zip(names, tensors, shapes, strict=True)
            )
            return k_b, v_b
        rows = m.nope_dim + m.value_dim  # of a head: W_k, then W_v
        both = load.linear(f"{prefix}.attn_kv_b", n_heads * rows, m.rank, bias=False)
        row_bytes = both.format.row_bytes(m.rank)
        values = matmul.dequantize_ref(both.format, both.data, m.rank).reshape(n_heads, rows, m.rank)
        keys = np.ascontiguousarray(values[:, : m.nope_dim].swapaxes(1, 2), np.float32)
        data = keys.reshape(-1).view(np.uint8)
        k_b = ExpertLinear(names[0], FORMATS["F32"], data, data.size // n_heads, *shapes[0])
        v_b = ExpertLinear(names[1], both.format, both.data[m.nope_dim * row_bytes :], rows * row_bytes, *shapes[1])
        return k_b, v_b

    def layer(self, step: Step, x: np.ndarray, w: Layer) -> None:
        step.hook("resid_pre", x)
        h = step.norm(x, w.attn_norm, self.epsilon)
        q, kv = self._queries(step, h, w)
        step.hook("q", q)  # (num_tokens, n_heads, nope_dim + rope_dim)
        k, v = self._keys_and_values(step, kv, w)  # (num_tokens, 1, rope_dim + rank)
        step.hook("k", k)
        step.hook("v", v)
        q = self._absorbed(step, q, w)  # (num_tokens, n_heads, rope_dim + rank)
        step.rope(q, self.pairing)
        step.rope(k, self.pairing)
        z = self._values_of_heads(step, step.attention(q, k, v, self.attention_scale), w)
        step.hook("z", z)  # (num_tokens, n_heads, value_dim)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)
        step.add(x, attn_out)
        step.hook("resid_mid", x)

        h = step.norm(x, w.ffn_norm, self.epsilon)
        mlp_out = self._feed_forward(step, h, w)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)

    def _queries(self, step: Step, h: np.ndarray, w: Layer) -> tuple[np.ndarray, np.ndarray]:
        """Queries (num_tokens, n_heads, nope_dim + rope_dim); latents and k_rope (num_tokens, rank + rope_dim)."""
        if w.attn_q_a is None or w.attn_q_a_norm is None:
            q, kv = step.project(h, w.attn_q, w.attn_kv_a_mqa)
        else:
            q_a, kv = step.project(h, w.attn_q_a, w.attn_kv_a_mqa)
            (q,) = step.project(step.norm(q_a, w.attn_q_a_norm, LOW_RANK_EPSILON, "attn_q_a_norm"), w.attn_q)
        return q.reshape(len(h), self.config.n_heads, -1), kv

    def _keys_and_values(self, step: Step, kv: np.ndarray, w: Layer) -> tuple[np.ndarray, np.ndarray]:
        """Keys, which are k_rope and the norm of the latent, and a copy of them, the values."""
        m, num_tokens = self.mla, len(kv)
        latent = step.workspace.array("mla.latent", (num_tokens, m.rank))
        step.run(columns.copy_columns, latent, 0, kv, 0, m.rank)
        latent = step.norm(latent, w.attn_kv_a_norm, LOW_RANK_EPSILON, "attn_kv_a_norm")
        k, v = (step.workspace.array(name, (num_tokens, m.rope_dim + m.rank)) for name in ("attn_k", "attn_v"))
        step.run(columns.copy_columns, k, 0, kv, m.rank, m.rope_dim)
        step.run(columns.copy_columns, k, m.rope_dim, latent, 0, m.rank)
        step.run(columns.copy_columns, v, 0, k, 0, m.rope_dim + m.rank)
        return k.reshape(num_tokens, 1, -1), v.reshape(num_tokens, 1, -1)

    def _absorbed(self, step: Step, q: np.ndarray, w: Layer) -> np.ndarray:
        """Queries as the keys want them: q_rope, and what W_k makes of q_nope."""
        m, (num_tokens, n_heads, width) = self.mla, q.shape
        nope = self._by_head(step, w.attn_k_b, q, 0, m.nope_dim)  # (n_heads, num_tokens, rank)
        out = step.workspace.array("mla.q", (num_tokens, n_heads, m.rope_dim + m.rank))
        step.run(columns.swap_axes, out, m.rope_dim, nope, 0, m.rank)
        rows = num_tokens * n_heads
        step.run(columns.copy_columns, out.reshape(rows, -1), 0, q.reshape(rows, width), m.nope_dim, m.rope_dim)
        return out

    def _values_of_heads(self, step: Step, z: np.ndarray, w: Layer) -> np.ndarray:
        """What W_v makes of the latents that the heads have read: (num_tokens, n_heads, value_dim)."""
        m, (num_tokens, n_heads, _) = self.mla, z.shape
        values = self._by_head(step, w.attn_v_b, z, m.rope_dim, m.rank)  # (n_heads, num_tokens, value_dim)
        out = step.workspace.array("mla.z", (num_tokens, n_heads, m.value_dim))
        step.run(columns.swap_axes, out, 0, values, 0, m.value_dim)
        return out

    def _by_head(self, step: Step, weight: ExpertLinear, x: np.ndarray, first: int, n: int) -> np.ndarray:
        """Elements `first` to `first` + n of x (num_tokens, n_heads, .) times each head's matrix.

        (n_heads, num_tokens, n_out)
        """
        num_tokens, n_heads, _ = x.shape
        rows = step.workspace.array("mla.rows", (n_heads, num_tokens, n))
        step.run(columns.swap_axes, rows, 0, x, first, n)
        out = step.workspace.array(weight.role, (n_heads * num_tokens, weight.n_out))
        operand = step.activations(rows.reshape(-1, n), weight.format.group)
        multiply_grouped(step, weight, operand, *head_groups(n_heads, num_tokens), out)
        return out.reshape(n_heads, num_tokens, weight.n_out)

    def _feed_forward(self, step: Step, h: np.ndarray, w: Layer) -> np.ndarray:
        if w.dense is not None:
            return dense_feed_forward(step, h, w.dense)
        assert self.experts is not None
        assert w.experts is not None
        out = feed_forward(step, h, w.experts, self.experts.rule)
        if w.shared is not None:
            step.add(out, shared_feed_forward(step, h, w.shared))
        return out


@lru_cache(maxsize=64)
def head_groups(n_heads: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the rows of each head begin, and the head of each row, of x (n_heads, num_tokens, .)."""
    starts = np.arange(n_heads + 1, dtype=np.int32) * np.int32(num_tokens)
    return starts, np.repeat(np.arange(n_heads, dtype=np.int32), num_tokens)
