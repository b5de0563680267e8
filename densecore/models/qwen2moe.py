"""Qwen1.5 and Qwen2 with experts, such as Qwen1.5-MoE-A2.7B.

Yang et al. 2024. As Qwen2, with a mixture of experts in each layer, whose weights are those of the softmax over all of
them, and one expert that every token passes, times a gate of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels import gates, rope
from densecore.models.base import Model
from densecore.models.config import MAX_DIMENSION
from densecore.models.experts import (
    DenseFeedForward,
    ExpertConfig,
    ExpertLayer,
    SharedExpert,
    dense_feed_forward,
    feed_forward,
    load_experts_or_dense,
    load_shared_expert,
    shared_feed_forward,
)
from densecore.models.step import Step
from densecore.models.weights import Linear, WeightLoader

__all__ = ["Qwen2Moe"]


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in the file."""

    attn_norm: np.ndarray  # (dim,)
    attn_q: Linear  # (n_heads * head_dim, dim)
    attn_k: Linear  # (n_kv_heads * head_dim, dim)
    attn_v: Linear  # (n_kv_heads * head_dim, dim)
    attn_output: Linear  # (dim, n_heads * head_dim)
    ffn_norm: np.ndarray  # (dim,)
    experts: ExpertLayer | DenseFeedForward
    ffn_gate_inp_shexp: Linear | None  # (1, dim) gate of the shared expert
    shared: SharedExpert | None


class Qwen2Moe(Model):
    """See the module's text."""

    pairing = rope.HALVES

    def __init__(self, file: GGUFFile) -> None:
        self.experts = ExpertConfig.read(file, normalise=False)
        key = f"{file.metadata.string('general.architecture')}.expert_shared_feed_forward_length"
        self.shared_dim = file.metadata.integer(key, self.experts.hidden_dim, minimum=1, maximum=MAX_DIMENSION)
        super().__init__(file)

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        experts = load_experts_or_dense(load, prefix, c.dim, c.hidden_dim, self.experts)
        gate = shared = None
        if isinstance(experts, ExpertLayer):
            gate = load.row(f"{prefix}.ffn_gate_inp_shexp", c.dim)
            shared = load_shared_expert(load, prefix, c.dim, self.shared_dim)
        return Layer(
            attn_norm=load.vector(f"{prefix}.attn_norm.weight", c.dim),
            attn_q=load.linear(f"{prefix}.attn_q", q_dim, c.dim),
            attn_k=load.linear(f"{prefix}.attn_k", kv_dim, c.dim),
            attn_v=load.linear(f"{prefix}.attn_v", kv_dim, c.dim),
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, q_dim),
            ffn_norm=load.vector(f"{prefix}.ffn_norm.weight", c.dim),
            experts=experts,
            ffn_gate_inp_shexp=gate,
            shared=shared,
        )

    def layer(self, step: Step, x: np.ndarray, w: Layer) -> None:
        c = self.config
        step.hook("resid_pre", x)
        h = step.norm(x, w.attn_norm, self.epsilon)
        q, k, v = step.project(h, w.attn_q, w.attn_k, w.attn_v)
        q = q.reshape(-1, c.n_heads, c.head_dim)
        k = k.reshape(-1, c.n_kv_heads, c.head_dim)
        v = v.reshape(-1, c.n_kv_heads, c.head_dim)
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
        mlp_out = self.feed_forward(step, h, w)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)

    def feed_forward(self, step: Step, h: np.ndarray, w: Layer) -> np.ndarray:
        """What the experts make of h, or what a layer without them does: both (num_tokens, dim)."""
        if isinstance(w.experts, DenseFeedForward):
            return dense_feed_forward(step, h, w.experts)
        assert w.shared is not None
        assert w.ffn_gate_inp_shexp is not None
        out = feed_forward(step, h, w.experts, self.experts.rule)
        shared = shared_feed_forward(step, h, w.shared)
        (gate,) = step.project(h, w.ffn_gate_inp_shexp)  # (num_tokens, 1)
        step.run(gates.gate_rows, shared, gate)
        step.add(out, shared)
        return out
