"""Qwen3 with experts, such as Qwen3-30B-A3B.

Yang et al. 2025. As Qwen3, with a mixture of many small experts in each layer: softmax over all of them, of which the
best are used, and their weights divided by their sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels import rope
from densecore.models.base import Model
from densecore.models.experts import (
    DenseFeedForward,
    ExpertConfig,
    ExpertLayer,
    dense_feed_forward,
    feed_forward,
    load_experts_or_dense,
)
from densecore.models.step import Step
from densecore.models.weights import Linear, WeightLoader

__all__ = ["Qwen3Moe"]


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in the file."""

    attn_norm: np.ndarray  # (dim,)
    attn_q: Linear  # (n_heads * head_dim, dim)
    attn_k: Linear  # (n_kv_heads * head_dim, dim)
    attn_v: Linear  # (n_kv_heads * head_dim, dim)
    attn_q_norm: np.ndarray  # (head_dim,)
    attn_k_norm: np.ndarray  # (head_dim,)
    attn_output: Linear  # (dim, n_heads * head_dim)
    ffn_norm: np.ndarray  # (dim,)
    experts: ExpertLayer | DenseFeedForward


class Qwen3Moe(Model):
    """See the module's text."""

    pairing = rope.HALVES

    def __init__(self, file: GGUFFile) -> None:
        self.experts = ExpertConfig.read(file)
        super().__init__(file)

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        return Layer(
            attn_norm=load.vector(f"{prefix}.attn_norm.weight", c.dim),
            attn_q=load.linear(f"{prefix}.attn_q", q_dim, c.dim),
            attn_k=load.linear(f"{prefix}.attn_k", kv_dim, c.dim),
            attn_v=load.linear(f"{prefix}.attn_v", kv_dim, c.dim),
            attn_q_norm=load.vector(f"{prefix}.attn_q_norm.weight", c.head_dim),
            attn_k_norm=load.vector(f"{prefix}.attn_k_norm.weight", c.head_dim),
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, q_dim),
            ffn_norm=load.vector(f"{prefix}.ffn_norm.weight", c.dim),
            experts=load_experts_or_dense(load, prefix, c.dim, c.hidden_dim, self.experts),
        )

    def layer(self, step: Step, x: np.ndarray, w: Layer) -> None:
        c = self.config
        step.hook("resid_pre", x)
        h = step.norm(x, w.attn_norm, self.epsilon)
        q, k, v = step.project(h, w.attn_q, w.attn_k, w.attn_v)
        q = q.reshape(-1, c.n_heads, c.head_dim)
        k = k.reshape(-1, c.n_kv_heads, c.head_dim)
        v = v.reshape(-1, c.n_kv_heads, c.head_dim)
        q = step.norm(q, w.attn_q_norm, self.epsilon, "attn_q_norm")
        k = step.norm(k, w.attn_k_norm, self.epsilon, "attn_k_norm")
        step.hook("q", q)
        step.hook("k", k)
        step.hook("v", v)
        step.rope(q, self.pairing)
        step.rope(k, self.pairing)
        z = step.attention(q, k, v, self.attention_scale, self.windows[step.layer])  # (num_tokens, n_heads, head_dim)
        step.hook("z", z)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)
        step.add(x, attn_out)
        step.hook("resid_mid", x)

        h = step.norm(x, w.ffn_norm, self.epsilon)
        if isinstance(w.experts, DenseFeedForward):
            mlp_out = dense_feed_forward(step, h, w.experts)  # (num_tokens, dim)
        else:
            mlp_out = feed_forward(step, h, w.experts, self.experts.rule)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)
