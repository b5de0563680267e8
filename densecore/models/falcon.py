"""Falcon 7B, 11B and 40B; Falcon 3 is of architecture llama.

Almazrouei et al. 2023. Attention and feed-forward both read the residual stream as it is before the layer, each through
a LayerNorm of its own in 40B, through the same one in the others. q, k and v lie one below the other in the file; RoPE
over halves; GELU, with a wide matrix and no gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.kernels import rope
from densecore.models.base import Model
from densecore.models.step import Step
from densecore.models.weights import LayerNorm, Linear, WeightLoader

__all__ = ["Falcon"]


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in files that do not fuse them."""

    attn_norm: LayerNorm  # (dim,)
    attn_norm_2: LayerNorm | None  # (dim,)
    attn_q: Linear  # (n_heads * head_dim, dim)
    attn_k: Linear  # (n_kv_heads * head_dim, dim)
    attn_v: Linear  # (n_kv_heads * head_dim, dim)
    attn_output: Linear  # (dim, n_heads * head_dim)
    ffn_up: Linear  # (hidden_dim, dim)
    ffn_down: Linear  # (dim, hidden_dim)


class Falcon(Model):
    """See the module's text."""

    pairing = rope.HALVES

    def load_norm(self, load: WeightLoader, name: str) -> LayerNorm:
        return load.layer_norm(name, self.config.dim)

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        q, k, v = load.fused(f"{prefix}.attn_qkv", c.dim, attn_q=q_dim, attn_k=kv_dim, attn_v=kv_dim)
        second = f"{prefix}.attn_norm_2"
        return Layer(
            attn_norm=self.load_norm(load, f"{prefix}.attn_norm"),
            attn_norm_2=self.load_norm(load, second) if load.has(f"{second}.weight") else None,
            attn_q=q,
            attn_k=k,
            attn_v=v,
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, q_dim),
            ffn_up=load.linear(f"{prefix}.ffn_up", c.hidden_dim, c.dim),
            ffn_down=load.linear(f"{prefix}.ffn_down", c.dim, c.hidden_dim),
        )

    def layer(self, step: Step, x: np.ndarray, w: Layer) -> None:
        c = self.config
        step.hook("resid_pre", x)
        before_mlp = before_attn = step.norm(x, w.attn_norm, self.epsilon)
        if w.attn_norm_2 is not None:
            before_attn = step.norm(x, w.attn_norm_2, self.epsilon, "attn_norm_2")
        q, k, v = step.project(before_attn, w.attn_q, w.attn_k, w.attn_v)
        q = q.reshape(-1, c.n_heads, c.head_dim)
        k = k.reshape(-1, c.n_kv_heads, c.head_dim)
        v = v.reshape(-1, c.n_kv_heads, c.head_dim)
        step.hook("q", q)
        step.hook("k", k)
        step.hook("v", v)
        step.rope(q, self.pairing)
        step.rope(k, self.pairing)
        z = step.attention(q, k, v, self.attention_scale)  # (num_tokens, n_heads, head_dim)
        step.hook("z", z)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)
        step.add(x, attn_out)
        step.hook("resid_mid", x)

        (up,) = step.project(before_mlp, w.ffn_up)  # (num_tokens, hidden_dim)
        (mlp_out,) = step.project(step.gelu_erf(up), w.ffn_down)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)
