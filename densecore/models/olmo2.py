"""OLMo 2 and OLMo 3.

Team OLMo 2024 and 2025. As Llama, with RoPE over halves, and norms in other places: none before attention and
feed-forward, one after each, and one on q and one on k, over all heads together. In OLMo 3 three layers with a sliding
window follow each other, then one that sees everything; only the latter's RoPE is stretched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels import rope
from densecore.models.base import Model
from densecore.models.step import Step
from densecore.models.weights import Linear, WeightLoader

__all__ = ["Olmo2"]

GLOBAL, LOCAL = 0, 1  # tables for RoPE


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in the file."""

    attn_q: Linear  # (n_heads * head_dim, dim)
    attn_k: Linear  # (n_kv_heads * head_dim, dim)
    attn_v: Linear  # (n_kv_heads * head_dim, dim)
    attn_q_norm: np.ndarray  # (n_heads * head_dim,)
    attn_k_norm: np.ndarray  # (n_kv_heads * head_dim,)
    attn_output: Linear  # (dim, n_heads * head_dim)
    post_attention_norm: np.ndarray  # (dim,)
    ffn_gate: Linear  # (hidden_dim, dim)
    ffn_up: Linear  # (hidden_dim, dim)
    ffn_down: Linear  # (dim, hidden_dim)
    post_ffw_norm: np.ndarray  # (dim,)


class Olmo2(Model):
    """See the module's text."""

    pairing = rope.HALVES
    window_period = 4

    def __init__(self, file: GGUFFile) -> None:
        super().__init__(file)
        c, metadata = self.config, file.metadata
        local_base = metadata.number(f"{c.architecture}.rope.freq_base_swa", c.rope.freq_base, positive=True)
        self.local_frequencies, _ = rope.rope_frequencies(c.rope.rope_dim, local_base)

    def prepare(self, step: Step) -> None:
        super().prepare(step)
        step.prepare_rope(self.local_frequencies, 1.0)

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        return Layer(
            attn_q=load.linear(f"{prefix}.attn_q", q_dim, c.dim),
            attn_k=load.linear(f"{prefix}.attn_k", kv_dim, c.dim),
            attn_v=load.linear(f"{prefix}.attn_v", kv_dim, c.dim),
            attn_q_norm=load.vector(f"{prefix}.attn_q_norm.weight", q_dim),
            attn_k_norm=load.vector(f"{prefix}.attn_k_norm.weight", kv_dim),
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, q_dim),
            post_attention_norm=load.vector(f"{prefix}.post_attention_norm.weight", c.dim),
            ffn_gate=load.linear(f"{prefix}.ffn_gate", c.hidden_dim, c.dim),
            ffn_up=load.linear(f"{prefix}.ffn_up", c.hidden_dim, c.dim),
            ffn_down=load.linear(f"{prefix}.ffn_down", c.dim, c.hidden_dim),
            post_ffw_norm=load.vector(f"{prefix}.post_ffw_norm.weight", c.dim),
        )

    def layer(self, step: Step, x: np.ndarray, w: Layer) -> None:
        c = self.config
        step.hook("resid_pre", x)
        q, k, v = step.project(x, w.attn_q, w.attn_k, w.attn_v)
        q = step.norm(q, w.attn_q_norm, self.epsilon, "attn_q_norm")
        k = step.norm(k, w.attn_k_norm, self.epsilon, "attn_k_norm")
        q = q.reshape(-1, c.n_heads, c.head_dim)
        k = k.reshape(-1, c.n_kv_heads, c.head_dim)
        v = v.reshape(-1, c.n_kv_heads, c.head_dim)
        step.hook("q", q)
        step.hook("k", k)
        step.hook("v", v)
        window = self.windows[step.layer]
        table = LOCAL if window else GLOBAL
        step.rope(q, self.pairing, table)
        step.rope(k, self.pairing, table)
        z = step.attention(q, k, v, self.attention_scale, window)  # (num_tokens, n_heads, head_dim)
        step.hook("z", z)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        attn_out = step.norm(attn_out, w.post_attention_norm, self.epsilon)
        step.hook("attn_out", attn_out)
        step.add(x, attn_out)
        step.hook("resid_mid", x)

        gate, up = step.project(x, w.ffn_gate, w.ffn_up)  # (num_tokens, hidden_dim)
        (mlp_out,) = step.project(step.swiglu(gate, up), w.ffn_down)  # (num_tokens, dim)
        mlp_out = step.norm(mlp_out, w.post_ffw_norm, self.epsilon)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)
