"""GPT-2.

Radford et al. 2019. A learned embedding for each position, which is added to that of the token, in place of RoPE;
LayerNorm and matrices, all with biases; q, k and v one below the other in the file; GELU, with a wide matrix and no
gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.models.base import Model
from densecore.models.step import Step
from densecore.models.weights import LayerNorm, Linear, WeightLoader

__all__ = ["GPT2"]


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in files that do not fuse them."""

    attn_norm: LayerNorm  # (dim,)
    attn_q: Linear  # (n_heads * head_dim, dim)
    attn_k: Linear  # (n_kv_heads * head_dim, dim)
    attn_v: Linear  # (n_kv_heads * head_dim, dim)
    attn_output: Linear  # (dim, n_heads * head_dim)
    ffn_norm: LayerNorm  # (dim,)
    ffn_up: Linear  # (hidden_dim, dim)
    ffn_down: Linear  # (dim, hidden_dim)


class GPT2(Model):
    """See the module's text."""

    def load_norm(self, load: WeightLoader, name: str) -> LayerNorm:
        return load.layer_norm(name, self.config.dim)

    def load_positions(self, load: WeightLoader) -> None:
        self.position_embd = load.linear("position_embd", self.config.context_length, self.config.dim, bias=False)

    def prepare(self, step: Step) -> None:
        """Nothing: no layer rotates."""

    def embed(self, step: Step) -> np.ndarray:
        x = super().embed(step)
        step.add_position_embeddings(x, self.position_embd)
        return x

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        q, k, v = load.fused(f"{prefix}.attn_qkv", c.dim, attn_q=q_dim, attn_k=kv_dim, attn_v=kv_dim)
        return Layer(
            attn_norm=self.load_norm(load, f"{prefix}.attn_norm"),
            attn_q=q,
            attn_k=k,
            attn_v=v,
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, q_dim),
            ffn_norm=self.load_norm(load, f"{prefix}.ffn_norm"),
            ffn_up=load.linear(f"{prefix}.ffn_up", c.hidden_dim, c.dim),
            ffn_down=load.linear(f"{prefix}.ffn_down", c.dim, c.hidden_dim),
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
        z = step.attention(q, k, v, self.attention_scale)  # (num_tokens, n_heads, head_dim)
        step.hook("z", z)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)
        step.add(x, attn_out)
        step.hook("resid_mid", x)

        h = step.norm(x, w.ffn_norm, self.epsilon)
        (up,) = step.project(h, w.ffn_up)  # (num_tokens, hidden_dim)
        (mlp_out,) = step.project(step.gelu(up), w.ffn_down)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)
